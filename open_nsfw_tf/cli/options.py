"""Options that several commands share, and grouping options in dataclasses."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from open_nsfw_tf.engines import BFLOAT16, ENGINES, FLOAT16, PRECISIONS
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.image import DECODES, EXACT, MAX_PIXELS

if TYPE_CHECKING:
    from open_nsfw_tf.classifier import Classifier
    from open_nsfw_tf.tables.append import Mode


def one_of(names: Iterable[str]) -> Callable[[str | None], str | None]:
    """A check that a value is one of some names."""
    names = tuple(names)

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


def choice(names: Iterable[str], *flags: str, help: str, argument: bool = False) -> Any:
    """An option, or an argument, that must be one of some names."""
    names = tuple(names)
    make = typer.Argument if argument else typer.Option
    return make(
        *flags, callback=one_of(names), metavar=f"[{'|'.join(names)}]", help=help
    )


WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-m",
        help="A weights file in any known format. Without it they are searched for: "
        "see `open-nsfw weights list`.",
    ),
]
ModelWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--model_weights",  # the first port's scripts say it so
        "-m",
        help="Path of the trained weights, in any known format. Without it they are "
        "looked for: see `open-nsfw weights list`.",
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Instead of weights: the folder of a model that `open-nsfw train` or "
        "`weights fetch nsfwjs-...` has made. It scores with its own classes.",
    ),
]
EngineOption = Annotated[
    str,
    choice(
        ("auto", *ENGINES),
        "--engine",
        help="The library that computes the scores; in float32 all give the same. "
        "auto: the fastest that is installed and offers the precision.",
    ),
]
PrecisionOption = Annotated[
    str,
    choice(
        PRECISIONS,
        "--precision",
        help="float32 is exact. The others are approximate: they change scores by up "
        f"to {FLOAT16:g} (float16), {BFLOAT16:g} (bfloat16) and, of photographs, .03 "
        "(int8, .003 on average, which is fastest, and takes a minute the first time).",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Threads that read and score pictures in parallel; default: one for each "
        "core.",
    ),
]
DecodeOption = Annotated[
    str,
    choice(
        DECODES,
        "--decode",
        help="exact; or scaled, which is approximate: large JPEGs are decoded to a "
        "smaller size, which is faster and changes scores of photographs by up to .08 "
        "(.003 on average).",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="The device to compute on, by the engine's name: cpu; cuda:1 or coreml "
        "for onnxruntime; gpu:0 for openvino and tensorflow. For a wrong name, those "
        "that exist are listed.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue an earlier run: skip what it has done."),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="LABEL=CLASS",
        help="The class of the scores that a label, or a class folder, stands for, "
        "such as porn=nsfw or 1=nsfw; may be given many times.",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Fail if pictures and scores do not fit one to one."),
]
TopOption = Annotated[
    int, typer.Option(min=1, help="How many of the largest differences to print.")
]
CommonOption = Annotated[
    bool,
    typer.Option(
        "--common", help="Leave out pictures that have no score in one of them."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line.")
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json-file", help="Write every figure to a JSON file.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing destination.")
]
BandOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW:HIGH",
        help="Accept below LOW, block from HIGH on, a human sees what is between. "
        "Without it 0.2:0.8, Yahoo's orientation.",
    ),
]
PixelsOption = Annotated[int, typer.Option(min=1, help="Refuse larger pictures.")]


@dataclass(frozen=True)
class Scoring:
    """How pictures are scored: the same options in every command."""

    engine: EngineOption = "auto"
    precision: PrecisionOption = "float32"
    device: DeviceOption = None
    workers: WorkersOption = None
    weights: WeightsOption = None
    model: ModelOption = None
    decode: DecodeOption = EXACT

    def classifier(self, max_pixels: int = MAX_PIXELS, **others: Any) -> "Classifier":
        """The classifier that these options ask for."""
        from open_nsfw_tf.classifier import Classifier

        return Classifier(
            self.engine,
            self.weights,
            self.precision,
            max_pixels=max_pixels,
            device=self.device,
            workers=self.workers,
            decode=self.decode,
            **{"model": self.model, **others},
        )


@dataclass(frozen=True)
class Writing:
    """Whether to continue or replace the output of an earlier run."""

    resume: ResumeOption = False
    overwrite: OverwriteOption = False

    @property
    def mode(self) -> "Mode":
        """The mode for the library."""
        if self.resume and self.overwrite:
            raise typer.BadParameter("--resume and --overwrite exclude each other.")
        return "resume" if self.resume else "overwrite" if self.overwrite else "new"


@dataclass(frozen=True)
class Destination:
    """Where one result goes: `-o` as in every command, or the last argument."""

    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="The same as --output DEST.")
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DEST",
            help="The file or folder to make; required, here or as DEST.",
        ),
    ] = None

    @property
    def path(self) -> Path:
        """The one that was given."""
        match [path for path in (self.output, self.destination) if path is not None]:
            case [path]:
                return path
            case []:
                raise typer.BadParameter("expected --output DEST.")
            case both:
                names = " and ".join(map(sanitize, both))
                raise typer.BadParameter(f"expected one DEST, got --output {names}.")


def pairs(texts: Iterable[str] | None, flag: str, form: str) -> dict[str, str]:
    """The values of an option that is given as NAME=VALUE, by their names.

    Args:
        texts: what was given.
        flag: the option, for the error.
        form: of a text, for the error, such as ``LABEL=CLASS``.
    """
    found = {}
    for text in texts or ():
        name, _, value = map(str.strip, text.partition("="))
        if not (name and value):
            raise typer.BadParameter(f"expected {form}, got {text!r}.", param_hint=flag)
        found[name] = value
    return found


def number_pair(text: str, flag: str) -> tuple[float, float]:
    """The two numbers of an option such as ``0.2:0.8``.

    Args:
        text: what was given.
        flag: the option, for the error.
    """
    try:
        first, second = map(float, text.split(":"))
    except ValueError as error:
        raise typer.BadParameter(
            f"expected two numbers with a colon, got {text!r}.", param_hint=flag
        ) from error
    return first, second


def band_of(text: str | None) -> tuple[float, float]:
    """The band that a `BandOption` asks for."""
    from open_nsfw_tf.tables.decision import YAHOO_BAND

    return YAHOO_BAND if text is None else number_pair(text, "--band")


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command have dataclasses as parameters, whose fields are options.

    Typer reads a command's options from its signature. It gets a signature in which
    each such parameter is replaced by its fields, and the function gets the dataclass.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    empty = inspect.Parameter.empty
    for name, given in inspect.signature(function).parameters.items():
        if not is_dataclass(kind := hints[name]):
            parameters.append(given.replace(annotation=hints[name]))
            continue
        groups[name] = kind
        types = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=empty if field.default is MISSING else field.default,
                annotation=types[field.name],
            )
            for field in fields(kind)
        ]

    def command(**values: Any) -> None:
        for name, kind in groups.items():
            own = {field.name: values.pop(field.name) for field in fields(kind)}
            values[name] = kind(**own)
        function(**values)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [each.replace(kind=keyword) for each in parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
