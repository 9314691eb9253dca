"""Near duplicates: none is missed, the best copy stays, and none leaks."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from PIL import Image, ImageEnhance

from open_nsfw_tf.dataset import DedupeResult, SplitResult, dedupe, scan, split
from open_nsfw_tf.dataset.duplicates import (
    CLASSES,
    INSIDE,
    LEAKS,
    hash_buckets,
    moves_of,
    neighbours,
)
from open_nsfw_tf.dataset.fingerprints import Fingerprint, fingerprints
from open_nsfw_tf.dataset.folder import propose
from open_nsfw_tf.dataset.split import divide
from open_nsfw_tf.dataset.split import moves_of as split_moves

HASHES, PLANTED, APART = 200_000, 2000, 7


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture unlike that of any other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    how = Image.Resampling.BICUBIC
    return Image.fromarray(noise).resize((width, height), how)


def save(image: Image.Image, path: Path, age: int = 0, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    os.utime(path, (2_000_000_000 - age, 2_000_000_000 - age))


# -- hashes


def of(graph: Any, row: int) -> list[int]:
    """The neighbours of a hash."""
    found: list[int] = graph.indices[graph.indptr[row] : graph.indptr[row + 1]].tolist()
    return found


def test_all_planted_pairs_of_200_000_are_found() -> None:
    chance = np.random.default_rng(0)
    hashes = chance.integers(0, 256, (HASHES, 8), np.uint8)
    bits = np.unpackbits(hashes[:PLANTED], axis=1)
    for row in range(PLANTED):
        flipped = chance.choice(64, row % (APART + 1), replace=False)
        bits[row, flipped] ^= 1
    hashes[-PLANTED:] = np.packbits(bits, axis=1)
    found = neighbours(hashes, APART)
    assert all(HASHES - PLANTED + row in of(found, row) for row in range(PLANTED))
    assert all(row in of(found, HASHES - PLANTED + row) for row in range(PLANTED))
    assert PLANTED * 2 <= found.nnz <= PLANTED * 2 + 20  # others are chance


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 7, 8, 11])
def test_neighbours_are_those_of_brute_force(distance: int) -> None:
    chance = np.random.default_rng(distance)
    few = chance.integers(0, 256, (40, 8), np.uint8)
    bits = np.unpackbits(np.repeat(few, 10, axis=0), axis=1)
    bits ^= (chance.random(bits.shape) < 0.07).astype(np.uint8)
    hashes = np.packbits(bits, axis=1)
    apart = (bits[:, None] != bits[None]).sum(-1)
    np.fill_diagonal(apart, 64)
    found = neighbours(hashes, distance)
    for row in range(len(hashes)):
        expected = np.flatnonzero(apart[row] <= distance).tolist()
        assert of(found, row) == expected
        at = slice(*found.indptr[row : row + 2])
        assert (found.data[at] == apart[row, found.indices[at]]).all()


def test_what_is_no_hash() -> None:
    with pytest.raises(
        ValueError, match=r"uint8 \(N, 8\), got int64 of shape \(2, 8\)"
    ):
        neighbours(np.zeros((2, 8), int), 3)
    with pytest.raises(ValueError, match="distance of 0 to 11 bits, got 12"):
        neighbours(np.zeros((2, 8), np.uint8), 12)
    assert neighbours(np.zeros((0, 8), np.uint8), 7).nnz == 0


def test_many_equal_hashes_are_one_bucket() -> None:
    same = [
        Fingerprint(b"%d" % n, b"%d" % n, b"\1" * 8, 9, 9, False) for n in range(50_000)
    ]
    made = hash_buckets(same)
    assert len(made.members) == 1
    assert len(made.clusters()[0]) == 50_000
    assert hash_buckets([]).clusters() == []


def test_chains_are_connected() -> None:
    phashes = [0, 0x7F, 0x3FFF, 0xFFFFFFFFFFFFFFFF]
    prints = [
        Fingerprint(b"%d" % n, b"%d" % n, phash.to_bytes(8, "big"), 9, 9, False)
        for n, phash in enumerate(phashes)
    ]
    assert hash_buckets(prints, 7).clusters() == [[0, 1, 2], [3]]
    assert hash_buckets(prints, 6).clusters() == [[0], [1], [2], [3]]
    assert hash_buckets(prints, 7, exact=True).clusters() == [[0], [1], [2], [3]]


# -- pictures


def names(found: DedupeResult, kind: str) -> list[tuple[str, list[str]]]:
    return [
        (group.best.name, [copy.file.name for copy in group.copies])
        for group in found.groups[kind]
    ]


def test_the_best_copy_stays(tmp_path: Path) -> None:
    large = scene(1, 320, 240)
    save(large.resize((160, 120)), tmp_path / "a/0small.png", age=99)
    save(large, tmp_path / "a/1newer.png", age=1)
    save(large, tmp_path / "a/2older.png", age=50)
    save(large, tmp_path / "a/3pixels.bmp", age=0)
    save(large, tmp_path / "a/4near.jpg", quality=40)
    save(scene(2), tmp_path / "a/5other.png")
    found = dedupe(tmp_path)
    (group,) = found.groups[INSIDE]
    assert group.best.name == "a/3pixels.bmp"  # as many pixels, more bytes
    assert [(copy.file.name[2:], copy.how) for copy in group.copies] == [
        ("0small.png", "near"),
        ("1newer.png", "pixels"),
        ("2older.png", "pixels"),
        ("4near.jpg", "near"),
    ]
    (tmp_path / "a/3pixels.bmp").unlink()
    (group,) = dedupe(tmp_path).groups[INSIDE]
    assert group.best.name == "a/2older.png"
    exact = dedupe(tmp_path, exact=True)
    assert names(exact, INSIDE) == [("a/2older.png", ["a/1newer.png"])]
    assert exact.groups[INSIDE][0].copies[0].how == "file"
    assert not exact.groups[LEAKS]
    assert not exact.groups[CLASSES]


def test_whatever_moves_has_a_near_copy_that_stays(tmp_path: Path) -> None:
    # A film: every picture is near the next one, the first is not near the last.
    first, last = scene(3), scene(4)
    for step in range(25):
        save(Image.blend(first, last, step / 24), tmp_path / f"a/{step:02}.png")
    found = dedupe(tmp_path, distance=10)
    groups = found.groups[INSIDE]
    assert len(groups) > 1
    assert all(copy.bits <= 10 for group in groups for copy in group.copies)
    best = {group.best.name for group in groups}
    moved = [copy.file.name for group in groups for copy in group.copies]
    assert len(moved) == len(set(moved))
    assert not best & set(moved)


def test_blank_pictures_are_copies_by_their_pixels_only(tmp_path: Path) -> None:
    for name, colour in {"a": "black", "b": "white", "c": "red", "d": "red"}.items():
        save(Image.new("RGB", (64, 64), colour), tmp_path / f"x/{name}.png")
    assert names(dedupe(tmp_path), INSIDE) == [("x/c.png", ["x/d.png"])]


def test_a_file_that_is_no_picture_is_no_duplicate(tmp_path: Path) -> None:
    save(scene(1), tmp_path / "a/x.png")
    for name in ("a/LICENCE", "a/broken.jpg", "b/broken.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"the same")
    found = dedupe(tmp_path)
    assert set(found.unreadable) == {"a/LICENCE", "a/broken.jpg", "b/broken.jpg"}
    assert found.pictures == 1
    assert not any(found.groups.values())


CHANGES = {
    "file": lambda image, path: save(image, path.with_suffix(".png")),
    "pixels": lambda image, path: save(image, path.with_suffix(".bmp")),
    "small": lambda image, path: save(
        image.resize((image.width // 2, image.height // 2)), path.with_suffix(".png")
    ),
    "jpeg": lambda image, path: save(image, path.with_suffix(".jpg"), quality=50),
    "bright": lambda image, path: save(
        ImageEnhance.Brightness(image).enhance(1.15), path.with_suffix(".png")
    ),
}


def test_every_planted_leak_is_found(tmp_path: Path) -> None:
    planted = set()
    for seed in range(60):
        label = "nsfw" if seed % 2 else "sfw"
        save(scene(seed), tmp_path / f"train/{label}/{seed}.png")
        save(scene(1000 + seed), tmp_path / f"test/{label}/{seed}.png")
    for seed in range(0, 60, 2):
        change = list(CHANGES)[seed // 2 % len(CHANGES)]
        label = "sfw" if seed % 3 else "nsfw"  # some under another class
        part = "test" if seed % 4 else "val"
        CHANGES[change](scene(seed), tmp_path / f"{part}/{label}/leak{seed}-{change}")
        planted.add(f"train/sfw/{seed}.png")
    found = dedupe(tmp_path)
    leaks = {copy.file.name for group in found.groups[LEAKS] for copy in group.copies}
    assert leaks == planted
    assert all(not group.best.name.startswith("train") for group in found.groups[LEAKS])
    assert not found.groups[INSIDE]


def test_a_leak_behind_a_leak_is_found(tmp_path: Path) -> None:
    image = scene(5)
    for part in ("test", "val", "train"):
        save(image, tmp_path / part / "a/x.png")
    found = dedupe(tmp_path)
    copies = {copy.file.name for g in found.groups[LEAKS] for copy in g.copies}
    assert copies == {"train/a/x.png", "val/a/x.png"}


def test_splits_may_contradict_each_other(tmp_path: Path) -> None:
    save(scene(6), tmp_path / "train/nsfw/x.png")
    save(scene(6), tmp_path / "test/sfw/x.png")
    save(scene(7), tmp_path / "train/NSFW/y.png")
    save(scene(7), tmp_path / "val/nsfw/y.png")
    found = dedupe(tmp_path)
    ((best, copies),) = names(found, CLASSES)
    assert {best, *copies} == {"train/nsfw/x.png", "test/sfw/x.png"}
    assert len(found.groups[LEAKS]) == 2


def test_contradicting_labels_all_go_to_a_person(tmp_path: Path) -> None:
    for label in ("a", "b"):
        save(scene(6), tmp_path / label / "x.png")
        save(scene(7 if label == "a" else 8), tmp_path / label / "y.png")
    save(scene(6), tmp_path / "b/x.jpg")
    found = dedupe(tmp_path)
    assert names(found, CLASSES) == [("a/x.png", ["b/x.png", "b/x.jpg"])]
    assert names(found, INSIDE) == [("b/x.png", ["b/x.jpg"])]
    moves = dict(moves_of(found.groups, [INSIDE, CLASSES]))
    assert moves == {
        str(tmp_path / "b/x.jpg"): "inside/b/x.jpg",
        str(tmp_path / "b/x.png"): "classes/b/x.png",
        str(tmp_path / "a/x.png"): "classes/a/x.png",
    }
    with pytest.raises(ValueError, match="some of inside, leaks, classes, got 'all'"):
        moves_of(found.groups, ["all"])
    with pytest.raises(ValueError, match="some of inside, leaks, classes, got 'all'"):
        dedupe(tmp_path, kinds=["all"])


def test_the_phash_survives_what_editors_do(tmp_path: Path) -> None:
    for name in ("astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg"):
        for how, change in CHANGES.items():
            image = pictures.sample(name).convert("RGB")
            change(image, tmp_path / f"x/{name[:4]}-{how}.png")
    found = fingerprints(scan(tmp_path).files)
    assert sorted(map(len, hash_buckets(found.prints).clusters())) == [5, 5, 5, 5]


# -- split


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures of two classes, 40 of them near copies of others."""
    root = tmp_path_factory.mktemp("classes")
    for seed in range(160):
        label = "nsfw" if seed < 60 else "sfw"
        image = scene(seed, 80, 60)
        save(image, root / f"{label}/{seed}.png")
        if seed % 4 == 0:
            # Every other copy stands in the other class.
            other = label if seed % 8 else "sfw"
            save(image, root / f"{other}/copy-of-{seed}.jpg", quality=60)
    return root


SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def names_of(done: SplitResult) -> dict[str, list[str]]:
    return {part: [file.name for file in files] for part, files in done.splits.items()}


def test_look_alikes_stay_together(classes: Path) -> None:
    done = divide(scan(classes), SHARES)
    assert done.clusters == 40
    assert done.largest == 2
    part_of = {
        Path(name).stem: part
        for part, files in names_of(done).items()
        for name in files
    }
    for seed in range(0, 160, 4):
        assert part_of[str(seed)] == part_of[f"copy-of-{seed}"]


def test_every_class_is_divided_by_the_shares(classes: Path) -> None:
    done = divide(scan(classes), SHARES)
    for label in ("sfw", "nsfw"):
        total = sum(done.count(part, label) for part in SHARES)
        for part, share in SHARES.items():
            assert abs(done.count(part, label) - share * total) <= 1
    assert sum(map(len, done.splits.values())) == 200


def test_the_seed_decides(classes: Path) -> None:
    first, again = (names_of(divide(scan(classes), SHARES, seed=1)) for _ in range(2))
    assert first == again
    assert first != names_of(divide(scan(classes), SHARES, seed=2))


def test_copies_get_into_test_as_well(classes: Path) -> None:
    tests = [names_of(divide(scan(classes), SHARES, seed=s))["test"] for s in range(5)]
    assert any("copy-of" in name for names in tests for name in names)


def test_where_the_split_goes(classes: Path) -> None:
    found = scan(classes)
    pairs = split_moves(divide(found, {"train": 0, "test": 1}))
    planned = propose(pairs, found.files, "out", "move", "split").plan.moves
    moves = {move.source: move.target for move in planned}
    assert moves[str(classes / "sfw/60.png")] == os.path.abspath("out/test/sfw/60.png")


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 0.9, "test": 0.2},
        {"train": 1.1, "test": -0.1},
        {"train": float("nan"), "test": 0.5},
    ],
)
def test_shares_that_do_not_sum_to_1(classes: Path, shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares of 0 to 1 that sum to 1, got train"):
        split(classes, shares=shares)


def test_folders_that_cannot_be_split(tmp_path: Path) -> None:
    save(scene(1), tmp_path / "x.png")
    with pytest.raises(ValueError, match="in folders that are named by their class"):
        split(tmp_path, shares=SHARES)
    save(scene(2), tmp_path / "sfw/x.png")
    (tmp_path / "sfw/broken.jpg").write_bytes(b"x")
    done = split(tmp_path, shares=SHARES)
    assert done.unlabelled == ["x.png"]
    assert list(done.unreadable) == ["sfw/broken.jpg"]
    assert sum(map(len, done.splits.values())) == 1
    save(scene(2), tmp_path / "train/sfw/x.png")
    with pytest.raises(ValueError, match="divided already: it has train"):
        split(tmp_path, shares=SHARES)
