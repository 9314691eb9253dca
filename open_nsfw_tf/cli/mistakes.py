"""`open-nsfw dataset clean` and `sort`: a folder of classes beside a table of scores."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from open_nsfw_tf.cli.app import choice
from open_nsfw_tf.cli.dataset import (
    AllOption,
    ApplyOption,
    FolderArgument,
    HowOption,
    PixelsOption,
    act,
    dataset_app,
    find_files,
    print_some,
)
from open_nsfw_tf.dataset import mistakes
from open_nsfw_tf.dataset import sort as sorting
from open_nsfw_tf.dataset.judged import Judged, judge, trouble_lines
from open_nsfw_tf.dataset.sheets import write_sheets
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.tables import read_table

ScoresOption = Annotated[
    Path,
    typer.Option(
        help="A table of scores (CSV, JSON lines, Parquet): path and one column a class."
    ),
]
CalledOption = Annotated[
    list[str] | None,
    typer.Option(
        "--called",
        "--map",
        metavar="FOLDER=CLASS",
        help="The class of the table that a class folder stands for, where they are "
        "called differently; may be given many times.",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Fail if pictures and scores do not fit one to one."),
]


@dataset_app.command("clean")
def clean_command(
    folder: FolderArgument,
    scores: ScoresOption,
    to: Annotated[
        Path, typer.Option(help="The folder to move them to, as A_as_B/.")
    ] = Path("mistakes"),
    every: Annotated[
        bool,
        typer.Option(
            "--every", help="Move every disagreement, not only likely wrong labels."
        ),
    ] = False,
    called: CalledOption = None,
    strict: StrictOption = False,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find labels that are likely wrong, by confident learning on a table of scores."""
    judged = _judged(folder, to, scores, called, strict)
    found = mistakes.find_mistakes(judged)
    print(
        f"{'label, then prediction':24}"
        + "".join(f"{sanitize(c):>12}" for c in judged.classes)
    )
    for label, row in zip(judged.classes, mistakes.confusion(judged), strict=True):
        print(f"{sanitize(label):24}" + "".join(f"{count:12}" for count in row))
    likely = sum(mistake.likely for mistake in found)
    print(f"{len(found)} labels are not what was predicted, {likely} are likely wrong")
    for (label, other), count in Counter((m.label, m.predicted) for m in found).items():
        print(f"true class {sanitize(label)}, predicted {sanitize(other)}: {count}")
        of_pair = (m for m in found if (m.label, m.predicted) == (label, other))
        print_some((_mistake(mistake) for mistake in of_pair), show_all)
    act(mistakes.moves_of(found, str(to), every), to, "move", "clean", apply)


def _mistake(mistake: mistakes.Mistake) -> str:
    mark = "likely wrong" if mistake.likely else "            "
    return f"  {mark} {mistake.predicted_score:.4f} {sanitize(mistake.file.name)}"


@dataset_app.command("sort")
def sort_command(
    folder: FolderArgument,
    scores: ScoresOption,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Called positive from here on.")
    ] = 0.5,
    positive: Annotated[str, typer.Option(help="The class looked for.")] = "nsfw",
    by: Annotated[
        str,
        choice(
            ("outcome", "class"),
            "--by",
            help="outcome: tp, tn, fp, fn; class: a folder for each class and "
            "prediction.",
        ),
    ] = "outcome",
    to: Annotated[Path, typer.Option(help="Where the folders go.")] = Path("sorted"),
    how: HowOption = "link",
    sheets: Annotated[
        int, typer.Option(min=0, help="Contact sheets for each folder, of 48 pictures.")
    ] = 0,
    blur: Annotated[
        bool, typer.Option("--blur", help="Blur the pictures on the sheets.")
    ] = False,
    called: CalledOption = None,
    strict: StrictOption = False,
    max_pixels: PixelsOption = MAX_PIXELS,
    apply: ApplyOption = False,
) -> None:
    """Sort pictures by how right the classifier was, with sheets to look at."""
    judged = _judged(folder, to, scores, called, strict)
    places = sorting.sort(judged, threshold, positive, by)
    for name, count in Counter(place.folder for place in places).items():
        print(f"{count:8} {sanitize(name)}")
    journal = act(sorting.moves_of(places, str(to)), to, how, "sort", apply)
    if not sheets:
        return
    if journal is None:
        print(f"contact sheets would be written to {sanitize(to / 'sheets')}")
        return
    where = {step.source: step.target for step in journal.moves}
    for path in write_sheets(places, where, to / "sheets", sheets, blur, max_pixels):
        journal.wrote(path)
        print(f"sheet {sanitize(path)}")


def _judged(
    folder: Path, to: Path, scores: Path, called: list[str] | None, strict: bool
) -> Judged:
    names = {}
    for pair in called or ():
        name, equals, column = pair.partition("=")
        if not equals:
            raise ValueError(f"expected --called FOLDER=CLASS, got {sanitize(pair)}")
        names[name] = column
    table = read_table(scores, any_number=True)
    judged = judge(find_files(folder, to), table, names, strict)
    for line in trouble_lines(judged.trouble):
        print(line)
    print(f"{len(judged.files)} pictures with a label and scores")
    return judged
