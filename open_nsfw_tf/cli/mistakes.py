"""`open-nsfw dataset clean` and `sort`: a folder of classes beside a table of scores."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from open_nsfw_tf.cli.app import choice
from open_nsfw_tf.cli.dataset import (
    ActionOption,
    AllOption,
    ApplyOption,
    FolderArgument,
    PixelsOption,
    act,
    dataset_app,
    find_files,
    print_some,
)
from open_nsfw_tf.dataset import ScoredFolder, SheetOptions, SortOptions, clean, sort
from open_nsfw_tf.dataset.label_errors import Disagreement
from open_nsfw_tf.messages import shown
from open_nsfw_tf.picture import MAX_PIXELS

NAMED = 3  # pictures of each problem

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
    names = _names(called)
    result = clean(find_files(folder, to), scores, to, every, names, strict)
    found, scored = result.disagreements, result.scored
    _print_problems(scored)
    print(
        f"{'label, then prediction':24}"
        + "".join(f"{shown(c):>12}" for c in scored.classes)
    )
    for label, row in zip(scored.classes, result.confusion, strict=True):
        print(f"{shown(label):24}" + "".join(f"{count:12}" for count in row))
    likely = sum(one.likely_error for one in found)
    print(f"{len(found)} labels are not what was predicted, {likely} are likely wrong")
    for (label, other), count in Counter((m.label, m.predicted) for m in found).items():
        print(f"true class {shown(label)}, predicted {shown(other)}: {count}")
        of_pair = (m for m in found if (m.label, m.predicted) == (label, other))
        print_some(map(_disagreement, of_pair), show_all)
    act(result.moves, apply)


def _disagreement(one: Disagreement) -> str:
    mark = "likely wrong" if one.likely_error else "            "
    return f"  {mark} {one.predicted_score:.4f} {shown(one.file.name)}"


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
    how: ActionOption = "link",
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
    options = SortOptions(by, positive, threshold, how)
    found = find_files(folder, to)
    result = sort(found, scores, to, options, _names(called), strict)
    _print_problems(result.scored)
    for name, count in Counter(one.folder for one in result.pictures).items():
        print(f"{count:8} {shown(name)}")
    journal = act(result.moves, apply)
    if not sheets:
        return
    if journal is None and not apply:
        print(f"contact sheets would be written to {shown(to / 'sheets')}")
    for path in result.draw(SheetOptions(sheets, blur, max_pixels)):
        print(f"sheet {shown(path)}")


def _names(called: list[str] | None) -> dict[str, str]:
    """What --called says: the class that a folder stands for."""
    names = {}
    for pair in called or ():
        name, equals, column = pair.partition("=")
        if not equals:
            raise ValueError(f"expected --called FOLDER=CLASS, got {shown(pair)}")
        names[name] = column
    return names


def _print_problems(scored: ScoredFolder) -> None:
    for problem in scored.problems:
        print(problem.line(NAMED))
    print(f"{len(scored.files)} pictures with a label and scores")
