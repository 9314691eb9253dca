"""The report: that it is safe and whole, and how it looks in a browser."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pictures
import pytest
from PIL import Image

from open_nsfw_tf.evaluate import (
    Criterion,
    EvaluationReport,
    Labels,
    evaluate,
    evaluate_joined,
    join,
)
from open_nsfw_tf.report import html, plots, write_report
from open_nsfw_tf.report.page import SIDE, exact, percent, thumbnail
from open_nsfw_tf.tables import Table

EVIL = (
    '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;$x^2$\n\x1b[31m\udcff'
)
needs_chromium = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no chromium: apt-get install chromium"
)


def made(
    rows: int = 600,
    names: tuple[str, ...] = ("scores",),
    classes: tuple[str, ...] = ("sfw", "nsfw"),
    criterion: Criterion | None = None,
    paths: list[str] | None = None,
    root: str = ".",
    bootstrap: int = 50,
) -> EvaluationReport:
    rng = np.random.default_rng(len(names))
    labels = rng.integers(len(classes), size=rows)
    paths = (paths or []) + [f"p/{'long' * (i % 40)}{i}.jpg" for i in range(rows)]
    tables = {}
    for name in names:
        raw = rng.normal(size=(rows, len(classes)))
        raw[np.arange(rows), labels] += 2.0
        shares = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
        tables[name] = Table(
            paths[:rows],
            dict(zip(classes, shares.T, strict=True)),
            [f"cut {EVIL}" if i % 50 == 49 else None for i in range(rows)],
            None,
        )
    known = Labels(paths[:rows], [classes[i] for i in labels], root, "labels")
    known.paths[7] = "elsewhere.jpg"
    joined = join(tables, known)
    return evaluate_joined(
        joined, criterion, positive=classes[-1:], bootstrap=bootstrap
    )


class Parsed(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_nothing_of_others_becomes_html() -> None:
    classes = (f"sfw{EVIL}", f"nsfw{EVIL}", f"more{EVIL}")
    found = made(names=(f"a{EVIL}", f"b{EVIL}"), classes=classes, paths=[EVIL] * 3)
    page = html(found)
    parsed = Parsed(page)
    assert not {"script", "iframe", "object", "embed", "link"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    links = [v or "" for n, v in parsed.attributes if n in ("href", "src", "action")]
    assert links
    assert all(link.startswith(("#", "data:image/jpeg")) for link in links)
    assert "alert(1)" in parsed.words  # shown, as words
    assert "\x1b" not in page
    page.encode("utf-8")


def test_one_file_is_everything(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_report(target, made())
    page = target.read_text(encoding="utf-8")
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 20  # figures do not take each other's parts
    for used in re.findall(r'(?:url\(|href=")#([^)"]+)', page):
        assert used in ids
    assert not re.findall(r"#0[1-7]0[1-7]0[1-7]|#1\d1\d1\d", page)  # all are variables
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_summary_tells_the_figures() -> None:
    found = made(criterion=Criterion(max_fnr=0.05))
    one = found.evaluations[0]
    words = Parsed(html(found)).words
    assert one.chosen is not None
    for value in ("roc_auc", "average_precision", "brier_score", "log_loss"):
        assert f"{one.figures[value]:.4f}" in words
    assert exact(one.chosen.threshold) in words
    assert "at most 5 % of the positives missed" in words
    missed, wrong = found.mistakes()
    assert f"Missed nsfw, lowest score first: {len(missed)}" in words
    assert f"Wrongly flagged as nsfw, highest score first: {len(wrong)}" in words
    assert "pictures that could not be scored (left out): 12" in words
    for band in one.bands:
        assert f"{percent(band.review)}" in words


def test_one_class_is_said(tmp_path: Path) -> None:
    joined = made().joined
    only = joined.labels == 1
    paths = [path for path, one in zip(joined.paths, only, strict=True) if one]
    left = type(joined)(
        paths,
        joined.labels[only],
        joined.classes,
        {name: scores[only] for name, scores in joined.scores.items()},
        (),
        ".",
        np.flatnonzero(only),
    )
    page = html(evaluate_joined(left))
    words = Parsed(page).words
    assert "every picture is nsfw: ROC and average precision are undefined" in words
    assert "None: every score has a label" in words
    assert 'aria-label="ROC curve"' not in page
    assert "nan" not in page.lower()


def test_thousands_of_mistakes_are_a_page_still() -> None:
    found = made(rows=30_000, bootstrap=0, criterion=Criterion(max_fnr=0.001))
    assert len(found.mistakes()[1]) > 5000
    page = html(found, thumbnails=0)
    assert 2000 < page.count("<li>") < 2200
    assert "more</p>" in page
    assert len(page) < 1_500_000


def test_figures_of_many_rows_are_small() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.5
    scores = np.clip(rng.normal(np.where(labels, 0.7, 0.3), 0.2), 0, 1)
    one = evaluate(labels, scores, bootstrap=0)
    for draw in plots.CURVES.values():
        assert len(draw([one])) < 60_000
    assert len(plots.histogram(one)) < 40_000


def test_perfect_scores_are_drawn() -> None:
    one = evaluate(np.array([True, False]), np.array([1.0, 0.0]), bootstrap=0)
    for draw in plots.CURVES.values():
        assert draw([one]).startswith('<svg viewBox="0 0 ')


def test_thumbnails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures.sample("coffee.png").save(tmp_path / "a.png")
    found = thumbnail("a.png", "")
    with Image.open(
        BytesIO(base64.b64decode(found["url"].split("base64,")[1]))
    ) as image:
        assert image.format == "JPEG"
        assert image.size == (found["width"], found["height"])
        assert max(image.size) == SIDE
    (tmp_path / "root").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "root" / "b.png")
    assert thumbnail("b.png", "root")["url"].startswith("data:image/jpeg")
    (tmp_path / "bomb.ppm").write_bytes(b"P6 9999 9999 255\n")
    (tmp_path / "words.jpg").write_text("<b>")
    for name, reason in [
        ("none.png", "No such file"),
        ("root", "this is a directory"),
        ("words.jpg", "not a picture"),
        ("bomb.ppm", "9999 x 9999 pixels are more than the limit"),
        ("\0", "expected a path"),
    ]:
        assert reason in thumbnail(name, "")["error"]
    page = html(made(rows=40, criterion=Criterion(threshold=0.99)))
    assert '<span class="none">no preview: No such file' in page


def test_as_many_thumbnails_as_asked_for(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{i}.png") for i in range(40)]
    for path in paths:
        Image.new("RGB", (20, 30), (200, 100, 50)).save(path)
    found = made(rows=40, paths=paths, criterion=Criterion(threshold=0.99))
    missed, wrong = found.mistakes()
    assert len(missed) > 3
    for most in (0, 3):
        expected = min(len(missed), most) + min(len(wrong), most)
        assert html(found, most).count("<img") == expected
    with pytest.raises(ValueError, match="expected 0 to 100 thumbnails, got 101"):
        html(found, 101)


def test_shares_and_thresholds_as_words() -> None:
    shares = (0, 0.123456, 0.00123, 0.99999, 1, None)
    assert [percent(s).replace("\N{NO-BREAK SPACE}", " ") for s in shares] == [
        "0.0 %",
        "12.3 %",
        "0.12 %",
        "100.00 %",
        "100.0 %",
        "–",
    ]
    assert [exact(t) for t in (0.0, 0.5, 1.0, 0.123456789)] == [
        "0",
        "0.5",
        "1",
        "0.123456789",
    ]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One table with pictures, three tables, and several classes."""
    folder = tmp_path_factory.mktemp("reports")
    paths = [str(folder / f"{'long' * 20}{i}.png") for i in range(60)]
    for index, path in enumerate(paths):
        size = (400, 60) if index % 2 else (60, 400)
        pictures.sample("coffee.png").resize(size).save(path)
    kinds = {
        "one": made(paths=paths, criterion=Criterion(max_fnr=0.01)),
        "three": made(
            names=("yahoo", "fine_tuned_on_our_own_forum_" * 3, f"third{EVIL}")
        ),
        "classes": made(classes=("drawings", "hentai", "neutral", "porn")),
    }
    for name, found in kinds.items():
        write_report(folder / f"{name}.html", found)
    return [folder / f"{name}.html" for name in kinds]


@needs_chromium
def test_nothing_overflows(reports: list[Path], tmp_path: Path) -> None:
    widths = [1400, 800, 360]
    for look in browser.overflows(reports, widths, tmp_path):
        assert look["width"] in widths
        assert not look["found"], look["width"]
        assert look["wide"] <= look["width"]
        assert look["seen"]["svg"] >= 5
        assert look["seen"]["table"] >= 3


@needs_chromium
def test_pages_look_like_pages(reports: list[Path], tmp_path: Path) -> None:
    corners = {}
    for name, width, scheme in [
        ("light", 1280, browser.LIGHT),
        ("dark", 600, browser.DARK),
    ]:
        png = browser.screenshot(
            reports[0], tmp_path / f"{name}.png", width, 2400, scheme
        )
        with Image.open(png) as image:
            assert image.size == (width, 2400)
            colours = image.convert("RGB").getcolors(1 << 24)
            assert colours is not None
            assert len(colours) > 100
            corners[name] = image.convert("L").getpixel((2, 2))
    assert corners["light"] > 200
    assert corners["dark"] < 60


@needs_chromium
def test_it_prints(reports: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    browser.chromium(reports[0], f"--print-to-pdf={target}", "--no-pdf-header-footer")
    pdf = target.read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
