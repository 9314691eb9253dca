"""`open-nsfw evaluate`: evaluating scores, and choosing a threshold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from open_nsfw_tf.cli.options import (
    BandOption,
    JsonFileOption,
    JsonOption,
    MapOption,
    Scoring,
    StrictOption,
    band_of,
    choice,
    grouped,
    number_pair,
    pairs,
)
from open_nsfw_tf.errors import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable

    from open_nsfw_tf.evaluate import Criterion

commands = typer.Typer()

ScoresArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="SCORES...",
        help="Tables of scores from `open-nsfw batch` (.csv, .jsonl, .parquet); "
        "several are compared. Or pictures and folders of them, to be scored now.",
    ),
]
LabelsOption = Annotated[
    Path,
    typer.Option(
        help="What the pictures are: a folder with a folder for each class (nsfw/, "
        "sfw/), a table (.csv, .jsonl, .parquet) with the columns path and label, "
        "or a .txt with a path and a label a line."
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the report: one HTML file."),
]
MaxFnrOption = Annotated[
    float | None,
    typer.Option(help="Choose the threshold: this share may be missed at most."),
]
MaxFprOption = Annotated[
    float | None,
    typer.Option(help="Or: this share of the others may be flagged at most."),
]
MinPrecisionOption = Annotated[
    float | None,
    typer.Option(help="Or: this share of what is flagged must be right."),
]
MinRecallOption = Annotated[
    float | None, typer.Option(help="Or: this share must be found.")
]
CostOption = Annotated[
    str | None,
    typer.Option(
        metavar="MISSED:FLAGGED",
        help="Or: the lowest cost, such as 10:1 if a missed picture is as bad as "
        "ten wrongly flagged.",
    ),
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Or: evaluate this very threshold.")
]
PositiveOption = Annotated[
    list[str] | None,
    typer.Option(
        help="The class that is looked for; may be given many times, for scores "
        "that are added up. Without it: nsfw."
    ),
]
BootstrapOption = Annotated[
    int,
    typer.Option(min=0, help="Replicates for the confidence intervals; 0: none."),
]
ThumbnailsOption = Annotated[
    int,
    typer.Option(
        min=0, max=100, help="Pictures that each list of the report shows at most."
    ),
]


@dataclass(frozen=True)
class Choosing:
    """How the threshold is chosen."""

    max_fnr: MaxFnrOption = None
    max_fpr: MaxFprOption = None
    min_precision: MinPrecisionOption = None
    min_recall: MinRecallOption = None
    cost: CostOption = None
    threshold: ThresholdOption = None
    band: BandOption = None

    def criterion(self) -> "Criterion":
        """The criterion for the library."""
        from open_nsfw_tf.evaluate import Criterion

        return Criterion(
            max_fnr=self.max_fnr,
            max_fpr=self.max_fpr,
            min_precision=self.min_precision,
            min_recall=self.min_recall,
            cost=None if self.cost is None else number_pair(self.cost, "--cost"),
            threshold=self.threshold,
            band=band_of(self.band),
        )


@dataclass(frozen=True)
class Joining:
    """How scores and labels are joined."""

    positive: PositiveOption = None
    map: MapOption = None
    strict: StrictOption = False
    group_by: Annotated[
        str | None,
        choice(
            ("path",),
            "--group-by",
            help="Rows of one path are the frames of a video, which counts once, by "
            "--rule.",
        ),
    ] = None
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="max|share:SHARE|run:SECONDS",
            help="With --group-by path, as for `open-nsfw video`; without it: max.",
        ),
    ] = None

    def rule_of_groups(self) -> str | None:
        """The rule for the library; None where nothing is grouped."""
        if self.rule is not None and self.group_by is None:
            raise typer.BadParameter("--rule goes with --group-by path.")
        return None if self.group_by is None else self.rule or "max"


@dataclass(frozen=True)
class Results:
    """The files and the JSON to write."""

    output: OutputOption = None
    json_lines: JsonOption = False
    json_file: JsonFileOption = None
    thumbnails: ThumbnailsOption = 12
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Show in the report's pictures which parts raise or lower the score "
            "of the network of --weights or --model.",
        ),
    ] = False


@commands.command("evaluate")
@grouped
def evaluate_command(
    scores: ScoresArgument,
    labels: LabelsOption,
    choosing: Choosing,
    scoring: Scoring,
    joining: Joining,
    results: Results,
    bootstrap: BootstrapOption = 1000,
) -> None:
    """Evaluate scores by labels: curves, figures, and the threshold you want.

    A picture is flagged if its score is at or above the threshold, as in
    `open-nsfw classify --threshold`.
    """
    from open_nsfw_tf.evaluate import evaluate_files
    from open_nsfw_tf.report import check_outputs, write_json, write_report
    from open_nsfw_tf.report.text import lines

    positive = joining.positive or ("nsfw",)
    outputs = {"report": results.output, "JSON file": results.json_file}
    check_outputs(outputs, [labels, *scores])
    found = evaluate_files(
        scores,
        labels,
        choosing.criterion(),
        positive=positive,
        names=pairs(joining.map, "--map", "LABEL=CLASS"),
        strict=joining.strict,
        bootstrap=bootstrap,
        classifier=scoring.classifier,
        rule=joining.rule_of_groups(),
    )
    if results.json_file is not None:
        write_json(results.json_file, found)
    if results.output is not None:
        explained = _explained(scoring, positive[0]) if results.explain else None
        write_report(results.output, found, results.thumbnails, explained)
    if results.json_lines:
        print(json.dumps(found.to_dict(), allow_nan=False))
        return
    for line in lines(found):
        print(line)
    for written in (results.output, results.json_file):
        if written is not None:
            print(f"written: {sanitize(written)}")


def _explained(scoring: Scoring, of: str) -> "Callable[[Any], Any]":
    """A function from a picture to its map of the score of a class."""
    from open_nsfw_tf.explain import heatmap

    classifier = scoring.classifier()
    return lambda image: heatmap(image, classifier.explain(image, of))
