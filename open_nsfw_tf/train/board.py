"""A run's figures for TensorBoard: `tensorboard --logdir RUN/logs`.

TensorFlow 2.21 does not bring the package tensorboard any more, which is needed to look at
them and, by `tf.summary.scalar`, to write them; `tf.summary.write` does without.
"""

from pathlib import Path
from typing import Any

from open_nsfw_tf.backend import disk_errors, import_tensorflow
from open_nsfw_tf.train.schedule import Row

PLACES = {  # column, and what TensorBoard calls it
    "loss": "loss/training",
    "val_loss": "loss/validation",
    "accuracy": "accuracy/training",
    "val_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
}


class Board:
    """Writes a row an epoch.

    Args:
        folder: where its files go; made when the first row is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, row: Row) -> None:
        """Add an epoch.

        Raises:
            OSError: it cannot be written.
        """
        tf = import_tensorflow()
        with disk_errors():
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(step=row["epoch"]):
                for column, place in PLACES.items():
                    tf.summary.write(place, float(row[column]), metadata=_scalar())
            self._writer.flush()


def _scalar() -> Any:
    """What tells TensorBoard that a tensor is one number over time."""
    metadata = import_tensorflow().compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    metadata.data_class = 1  # DATA_CLASS_SCALAR of TensorFlow's summary.proto
    return metadata
