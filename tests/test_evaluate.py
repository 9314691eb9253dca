"""Figures and thresholds: by hand, and beside scikit-learn's own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics
from sklearn.calibration import calibration_curve

from open_nsfw_tf import libraries
from open_nsfw_tf.evaluate import (
    Criterion,
    Evaluation,
    compare,
    evaluate,
    evaluate_classes,
    positive_columns,
)
from open_nsfw_tf.evaluate import thresholds as choose
from open_nsfw_tf.evaluate.bootstrap import GROUPS, intervals, rate_interval
from open_nsfw_tf.evaluate.comparison import mcnemar, paired
from open_nsfw_tf.evaluate.metrics import BINS, calibration, confusion_matrix
from open_nsfw_tf.evaluate.thresholds import rank, thinned
from open_nsfw_tf.report import plots

# Four nsfw, four sfw. Of the 16 pairs 13 stand rightly, and .7 against .7 is a half.
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
SCORES = np.array([0.9, 0.8, 0.7, 0.3, 0.7, 0.4, 0.2, 0.1])


def made(rows: int, seed: int = 0, digits: int | None = None) -> Any:
    """Labels and scores that overlap, with many ties if rounded."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.3
    scores = 1 / (1 + np.exp(-rng.normal(np.where(labels, 1.5, -1.5), 1.5)))
    return labels, scores if digits is None else scores.round(digits)


def by_hand(**criterion: Any) -> Evaluation:
    return evaluate(LABELS, SCORES, Criterion(**criterion), bootstrap=0)


def test_figures_by_hand() -> None:
    one = by_hand()
    assert (one.rows, one.positives, one.negatives) == (8, 4, 4)
    assert one.figures["roc_auc"] == 13.5 / 16
    # From the top: .9 and .8 are nsfw, at .7 stands one of each, .3 is the sixth.
    assert one.figures["average_precision"] == pytest.approx(
        (1 + 1 + 3 / 4 + 4 / 6) / 4
    )
    assert one.figures["brier_score"] == pytest.approx(1.33 / 8)
    assert one.figures["base_rate"] == 0.5
    assert one.figures["log_loss"] == pytest.approx(
        -np.log([0.9, 0.8, 0.7, 0.3, 0.3, 0.6, 0.8, 0.9]).mean()
    )
    assert one.chosen is not None
    assert (one.chosen.fpr, one.chosen.fnr, one.chosen.accuracy) == (0.25, 0.25, 0.75)
    assert (one.chosen.precision, one.chosen.recall) == (0.75, 0.75)
    assert (one.chosen.f1, one.chosen.flagged) == (0.75, 0.5)
    assert not one.notes


@pytest.mark.parametrize(
    ("criterion", "threshold", "fpr", "fnr"),
    [
        ({"max_fnr": 0.25}, 0.7, 0.25, 0.25),
        ({"max_fnr": 0.2}, 0.3, 0.5, 0),
        ({"max_fpr": 0.25}, 0.5, 0.25, 0.25),  # any number above .4 decides alike
        ({"max_fpr": 0.0}, 0.8, 0, 0.5),
        ({"min_precision": 1.0}, 0.8, 0, 0.5),
        ({"min_precision": 0.75}, 0.7, 0.25, 0.25),
        ({"min_recall": 0.5}, 0.8, 0, 0.5),
        ({"min_recall": 1.0}, 0.3, 0.5, 0),
        ({"cost": (10, 1)}, 0.3, 0.5, 0),
        ({"cost": (1, 10)}, 0.8, 0, 0.5),
        ({"threshold": 0.65}, 0.65, 0.25, 0.25),
    ],
)
def test_thresholds_by_hand(
    criterion: Any, threshold: float, fpr: float, fnr: float
) -> None:
    chosen = by_hand(**criterion).chosen
    assert chosen is not None
    assert (chosen.fpr, chosen.fnr) == (fpr, fnr)
    if "max_fpr" not in criterion:
        assert chosen.threshold == threshold
    # And what the number says is what comparing says.
    flagged = chosen.threshold <= SCORES
    assert flagged[~LABELS].mean() == fpr
    assert (~flagged)[LABELS].mean() == fnr


def test_a_tie_at_the_threshold_is_flagged() -> None:
    point = choose.at(rank(LABELS, SCORES), 0.7)
    assert (point.true_positives, point.false_positives) == (3, 1)
    above = choose.at(rank(LABELS, SCORES), np.nextafter(0.7, 1))
    assert (above.true_positives, above.false_positives) == (2, 0)


def test_no_threshold_fits() -> None:
    labels, scores = np.array([True, False]), np.array([0.5, 1.0])
    one = evaluate(labels, scores, Criterion(max_fpr=0.1), bootstrap=0)
    assert one.chosen is None
    assert one.threshold == 0.5
    assert one.notes == (
        "no threshold of 0 to 1 gives at most 10 % of the negatives flagged",
        (
            "no band of review keeps both shares of errors: too many pictures of the "
            "other class score 1; allow more with --max-fpr"
        ),
    )
    assert evaluate(labels, scores, Criterion(min_precision=0.9)).chosen is None


def test_no_band_is_told() -> None:
    scores = np.array([0.9, 0.8, 1.0, 1.0])
    found = evaluate(np.array([True, True, False, False]), scores, bootstrap=0)
    assert len(found.bands) == 1
    assert any("no band of review" in line for line in found.notes)


def test_bands_by_hand() -> None:
    given_band, fitted = by_hand(max_fnr=0.25, band=(0.35, 0.75)).bands
    assert (given_band.safe, given_band.review, given_band.block) == (
        0.375,
        0.375,
        0.25,
    )
    assert (given_band.missed, given_band.wrongly_blocked) == (0.25, 0)
    assert (fitted.low, fitted.high) == (0.7, 0.8)
    assert fitted.review == 0.25
    assert by_hand().bands[0].title == "Yahoo's orientation"
    overlapping = choose.fitted_band(rank(LABELS, SCORES), 0.5, 0.5)
    assert overlapping is not None
    assert overlapping.review == 0
    assert overlapping.missed is not None
    assert overlapping.missed <= 0.5


@pytest.mark.parametrize("digits", [None, 2])
def test_figures_are_scikit_learns(digits: int | None) -> None:
    labels, scores = made(5000, digits=digits)
    one = evaluate(labels, scores, Criterion(threshold=0.4), bootstrap=0)
    decided = scores >= 0.4
    assert one.chosen is not None
    assert one.figures["roc_auc"] == metrics.roc_auc_score(labels, scores)
    assert one.figures["average_precision"] == metrics.average_precision_score(
        labels, scores
    )
    assert one.figures["log_loss"] == metrics.log_loss(labels, scores)
    assert one.figures["brier_score"] == pytest.approx(
        metrics.brier_score_loss(labels, scores)
    )
    assert one.chosen.accuracy == metrics.accuracy_score(labels, decided)
    assert one.chosen.precision == metrics.precision_score(labels, decided)
    assert one.chosen.recall == metrics.recall_score(labels, decided)
    assert one.chosen.f1 == pytest.approx(metrics.f1_score(labels, decided))
    counts = metrics.confusion_matrix(labels, decided).ravel().tolist()
    assert counts == [
        one.chosen.true_negatives,
        one.chosen.false_positives,
        one.chosen.false_negatives,
        one.chosen.true_positives,
    ]


@pytest.mark.parametrize("digits", [None, 2])
def test_curves_are_scikit_learns(digits: int | None) -> None:
    labels, scores = made(3000, seed=1, digits=digits)
    ranking = rank(labels, scores)
    fpr, tpr, at = metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(ranking.fpr, fpr)
    np.testing.assert_allclose(ranking.tpr, tpr)
    np.testing.assert_array_equal(ranking.thresholds, at)
    precision, recall, at = metrics.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(ranking.precision[::-1], precision)
    np.testing.assert_allclose(ranking.tpr[::-1], recall)
    fpr, fnr, at = metrics.det_curve(labels, scores)
    where = [ranking.index(t) for t in at]
    finite = np.isfinite(at)
    np.testing.assert_allclose(ranking.fpr[where][finite], fpr[finite])
    np.testing.assert_allclose(ranking.fnr[where][finite], fnr[finite])


def test_calibration_is_scikit_learns() -> None:
    labels, scores = made(5000, seed=2)
    found = calibration(labels, scores)
    shares, means = calibration_curve(labels, scores, n_bins=BINS)
    filled = found.counts > 0
    np.testing.assert_allclose(found.shares[filled], shares)
    np.testing.assert_allclose(found.scores[filled], means)
    weights = found.counts[filled] / 5000
    assert found.error == pytest.approx((np.abs(shares - means) * weights).sum())


def test_calibration_error_by_hand() -> None:
    # Two in the bin from .4 to .467, mean .42, half positive; two at 1, one positive.
    scores = np.array([0.41, 0.43, 1.0, 1.0])
    found = calibration(np.array([True, False, True, False]), scores)
    assert found.counts[6] == found.counts[14] == 2
    assert found.error == pytest.approx(0.5 * 0.08 + 0.5 * 0.5)


SHARES = st.floats(0, 1)
FOUND = settings(max_examples=100, deadline=None)


@FOUND
@given(
    labels=arrays(bool, 40),
    scores=arrays(np.float64, 40, elements=SHARES),
    wanted=st.floats(0, 0.99),
)
def test_thresholds_keep_their_promise(
    labels: np.ndarray, scores: np.ndarray, wanted: float
) -> None:
    ranking = rank(labels, scores)
    candidates = [*np.unique(scores), np.nextafter(scores.max(), 2)]
    points = [choose.at(ranking, float(t)) for t in candidates if t <= 1]
    by_fnr, by_fpr = choose.by_fnr(ranking, wanted), choose.by_fpr(ranking, wanted)
    if labels.any():
        assert by_fnr is not None
        assert 0 <= by_fnr <= 1
        point = choose.at(ranking, by_fnr)
        assert point.fnr is not None
        assert point.fnr <= wanted + 1e-9
        fits = [p for p in points if p.fnr is not None and p.fnr <= wanted]
        assert point.flagged == min(p.flagged for p in fits)
    fits = [p for p in points if p.fpr is not None and p.fpr <= wanted]
    assert (by_fpr is None) == (not fits)
    if by_fpr is not None:
        point = choose.at(ranking, by_fpr)
        assert 0 <= by_fpr <= 1
        assert point.fpr is not None
        assert point.fpr <= wanted + 1e-9
        assert point.flagged == max(p.flagged for p in fits)


@FOUND
@given(scores=arrays(np.float64, 12, elements=SHARES), index=st.integers(0, 12))
def test_readable_thresholds_decide_alike(scores: np.ndarray, index: int) -> None:
    ranking = rank(np.arange(12) % 2 == 0, scores)
    index = min(index, len(ranking.thresholds) - 1)
    threshold = choose.readable(ranking, index)
    if threshold is None:
        assert (index, scores.max()) == (0, 1)
    else:
        assert 0 <= threshold <= 1
        assert ranking.index(threshold) == index


def test_thresholds_are_short() -> None:
    labels = np.array([True, False])
    assert choose.by_fpr(rank(labels, np.array([0.87654321, 0.2])), 0) == 0.8
    assert choose.by_fnr(rank(labels, np.array([0.29, 0.2])), 0) == 0.29
    assert choose.by_fnr(rank(labels, np.array([0.7, 0.69])), 0) == 0.7


def test_thinned_curves_keep_their_shape() -> None:
    labels, scores = made(50_000, seed=3)
    ranking = rank(labels, scores)
    kept = thinned(ranking.fpr, ranking.tpr)
    assert len(kept) <= 1002
    assert (kept[0], kept[-1]) == (0, len(ranking.fpr) - 1)
    for rates in (ranking.fpr, ranking.tpr):
        redrawn = np.interp(np.arange(len(rates)), kept, rates[kept])
        assert np.abs(redrawn - rates).max() < 0.005


@pytest.mark.parametrize("rows", [900, 6000])
def test_intervals_are_those_of_drawing_rows(rows: int) -> None:
    """Beside the textbook's way, slowly: rows drawn anew, classes apart."""
    labels, scores = made(rows, seed=4)
    assert (len(np.unique(scores)) > GROUPS) == (rows > GROUPS)
    one = evaluate(labels, scores, Criterion(threshold=0.4), bootstrap=1000)
    rng = np.random.default_rng(5)
    classes = [np.flatnonzero(labels == which) for which in (False, True)]
    drawn: dict[str, list[float]] = {}
    for _ in range(200):
        chosen = np.concatenate([rng.choice(c, len(c)) for c in classes])
        y, s = labels[chosen], scores[chosen]
        figures = {
            "roc_auc": metrics.roc_auc_score(y, s),
            "average_precision": metrics.average_precision_score(y, s),
            "brier_score": metrics.brier_score_loss(y, s),
            "log_loss": metrics.log_loss(y, s),
            "fpr": (s[~y] >= 0.4).mean(),
            "fnr": (s[y] < 0.4).mean(),
        }
        for name, value in figures.items():
            drawn.setdefault(name, []).append(value)
    assert one.intervals.keys() == {*drawn, "precision", "recall"}
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        width = high - low
        assert one.intervals[name][0] == pytest.approx(low, abs=0.3 * width), name
        assert one.intervals[name][1] == pytest.approx(high, abs=0.3 * width), name


def test_intervals_repeat_and_widen() -> None:
    labels, scores = made(2000, seed=6)
    exact = evaluate(labels, scores, bootstrap=0).figures
    first = intervals(labels, scores, exact)
    assert first == intervals(labels, scores, exact)
    assert first != intervals(labels, scores, exact, seed=1)
    few = intervals(labels[:200], scores[:200], exact)
    assert few["roc_auc"][1] - few["roc_auc"][0] > 2 * (
        first["roc_auc"][1] - first["roc_auc"][0]
    )


def test_intervals_of_rates_are_exact() -> None:
    # None of 30: the chance to see that, (1 - p)**30, is 2.5 % at the upper end.
    low, high = rate_interval(0, 30)
    assert low == 0
    assert (1 - high) ** 30 == pytest.approx(0.025)
    assert rate_interval(30, 30) == pytest.approx((1 - high, 1))
    # 1 of 2: 1 - (1 - p)**2 is 2.5 % at the lower end.
    low, high = rate_interval(1, 2)
    assert 1 - (1 - low) ** 2 == pytest.approx(0.025)
    assert high == pytest.approx(1 - low)
    one = by_hand(max_fnr=0)
    assert one.intervals["fnr"] == rate_interval(0, 4)
    assert one.intervals["fpr"] == rate_interval(2, 4)
    assert one.intervals["precision"] == rate_interval(4, 6)
    assert one.intervals["recall"] == rate_interval(4, 4)


def test_comparison_by_hand() -> None:
    better = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.4, 0.2, 0.1])
    found = compare(LABELS, ("old", SCORES, 0.5), ("new", better, 0.5))
    assert found.differences["roc_auc"] == 1 - 13.5 / 16
    assert found.disagreements.tolist() == [3, 4]  # the others have the same score
    assert (found.mcnemar.only_first, found.mcnemar.only_second) == (0, 2)
    assert found.mcnemar.p_value == 0.5  # two coins that fall alike
    low, high = found.intervals["roc_auc"]
    assert 0 <= low < high
    assert found.replicates == 1000


def test_mcnemars_test_is_the_binomial_one() -> None:
    first = np.repeat([True, False, True], [5, 15, 30])
    second = np.repeat([False, True, True], [5, 15, 30])
    # 2 * P(at most 5 heads of 20)
    expected = 2 * sum([1, 20, 190, 1140, 4845, 15504]) / 2**20
    assert mcnemar(first, second).p_value == pytest.approx(expected)
    assert mcnemar(first, first).p_value == 1
    assert mcnemar(first, ~first).p_value < 1


def test_pairs_are_drawn_together() -> None:
    labels, scores = made(3000, seed=7)
    noise = np.random.default_rng(8).normal(0, 1e-3, len(scores))
    near = np.clip(scores + noise, 0, 1)
    found, drawn = paired(labels, scores, near, replicates=200)
    alone = evaluate(labels, scores).intervals["roc_auc"]
    width = found["roc_auc"][1] - found["roc_auc"][0]
    assert width < 0.1 * (alone[1] - alone[0])
    assert found["roc_auc"][0] <= 0 <= found["roc_auc"][1]
    assert drawn == 200
    same, _ = paired(labels, scores, scores, replicates=20)
    assert same == {name: (0.0, 0.0) for name in same}


def test_several_classes_are_scikit_learns() -> None:
    rng = np.random.default_rng(9)
    names = ("drawing", "neutral", "porn")
    labels = rng.integers(3, size=2000)
    raw = rng.normal(size=(2000, 3))
    raw[np.arange(2000), labels] += 1
    scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    one = evaluate_classes(labels, scores, names, positive=["porn"], bootstrap=0)
    found = one.classes
    assert found is not None
    decided = scores.argmax(axis=1)
    np.testing.assert_array_equal(
        found.confusion, metrics.confusion_matrix(labels, decided)
    )
    parts = metrics.precision_recall_fscore_support(labels, decided)
    for index, each in enumerate(found.each):
        assert (each.precision, each.recall) == (parts[0][index], parts[1][index])
        assert each.f1 == pytest.approx(parts[2][index])
        assert (each.name, each.rows) == (names[index], parts[3][index])
    assert found.accuracy == metrics.accuracy_score(labels, decided)
    assert found.macro_f1 == pytest.approx(
        metrics.f1_score(labels, decided, average="macro")
    )
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, scores))
    assert np.mean([each.roc_auc for each in found.each]) == pytest.approx(
        metrics.roc_auc_score(labels, scores, multi_class="ovr")
    )
    assert one.figures["roc_auc"] == metrics.roc_auc_score(labels == 2, scores[:, 2])
    both = evaluate_classes(
        labels, scores, names, positive=["porn", "Drawing"], bootstrap=0
    )
    assert both.positive == "drawing + porn"
    assert both.figures["roc_auc"] == pytest.approx(
        metrics.roc_auc_score(labels != 1, 1 - scores[:, 1])
    )


def test_a_class_without_pictures() -> None:
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    one = evaluate_classes(np.array([0, 1]), scores, ("a", "b", "c"), positive=["a"])
    assert one.classes is not None
    third = one.classes.each[2]
    assert (third.recall, third.f1, third.roc_auc) == (None, None, None)
    assert third.precision == 0
    assert one.classes.macro_f1 == 0.5


@pytest.mark.parametrize(("only", "word"), [(True, "nsfw"), (False, "not nsfw")])
def test_one_class_only(only: bool, word: str) -> None:
    labels = np.full(5, only)
    one = evaluate(labels, np.linspace(0, 1, 5), Criterion(threshold=0.5))
    assert one.figures["roc_auc"] is one.figures["average_precision"] is None
    assert one.figures["brier_score"] is not None
    assert one.notes[0].startswith(
        f"every picture is {word}: ROC and average precision"
    )
    assert set(one.intervals) == {"precision", "fnr" if only else "fpr"} | (
        {"recall"} if only else set()
    )
    assert one.replicates == 0
    assert one.chosen is not None
    assert (one.chosen.fpr is None) == only
    assert (one.chosen.fnr is None) == (not only)


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([], [], "no pictures"),
        ([True, False], [0.5, np.nan], "expected scores of 0 to 1, got nan in row 1"),
        ([True, False], [1.5, 0.5], "got 1.5 in row 0"),
        ([True, False], [-0.1, np.inf], "got -0.1 in row 0 and 1 more"),
        ([True, False], [0.5], "as many scores"),
    ],
)
def test_bad_scores(labels: Any, scores: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(np.array(labels, bool), np.array(scores, float))
    with pytest.raises(ValueError, match="expected bool labels"):
        evaluate(np.array([1, 0]), np.array([0.5, 0.5]))


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ({"max_fnr": 1.0}, "expected a false negative rate of 0 to below 1, got 1"),
        ({"max_fpr": -0.1}, "a false positive rate"),
        ({"min_precision": 0.0}, "a precision above 0"),
        ({"min_recall": float("nan")}, "a recall above 0"),
        ({"cost": (0, 1)}, "two costs above 0, such as 10:1, got 0:1"),
        ({"cost": (float("inf"), 1)}, "two costs"),
        ({"threshold": 2.0}, "a threshold of 0 to 1, got 2"),
        ({"band": (0.8, 0.2)}, "expected a band LOW:HIGH"),
        ({"max_fnr": 0.1, "cost": (1, 1)}, "one way .* got max_fnr and cost"),
    ],
)
def test_bad_criteria(criterion: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        by_hand(**criterion)


def test_the_confusion_matrix_is_scikit_learns() -> None:
    labels, predicted = np.random.default_rng(0).integers(0, 4, (2, 99))
    wanted = metrics.confusion_matrix(labels, predicted, labels=range(6))
    assert np.array_equal(confusion_matrix(labels, predicted, 6), wanted)


@pytest.mark.parametrize("package", ["sklearn", "matplotlib"])
def test_a_missing_extra_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = libraries.find_spec
    monkeypatch.setattr(
        libraries,
        "find_spec",
        lambda name: None if name == package else installed(name),
    )
    needed = rf"this needs {package}: pip install 'open_nsfw_tf\[evaluate\]'"
    with pytest.raises(ImportError, match=needed):
        plots.roc([by_hand()])


def test_bad_options() -> None:
    for count in (1, -1, 100_001):
        with pytest.raises(
            ValueError, match=f"2 to 100000 replicates, or 0, got {count}"
        ):
            evaluate(LABELS, SCORES, bootstrap=count)
    with pytest.raises(ValueError, match="some of the classes a, b, got nsfw"):
        positive_columns(["a", "b"])
    with pytest.raises(ValueError, match="some of the classes a, b, got a, b"):
        positive_columns(["a", "b"], ["a", "b"])
