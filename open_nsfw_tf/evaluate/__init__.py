"""Evaluating scores against labels, and choosing a threshold.

Yahoo's advice is to compute a ROC curve on your own data and choose a threshold.
`evaluate` does that for scores and labels; `read_labels` and `join` match the two, and
`evaluate_files` does all of it. Needs the extra `evaluate`.
"""

from open_nsfw_tf.evaluate.comparison import Comparison, compare
from open_nsfw_tf.evaluate.evaluation import (
    Evaluation,
    EvaluationReport,
    evaluate,
    evaluate_classes,
    evaluate_files,
    evaluate_joined,
)
from open_nsfw_tf.evaluate.join import JoinedScores, Problem, join
from open_nsfw_tf.evaluate.labels import Labels, read_labels
from open_nsfw_tf.evaluate.metrics import Calibration, ClassMetrics, Histogram
from open_nsfw_tf.evaluate.thresholds import Criterion, OperatingPoint
from open_nsfw_tf.tables import positive_columns

__all__ = [
    "Calibration",
    "ClassMetrics",
    "Comparison",
    "Criterion",
    "Evaluation",
    "EvaluationReport",
    "Histogram",
    "JoinedScores",
    "Labels",
    "OperatingPoint",
    "Problem",
    "compare",
    "evaluate",
    "evaluate_classes",
    "evaluate_files",
    "evaluate_joined",
    "join",
    "positive_columns",
    "read_labels",
]
