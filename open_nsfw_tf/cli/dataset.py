"""`open-nsfw dataset`: check, dedupe, split and undo, and what its commands share."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.app import app, choice, one_of
from open_nsfw_tf.dataset import (
    File,
    ProposedMoves,
    ReadOptions,
    Scan,
    check,
    dedupe,
    scan,
    split,
)
from open_nsfw_tf.dataset import duplicates as copies
from open_nsfw_tf.dataset.check import KINDS, MIN_SIDE, looks_like_picture
from open_nsfw_tf.dataset.duplicates import DISTANCE
from open_nsfw_tf.files import PassedOver, read_head
from open_nsfw_tf.messages import shown
from open_nsfw_tf.moves import ACTIONS, LONGEST_PATH, Journal
from open_nsfw_tf.picture import MAX_PIXELS
from open_nsfw_tf.undo import TAKEN_BACK, UNDONE, undo

dataset_app = typer.Typer(
    help="Pictures in class folders: check, clean, split, sort. Nothing is touched "
    "without --apply, nothing is ever deleted or overwritten, and `undo` takes it back.",
    no_args_is_help=True,
)
app.add_typer(dataset_app, name="dataset")

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
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="That read pictures. Without it: one a processor."),
]
PixelsOption = Annotated[int, typer.Option(min=1, help="Refuse larger pictures.")]
ThresholdOption = Annotated[
    int,
    typer.Option(
        "--threshold",
        help="Near duplicates: bits of 64 in which their perceptual hashes differ at "
        "most. Different photographs differ in 20 and more.",
    ),
]
AllOption = Annotated[
    bool, typer.Option("--all", help=f"List everything, not the first {LISTED}.")
]


def _some_of(names: Iterable[str], flag: str, help: str) -> Any:
    """An option that may be given many times, each time with one of some names."""
    names = tuple(names)
    check_one = one_of(names)

    def check_all(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            check_one(value)
        return values

    return typer.Option(
        flag, callback=check_all, metavar=f"[{'|'.join(names)}]", help=help
    )


@dataset_app.command("check")
def check_command(
    folder: FolderArgument,
    quarantine: Annotated[
        Path | None,
        typer.Option(help="A folder to move the pictures with problems to."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        _some_of(KINDS, "--kind", help="Move only these; may be given often."),
    ] = None,
    min_side: Annotated[
        int, typer.Option(min=0, help="Pixels; what has a shorter side is tiny.")
    ] = MIN_SIDE,
    max_pixels: PixelsOption = MAX_PIXELS,
    threads: ThreadsOption = None,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find unreadable, truncated, tiny, blank, animated and misnamed pictures."""
    found = find_files(folder, quarantine, show_all)
    with _progress(found) as seen_one:
        reading = ReadOptions(max_pixels, threads, seen_one)
        checked = check(found, quarantine, kind or tuple(KINDS), min_side, reading)
    _table(checked.counts, KINDS)
    print(f"{checked.good:8} good")
    if checked.other:
        print(
            f"{len(checked.other):8} other       in no format the loader reads; left "
            f"alone: {_passed_over(checked.other)}"
        )
    odd = (
        f"{', '.join(problem.kinds)}: {shown(problem.file.name)}: {problem.detail}"
        for problem in checked.problems
    )
    print_some(odd, show_all)
    print_some((f"other: {shown(file.name)}" for file in checked.other), show_all)
    if checked.moves is not None:
        act(checked.moves, apply)


@dataset_app.command("dedupe")
def dedupe_command(
    folder: FolderArgument,
    to: Annotated[Path, typer.Option(help="The folder to move copies to.")] = Path(
        "duplicates"
    ),
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
    threshold: ThresholdOption = DISTANCE,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only equal pixels count.")
    ] = False,
    max_pixels: PixelsOption = MAX_PIXELS,
    threads: ThreadsOption = None,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find copies: of files, of pixels, and near ones. The best copy stays."""
    found = find_files(folder, to, show_all)
    with _progress(found) as seen_one:
        reading = ReadOptions(max_pixels, threads, seen_one)
        kinds = move or [copies.INSIDE]
        result = dedupe(found, to, kinds, threshold, exact, reading)
    _unreadable(found, result.unreadable)
    for kind, title in copies.KINDS.items():
        groups = result.groups[kind]
        print(f"{kind}: {result.count(kind)} copies in {len(groups)} groups {title}")
        print_some((_group(group) for group in groups), show_all)
    act(result.moves, apply)


def _group(group: copies.Group) -> str:
    lines = [f"  {shown(group.best.name)}"]
    for copy in group.copies:
        how = copy.how if copy.how != "near" else f"near, {copy.bits} bits"
        lines.append(f"    {shown(copy.file.name)} ({how})")
    return "\n".join(lines)


@dataset_app.command("split")
def split_command(
    folder: FolderArgument,
    train: Annotated[float, typer.Option(help="Share of the training set.")] = 0.9,
    test: Annotated[float, typer.Option(help="Share of the test set.")] = 0.1,
    val: Annotated[float, typer.Option(help="Share of the validation set.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, another division.")] = 0,
    to: Annotated[
        Path | None,
        typer.Option(help="Where train, test and val go. Without it: into DIR itself."),
    ] = None,
    how: ActionOption = "move",
    threshold: ThresholdOption = DISTANCE,
    max_pixels: PixelsOption = MAX_PIXELS,
    threads: ThreadsOption = None,
    apply: ApplyOption = False,
) -> None:
    """Divide every class into train and test; near duplicates stay together."""
    if to is None and how != "move":
        raise ValueError(f"--how {how} needs --to: a folder for the divided pictures")
    found = find_files(folder, to, into_itself=True)
    shares = {"train": train, "val": val, "test": test}
    with _progress(found) as seen_one:
        reading = ReadOptions(max_pixels, threads, seen_one)
        done = split(found, to, shares, seed, threshold, how, reading)
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
        print(f"{shown(label):20}{counts}")
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
        before, now = (shown(path, LONGEST_PATH) for path in done.renamed)
        print(f"{before} was renamed to {now}: the files are looked for there")
    for outcome, count in done.counts.items():
        print(f"{count:8} {outcome}")
    print_some(
        (
            f"{outcome}: {shown(path)}"
            for path, outcome in done.outcomes
            if outcome not in UNDONE
        ),
        show_all,
    )
    if not apply and done.counts.get(TAKEN_BACK):
        print("nothing was touched: --apply takes it back")
    if not done.whole:
        raise typer.Exit(1)


# -- what the commands share


def find_files(
    folder: Path,
    target: Path | None = None,
    show_all: bool = False,
    into_itself: bool = False,
) -> Scan:
    """The files of a folder but for the one that is moved to; what is left out."""
    found = scan(folder, target, into_itself)
    if found.left:
        print(f"{len(found.left)} names are left out")
        lines = (f"  {shown(name)}: {why}" for name, why in found.left.items())
        print_some(lines, show_all)
    if found.passed_over:
        print(f"passed over: {found.passed_over}")
    return found


def act(moves: ProposedMoves, apply: bool) -> Journal | None:
    """Say what will be done, and do it if that is wanted."""
    how, made = moves.action, moves.plan
    for step in made.moves:
        source, wanted = (
            shown(step.source, LONGEST_PATH),
            shown(step.target, LONGEST_PATH),
        )
        print(f"{how} {source} -> {wanted}")
    if not made.moves:
        print(f"nothing to {how}")
        return None
    if not apply:
        print(f"nothing was touched: --apply does {len(made.moves)} x {how}")
        return None
    journal = moves.apply(
        lambda begun: print(f"undo with: {begun.undo_command}", flush=True)
    )
    assert journal is not None  # there is something to do
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
def _progress(found: Scan) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where somebody watches."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("reading", total=len(found.files))
        yield lambda: bar.advance(task)
