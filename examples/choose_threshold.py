"""Choose a threshold on labelled pictures, from nothing to a report.

The pictures are made up: stripes stand for one class, rings for the other. So are the
scores: a stand-in for the network calls the share of light pixels its score. The scores
of the classes are spread as Beta(2, 1) and Beta(1, 2), so everything is known before:
FPR(t) = (1 - t)**2, FNR(t) = t**2, ROC AUC = 5/6, and the scores are calibrated.

python examples/choose_threshold.py FOLDER [PICTURES_A_CLASS]
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from open_nsfw_tf.evaluate import Criterion, evaluate_files
from open_nsfw_tf.report import write_json, write_report

SIDE = 64  # pixels
MAX_FNR = 0.05


def picture(rings: bool, share: float) -> Image.Image:
    """Light stripes or rings that cover a share of a dark picture."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    field = np.sin(np.hypot(x, y) / 2) if rings else np.sin((x + y) / 3)
    order = np.argsort(field, axis=None)
    pixels = np.full((SIDE * SIDE, 3), (40, 60, 90), np.uint8)
    pixels[order[: round(share * SIDE * SIDE)]] = (250, 220, 150)
    return Image.fromarray(pixels.reshape(SIDE, SIDE, 3))


def stand_in(path: Path) -> float:
    """What plays the network: the share of light pixels."""
    with Image.open(path) as image:
        return float((np.asarray(image)[..., 0] > 128).mean())


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Pictures in `nsfw/` and `sfw/`, whose scores are the quantiles of two Betas."""
    ranks = (np.arange(count) + 0.5) / count
    shares = {"nsfw": np.sqrt(ranks), "sfw": 1 - np.sqrt(1 - ranks)}
    paths = []
    for name, all_of_them in shares.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, share in enumerate(all_of_them):
            paths.append(folder / name / f"{index:04}.png")
            picture(name == "nsfw", share).save(paths[-1])
    return paths


def write_scores(table: Path, paths: list[Path]) -> None:
    """The table that `open-nsfw batch` would write."""
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "sfw", "nsfw", "error"])
        for path in paths:
            score = stand_in(path)
            rows.writerow([path, 1 - score, score, ""])


def main() -> None:
    """Make pictures and scores, choose a threshold, write report and figures."""
    if not 2 <= len(sys.argv) <= 3 or not all(map(str.isdecimal, sys.argv[2:])):
        sys.exit("usage: python examples/choose_threshold.py FOLDER [PICTURES_A_CLASS]")
    folder = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    pictures = folder / "pictures"
    write_scores(folder / "scores.csv", make_pictures(pictures, count))
    found = evaluate_files(
        [folder / "scores.csv"],
        labels=pictures,
        criterion=Criterion(max_fnr=MAX_FNR),
    )
    write_report(folder / "report.html", found)
    write_json(folder / "figures.json", found)
    one = found.evaluations[0]
    print(f"ROC AUC   {one.figures['roc_auc']:.4f}, known: {5 / 6:.4f}")
    print(f"threshold {one.threshold:.4f}, known: {MAX_FNR**0.5:.4f}")
    if one.chosen is not None and one.chosen.fpr is not None:
        print(f"FPR       {one.chosen.fpr:.4f}, known: {(1 - MAX_FNR**0.5) ** 2:.4f}")
    print(f"report    {folder / 'report.html'}")


if __name__ == "__main__":
    main()
