"""Checkpoints: whole or the one before, and nothing in them that is no number."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from open_nsfw_tf.errors import TrainingError
from open_nsfw_tf.train import run_folder
from open_nsfw_tf.train.run_folder import State


@pytest.fixture(scope="module")
def network() -> Any:
    from open_nsfw_tf.backbones import build

    return build("squeezenet", 2, size=32, init="random", seed=0)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limits how large a file may be, as a disk that is nearly full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_checkpoint(
    tmp_path: Path, network: Any, small_files: Callable[[int], None]
) -> None:
    run_folder.write_checkpoint(tmp_path, network, {}, State(step=3))
    content = (tmp_path / run_folder.CHECKPOINT).read_bytes()
    small_files(1 << 20)
    with pytest.raises(
        OSError, match="checkpoint before is whole: make room.*--resume"
    ):
        run_folder.write_checkpoint(tmp_path, network, {}, State(step=4))
    assert (tmp_path / run_folder.CHECKPOINT).read_bytes() == content
    assert os.listdir(tmp_path) == [run_folder.CHECKPOINT]


def test_a_checkpoint_holds_no_nan(tmp_path: Path, network: Any) -> None:
    from open_nsfw_tf.libraries import import_tensorflow

    run_folder.write_checkpoint(tmp_path, network, {}, State(step=3))
    bad = {"velocity/0": import_tensorflow().Variable([1.0, float("inf")])}
    with pytest.raises(TrainingError, match=r"optimizer/velocity/0 .* not finite"):
        run_folder.write_checkpoint(tmp_path, network, bad, State(step=4))
    state = run_folder.read_state(tmp_path)
    assert state is not None
    assert state.step == 3
    with pytest.raises(TrainingError, match="another network's.*--overwrite"):
        run_folder.restore_checkpoint(tmp_path, network, bad)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, b"\x80" + b"\0" * 80])
def test_a_broken_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / run_folder.CHECKPOINT).write_bytes(content)
    with pytest.raises(TrainingError, match=r"cannot be read \(.*--overwrite") as error:
        run_folder.read_state(tmp_path)
    assert "\n" not in str(error.value)
