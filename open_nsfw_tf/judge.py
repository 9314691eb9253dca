"""From files to a judgement: scores and labels in, figures, JSON and a report out."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.batch import score_batch
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.evaluate import Criterion, join, read_labels
from open_nsfw_tf.evaluate.bootstrap import REPLICATES
from open_nsfw_tf.evaluate.judgement import Judgement, judge_cases
from open_nsfw_tf.filetype import is_picture
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.messages import shown
from open_nsfw_tf.report import THUMBNAILS, write_report
from open_nsfw_tf.tables import SUFFIXES, Table, read_table

ON_THE_FLY = "open_nsfw"  # the name of the scores that are made here


def judge(
    scores: Sequence[str | os.PathLike[str]],
    labels: str | os.PathLike[str],
    criterion: Criterion | None = None,
    *,
    positive: Sequence[str] = ("nsfw",),
    names: Mapping[str, str] | None = None,
    strict: bool = False,
    bootstrap: int = REPLICATES,
    report: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
    thumbnails: int = THUMBNAILS,
    engine: str = "auto",
    weights: str | os.PathLike[str] | Weights | None = None,
    model: str | os.PathLike[str] | TrainedModel | None = None,
) -> Judgement:
    """Evaluate scores against labels.

    Args:
        scores: tables as `open_nsfw_tf.tables.read_table` takes them, one evaluation
            each, all on the pictures that every table has; or pictures, folders and
            archives of them, which are scored now and make one table together.
        labels: as `open_nsfw_tf.evaluate.read_labels` takes them.
        criterion: how the threshold is chosen; None: 0.5, which recommends nothing.
        positive: the classes that are looked for.
        names: the class that a label stands for, where it is called otherwise.
        strict: whether problems of the data are an error.
        bootstrap: replicates for the confidence intervals; 0 leaves them out.
        report: an HTML file to write.
        json_file: a JSON file to write, see `Judgement.record`.
        thumbnails: how many pictures at most each list in the report shows.
        engine: of the classifier, where pictures are to be scored.
        weights: of the classifier.
        model: a trained model that scores the pictures, instead of weights.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: tables, labels or options that do not fit, see `join`; or an output
            that would overwrite an input or the other output.
        ImportError: a package is missing; the message says how to install it.
    """
    outputs = {"report": report, "JSON file": json_file}
    _check_outputs(outputs, [labels, *scores])
    known = read_labels(labels)
    tables = read_scores(scores, engine, weights, model)
    cases = join(tables, known, names, strict)
    found = judge_cases(cases, criterion, positive=positive, bootstrap=bootstrap)
    if json_file is not None:
        _write_json(Path(json_file), found)
    if report is not None:
        write_report(report, found, thumbnails)
    return found


def read_scores(
    sources: Iterable[str | os.PathLike[str]],
    engine: str = "auto",
    weights: str | os.PathLike[str] | Weights | None = None,
    model: str | os.PathLike[str] | TrainedModel | None = None,
) -> dict[str, Table]:
    """Read tables of scores, and score all other sources, as `score_batch` would.

    Returns:
        By name: a table's file without its suffix, or its whole path where two files
        are called alike; `ON_THE_FLY` for the pictures.

    Raises:
        OSError, ValueError, ImportError: as `read_table`, `score_batch`, `Classifier`.
        ValueError: a table is given twice, which would compare it with itself.
    """
    named = list(map(os.fsdecode, sources))
    files = [name for name in named if _is_table(name)]
    _check_twice(files)
    names = list(dict.fromkeys(named))
    stems = [Path(name).stem for name in files]
    tables = {}
    for name, stem in zip(files, stems, strict=True):
        alike = stems.count(stem) > 1 or stem == ON_THE_FLY
        tables[name if alike else stem] = read_table(name, any_number=True)
    pictures = [name for name in names if name not in files]
    if pictures:
        made = Classifier(engine, weights, model=model)
        tables[ON_THE_FLY] = _score(made, pictures)
    return tables


def _check_outputs(
    outputs: Mapping[str, str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str]],
) -> None:
    """Refuse, before any work, outputs that destroy something or cannot be written."""
    taken = {os.path.realpath(os.fsdecode(name)): "an input" for name in inputs}
    for title, output in outputs.items():
        if output is None:
            continue
        name = os.fsdecode(output)
        real = os.path.realpath(name)
        if os.path.isfile(real) and is_picture(real):
            taken.setdefault(real, "a picture")
        if real in taken:
            raise ValueError(
                f"{shown(name)}: the {title} would overwrite {taken[real]}: "
                "give it another name"
            )
        if os.path.isdir(real):
            raise IsADirectoryError(
                f"{shown(name)}: expected the name of a file for the {title}, got a "
                "folder"
            )
        if not os.path.isdir(os.path.dirname(real)):
            raise FileNotFoundError(
                f"{shown(name)}: there is no folder for the {title}: create "
                f"{shown(os.path.dirname(name))} first"
            )
        taken[real] = f"the {title}"


def _check_twice(files: Iterable[str]) -> None:
    seen = set()
    for name in files:
        real = os.path.realpath(name)
        if real in seen:
            raise ValueError(
                f"{shown(name)}: this table is given twice: leave one of them out"
            )
        seen.add(real)


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not os.path.isdir(name)


def _score(classifier: Classifier, sources: list[str]) -> Table:
    with TemporaryDirectory(prefix="open_nsfw_tf-") as folder:
        output = Path(folder) / "scores.csv"
        done = score_batch(classifier, sources, output)
        if not done.rows:
            listed = ", ".join(map(shown, sources[:3]))
            raise ValueError(f"{listed}: expected pictures to score, found none")
        return read_table(output)


def _write_json(path: Path, found: Judgement) -> None:
    text = json.dumps(found.record(), indent=1, allow_nan=False)
    with replacing(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")
