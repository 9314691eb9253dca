"""Batches, augmentation, caches and features of a frozen body, by known numbers."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import affine_transform

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import YAHOO, Preprocessing, create_yahoo_image_loader, tensor
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.quantize.samples import generated_pictures
from open_nsfw_tf.train import inputs as inputs_module
from open_nsfw_tf.train.augment import YAHOO_SCALE, Augmentation, augment, transform
from open_nsfw_tf.train.data import Split
from open_nsfw_tf.train.inputs import UNCHANGED, Inputs, Pixels, features

SMALL = Preprocessing(24, 16, False, "RGB", (127.5, 127.5, 127.5), 1 / 127.5)
NSFWJS = Preprocessing(24, 24, False, "RGB", (0.0, 0.0, 0.0), 1 / 255, "aligned")
TUTORIALS = Augmentation(
    crop=False, rotation=30, shift=0.2, shear=0.2, zoom=0.2, channel_shift=20
)
STILL = [0.5] * 11  # drawn numbers that move nothing
PLACES = ("flip", "scale", "down", "right", "turn", "shift_y", "shift_x", "shear") + (
    "zoom_y",
    "zoom_x",
    "channel",
)


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Five pictures of class 0, six of class 1; several formats and sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    return _split(folder)


def _split(folder: Path) -> Split:
    paths = []
    for index, image in enumerate(generated_pictures(11)):
        small = image.resize((40 + index, 60 - 2 * index))
        kind = ("png", "jpg", "bmp")[index % 3]
        paths.append(str(folder / f"{index:02}.{kind}"))
        small.save(paths[-1])
    return Split(paths, np.array([0] * 5 + [1] * 6, np.int64))


def batches(data: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.numpy(), y.numpy()) for x, y in data]


def joined(data: Any) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = zip(*batches(data), strict=True)
    return np.concatenate(pictures), np.concatenate(labels)


def assert_same(first: Any, second: Any) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


# -- what is trained is what is served


@pytest.mark.parametrize("cache", [None, True, False])
def test_yahoos_pixels(split: Split, cache: bool | None) -> None:
    inputs = Inputs(split.part(range(3)), YAHOO, batch_size=2, cache=cache)
    load = create_yahoo_image_loader(expand_dims=False)
    expected = np.stack([load(path) for path in split.paths[:3]])
    for pictures, labels in (joined(inputs.epochs()), joined(inputs.epochs(5))):
        assert pictures.dtype == np.float32
        assert np.array_equal(pictures, expected)
        assert labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    "preprocessing",
    [
        SMALL,
        replace(SMALL, order="BGR", jpeg=True, crop=15, mean=(1.5, 2.0, 3.0)),
        NSFWJS,
        replace(NSFWJS, crop=20, order="BGR", mean=(1.5, 2.0, 3.0)),
    ],
)
def test_any_preprocessing(
    split: Split, preprocessing: Preprocessing, cache: bool
) -> None:
    inputs = Inputs(split, preprocessing, batch_size=4, cache=cache)
    pictures, labels = joined(inputs.epochs())
    expected = np.stack([tensor(path, preprocessing) for path in split.paths])
    assert np.array_equal(pictures, expected)
    assert np.array_equal(labels, split.labels)


# -- epochs


def test_an_epoch_is_the_same_whenever_it_comes(split: Split) -> None:
    def inputs(seed: int = 1) -> Inputs:
        return Inputs(
            split,
            SMALL,
            batch_size=4,
            augmentation=TUTORIALS,
            shuffle=True,
            seed=seed,
            threads=3,
        )

    whole = batches(inputs().epochs(0, 3))
    assert [len(x) for x, _ in whole] == [4, 4, 3] * 3
    assert_same(batches(inputs().epochs(2)), whole[6:])
    assert_same(batches(inputs().epochs(1, 2)), whole[3:])
    labels = [np.concatenate([y for _, y in whole[3 * e : 3 * e + 3]]) for e in (0, 1)]
    assert sorted(labels[0]) == sorted(labels[1]) == sorted(split.labels)
    assert not np.array_equal(whole[0][0], whole[3][0])
    large = inputs(seed=(1 << 63) - 1)
    assert not np.array_equal(batches(large.epochs())[0][0], whole[0][0])


def test_steps(split: Split) -> None:
    for shuffle in (True, False):
        for drop, steps, last in ((False, 3, 3), (True, 2, 4)):
            inputs = Inputs(
                split, SMALL, batch_size=4, shuffle=shuffle, drop_remainder=drop
            )
            found = batches(inputs.epochs())
            assert len(found) == inputs.steps == steps
            assert len(found[-1][0]) == last
    assert (
        int(Inputs(split, SMALL, batch_size=4, shuffle=True).epochs(0, 5).cardinality())
        == 15
    )


def test_workers_share_the_batches_of_one(split: Split) -> None:
    alone = Inputs(
        split, SMALL, batch_size=4, augmentation=TUTORIALS, shuffle=True, seed=5
    )
    workers = [
        Inputs(
            split,
            SMALL,
            batch_size=2,
            augmentation=TUTORIALS,
            shuffle=True,
            seed=5,
            shard=(index, 2),
        )
        for index in range(2)
    ]
    parts = [batches(worker.epochs(7)) for worker in workers]
    assert len(parts[0]) == len(parts[1]) == alone.steps == workers[0].steps
    for step, (pictures, labels) in enumerate(batches(alone.epochs(7))):
        both = np.stack([part[step][0] for part in parts], axis=1)
        seen = both.reshape(-1, *both.shape[2:])
        assert np.array_equal(seen[: len(pictures)], pictures)
        both_labels = np.stack([part[step][1] for part in parts], axis=1).ravel()
        assert np.array_equal(both_labels[: len(labels)], labels)
    judged = [Inputs(split, SMALL, batch_size=2, shard=(i, 2)).order(0) for i in (0, 1)]
    assert sorted([*judged[0], *judged[1]]) == list(range(11))


def test_bad_arguments(split: Split) -> None:
    for options, message in (
        ({"batch_size": 0}, "batch of at least 1"),
        ({"batch_size": 1, "shard": (2, 2)}, "worker's number"),
        ({"batch_size": 1, "threads": 0}, "1 thread"),
        ({"batch_size": 1, "max_pixels": 0}, "max_pixels"),
        ({"batch_size": 1, "seed": -1}, "seed of 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Inputs(split, SMALL, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without any"):
        Inputs(split.part([]), SMALL, batch_size=1)


# -- pictures that break meanwhile


def test_a_stand_in_for_a_broken_picture(tmp_path: Path) -> None:
    split = _split(tmp_path)
    options: Any = {"batch_size": 4, "shuffle": True, "seed": 3, "cache": False}
    whole = joined(Inputs(split, SMALL, **options).epochs())
    os.remove(split.paths[4])  # the last one of class 0: the first one stands in
    inputs = Inputs(split, SMALL, **options)
    pictures, labels = joined(inputs.epochs())
    assert list(inputs.broken) == [split.paths[4]]
    assert "No such file" in inputs.broken[split.paths[4]]
    assert np.array_equal(labels, whole[1])
    order = inputs.order(0).tolist()
    expected = whole[0].copy()
    expected[order.index(4)] = whole[0][order.index(0)]
    assert np.array_equal(pictures, expected)


def test_a_broken_picture_is_left_out_of_judging(tmp_path: Path) -> None:
    split = _split(tmp_path)
    Path(split.paths[1]).write_bytes(b"\xff\xd8\xff")
    inputs = Inputs(split, SMALL, batch_size=4)
    pictures, labels = joined(inputs.epochs())
    assert len(pictures) == 10
    assert labels.tolist() == [0] * 4 + [1] * 6
    assert list(inputs.broken) == [split.paths[1]]


def test_a_class_without_a_picture_stops_with_one_line(tmp_path: Path, tf: Any) -> None:
    split = _split(tmp_path)
    for path in split.paths[:5]:
        os.remove(path)
    inputs = Inputs(split, SMALL, batch_size=4, shuffle=True)
    with (
        pytest.raises(ImageError, match=r"no picture of a class.* No such") as error,
        inputs.raising(),
    ):
        batches(inputs.epochs())
    assert "\n" not in str(error.value)
    with pytest.raises(tf.errors.OpError, match="another one"), inputs.raising():
        raise tf.errors.OpError(None, None, "another one", 0)


# -- caches


def test_memory_is_read_from_once(tmp_path: Path) -> None:
    split = _split(tmp_path)
    inputs = Inputs(split, SMALL, batch_size=4, cache=True)
    first = batches(inputs.epochs())
    for path in split.paths:
        os.remove(path)
    assert_same(batches(inputs.epochs()), first)
    assert not inputs.broken


def test_auto_takes_memory_only_where_there_is_enough(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Pixels(split, SMALL).cached
    monkeypatch.setattr(inputs_module, "SHARE", 0)
    assert not Pixels(split, SMALL).cached


# -- augmentation


def drawn(tf: Any, **numbers: float) -> list[Any]:
    """Random numbers that move nothing, but for those that are named."""
    values = dict(zip(PLACES, STILL, strict=True)) | numbers
    return [tf.constant(value, tf.float32) for value in values.values()]


def moved(tf: Any, image: np.ndarray, matrix: Any, side: int) -> np.ndarray:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[np.newaxis].astype(np.float32),
        transforms=matrix[tf.newaxis],
        output_shape=[side, side],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0].numpy()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    picture = generated_pictures(1)[0].resize((24, 24), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def test_nothing_is_varied(tf: Any, image: np.ndarray) -> None:
    same = augment(image, UNCHANGED, SMALL, tf.constant([1, 2], tf.int64))
    assert np.array_equal(same, image[4:20, 4:20])


def test_flip_and_crop_copy_pixels(tf: Any, image: np.ndarray) -> None:
    windows = {
        (y, x, flip): image[y : y + 16, x : x + 16][:, :: -1 if flip else 1].tobytes()
        for y in range(9)
        for x in range(9)
        for flip in (False, True)
    }
    places = {window: place for place, window in windows.items()}
    found = []
    for index in range(300):
        seed = tf.constant([0, index], tf.int64)
        made = augment(image, Augmentation(), SMALL, seed).numpy()
        found.append(places[made.astype(np.uint8).tobytes()])
    for axis, kinds in enumerate((9, 9, 2)):
        counts = np.bincount([place[axis] for place in found], minlength=kinds)
        assert counts.min() > 0.5 * 300 / kinds


def test_the_same_seed_gives_the_same_picture(tf: Any, image: np.ndarray) -> None:
    run = tf.function(lambda seed: augment(image, TUTORIALS, SMALL, seed))
    seeds = [tf.constant(seed, tf.int64) for seed in ([0, 1], [0, 1], [0, 2], [1, 1])]
    made = [run(seed).numpy() for seed in seeds]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert not np.array_equal(made[0], made[3])
    assert made[0].dtype == np.float32
    assert made[0].min() >= image.min()
    assert made[0].max() <= image.max()


WHOLE = replace(SMALL, crop=24)
KINDS: dict[str, dict[str, float]] = {
    "rotation": {"turn": 0.9},
    "shift": {"shift_y": 0.7, "shift_x": 0.1},
    "shear": {"shear": 1.0},
    "zoom": {"zoom_y": 0.2, "zoom_x": 0.8},
    "all": {
        "turn": 0.1,
        "shift_y": 0.3,
        "shift_x": 0.9,
        "shear": 0.2,
        "zoom_y": 0.9,
        "zoom_x": 0.4,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_as_keras_image_data_generator(tf: Any, image: np.ndarray, kind: str) -> None:
    """Its matrices, in rows and columns, by SciPy's resampling as it did it."""
    values = {name: 2 * KINDS[kind].get(name, 0.5) - 1 for name in PLACES}
    theta, shear = np.deg2rad(30 * values["turn"]), 0.2 * values["shear"]
    rotation = [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]
    shearing = [[1, -np.sin(shear)], [0, np.cos(shear)]]
    zoom = np.diag([1 + 0.2 * values["zoom_y"], 1 + 0.2 * values["zoom_x"]])
    shift = np.array([0.2 * 24 * values["shift_y"], 0.2 * 24 * values["shift_x"]])
    linear = np.array(rotation) @ shearing @ zoom
    offset = 11.5 + np.array(rotation) @ shift - linear @ [11.5, 11.5]
    expected = np.stack(
        [
            affine_transform(
                image[..., channel].astype(float),
                linear,
                offset,
                order=1,
                mode="nearest",
            )
            for channel in range(3)
        ],
        axis=-1,
    )
    matrix = transform(TUTORIALS, WHOLE, drawn(tf, **KINDS[kind]))
    np.testing.assert_allclose(moved(tf, image, matrix, 24), expected, atol=0.02)


def test_scale_and_crop(tf: Any, image: np.ndarray) -> None:
    scaled = Augmentation(scale=(0.5, 2.0))
    # Twice as large, upper left corner: every pixel of a quarter twice.
    matrix = transform(scaled, SMALL, drawn(tf, scale=1.0, down=0.0, right=0.0))
    double = np.asarray(
        Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR)
    )
    near = moved(tf, image, matrix, 16)
    np.testing.assert_allclose(near, double[:16, :16], atol=1)
    # As large as it is, lower right corner.
    even = drawn(tf, scale=1 / 3, down=1.0, right=1.0)
    near = moved(tf, image, transform(scaled, SMALL, even), 16)
    np.testing.assert_allclose(near, image[8:, 8:], atol=1e-3)
    # From the middle; of an odd rest the smaller half comes first, as in the loader.
    odd = replace(SMALL, crop=15)
    still = transform(replace(TUTORIALS, crop=False), odd, drawn(tf))
    assert np.array_equal(moved(tf, image, still, 15), image[4:19, 4:19])
    corner = drawn(tf, down=1 - 2**-24, right=0.0)
    matrix = transform(replace(TUTORIALS, crop=True), SMALL, corner)
    assert np.array_equal(moved(tf, image, matrix, 16), image[8:, :16])


def test_yahoos_range_keeps_the_crop_inside() -> None:
    assert YAHOO_SCALE[0] * YAHOO.resize >= YAHOO.crop


def test_channel_shift(tf: Any) -> None:
    flat = np.full((24, 24, 3), (60, 100, 140), np.uint8)
    only = replace(UNCHANGED, channel_shift=20.0)
    shifts = []
    for index in range(40):
        made = augment(flat, only, SMALL, tf.constant([9, index], tf.int64)).numpy()
        shift = float(made[0, 0, 1]) - 100
        expected = np.clip(np.array([60, 100, 140]) + shift, 60, 140)
        np.testing.assert_allclose(made[7, 7], expected, atol=1e-4)
        shifts.append(shift)
    assert min(shifts) < -12
    assert max(shifts) > 12
    assert max(map(abs, shifts)) <= 20


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": -1},
        {"rotation": float("nan")},
        {"zoom": 1},
        {"scale": (2, 1)},
        {"scale": (0, 1)},
        {"channel_shift": 256},
    ],
)
def test_bad_augmentation(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a "):
        Augmentation(**options)


# -- features of a frozen body


@pytest.fixture
def body(tf: Any) -> Any:
    return _body(tf)


def _body(tf: Any) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    seen = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(seen))
    return keras.Model(seen, keras.layers.Dropout(0.5)(pooled))


def test_features_are_computed_once(
    tf: Any, split: Split, body: Any, tmp_path: Path
) -> None:
    counts: list[int] = []
    first = features(
        body, split, SMALL, tmp_path / "new", batch_size=4, progress=counts.append
    )
    assert counts == [4, 4, 3]
    assert not first.cached
    batch = np.stack([tensor(path, SMALL) for path in split.paths])
    expected = body(batch, training=False).numpy()
    np.testing.assert_allclose(first.values, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(first.labels, split.labels)
    made_again = _body(tf)  # its layers have other numbers
    again = features(made_again, split, SMALL, tmp_path / "new", progress=counts.append)
    assert again.cached
    assert len(counts) == 3
    assert isinstance(again.values, np.memmap)
    assert np.array_equal(again.values, first.values)
    assert np.array_equal(again.labels, split.labels)


def test_stale_or_cut_features_are_computed_again(body: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    split = _split(tmp_path / "in")

    def cached(preprocessing: Preprocessing = SMALL) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = features(body, split, preprocessing, tmp_path / "cache")
        assert found.values.shape == (11, 5)
        return found.cached

    assert [cached(), cached(), cached(replace(SMALL, scale=1.0))] == [
        False,
        True,
        False,
    ]
    body.set_weights([weight + 1 for weight in body.get_weights()])
    assert [cached(), cached()] == [False, True]
    os.utime(split.paths[0], (1, 1))
    assert [cached(), cached()] == [False, True]
    for path in (tmp_path / "cache").glob("features-*"):
        path.write_bytes(path.read_bytes()[:-4])
    assert [cached(), cached()] == [False, True]
    for path in (tmp_path / "cache").glob("rows-*"):
        path.write_bytes(b"")
    assert [cached(), cached()] == [False, True]
    assert not list((tmp_path / "cache").glob(".*"))


def test_features_of_less_precision_are_others(body: Any, tmp_path: Path) -> None:
    from keras.models import clone_model

    (tmp_path / "in").mkdir()
    split = _split(tmp_path / "in")

    def rougher(layer: Any) -> Any:
        config = {**layer.get_config(), "dtype": "mixed_bfloat16"}
        return type(layer).from_config(config)

    rough = clone_model(body, clone_function=rougher)
    rough.set_weights(body.get_weights())
    found = features(rough, split, SMALL, tmp_path / "cache")
    exact = features(body, split, SMALL, tmp_path / "cache")
    assert not exact.cached
    assert not np.array_equal(exact.values, found.values)


def test_features_without_what_broke(body: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    split = _split(tmp_path / "in")
    whole = features(body, split, SMALL, tmp_path / "cache")
    Path(split.paths[2]).write_bytes(b"\xff\xd8\xff")
    for cached in (False, True):
        found = features(body, split, SMALL, tmp_path / "cache")
        assert found.cached == cached
        assert list(found.broken) == [split.paths[2]]
        assert found.labels.tolist() == [0] * 4 + [1] * 6
        np.testing.assert_allclose(
            found.values, np.delete(whole.values, 2, axis=0), rtol=1e-5
        )
    for path in split.paths:
        os.remove(path)
    with pytest.raises(ImageError, match="no picture can be read any more"):
        features(body, split, SMALL, tmp_path / "cache")


# -- the benchmark


def test_the_benchmark_runs(tmp_path: Path) -> None:
    small = ["--backbone", "squeezenet", "--pictures", "6", "--size", "32"]
    few = ["--batch", "2", "--epochs", "2", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_input", *small, *few],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["epoch"].split(" ")[0] for row in rows] == [
        "first",
        "cached",
        "cached,",
    ]
    for row in rows[:2]:
        assert 0 <= row["wait_share"] <= 1
        assert row["epoch"] in done.stdout
    assert rows[2]["pictures_per_second"] > 0
