"""A run's figures for TensorBoard: `tensorboard --logdir RUN/logs`."""

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
                    tf.summary.scalar(place, row[column])
            self._writer.flush()
