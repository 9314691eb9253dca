"""`open-nsfw dataset`: folders of classes, checked, cleaned, divided and sorted."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.options import PixelsOption, choice, grouped, one_of
from open_nsfw_tf.cli.progress import progress_bar
from open_nsfw_tf.dataset import check as checking
from open_nsfw_tf.dataset import duplicates as copies
from open_nsfw_tf.dataset import mistakes
from open_nsfw_tf.dataset import sort as sorting
from open_nsfw_tf.dataset import split as splitting
from open_nsfw_tf.dataset.cells import THRESHOLD
from open_nsfw_tf.dataset.folder import File, Found, find
from open_nsfw_tf.dataset.judged import Judged, judge, trouble_lines
from open_nsfw_tf.dataset.sheets import write_sheets
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import PassedOver, read_head
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.moves import ACTIONS, LONGEST_PATH, Journal, Move, plan
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.undo import TAKEN_BACK, UNDONE, undo

dataset_app = typer.Typer(
    help="Pictures in class folders: check, clean, split, sort. Nothing is touched "
    "without --apply, nothing is ever deleted or overwritten, and `undo` takes it back.",
    no_args_is_help=True,
)
commands = typer.Typer()
commands.add_typer(dataset_app, name="dataset")

LISTED = 20  # lines of a report that tell of one picture each

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
    choice(ACTIONS, "--how", help="What to do with the files; link: symbolic links."),
]
ReadersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Threads that read pictures; one for each core if not given.",
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
    workers: ReadersOption = None


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
        _some_of(checking.KINDS, "--kind", help="Move only these; may be given often."),
    ] = None,
    min_side: Annotated[
        int, typer.Option(min=0, help="Pixels; what has a shorter side is tiny.")
    ] = checking.MIN_SIDE,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find unreadable, truncated, tiny, blank, animated and misnamed pictures."""
    found = find_files(folder, output, show_all)
    with _reading(found) as seen_one:
        checked = checking.check(
            found, min_side, reading.max_pixels, reading.workers, seen_one
        )
    _table(checked.counts, checking.KINDS)
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
    if output is not None:
        pairs = checking.moves_of(checked, str(output), kind or list(checking.KINDS))
        act(pairs, found.files, output, "move", "check", apply)


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
            "class of one side; leaks: training pictures with a copy in test or val; "
            "classes: all copies, for a person to decide. Without it: inside.",
        ),
    ] = None,
    distance: DistanceOption = THRESHOLD,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only equal pixels count.")
    ] = False,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find copies: of files, of pixels, and near ones. The best copy stays."""
    found = find_files(folder, output, show_all)
    with _reading(found) as seen_one:
        result = copies.find_duplicates(
            found, distance, exact, reading.max_pixels, reading.workers, seen_one
        )
    _unreadable(found, result.unreadable)
    for kind, title in copies.KINDS.items():
        groups = result.groups[kind]
        print(f"{kind}: {result.count(kind)} copies in {len(groups)} groups {title}")
        print_some((_group(group) for group in groups), show_all)
    pairs = copies.moves_of(result, move or ["inside"], str(output))
    act(pairs, found.files, output, "move", "dedupe", apply)


def _group(group: copies.Group) -> str:
    lines = [f"  {sanitize(group.kept.name)}"]
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
    how: ActionOption = "move",
    distance: DistanceOption = THRESHOLD,
    apply: ApplyOption = False,
) -> None:
    """Divide every class into train and test; near duplicates stay together."""
    if output is None and how != "move":
        raise ValueError(
            f"--how {how} needs --output: a folder for the divided pictures"
        )
    found = find_files(folder, output, into_itself=True)
    with _reading(found) as seen_one:
        done = splitting.split(
            found,
            shares.record(),
            shares.seed,
            distance,
            reading.max_pixels,
            reading.workers,
            seen_one,
        )
    _unreadable(found, done.unreadable)
    if done.unlabelled:
        print(f"{len(done.unlabelled)} in no class folder are left alone")
    print(
        f"{done.clusters} groups of look-alikes are kept together; "
        f"the largest has {done.largest}"
    )
    labels = sorted({f.label or "" for files in done.sides.values() for f in files})
    print(f"{'class':20}" + "".join(f"{side:>9}" for side in done.sides))
    for label in labels:
        counts = "".join(f"{done.count(side, label):9}" for side in done.sides)
        print(f"{sanitize(label):20}{counts}")
    target = output or folder
    pairs = splitting.moves_of(done, str(target))
    act(pairs, found.files, target, how, "split", apply)


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


@dataclass(frozen=True)
class Scored:
    """The table of scores, and how it is joined with the folder."""

    scores: ScoresOption
    called: CalledOption = None
    strict: StrictOption = False


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
    judged = _judged(folder, output, scored)
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
    pairs = mistakes.moves_of(found, str(output), every)
    act(pairs, judged.files, output, "move", "clean", apply)


def _mistake(mistake: mistakes.Mistake) -> str:
    mark = "likely wrong" if mistake.likely else "            "
    return f"  {mark} {mistake.predicted_score:.4f} {sanitize(mistake.file.name)}"


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

    def write(self, places: list[sorting.Sorted], folder: Path, done: Journal) -> None:
        """Write the sheets, which `undo` takes back as well."""
        where = {step.source: step.target for step in done.finished}
        for path in write_sheets(
            places, where, folder, self.sheets, self.blur, self.max_pixels
        ):
            done.wrote(path)
            print(f"sheet {sanitize(path)}")


@dataclass(frozen=True)
class Deciding:
    """What a picture is called, and what folder that makes."""

    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Called positive from here on.")
    ] = 0.5
    positive: Annotated[str, typer.Option(help="The class looked for.")] = "nsfw"
    by: Annotated[
        str,
        choice(
            ("outcome", "class"),
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
    how: ActionOption = "link",
    apply: ApplyOption = False,
) -> None:
    """Sort pictures by how right the classifier was, with sheets to look at."""
    judged = _judged(folder, output, scored)
    places = sorting.sort(judged, deciding.threshold, deciding.positive, deciding.by)
    for name, count in Counter(place.folder for place in places).items():
        print(f"{count:8} {sanitize(name)}")
    pairs = sorting.moves_of(places, str(output))
    journal = act(pairs, judged.files, output, how, "sort", apply)
    if not sheets.sheets:
        return
    if journal is None:
        if not apply:
            print(f"contact sheets would be written to {sanitize(output / 'sheets')}")
        return
    sheets.write(places, output / "sheets", journal)


def _judged(folder: Path, output: Path, scored: Scored) -> Judged:
    names = {}
    for pair in scored.called or ():
        name, equals, column = pair.partition("=")
        if not equals:
            raise ValueError(f"expected --called FOLDER=CLASS, got {sanitize(pair)}")
        names[name] = column
    table = read_table(scored.scores, any_number=True)
    judged = judge(find_files(folder, output), table, names, scored.strict)
    for line in trouble_lines(judged.trouble):
        print(line)
    print(f"{len(judged.files)} pictures with a label and scores")
    return judged


# -- what the commands share


def find_files(
    folder: Path,
    target: Path | None = None,
    show_all: bool = False,
    into_itself: bool = False,
) -> Found:
    """The files of a folder but for the one that is moved to; what is left out."""
    itself = target is not None and os.path.realpath(target) == os.path.realpath(folder)
    if itself and not into_itself:
        raise ValueError(
            f"{sanitize(target)}: what was found would go into the pictures' own folder, "
            "as if it were classes: give another folder"
        )
    found = find(folder, [str(target)] if target is not None else [])
    if found.left:
        print(f"{len(found.left)} names are left out")
        lines = (f"  {sanitize(name)}: {why}" for name, why in found.left.items())
        print_some(lines, show_all)
    if found.passed_over:
        print(f"passed over: {found.passed_over}")
    return found


def act(
    pairs: list[tuple[str, str]],
    files: Iterable[File],
    target: Path,
    how: str,
    command: str,
    apply: bool,
) -> Journal | None:
    """Say what will be done, and do it if that is wanted.

    Args:
        pairs: sources and wanted targets, absolute paths.
        files: that were looked at; a source that has changed since is left.
        target: where the manifest goes.
        how: a key of `ACTIONS`.
        command: what asks for it, for the manifest.
        apply: whether it is done.
    """
    stamps = {file.path: (file.size, file.mtime_ns) for file in files}
    made = plan((Move(*pair, stamps.get(pair[0])) for pair in pairs), how)
    for step in made.moves:
        source, wanted = (
            sanitize(step.source, LONGEST_PATH),
            sanitize(step.target, LONGEST_PATH),
        )
        print(f"{how} {source} -> {wanted}")
    if not made.moves:
        print(f"nothing to {how}")
        return None
    if not apply:
        print(f"nothing was touched: --apply does {len(made.moves)} x {how}")
        return None
    journal = Journal(made.moves, str(target), how, command)
    print(f"undo with: {journal.undo_command}", flush=True)
    journal.run()
    gone = len(made.missing) + len(journal.missing)
    changed = len(made.changed) + len(journal.changed)
    print(
        f"{how}: {len(journal.finished)} done"
        + (f", {gone} had gone" if gone else "")
        + (f", {changed} had changed and are left" if changed else "")
    )
    return journal


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


def _unreadable(found: Found, names: Mapping[str, str]) -> None:
    """Say how many files could not be read, apart from what is no picture at all."""
    refused = [file for file in found.files if file.name in names]
    others = [file for file in refused if not checking.looks_like_picture(file)]
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
def _reading(found: Found) -> Iterator[Callable[[], None]]:
    with progress_bar(lambda: len(found.files)) as step:
        yield lambda: step(1)
