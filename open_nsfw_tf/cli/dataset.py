"""`open-nsfw dataset`: check, dedupe, split and undo, and what its commands share."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.app import app, choice, one_of
from open_nsfw_tf.dataset import check as checking
from open_nsfw_tf.dataset import duplicates as copies
from open_nsfw_tf.dataset import split as splitting
from open_nsfw_tf.dataset.cells import THRESHOLD
from open_nsfw_tf.dataset.folder import Found, find
from open_nsfw_tf.dataset.moves import HOW, Journal
from open_nsfw_tf.dataset.plan import plan
from open_nsfw_tf.messages import shell_word, shown
from open_nsfw_tf.picture import MAX_PIXELS

dataset_app = typer.Typer(
    help="Pictures in class folders: check, clean, split, sort. Nothing is touched "
    "without --apply, nothing is ever deleted or overwritten, and `undo` takes it back.",
    no_args_is_help=True,
)
app.add_typer(dataset_app, name="dataset")

LONGEST = 4096  # characters of a path, which must be whole to be of use
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
HowOption = Annotated[
    str, choice(HOW, "--how", help="What to do with the files; link: symbolic links.")
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
    check = one_of(names)

    def check_all(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            check(value)
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
        _some_of(checking.KINDS, "--kind", help="Move only these; may be given often."),
    ] = None,
    min_side: Annotated[
        int, typer.Option(min=0, help="Pixels; what has a shorter side is tiny.")
    ] = checking.MIN_SIDE,
    max_pixels: PixelsOption = MAX_PIXELS,
    threads: ThreadsOption = None,
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Find unreadable, truncated, tiny, blank, animated and misnamed pictures."""
    found = find_files(folder, quarantine, show_all)
    with _progress(found) as seen_one:
        checked = checking.check(found, min_side, max_pixels, threads, seen_one)
    _table(checked.counts, checking.KINDS)
    print(f"{checked.good:8} good")
    if checked.other:
        print(
            f"{len(checked.other):8} other       in no format the loader reads; left alone"
        )
    odd = (
        f"{', '.join(problem.kinds)}: {shown(problem.file.name)}: {problem.detail}"
        for problem in checked.problems
    )
    print_some(odd, show_all)
    print_some((f"other: {shown(file.name)}" for file in checked.other), show_all)
    if quarantine is not None:
        pairs = checking.moves_of(
            checked, str(quarantine), kind or list(checking.KINDS)
        )
        act(pairs, quarantine, "move", "check", apply)


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
            "class of one side; leaks: training pictures with a copy in test or val; "
            "classes: all copies, for a person to decide. Without it: inside.",
        ),
    ] = None,
    threshold: ThresholdOption = THRESHOLD,
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
        result = copies.find_duplicates(
            found, threshold, exact, max_pixels, threads, seen_one
        )
    _unreadable(result.unreadable)
    for kind, title in copies.KINDS.items():
        groups = result.groups[kind]
        print(f"{kind}: {result.count(kind)} copies in {len(groups)} groups {title}")
        print_some((_group(group) for group in groups), show_all)
    act(
        copies.moves_of(result, move or ["inside"], str(to)),
        to,
        "move",
        "dedupe",
        apply,
    )


def _group(group: copies.Group) -> str:
    lines = [f"  {shown(group.kept.name)}"]
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
    how: HowOption = "move",
    threshold: ThresholdOption = THRESHOLD,
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
        done = splitting.split(
            found, shares, seed, threshold, max_pixels, threads, seen_one
        )
    _unreadable(done.unreadable)
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
        print(f"{shown(label):20}{counts}")
    target = to or folder
    act(splitting.moves_of(done, str(target)), target, how, "split", apply)


@dataset_app.command("undo")
def undo_command(
    manifest: Annotated[
        Path, typer.Argument(help="The undo-....jsonl that a command wrote.")
    ],
    show_all: AllOption = False,
    apply: ApplyOption = False,
) -> None:
    """Take back what a command did, as far as it is still there."""
    from open_nsfw_tf.dataset.undo import BACK, FINE, undo

    done = undo(manifest, apply)
    for outcome, count in done.counts.items():
        print(f"{count:8} {outcome}")
    print_some(
        (
            f"{outcome}: {shown(path)}"
            for path, outcome in done.outcomes
            if outcome not in FINE
        ),
        show_all,
    )
    if not apply and done.counts.get(BACK):
        print("nothing was touched: --apply takes it back")
    if not done.whole:
        raise typer.Exit(1)


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
            f"{shown(target)}: what was found would go into the pictures' own folder, "
            "as if it were classes: give another folder"
        )
    found = find(folder, [str(target)] if target is not None else [])
    if found.left:
        print(f"{len(found.left)} names are left out")
        lines = (f"  {shown(name)}: {why}" for name, why in found.left.items())
        print_some(lines, show_all)
    return found


def act(
    pairs: list[tuple[str, str]], target: Path, how: str, command: str, apply: bool
) -> Journal | None:
    """Say what will be done, and do it if that is wanted."""
    made = plan(pairs)
    for step in made.moves:
        print(f"{how} {shown(step.source, LONGEST)} -> {shown(step.target, LONGEST)}")
    if not made.moves:
        print(f"nothing to {how}")
        return None
    if not apply:
        print(f"nothing was touched: --apply does {len(made.moves)} x {how}")
        return None
    journal = Journal(made.moves, str(target), how, command)
    path = shell_word(journal.path)
    print(f"undo with: open-nsfw dataset undo --apply {path}", flush=True)
    journal.run()
    gone = len(made.missing) + len(journal.missing)
    print(f"{how}: {journal.done} done" + (f", {gone} had gone" if gone else ""))
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


def _unreadable(names: Mapping[str, str]) -> None:
    if names:
        print(f"{len(names)} files are no readable pictures; `dataset check` says why")


@contextmanager
def _progress(found: Found) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where somebody watches."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("reading", total=len(found.files))
        yield lambda: bar.advance(task)
