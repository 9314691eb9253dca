"""`open-nsfw serve`: the HTTP service."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from open_nsfw_tf.cli.options import (
    BandOption,
    PixelsOption,
    Scoring,
    band_of,
    grouped,
)
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.image import MAX_PIXELS

if TYPE_CHECKING:
    from open_nsfw_tf.backbones.trained import TrainedModel
    from open_nsfw_tf.classifier import Classifier
    from open_nsfw_tf.page import Site

commands = typer.Typer()


@dataclass(frozen=True)
class Listening:
    """Where the service listens, and to whom."""

    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at. All but this machine's own (127.0.0.1, "
            "::1, localhost) need --token-file or --no-auth."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0: one that is free.")
    ] = 8501
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="A file with a token a line. Clients must send one of them, as "
            "`Authorization: Bearer TOKEN` or `X-API-Key: TOKEN`. Only the health "
            "routes, and the page at / with its files, need none.",
        ),
    ] = None
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Let everybody ask who can reach the address."),
    ] = False

    def tokens(self) -> tuple[str, ...]:
        """The tokens, after a check that strangers need one."""
        from open_nsfw_tf.serve import is_loopback

        if self.token_file is not None and self.no_auth:
            raise typer.BadParameter("--token-file and --no-auth exclude each other.")
        if self.token_file is not None:
            return read_tokens(self.token_file)
        if not self.no_auth and not is_loopback(self.host):
            raise typer.BadParameter(
                f"{sanitize(self.host)} can be reached by others: give --token-file, "
                "or --no-auth if everybody may ask."
            )
        return ()


@dataclass(frozen=True)
class Deciding:
    """What is decided by the scores."""

    band: BandOption = None
    positive: Annotated[
        list[str] | None,
        typer.Option(
            help="The class that is looked for; may be given many times, for scores "
            "that are added up. Without it: nsfw. A model without such a class leaves "
            "every picture for review."
        ),
    ] = None


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    max_picture_mb: Annotated[
        float, typer.Option(min=0.001, help="Refuse larger files: MiB of one picture.")
    ] = 20
    max_pixels: PixelsOption = MAX_PIXELS
    max_pictures: Annotated[
        int, typer.Option(min=1, help="Pictures of one request.")
    ] = 16
    max_memory_mb: Annotated[
        float,
        typer.Option(min=1, help="MiB of all requests' bodies that are held at once."),
    ] = 512
    queue: Annotated[
        int, typer.Option(min=1, help="Pictures that wait; more are refused (503).")
    ] = 64
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a request is given up (504).")
    ] = 30
    header_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds in which a request's headers must arrive."),
    ] = 10
    body_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds in which a request's body must arrive."),
    ] = 30
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections at once; more are refused (503).")
    ] = 500
    batch_wait_ms: Annotated[
        float,
        typer.Option(
            "--batch-wait",
            min=0,
            max=1000,
            help="Milliseconds to wait until more pictures come, to compute them "
            "together. It helps on graphics cards only.",
        ),
    ] = 0

    def settings(self) -> dict[str, Any]:
        """As `Settings` has them."""
        values = asdict(self)
        values["batch_wait"] = values.pop("batch_wait_ms") / 1000
        return values


@dataclass(frozen=True)
class Auditing:
    """The audit file."""

    audit: Annotated[
        Path | None,
        typer.Option(
            help="Append a JSON line for each picture: time, request id, SHA-256, "
            "scores, decision. SIGHUP reopens the file."
        ),
    ] = None
    audit_names: Annotated[
        bool,
        typer.Option("--audit-names", help="With --audit: the pictures' names too."),
    ] = False


@commands.command("serve")
@grouped
def serve_command(
    scoring: Scoring,
    listening: Listening,
    deciding: Deciding,
    limits: Limits,
    auditing: Auditing,
) -> None:
    """Answer over HTTP: own JSON, TF Serving's REST interface, OpenAI's moderations.

    At / is the page that scores pictures in the browser. Ends at SIGTERM or Ctrl-C
    when all accepted requests are answered. See docs/serve.md and docs/page.md.
    """
    from open_nsfw_tf.serve import Settings, create_app, serve

    band = band_of(deciding.band)
    tokens = listening.tokens()
    if scoring.precision == "int8":
        print("int8 is calibrated at the first start: about a minute", file=sys.stderr)
    classifier, checksum, source = load_classifier(scoring, limits.max_pixels)
    settings = Settings(
        band=band,
        positive=tuple(deciding.positive or ()) or None,
        tokens=tokens,
        weights_sha256=checksum,
        **asdict(auditing),
        **limits.settings(),
    )
    site = page_of(source, checksum, for_all=not tokens)
    app = create_app(classifier, settings, site)
    serve(app, listening.host, listening.port, _say_where)


def load_classifier(
    scoring: Scoring, max_pixels: int
) -> "tuple[Classifier, str, Path | TrainedModel]":
    """The classifier, and the checksum and the source of its weights."""
    from open_nsfw_tf.classifier import network_source
    from open_nsfw_tf.engines.cache import weights_sha256

    source = network_source(scoring.weights, scoring.model)
    assert not isinstance(source, dict)  # options name files
    checksum = weights_sha256(source)
    if isinstance(source, Path):
        classifier = replace(scoring, weights=source).classifier(max_pixels)
    else:
        classifier = scoring.classifier(max_pixels, model=source)
    return classifier, checksum, source


PAGE_MODEL = "page-3.onnx"  # raise the number when `page.model` makes another file


def page_of(
    source: "Path | TrainedModel", checksum: str, for_all: bool
) -> "Site | None":
    """The page for these weights, whose network it hands out without a token.

    Args:
        source: of the weights.
        checksum: the SHA-256 of what the classifier has loaded.
        for_all: whether strangers may have any weights, and not only published ones.

    Returns:
        None for a trained model, which the page is not for, and for weights that
        strangers may not have.
    """
    from open_nsfw_tf.engines.cache import cached, loaded, weights_sha256
    from open_nsfw_tf.formats import git_blob
    from open_nsfw_tf.page import Site, model
    from open_nsfw_tf.weights import published_name

    if not isinstance(source, Path):
        return None
    if not for_all and published_name(checksum, git_blob(source)) is None:
        return None

    def make() -> bytes:
        made = cached(source, PAGE_MODEL, lambda weights: model(loaded(weights)))
        if weights_sha256(source) != checksum:
            raise WeightsError(f"{sanitize(source)}: it has changed since the start")
        return made

    return Site(make, server=True)


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens of a file, one a line; lines that begin with # are comments.

    Raises:
        ValueError: there are none, or one that no header can carry.
    """
    if path.is_dir():
        raise ValueError(f"{sanitize(path)}: expected a file with tokens, got a folder")
    # What is no UTF-8 is replaced by a character that no token may have.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = map(str.strip, text.splitlines())
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    good = all(token.isascii() and token.isprintable() for token in tokens)
    if not tokens or not good or any(" " in token for token in tokens):
        raise ValueError(
            f"{sanitize(path)}: expected a token a line, of letters, digits and signs"
        )
    return tokens


def _say_where(address: str) -> None:
    print(f"listening at {address}; its routes are at {address}/docs", flush=True)
