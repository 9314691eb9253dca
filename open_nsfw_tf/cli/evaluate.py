"""`open-nsfw evaluate`: how good scores are, and which threshold to take."""

from pathlib import Path
from typing import Annotated

import typer

from open_nsfw_tf.cli.app import EngineOption, ModelOption, WeightsOption, app
from open_nsfw_tf.messages import shown

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
ReportOption = Annotated[
    Path | None, typer.Option(help="Write the report: one HTML file.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write every figure as JSON.")
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
BandOption = Annotated[
    str,
    typer.Option(
        metavar="LOW:HIGH",
        help="Safe below LOW, blocked from HIGH on, a human sees what is between. "
        "0.2:0.8 is Yahoo's orientation.",
    ),
]
PositiveOption = Annotated[
    list[str] | None,
    typer.Option(
        help="The class that is looked for; may be given many times, for scores "
        "that are added up. Without it: nsfw."
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="LABEL=CLASS",
        help="The class that a label stands for, such as porn=nsfw or 1=nsfw; may "
        "be given many times.",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Fail if scores and labels do not fit exactly."),
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


def _pair(text: str, flag: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(":"))
    except ValueError as error:
        raise typer.BadParameter(
            f"expected two numbers with a colon, got {text!r}.", param_hint=flag
        ) from error
    return first, second


def _names(pairs: list[str] | None) -> dict[str, str]:
    names = {}
    for pair in pairs or ():
        label, equals, name = pair.partition("=")
        if not (label and equals and name):
            raise typer.BadParameter(
                f"expected LABEL=CLASS, got {pair!r}.", param_hint="--map"
            )
        names[label.strip()] = name.strip()
    return names


@app.command("evaluate")
def evaluate_command(
    scores: ScoresArgument,
    labels: LabelsOption,
    report: ReportOption = None,
    json_file: JsonOption = None,
    max_fnr: MaxFnrOption = None,
    max_fpr: MaxFprOption = None,
    min_precision: MinPrecisionOption = None,
    min_recall: MinRecallOption = None,
    cost: CostOption = None,
    threshold: ThresholdOption = None,
    band: BandOption = "0.2:0.8",
    positive: PositiveOption = None,
    names: MapOption = None,
    strict: StrictOption = False,
    bootstrap: BootstrapOption = 1000,
    thumbnails: ThumbnailsOption = 12,
    engine: EngineOption = "auto",
    weights: WeightsOption = None,
    model: ModelOption = None,
) -> None:
    """Evaluate scores by labels: curves, figures, and the threshold you want.

    A picture is flagged if its score is at or above the threshold, as in
    `open-nsfw classify --threshold`.
    """
    from open_nsfw_tf.classifier import Classifier
    from open_nsfw_tf.evaluate import Criterion, evaluate_files
    from open_nsfw_tf.report import check_outputs, write_json, write_report
    from open_nsfw_tf.report.text import lines

    criterion = Criterion(
        max_fnr=max_fnr,
        max_fpr=max_fpr,
        min_precision=min_precision,
        min_recall=min_recall,
        cost=None if cost is None else _pair(cost, "--cost"),
        threshold=threshold,
        band=_pair(band, "--band"),
    )
    check_outputs({"report": report, "JSON file": json_file}, [labels, *scores])
    found = evaluate_files(
        scores,
        labels,
        criterion,
        positive=positive or ("nsfw",),
        names=_names(names),
        strict=strict,
        bootstrap=bootstrap,
        classifier=lambda: Classifier(engine, weights, model=model),
    )
    if json_file is not None:
        write_json(json_file, found)
    if report is not None:
        write_report(report, found, thumbnails)
    for line in lines(found):
        print(line)
    for written in (report, json_file):
        if written is not None:
            print(f"written: {shown(written)}")
