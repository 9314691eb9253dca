"""`open-nsfw dataset`: folders of classes, checked, cleaned, divided and sorted."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf import dataset
from open_nsfw_tf.cli.options import (
    MapOption,
    PixelsOption,
    StrictOption,
    choice,
    grouped,
    one_of,
    pairs,
)
from open_nsfw_tf.dataset import File, ProposedMoves, ReadOptions, Scan
from open_nsfw_tf.dataset import duplicates as copies
from open_nsfw_tf.dataset.check import KINDS, MIN_SIDE, looks_like_picture
from open_nsfw_tf.dataset.label_errors import Disagreement
from open_nsfw_tf.dataset.scored import ScoredFolder
from open_nsfw_tf.dataset.sort import BY, SheetOptions, SortOptions
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import PassedOver, read_head
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.moves import ACTIONS, LONGEST_PATH, Journal
from open_nsfw_tf.progress import progress_bar
from open_nsfw_tf.undo import TAKEN_BACK, UNDONE, undo

dataset_app = typer.Typer(
    help="Pictures in class folders: check, clean, split, sort. Nothing is touched "
    "without --apply, nothing is ever deleted or overwritten, and `undo` takes it "
    "back.",
    no_args_is_help=True,
)
commands = typer.Typer()
commands.add_typer(dataset_app, name="dataset")

LISTED = 20  # lines of a report that tell of one picture each
NAMED = 3  # pictures of each problem

FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="A folder of class folders, or of train, test and val with class folders.",
    ),
]
ApplyOption = Annotated[
    bool,
    typer.Option("--apply", help="Do it. Without it, only say what would be done."),
]
ActionOption = Annotated[
    str,
    choice(
        ACTIONS, "--action", help="What to do with the files; link: symbolic links."
    ),
]
DistanceOption = Annotated[
    int,
    typer.Option(
        "--distance",
        help="Near duplicates: bits of 64 in which their perceptual hashes differ at "
        "most. Different photographs differ in 20 and more.",
    ),
]
AllOption = Annotated[
    bool, typer.Option("--all", help=f"List everything, not the first {LISTED}.")
]


@dataclass(frozen=True)
class Reading:
    """How pictures are read."""

    max_pixels: PixelsOption = MAX_PIXELS
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that read pictures in parallel; default: one for each core.",
        ),
    ] = None


@dataclass(frozen=True)
class Shares:
    """How a folder is divided."""

    train: Annotated[float, typer.Option(help="Share of the training set.")] = 0.9
    test: Annotated[float, typer.Option(help="Share of the test set.")] = 0.1
    val: Annotated[float, typer.Option(help="Share of the validation set.")] = 0.0
    seed: Annotated[int, typer.Option(help="Another seed, another division.")] = 0

    def record(self) -> dict[str, float]:
        """The shares by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def _some_of(names: Iterable[str], flag: str, help: str) -> Any:
    """An option that may be given many times, each time with one of some names."""
    names = tuple(names)
    check = one_of(names)

    def check_all(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            check(value)
        return values

    return typer.Option(
        flag, callback=check_all, metavar=f"[{'|'.join(names)}]", help=help
    )


@dataset_app.command("check")
@grouped
def check_command(
    folder: FolderArgument,
    reading: Reading,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A folder to move the pictures with problems to."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        _some_of(KINDS, "--kind", help="Move only these; may be given often."),
    ] = None,
    min_side: Annotated[
        int, typer.Option(min=0, help="Pixels; what has a shorter side is tiny.")
    ] = MIN_SIDE,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find unreadable, truncated, tiny, blank, animated and misnamed pictures."""
    found = find_files(folder, output, show_all)
    with _read_options(found, reading) as options:
        checked = dataset.check(found, output, kind or tuple(KINDS), min_side, options)
    _table(checked.counts, KINDS)
    print(f"{checked.good:8} good")
    if checked.other:
        print(
            f"{len(checked.other):8} other       in no format the loader reads; left "
            f"alone: {_passed_over(checked.other)}"
        )
    odd = (
        f"{', '.join(problem.kinds)}: {sanitize(problem.file.name)}: {problem.detail}"
        for problem in checked.problems
    )
    print_some(odd, show_all)
    print_some((f"other: {sanitize(file.name)}" for file in checked.other), show_all)
    if checked.moves is not None:
        act(checked.moves, apply)


@dataset_app.command("dedupe")
@grouped
def dedupe_command(
    folder: FolderArgument,
    reading: Reading,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to move copies to.")
    ] = Path("duplicates"),
    move: Annotated[
        list[str] | None,
        _some_of(
            copies.KINDS,
            "--move",
            help="Which copies to move; may be given many times. inside: copies in one "
            "class of one split; leaks: training pictures with a copy in test or val; "
            "classes: all copies, for a person to decide. Without it: inside.",
        ),
    ] = None,
    distance: DistanceOption = copies.DISTANCE,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only equal pixels count.")
    ] = False,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find copies: of files, of pixels, and near ones. The best copy stays."""
    found = find_files(folder, output, show_all)
    kinds = move or [copies.INSIDE]
    with _read_options(found, reading) as options:
        result = dataset.dedupe(found, output, kinds, distance, exact, options)
    _unreadable(found, result.unreadable)
    for kind, title in copies.KINDS.items():
        groups = result.groups[kind]
        print(f"{kind}: {result.count(kind)} copies in {len(groups)} groups {title}")
        print_some((_group(group) for group in groups), show_all)
    act(result.moves, apply)


def _group(group: copies.Group) -> str:
    lines = [f"  {sanitize(group.best.name)}"]
    for copy in group.copies:
        how = copy.how if copy.how != "near" else f"near, {copy.bits} bits"
        lines.append(f"    {sanitize(copy.file.name)} ({how})")
    return "\n".join(lines)


@dataset_app.command("split")
@grouped
def split_command(
    folder: FolderArgument,
    shares: Shares,
    reading: Reading,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where train, test and val go. Without it: into DIR itself.",
        ),
    ] = None,
    action: ActionOption = "move",
    distance: DistanceOption = copies.DISTANCE,
    apply: ApplyOption = False,
) -> None:
    """Divide every class into train and test; near duplicates stay together."""
    if output is None and action != "move":
        raise ValueError(
            f"--action {action} needs --output: a folder for the divided pictures"
        )
    found = find_files(folder, output, into_itself=True)
    division, seed = shares.record(), shares.seed
    with _read_options(found, reading) as options:
        done = dataset.split(found, output, division, seed, distance, action, options)
    _unreadable(found, done.unreadable)
    if done.unlabelled:
        print(f"{len(done.unlabelled)} in no class folder are left alone")
    print(
        f"{done.clusters} groups of look-alikes are kept together; "
        f"the largest has {done.largest}"
    )
    labels = sorted({f.label or "" for files in done.splits.values() for f in files})
    print(f"{'class':20}" + "".join(f"{name:>9}" for name in done.splits))
    for label in labels:
        counts = "".join(f"{done.count(name, label):9}" for name in done.splits)
        print(f"{sanitize(label):20}{counts}")
    if done.moves is not None:
        act(done.moves, apply)


@dataset_app.command("undo")
def undo_command(
    manifest: Annotated[
        Path, typer.Argument(help="The undo-....jsonl that a command wrote.")
    ],
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Take back what a command did, as far as it is still there."""
    done = undo(manifest, apply)
    if done.renamed is not None:
        before, now = (sanitize(path, LONGEST_PATH) for path in done.renamed)
        print(f"{before} was renamed to {now}: the files are looked for there")
    for outcome, count in done.counts.items():
        print(f"{count:8} {outcome}")
    print_some(
        (
            f"{outcome}: {sanitize(path)}"
            for path, outcome in done.outcomes
            if outcome not in UNDONE
        ),
        show_all,
    )
    if not apply and done.counts.get(TAKEN_BACK):
        print("nothing was touched: --apply takes it back")
    if not done.whole:
        raise typer.Exit(1)


# -- beside a table of scores


@dataclass(frozen=True)
class Scored:
    """The table of scores, and how it is joined with the folder."""

    scores: Annotated[
        Path,
        typer.Option(
            help="A table of scores (CSV, JSON lines, Parquet): path and one column a "
            "class."
        ),
    ]
    map: MapOption = None
    strict: StrictOption = False

    @property
    def names(self) -> dict[str, str]:
        """The class that a folder stands for, where they are called differently."""
        return pairs(self.map, "--map", "LABEL=CLASS")


@dataset_app.command("clean")
@grouped
def clean_command(
    folder: FolderArgument,
    scored: Scored,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The folder to move them to, as A_as_B/."),
    ] = Path("mistakes"),
    every: Annotated[
        bool,
        typer.Option(
            "--every", help="Move every disagreement, not only likely wrong labels."
        ),
    ] = False,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find labels that are likely wrong, by confident learning on a table of scores."""
    found = find_files(folder, output)
    result = dataset.clean(
        found, scored.scores, output, every, scored.names, scored.strict
    )
    _print_problems(result.scored)
    print(
        f"{'label, then prediction':24}"
        + "".join(f"{sanitize(c):>12}" for c in result.scored.classes)
    )
    for label, row in zip(result.scored.classes, result.confusion, strict=True):
        print(f"{sanitize(label):24}" + "".join(f"{count:12}" for count in row))
    differing = result.disagreements
    likely = sum(one.likely_error for one in differing)
    print(
        f"{len(differing)} labels are not what was predicted, {likely} are likely wrong"
    )
    for pair, count in Counter((d.label, d.predicted) for d in differing).items():
        label, other = map(sanitize, pair)
        print(f"true class {label}, predicted {other}: {count}")
        of_pair = (d for d in differing if (d.label, d.predicted) == pair)
        print_some(map(_disagreement, of_pair), show_all)
    act(result.moves, apply)


def _disagreement(one: Disagreement) -> str:
    mark = "likely wrong" if one.likely_error else "            "
    return f"  {mark} {one.predicted_score:.4f} {sanitize(one.file.name)}"


@dataclass(frozen=True)
class Sheets:
    """Contact sheets of what was sorted."""

    sheets: Annotated[
        int, typer.Option(min=0, help="Contact sheets for each folder, of 48 pictures.")
    ] = 0
    blur: Annotated[
        bool, typer.Option("--blur", help="Blur the pictures on the sheets.")
    ] = False
    max_pixels: PixelsOption = MAX_PIXELS


@dataclass(frozen=True)
class Deciding:
    """What a picture is called, and what folder that makes."""

    threshold: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="A picture counts as positive at this score and above.",
        ),
    ] = 0.5
    positive: Annotated[str, typer.Option(help="The class looked for.")] = "nsfw"
    by: Annotated[
        str,
        choice(
            BY,
            "--by",
            help="outcome: tp, tn, fp, fn; class: a folder for each class and "
            "prediction.",
        ),
    ] = "outcome"


@dataset_app.command("sort")
@grouped
def sort_command(
    folder: FolderArgument,
    scored: Scored,
    deciding: Deciding,
    sheets: Sheets,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the folders go.")
    ] = Path("sorted"),
    action: ActionOption = "link",
    apply: ApplyOption = False,
) -> None:
    """Sort pictures by how right the classifier was, with sheets to look at."""
    found = find_files(folder, output)
    options = SortOptions(deciding.by, deciding.positive, deciding.threshold, action)
    result = dataset.sort(
        found, scored.scores, output, options, scored.names, scored.strict
    )
    _print_problems(result.scored)
    for name, count in Counter(one.folder for one in result.pictures).items():
        print(f"{count:8} {sanitize(name)}")
    act(result.moves, apply)
    if sheets.sheets and not apply and result.moves.plan.moves:
        print(f"contact sheets would be written to {sanitize(output / 'sheets')}")
    if sheets.sheets:
        drawing = SheetOptions(sheets.sheets, sheets.blur, sheets.max_pixels)
        for path in result.draw(drawing):
            print(f"sheet {sanitize(path)}")


def _print_problems(scored: ScoredFolder) -> None:
    for problem in scored.problems:
        print(problem.line(NAMED))
    print(f"{len(scored.files)} pictures with a label and scores")


# -- what the commands share


def find_files(
    folder: Path,
    target: Path | None = None,
    show_all: bool = False,
    into_itself: bool = False,
) -> Scan:
    """The files of a folder but for the one that is moved to; what is left out."""
    found = dataset.scan(folder, target, into_itself)
    if found.left:
        print(f"{len(found.left)} names are left out")
        lines = (f"  {sanitize(name)}: {why}" for name, why in found.left.items())
        print_some(lines, show_all)
    if found.passed_over:
        print(f"passed over: {found.passed_over}")
    return found


def act(moves: ProposedMoves, apply: bool) -> None:
    """Say what will be done, and do it if that is wanted."""
    action, plan = moves.action, moves.plan
    for step in plan.moves:
        source, wanted = (
            sanitize(step.source, LONGEST_PATH),
            sanitize(step.target, LONGEST_PATH),
        )
        print(f"{action} {source} -> {wanted}")
    if not plan.moves:
        print(f"nothing to {action}")
    elif not apply:
        print(f"nothing was touched: --apply does {len(plan.moves)} x {action}")
    elif journal := moves.apply(_print_undo):
        gone = len(plan.missing) + len(journal.missing)
        changed = len(plan.changed) + len(journal.changed)
        print(
            f"{action}: {len(journal.finished)} done"
            + (f", {gone} had gone" if gone else "")
            + (f", {changed} had changed and are left" if changed else "")
        )


def _print_undo(journal: Journal) -> None:
    print(f"undo with: {journal.undo_command}", flush=True)


def _table(counts: Mapping[str, int], titles: Mapping[str, str]) -> None:
    for kind, count in counts.items():
        print(f"{count:8} {kind:11} {titles[kind]}")


def print_some(lines: Iterator[str], show_all: bool) -> None:
    """The first lines of a report, or all."""
    for number, line in enumerate(lines):
        if number == LISTED and not show_all:
            print("  ... --all lists the rest")
            return
        print(line)


def _unreadable(found: Scan, names: Mapping[str, str]) -> None:
    """Say how many files could not be read, apart from what is no picture at all."""
    refused = [file for file in found.files if file.name in names]
    others = [file for file in refused if not looks_like_picture(file)]
    if others:
        print(f"passed over as no pictures: {_passed_over(others)}")
    if count := len(refused) - len(others):
        print(f"{count} files are no readable pictures; `dataset check` says why")


def _passed_over(files: Iterable[File]) -> PassedOver:
    """The files that are no pictures, by kind."""
    counted = PassedOver()
    for file in files:
        try:
            counted.note(file.name, read_head(file.path))
        except OSError:
            counted.note(file.name)
    return counted


@contextmanager
def _read_options(found: Scan, reading: Reading) -> Iterator[ReadOptions]:
    """How a folder's pictures are read, with a bar that shows how far it is."""
    with progress_bar(lambda: len(found.files)) as step:
        yield ReadOptions(reading.max_pixels, reading.workers, lambda: step(1))
