"""What is in a folder, and what is wrong with it."""

import os
import shutil
import sys
from pathlib import Path

import pictures
import pytest
from PIL import Image
from test_files import heif

from open_nsfw_tf.dataset import CheckResult, ReadOptions, check, scan
from open_nsfw_tf.dataset.check import KINDS, moves_of
from open_nsfw_tf.dataset.folder import split_and_class
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import load_rgb
from open_nsfw_tf.libraries import need
from open_nsfw_tf.undo import undo

COFFEE = pictures.sample("coffee.png").convert("RGB").resize((300, 200))
OTHER = COFFEE.transpose(Image.Transpose.ROTATE_180)


def encoded(format: str, **options: object) -> bytes:
    return pictures.encoded(COFFEE.copy(), format, **options)


def animated(format: str) -> bytes:
    return encoded(format, save_all=True, append_images=[OTHER.copy()])


def checked(tmp_path: Path, files: dict[str, bytes]) -> CheckResult:
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return check(tmp_path)


def kinds(found: CheckResult) -> dict[str, tuple[str, ...]]:
    return {problem.file.name: problem.kinds for problem in found.problems}


# -- finding


@pytest.mark.parametrize(
    ("name", "split", "label"),
    [
        ("sfw/x.jpg", None, "sfw"),
        ("sfw/deep/er/x.jpg", None, "sfw"),
        ("train/sfw/x.jpg", "train", "sfw"),
        ("Validation/nsfw/deep/x.jpg", "val", "nsfw"),
        ("test/x.jpg", "test", None),
        ("x.jpg", None, None),
        ("sfw/train/x.jpg", None, "sfw"),
    ],
)
def test_split_and_class(name: str, split: str | None, label: str | None) -> None:
    assert split_and_class(name) == (split, label)


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"x")
    root = tmp_path / "d"
    (root / "sfw").mkdir(parents=True)
    (root / "sfw/a.jpg").write_bytes(b"x")
    (root / "sfw/loop").symlink_to("..")
    (root / "sfw/self").symlink_to("self")
    (root / "sfw/out").symlink_to(outside)
    (root / "sfw/out.jpg").symlink_to(outside / "secret.jpg")
    (root / "sfw/again.jpg").symlink_to("a.jpg")
    found = scan(root)
    assert [file.name for file in found.files] == ["sfw/a.jpg"]
    assert set(found.left) == {
        f"sfw/{name}" for name in ("loop", "self", "out", "out.jpg", "again.jpg")
    }


def test_what_else_is_left_out(tmp_path: Path) -> None:
    for name in ("sfw/a.jpg", ".hidden/b.jpg", "sfw/.DS_Store", "q/c.jpg", "old/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "old/undo-1.jsonl").write_bytes(b"x")
    (tmp_path / "undo-2.jsonl").write_bytes(b"x")
    os.mkfifo(tmp_path / "sfw/pipe.jpg")
    found = scan(tmp_path, tmp_path / "q")
    assert [file.name for file in found.files] == ["sfw/a.jpg"]
    assert found.left == {
        "old": "filled by an earlier command",
        "sfw/pipe.jpg": "no regular file",
    }


def test_files_of_the_operating_system_are_counted(tmp_path: Path) -> None:
    names = ("a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".x.jpg")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    found = scan(tmp_path)
    assert [file.name for file in found.files] == ["a.jpg"]
    assert found.passed_over == {"of the operating system": 4, "hidden": 2}
    assert not found.left


def test_class_folders_that_are_links_are_reported(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jpg").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    for name in ("nsfw", "sfw"):
        (tmp_path / "d" / name).symlink_to("../elsewhere")
    (tmp_path / "d/.DS_Store").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"links are not followed \(nsfw, 2 in all\)"):
        scan(tmp_path / "d")


def test_heic_is_passed_over_without_its_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    files = {"sfw/a.HEIC": heif(b"heic"), "sfw/b": heif(b"mif1", b"heic")}
    found = checked(tmp_path, {**files, "sfw/c.png": encoded("PNG")})
    assert [file.name for file in found.other] == list(files)
    assert not found.problems


def test_a_folder_that_cannot_be_read_is_named(nobodys: Path) -> None:
    (nobodys / "a.jpg").write_bytes(b"x")
    closed = nobodys / "closed"
    closed.mkdir(mode=0)
    assert scan(nobodys).left == {"closed": "Permission denied"}
    closed.chmod(0o700)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory: .*missing"):
        scan(tmp_path / "missing")
    with pytest.raises(ValueError, match="expected a folder of pictures, found no"):
        scan(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NotADirectoryError, match="Not a directory: .*file"):
        scan(tmp_path / "file")


# -- checking


def test_a_good_picture_of_every_format_is_good(tmp_path: Path) -> None:
    names = {
        "a.jpg": "JPEG",
        "a.JPEG": "JPEG",
        "a.png": "PNG",
        "a.gif": "GIF",
        "a.webp": "WEBP",
        "a.bmp": "BMP",
        "a.tif": "TIFF",
        "a.avif": "AVIF",
        "a.jp2": "JPEG2000",
        "a.ico": "ICO",
        "a.ppm": "PPM",
    }
    files = {name: encoded(format) for name, format in names.items()}
    files["camera.jpg"] = animated("MPO")  # a photograph, and another one behind it
    found = checked(tmp_path, files)
    assert not found.problems
    assert found.good == len(files)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated(tmp_path: Path, format: str) -> None:
    data = encoded(format)
    found = checked(tmp_path, {f"sfw/x.{format.lower()}": data[: len(data) // 2]})
    assert list(kinds(found).values()) == [("truncated",)]


def test_unreadable(tmp_path: Path) -> None:
    files = {
        "empty.png": b"",
        "text.jpg": b"no picture",
        "cutend.jpg": encoded("JPEG")[:-2],
        "broken.png": encoded("PNG")[:60] + b"?" + encoded("PNG")[61:],
        "large.png": pictures.encoded(Image.new("RGB", (400, 400)), "PNG"),
        "nosuffix": encoded("PNG")[:60] + b"?" + encoded("PNG")[61:],
    }
    checked(tmp_path, files)
    found = check(tmp_path, reading=ReadOptions(max_pixels=100_000))
    assert kinds(found) == {
        "broken.png": ("unreadable",),
        "cutend.jpg": ("truncated",),
        "empty.png": ("unreadable",),
        "large.png": ("unreadable",),
        "nosuffix": ("unreadable",),
        "text.jpg": ("unreadable",),
    }
    details = {problem.file.name: problem.detail for problem in found.problems}
    assert details["empty.png"] == "empty: expected a picture, got 0 bytes"
    assert details["large.png"].startswith("400 x 400 pixels are more than the limit")


def test_refused_is_what_the_loader_refuses(tmp_path: Path) -> None:
    jpeg, png = encoded("JPEG"), encoded("PNG")
    files = {f"{n}.jpg": jpeg[:n] for n in range(0, len(jpeg), len(jpeg) // 20)}
    files |= {f"{n}.png": png[:n] for n in range(0, len(png), len(png) // 20)}
    for position in range(30, len(jpeg), len(jpeg) // 20):
        files[f"hurt{position}.jpg"] = (
            jpeg[:position] + b"\xff\xff" + jpeg[position + 2 :]
        )
    found = checked(tmp_path, files)
    refused = set()
    for name in files:
        try:
            load_rgb(tmp_path / name)
        except ImageError:
            refused.add(name)
    worst = {name: found[0] for name, found in kinds(found).items()}
    ours = {name for name, kind in worst.items() if kind in ("unreadable", "truncated")}
    assert ours == refused
    assert len(refused) > 40


def test_what_is_odd_about_readable_pictures(tmp_path: Path) -> None:
    blank = Image.new("RGB", (300, 200), (200, 30, 30))
    nearly = blank.copy()
    nearly.putpixel((7, 7), (0, 0, 0))
    files = {
        "animated.gif": animated("GIF"),
        "animated.png": animated("PNG"),
        "animated.webp": animated("WEBP"),
        "pages.tif": animated("TIFF"),
        "blank.png": pictures.encoded(blank, "PNG"),
        "nearly.jpg": pictures.encoded(nearly, "JPEG"),
        "tiny.png": pictures.encoded(COFFEE.resize((200, 31)), "PNG"),
        "lie.jpg": encoded("PNG"),
        "notes.txt": b"no picture, and no name of one",
        "nothing.txt": b"",
        "README": b"no picture, and no suffix",
        "nothing": b"",
        "LICENSE": b"P1 begins a text",
        "hidden.txt": encoded("JPEG"),
        "all.jpg": pictures.encoded(
            blank.resize((9, 9)), "GIF", save_all=True, append_images=[OTHER.copy()]
        ),
    }
    found = checked(tmp_path, files)
    assert kinds(found) == {
        "all.jpg": ("tiny", "blank", "animated", "suffix"),
        "animated.gif": ("animated",),
        "animated.png": ("animated",),
        "animated.webp": ("animated",),
        "blank.png": ("blank",),
        "hidden.txt": ("suffix",),
        "lie.jpg": ("suffix",),
        "nearly.jpg": ("blank",),
        "pages.tif": ("animated",),
        "tiny.png": ("tiny",),
    }
    others = ["LICENSE", "README", "notes.txt", "nothing", "nothing.txt"]
    assert [file.name for file in found.other] == others
    assert found.counts == dict(zip(KINDS, (0, 0, 2, 3, 5, 3), strict=True))


def test_photographs_are_not_blank(tmp_path: Path) -> None:
    names = ("astronaut.png", "moon.png", "hubble_deep_field.jpg", "page.png")
    for name in names:
        shutil.copy(pictures.path(name), tmp_path)
    assert check(tmp_path).good == len(names)


def test_quarantine_is_by_worst_kind(tmp_path: Path) -> None:
    files = {"sfw/lie.jpg": encoded("PNG"), "nsfw/x.jpg": b"", "sfw/fine.png": b""}
    files["sfw/fine.png"] = encoded("PNG")
    found = checked(tmp_path / "d", files)
    assert moves_of(found) == [
        (str(tmp_path / "d/nsfw/x.jpg"), "unreadable/nsfw/x.jpg"),
        (str(tmp_path / "d/sfw/lie.jpg"), "suffix/sfw/lie.jpg"),
    ]
    assert len(moves_of(found, ["suffix"])) == 1
    with pytest.raises(ValueError, match="expected some of unreadable, "):
        moves_of(found, ["ugly"])
    with pytest.raises(ValueError, match="expected some of unreadable, "):
        check(tmp_path / "d", kinds=["ugly"])
    with pytest.raises(ValueError, match="expected a target"):
        check(tmp_path / "d", apply=True)
    with pytest.raises(ValueError, match="min_side of at least 0, got -1"):
        check(tmp_path / "d", min_side=-1)


def test_problems_are_moved_away(tmp_path: Path) -> None:
    data = tmp_path / "d"
    files = {"sfw/x.jpg": b"", "sfw/fine.png": encoded("PNG")}
    assert checked(data, files).moves is None
    proposed = check(data, tmp_path / "q").moves
    assert proposed is not None
    assert [move.source for move in proposed.plan.moves] == [str(data / "sfw/x.jpg")]
    assert proposed.journal is None
    assert not (tmp_path / "q").exists()
    moved = check(data, tmp_path / "q", apply=True).moves
    assert moved is not None
    assert (tmp_path / "q/unreadable/sfw/x.jpg").exists()
    assert moved.journal is not None
    assert moved.apply() is moved.journal  # nothing is done a second time
    assert undo(moved.journal.path, apply=True).whole
    assert (data / "sfw/x.jpg").exists()


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(ImportError, match=r"pip install 'open_nsfw_tf\[dataset\]'"):
        need("dataset", "json", "no_such_package")
