"""Pictures in, scores out: one, many, from many threads, with flat memory."""

import gc
import json
import pickle
import pwd
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE, installed_engines
from PIL import Image

from open_nsfw_tf import (
    Classifier,
    ImageError,
    Scores,
    WeightsError,
    classify,
    save_weights,
)
from open_nsfw_tf.backbones.trained import TrainedModel, write_trained
from open_nsfw_tf.errors import NotReadError
from open_nsfw_tf.image import YAHOO
from open_nsfw_tf.weights import cache_folder, fetch_weights, locations

NAMES = list(GOLDEN["samples"])


def test_classify_is_caffes_score(weights_path: Path) -> None:
    scores = classify(pictures.path("astronaut.png"))
    assert isinstance(scores, Scores)
    golden = GOLDEN["samples"]["astronaut.png"]["nsfw"]
    assert abs(scores.nsfw - golden) <= SCORE_TOLERANCE
    assert scores.sfw + scores.nsfw == pytest.approx(1)
    json.dumps(scores._asdict())  # plain floats


@pytest.mark.parametrize("batch_size", [1, 5, 16, 100])
def test_many_keep_their_order(any_classifier: Classifier, batch_size: int) -> None:
    paths = [pictures.path(name) for name in NAMES]
    scores = list(any_classifier.classify_many(paths, batch_size))
    for name, score in zip(NAMES, scores, strict=True):
        expected = GOLDEN["samples"][name]["nsfw"]
        assert abs(score.nsfw - expected) <= SCORE_TOLERANCE, name


def test_a_bad_picture_is_an_error_in_its_place(classifier: Classifier) -> None:
    good = pictures.path("coffee.png")
    found = list(
        classifier.classify_many([b"", good, b"x", "none", good], 2, errors="yield")
    )
    kinds = [type(result) for result in found]
    assert kinds == [ImageError, Scores, ImageError, NotReadError, Scores]
    assert found[1] == found[4]


def test_raise_gives_the_scores_before_it_first(classifier: Classifier) -> None:
    good = pictures.path("coffee.png")
    stream = classifier.classify_many([good, good, b"", good])
    assert next(stream) == next(stream)
    with pytest.raises(ImageError, match="empty"):
        next(stream)


def test_many_is_lazy(classifier: Classifier) -> None:
    taken = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(1)
            yield pictures.path("coffee.png")

    stream = classifier.classify_many(endless(), batch_size=4)
    assert not taken
    for _ in range(6):
        next(stream)
    ahead = 3 * classifier.workers + 1  # batches that wait, and one a worker to share
    assert len(taken) <= 4 * (2 + ahead)
    before = threading.active_count()
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before - classifier.workers


FIRST = """
import sys
from open_nsfw_tf import Classifier

classifier = Classifier(sys.argv[1], workers=4)
print(len(list(classifier.classify_many(sys.argv[2:], batch_size=1))))
"""


@pytest.mark.parametrize("engine", installed_engines())
def test_first_calls_that_come_together(engine: str) -> None:
    """OpenVINO's once waited for each other for ever."""
    paths = [pictures.path(name) for name in NAMES[:8]]
    done = subprocess.run(
        [sys.executable, "-c", FIRST, engine, *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout == "8\n"


def test_fewer_than_a_batch_need_no_threads(classifier: Classifier) -> None:
    before = threading.active_count()
    stream = classifier.classify_many([pictures.path("coffee.png")] * 3, batch_size=4)
    next(stream)
    assert threading.active_count() == before


def test_files_and_images_that_come_twice(classifier: Classifier) -> None:
    """A file is read once, where it stands; a lazy image is decoded once."""
    path = pictures.path("rocket.jpg")
    wanted = classifier.classify(path)
    with open(path, "rb") as file, Image.open(path) as image:
        again = [file, file, *[image] * 20, file]
        found = list(classifier.classify_many(again, errors="yield"))
    assert found[0] == wanted
    assert isinstance(found[1], ImageError)
    assert isinstance(found[-1], ImageError)
    assert found[2:-1] == [wanted] * 20


def test_each_error_stands_in_its_place(classifier: Classifier) -> None:
    good, bad = pictures.path("coffee.png"), b"no picture"
    given = [bad if index % 3 == 1 else good for index in range(50)]
    found = list(classifier.classify_many(given, errors="yield"))
    kinds = [isinstance(result, ImageError) for result in found]
    assert kinds == [index % 3 == 1 for index in range(50)]


def test_what_the_iterable_raises_comes_through(classifier: Classifier) -> None:
    def broken() -> Iterator[Path]:
        for _ in range(20):
            yield pictures.path("coffee.png")
        raise OSError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        list(classifier.classify_many(broken()))
    assert threading.active_count() == before


def test_large_arrays_are_in_memory_one_at_a_time(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 24, 3), np.uint8)
    large = [rng.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(12)]
    monkeypatch.setattr("open_nsfw_tf.classifier.LARGE", small.nbytes)
    seen: list[Any] = []

    def pictures_of() -> Iterator[Any]:
        for each in large:
            array = each.copy()
            seen.append(weakref.ref(array))
            yield array
            del array
            assert sum(ref() is not None for ref in seen) <= 1
            yield small
        yield large[0][:, :, :2]  # no picture: an error in its place

    found = list(classifier.classify_many(pictures_of(), 1, errors="yield"))
    assert isinstance(found.pop(), ImageError)
    expected = [classifier.classify(each) for each in [small, *large]]
    assert np.array(found[1::2]) == pytest.approx(np.array([expected[0]] * 12))
    assert np.array(found[::2]) == pytest.approx(np.array(expected[1:]))


def test_one_worker_gives_the_same(weights_path: Path, classifier: Classifier) -> None:
    paths = [pictures.path(name) for name in NAMES[:9]]
    alone = Classifier("onnxruntime", weights_path, workers=1)
    found, wanted = (list(one.classify_many(paths)) for one in (alone, classifier))
    assert np.abs(np.array(found) - np.array(wanted)).max() <= 1e-6
    with pytest.raises(ValueError, match="at least 1 worker"):
        Classifier("onnxruntime", weights_path, workers=0)


def test_nothing_in_nothing_out(classifier: Classifier) -> None:
    assert list(classifier.classify_many([])) == []
    empty = np.empty((0, 224, 224, 3), np.float32)
    assert classifier.predict(empty).shape == (0, 2)


@pytest.mark.parametrize(
    "one",
    [
        "photo.jpg",
        b"bytes",
        bytearray(b"bytes"),
        Path("photo.jpg"),
        BytesIO(b"file"),
        Image.new("RGB", (9, 9)),
        np.zeros((9, 9, 3), np.uint8),
    ],
    ids=lambda one: type(one).__name__,
)
def test_one_picture_is_no_iterable(classifier: Classifier, one: Any) -> None:
    with pytest.raises(TypeError, match=r"classify\(\) takes one"):
        classifier.classify_many(one)


def test_wrong_words_are_told(classifier: Classifier) -> None:
    for wrong in (0, 10**5, 2.0, "x"):
        with pytest.raises(ValueError, match="batch_size of 1 to 1024"):
            classifier.classify_many([], batch_size=wrong)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="'raise' or 'yield'"):
        classifier.classify_many([], errors="ignore")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="shape"):
        classifier.predict(np.zeros((1, 224, 224, 4), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        classifier.predict(np.full((1, 224, 224, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="uint8"):
        classifier.predict(np.zeros((1, 224, 224, 3), np.uint8))


def test_sixteen_threads_get_identical_scores(any_classifier: Classifier) -> None:
    paths = [pictures.path(name) for name in NAMES[:4]]
    expected = [any_classifier.classify(path) for path in paths]
    found: list[list[Scores]] = []

    def work() -> None:
        found.extend(
            [any_classifier.classify(path) for path in paths] for _ in range(3)
        )

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 48
    assert all(scores == expected for scores in found)


def test_the_default_classifier_is_made_once() -> None:
    made: list[Scores] = []

    def work() -> None:
        made.append(classify(pictures.path("coffee.png")))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from open_nsfw_tf import classifier as room

    assert len(set(made)) == 1
    assert room._default.cache_info().currsize == 1
    gc.collect()


FLAT = """
import itertools, resource, sys
from open_nsfw_tf import Classifier

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def endless(paths):
    return itertools.islice(itertools.cycle(paths), 1000)

stream = Classifier(engine="onnxruntime").classify_many(endless(sys.argv[1:]))
for count, _ in enumerate(stream, 1):
    if count == 100:
        early = peak()
print(early, peak())
"""


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    names = ["coffee.png", "rocket.jpg", "astronaut.png", "camera.png"]
    paths = [pictures.path(name) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", FLAT, *paths], capture_output=True, text=True, check=True
    )
    early, late = map(int, done.stdout.split())
    assert late <= 1.05 * early, (early, late)


@pytest.mark.parametrize("kind", ["file", "dict", "model"])
@pytest.mark.parametrize("engine", installed_engines())
def test_a_classifier_is_a_value(
    engine: str,
    kind: str,
    weights: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that becomes of what it was made of changes what it answers."""
    own = {
        layer: {n: a.copy() for n, a in fields.items()}
        for layer, fields in weights.items()
    }
    trained = TrainedModel("resnet50_thin", ("sfw", "nsfw"), YAHOO, (), own)
    cache = tmp_path / "cache" / "open_nsfw_tf"
    if (found := cache_folder()) and found.exists():
        shutil.copytree(found, cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.chdir(tmp_path)
    save_weights(own, "w.npy")
    Path("model").mkdir()
    write_trained(Path("model"), trained)
    monkeypatch.setenv("OPEN_NSFW_TF_WEIGHTS", "w.npy")
    made = [
        Classifier(engine)
        if kind == "file"
        else Classifier(engine, own)
        if kind == "dict"
        else Classifier(engine, model="model")
    ]
    made += [Classifier(engine, model=trained)] if kind == "model" else []
    own["fc_nsfw"]["biases"][:] = [9, 0]
    own["conv_1"]["weights"] = own["conv_1"]["weights"] * 2
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"another")  # in its place: who has it open sees it
    save_weights(own, "w.npy")
    shutil.rmtree(cache.parent, ignore_errors=True)  # of a dict there is none
    shutil.rmtree("model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    path, golden = pictures.path("coffee.png"), GOLDEN["samples"]["coffee.png"]["nsfw"]
    for classifier in made:
        for one in (classifier, pickle.loads(pickle.dumps(classifier))):
            scores = [one.classify(path), *one.classify_many([path] * 9)]
            assert len(scores) == 10
            assert all(abs(s.nsfw - golden) <= SCORE_TOLERANCE for s in scores)
            assert one.classes == ("sfw", "nsfw")


def test_a_name_that_no_file_can_have_is_a_row(classifier: Classifier) -> None:
    good = pictures.path("coffee.png")
    names = ["\ud83d.jpg", good, Path("a\udfff"), "\0", good]
    found = list(classifier.classify_many(names, errors="yield"))
    assert [type(one) for one in found] == [
        ImageError,
        Scores,
        ImageError,
        ImageError,
        Scores,
    ]
    assert "\\ud83d.jpg: expected a path" in str(found[0])


def test_a_user_without_a_home_has_no_cache_and_gets_scores(
    weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_folder() is None
    golden = GOLDEN["samples"]["coffee.png"]["nsfw"]
    for weights in (weights_path, None):
        found = Classifier("onnxruntime", weights).classify(pictures.path("coffee.png"))
        assert abs(found.nsfw - golden) <= SCORE_TOLERANCE
    with pytest.raises(WeightsError, match="no home folder is known; set HOME or XDG"):
        fetch_weights()
    assert sum("no home folder" in one.title for one in locations()) == 1
