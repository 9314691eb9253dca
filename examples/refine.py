"""Refine a model by its own mistakes: train, evaluate, clean, train again.

The pictures are made up, and a share of those to train on is put in a wrong class, so
it is known what the cleaning should find. The scores that it goes by are out of sample:
the training pictures are dealt into folds, and each fold is scored by a model that was
trained on the others. A model that has learnt a wrong label by heart would confirm it.
What is likely in a wrong class is moved to OUT/mistakes, from where `open-nsfw dataset
undo` takes it back. Ends with status 1 if the second model is not better than the
first.

python examples/refine.py OUT [--pictures 750] [--classes 2] [--errors .2] [--folds 4]
    [--epochs 20] [--size 256] [--seed 0]
"""

import argparse
import csv
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from make_dataset import PATTERNS, DatasetOptions, make_dataset

from open_nsfw_tf import Classifier
from open_nsfw_tf.batch import score_batch
from open_nsfw_tf.dataset import File, clean, scan
from open_nsfw_tf.evaluate import evaluate_files
from open_nsfw_tf.libraries import need
from open_nsfw_tf.report import import_matplotlib, write_report
from open_nsfw_tf.train import TrainingOptions, train

TEST = 0.6  # of all pictures: on few, a better model is hard to tell from luck
LEARNING_RATE = 0.001
# High and long enough for the last layer to learn wrong labels by heart.
OVERRIDES = {"weight_decay": 0.0, "stages.0.schedule.every": 8}


@dataclass(frozen=True)
class Options:
    """What is asked for; the names are those of the command line."""

    out: Path
    pictures: int
    classes: int
    errors: float
    folds: int
    epochs: int
    size: int
    seed: int


def train_head(data: Path, run: Path, options: Options) -> float:
    """Train the last layer of Yahoo's network; the test accuracy."""
    result = train(
        data,
        run,
        TrainingOptions(
            recipe="yahoo",
            freeze_body=True,
            epochs=options.epochs,
            learning_rate=LEARNING_RATE,
            overrides=OVERRIDES,
            seed=options.seed,
            bootstrap=0,
        ),
    )
    return result.accuracy or 0.0


def score_out_of_sample(train_folder: Path, options: Options) -> Path:
    """Score every training picture with a model that has not seen it.

    Returns:
        A table as `open-nsfw batch` writes it, with a row for each picture.
    """
    files = scan(train_folder).files
    random.Random(options.seed).shuffle(files)
    table = options.out / "out_of_sample.csv"
    for number in range(options.folds):
        others = [f for n, f in enumerate(files) if n % options.folds != number]
        fold = options.out / "folds" / str(number)
        link(others, fold / "pictures")
        train_head(fold / "pictures", fold / "run", options)
        print(
            f"  fold {number + 1} of {options.folds}: {len(others)} pictures",
            flush=True,
        )
        score_batch(
            Classifier(model=fold / "run"),
            [file.path for file in files[number :: options.folds]],
            table,
            mode="resume",  # every fold adds its rows
        )
    return table


def link(files: list[File], folder: Path) -> None:
    """Class folders with links to some pictures."""
    for file in files:
        name = folder / str(file.label) / os.path.basename(file.path)
        name.parent.mkdir(parents=True, exist_ok=True)
        name.symlink_to(file.path)


def move_errors(train_folder: Path, table: Path, target: Path) -> tuple[set[str], Path]:
    """Move what is likely in a wrong class, as `open-nsfw dataset clean --apply` does.

    Returns:
        The paths of the pictures that were moved, and the manifest that undoes it.
    """
    found = clean(train_folder, table, target, strict=True, apply=True)
    journal = found.moves.journal
    if journal is None:
        raise ValueError("no label is likely wrong: nothing is left to refine by")
    return {step.source for step in journal.finished}, journal.path


def report_planted(options: Options, moved: set[str]) -> None:
    """Say how many of the planted errors were moved, and what else."""
    with (options.out / "pictures" / "errors.csv").open(encoding="utf-8") as file:
        planted = {
            os.path.abspath(options.out / "pictures" / row["path"])
            for row in csv.DictReader(file)
        }
    found = len(planted & moved)
    print(
        f"  {found} of {len(planted)} planted errors found, and "
        f"{len(moved) - found} right labels taken for wrong"
    )


def compare(options: Options) -> None:
    """Evaluate both models' scores of the test pictures side by side."""
    found = evaluate_files(
        [options.out / run / "scores.csv" for run in ("first", "second")],
        labels=options.out / "pictures" / "test",
        positive=[list(PATTERNS)[options.classes - 1]],
        bootstrap=0,
    )
    write_report(options.out / "comparison.html", found)
    first, second = (one.figures["roc_auc"] for one in found.evaluations)
    chance = found.comparisons[0].mcnemar
    print(
        f"  ROC AUC {first:.4f}, then {second:.4f}; right in the first model only "
        f"{chance.only_first}, in the second only {chance.only_second} pictures "
        f"(p = {chance.p_value:.2g})"
    )


def refine(options: Options) -> tuple[float, float]:
    """The whole loop; the test accuracy of the first and of the second model."""
    need("dataset", "cleanlab")  # before the work
    import_matplotlib()
    out = options.out
    train_folder = out / "pictures" / "train"
    planted = make_dataset(
        out / "pictures",
        DatasetOptions(
            options.classes,
            options.pictures,
            size=options.size,
            test=TEST,
            errors=options.errors,
            seed=options.seed,
        ),
    )
    print(
        f"made {options.pictures} pictures of {options.classes} classes; "
        f"{len(planted)} of those to train on are in a wrong class"
    )
    print("training the first model on all of them", flush=True)
    first = train_head(out / "pictures", out / "first", options)
    print(f"  test accuracy {first:.2%}; see {out / 'first' / 'report.html'}")
    print("scoring the training pictures by models that have not seen them", flush=True)
    table = score_out_of_sample(train_folder, options)
    print("moving away what is likely in a wrong class", flush=True)
    moved, manifest = move_errors(train_folder, table, out / "mistakes")
    report_planted(options, moved)
    print(f"  undo with: open-nsfw dataset undo --apply {manifest}")
    print("training the second model on what is left", flush=True)
    second = train_head(out / "pictures", out / "second", options)
    print(f"  test accuracy {second:.2%}; see {out / 'second' / 'report.html'}")
    compare(options)
    return first, second


def tell(first: float, second: float) -> None:
    """Say which model is better, and end with status 1 if it is not the second."""
    figures = f"test accuracy {first:.2%} before, {second:.2%} after"
    if second <= first:
        sys.exit(f"not better: {figures}")
    print(f"better: {figures}")


def main() -> None:
    """Read the command line, and refine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--pictures", type=int, default=750)
    parser.add_argument("--classes", type=int, default=2, choices=(2, 3, 4, 5))
    parser.add_argument("--errors", type=float, default=0.2, help="share, in train/")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="pixels a side, about")
    parser.add_argument("--seed", type=int, default=0)
    options = Options(**vars(parser.parse_args()))
    if options.folds < 2:
        parser.error(
            "expected 2 folds or more: each is scored by a model of the others"
        )
    try:
        first, second = refine(options)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    tell(first, second)


if __name__ == "__main__":
    main()
