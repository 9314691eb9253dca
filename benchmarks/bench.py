"""What all contenders of one run share: the pictures, a batch, the weights' files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

# Multiply-adds of one picture through the network: 53 convolutions and the dense layer
# (test_benchmarks.py counts them). One is two floating point operations.
MULTIPLY_ADDS = 1_068_550_144
BATCH_SIZE = 16  # pictures


@dataclass(frozen=True)
class Bench:
    """A folder that the parent fills and the workers read.

    Attributes:
        folder: with ``bench.json``, ``batch.npy`` and the weights for the peers.
    """

    folder: Path

    @cached_property
    def _settings(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "bench.json").read_text())
        return found

    def write(
        self,
        pictures: list[Path],
        listed: list[Path],
        weights: Path,
        models: Mapping[str, Path] | None = None,
    ) -> None:
        """Say what is measured with.

        Args:
            pictures: that are scored one by one.
            listed: that are scored in one list.
            weights: the file of weights that our engines read.
            models: the folders of trained models, by name.
        """
        settings = {
            "pictures": [str(path) for path in pictures],
            "listed": [str(path) for path in listed],
            "weights": [str(weights)],
            "models": {name: str(path) for name, path in (models or {}).items()},
        }
        (self.folder / "bench.json").write_text(json.dumps(settings))

    @property
    def pictures(self) -> list[str]:
        """Paths of the pictures that are scored one by one."""
        return list(self._settings["pictures"])

    @property
    def listed(self) -> list[str]:
        """Paths of the pictures that are scored in one list."""
        return list(self._settings["listed"])

    @property
    def models(self) -> dict[str, str]:
        """The folders of trained models, by name."""
        return dict(self._settings["models"])

    @property
    def weights(self) -> Path:
        """The file of weights that our engines read."""
        return Path(self._settings["weights"][0])

    @cached_property
    def batch(self) -> np.ndarray:
        """Network inputs, float32 (16, 224, 224, 3): see `peers.make_batch`."""
        return np.asarray(np.load(self.folder / "batch.npy"))

    @property
    def onnx(self) -> Path:
        """Our graph, for ONNX Runtime without anything around it."""
        return self.folder / "open_nsfw.onnx"

    @property
    def h5(self) -> Path:
        """The weights for opennsfw2."""
        return self.folder / "open_nsfw.h5"

    @property
    def caffemodel(self) -> Path:
        """The weights for OpenCV; the prototxt lies beside them."""
        return self.folder / "open_nsfw.caffemodel"
