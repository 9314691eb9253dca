"""Which files are pictures, what lies below a folder, and text in any encoding."""

import io
import os
import sys
from pathlib import Path

import pictures
import pytest
from PIL import Image

from open_nsfw_tf.encoding import as_utf8, read_paths
from open_nsfw_tf.files import (
    PICTURE_TYPES,
    PassedOver,
    by_content,
    by_suffix,
    is_picture,
    is_system_file,
    is_video,
    refuse_existing,
    replacing,
    type_by_content,
    walk,
)

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)


def heif(*brands: bytes) -> bytes:
    """The first bytes of a HEIF file: its main brand, and the compatible ones."""
    box = brands[0] + bytes(4) + b"".join(brands[1:])
    return (
        (8 + len(box)).to_bytes(4, "big") + b"ftyp" + box + b"\0\0\1\0meta" + bytes(90)
    )


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


# -- pictures


@pytest.mark.parametrize("name", [name for name in PICTURE_TYPES if name != "HEIF"])
def test_every_type_is_known_by_content_and_suffix(name: str) -> None:
    data = pictures.encoded(Image.new("RGB", (20, 20)), name)
    assert type_by_content(data[:512]) == name
    assert by_content(data[:512])
    for suffix in PICTURE_TYPES[name].suffixes:
        assert by_suffix(f"a/b{suffix}")
        assert by_suffix(f"B{suffix.upper()}")
    assert PICTURE_TYPES[name].end in data[-16:]


@pytest.mark.parametrize(
    "head",
    [
        *(heif(brand, b"mif1") for brand in (b"heic", b"heix", b"hevc", b"heim")),
        heif(b"mif1", b"mif1", b"heic"),
        heif(b"msf1", b"hevc"),
    ],
)
def test_heif_is_a_picture_where_it_can_be_read(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type_by_content(head) == "HEIF"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert not by_content(head)
    assert not by_suffix("IMG_0001.HEIC")
    monkeypatch.delitem(sys.modules, "pillow_heif")
    pytest.importorskip("pillow_heif")
    assert by_content(head)
    for name in ("IMG_0001.HEIC", "a.heif", "b.Hif"):
        assert by_suffix(name)


def test_avif_and_videos_are_not_heif() -> None:
    assert type_by_content(heif(b"mif1", b"avif", b"miaf")) == "AVIF"
    assert type_by_content(heif(b"isom", b"mp42")) is None
    assert type_by_content(heif(b"qt  ")) is None


@pytest.mark.parametrize(
    "text", [b"P1 is a parking lot", b"BM is no bitmap", b"Pf", b"P3\nmore", b"GIF"]
)
def test_texts_are_no_pictures(text: bytes) -> None:
    assert not by_content(text)


def test_files_of_the_operating_system(tmp_path: Path) -> None:
    small = pictures.encoded(Image.new("RGB", (20, 20)), "PNG")
    names = ("._photo.jpg", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini")
    for name in names:
        assert is_system_file(f"photos/{name}")
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
        assert not is_picture(str(tmp_path / name))
        (tmp_path / name).write_bytes(small)
        assert is_picture(str(tmp_path / name))  # a name hides nothing
    assert not is_system_file("photo.jpg")
    assert not is_system_file("_photo.jpg")


def test_passed_over_names_the_kinds(without_heif: None) -> None:
    counted = PassedOver()
    for name in ("a.HEIC", "b.heic", "c.md", "README", "._c.jpg", "d.averyveryodd1"):
        counted.note(name)
    counted.note("e.jpg", heif(b"heic"))
    text = str(counted)
    assert text.startswith("2 .heic (to read them: pip install 'open_nsfw_tf[heif]'), ")
    assert "1 .md" in text
    assert "1 without a suffix" in text
    assert "1 of the operating system" in text
    assert "1 HEIF (to read them: " in text
    assert text.endswith("1 of other kinds")
    for number in range(1000):
        counted.note(f"x.{number}")
    assert len(counted) <= 101
    assert counted.total() == 1007
    assert "2 .heic" in str(counted)
    assert len(str(counted)) < 500


# -- folders


def test_a_walk_is_sorted_and_follows_no_link(tmp_path: Path) -> None:
    for name in ("b/c.jpg", "b/.hidden/x.jpg", "a.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b/up").symlink_to("..")
    (tmp_path / "b/gone").symlink_to("nowhere")
    (tmp_path / "b/self").symlink_to("self")
    found = [
        (os.path.relpath(entry.path, tmp_path), entry.kind)
        for entry in walk(str(tmp_path), lambda path: ".hidden" not in path)
    ]
    assert found == [
        ("a.jpg", "file"),
        ("b/c.jpg", "file"),
        ("b/gone", "file"),
        ("b/self", "file"),
        ("b/up", "link"),
        ("c.jpg", "file"),
    ]
    (missing,) = walk(str(tmp_path / "none"))
    assert missing.kind == "folder"
    assert isinstance(missing.error, FileNotFoundError)


# -- text

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
PATHS = ["photos/coffee.png", "photos/é 漢 😀.png", "photos/three.png"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n  \n"])
def test_lists_in_every_encoding(encoding: str, end: str, last: str) -> None:
    text = "\n\n".join(PATHS) + last
    data = text.replace("\n", end).encode(encoding)
    assert list(read_paths(io.BufferedReader(io.BytesIO(data)))) == PATHS  # type: ignore[arg-type]


def test_names_of_one_character_are_not_utf_16() -> None:
    names = io.BufferedReader(io.BytesIO(b"1\0002\0003\0"))  # type: ignore[arg-type]
    assert list(read_paths(names)) == ["1", "2", "3"]


def test_no_error_names_the_file_beside(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "a", tmp_path / "file" / "a"):
        with (
            pytest.raises(OSError, match="directory") as caught,
            replacing(path) as new,
        ):
            new.write_bytes(b"x")
        assert str(caught.value).endswith(f"directory: '{path}'")


def test_lists_between_null_bytes() -> None:
    odd = [b"1.jpg", b"2.jpg", b"two\nlines \r\xff.png", b" "]
    for end in (b"\0", b""):
        file = io.BufferedReader(io.BytesIO(b"\0".join(odd) + end))  # type: ignore[arg-type]
        assert list(read_paths(file)) == [os.fsdecode(path) for path in odd]


def test_text_that_is_broken() -> None:
    half = "a\ud83d.jpg\n".encode("utf-16", "surrogatepass")
    (path,) = read_paths(io.BufferedReader(io.BytesIO(half)))  # type: ignore[arg-type]
    assert not os.path.exists(path)  # a name that the system can be asked for
    cut = io.BufferedReader(io.BytesIO("photo.jpg\n".encode("utf-16")[:-1]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cut or broken UTF-16-LE text"):
        list(read_paths(cut))


def test_long_texts_are_recoded_whole() -> None:
    lines = [f"{number} 漢é" for number in range(20_000)]
    data = "\n".join(lines).encode("utf-16")
    text = as_utf8(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]
    assert text.read().decode().split("\n") == lines


def test_what_exists_is_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "free")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match=r"link exists: name another file, or"):
        refuse_existing(tmp_path / "link")
    refuse_existing(tmp_path / "link", overwrite=True)


def test_what_is_a_video() -> None:
    box = b"\0\0\0\x18ftyp"
    packets = b"".join(b"\x47" + bytes(187) for _ in range(3))[:512]
    videos = {
        "a": box + b"isom",
        "b.mkv": b"\x1a\x45\xdf\xa3",
        "c.ts": packets,
        "d.avi": b"RIFF\0\0\0\0AVI ",
        "broken.mp4": b"nothing",
    }
    others = {
        "a.m4a": box + b"M4A ",
        "code.ts": b"import {x} from 'y'",
        "photo.mp4": b"\xff\xd8\xff",
        "photo.avif": box + b"avif",
        "._a.mp4": b"\0\5\x16\7",
        "list.m3u8": b"#EXTM3U",
    }
    assert all(is_video(name, head) for name, head in videos.items())
    assert not any(is_video(name, head) for name, head in others.items())
    assert is_video("a.ts", b"", "suffix")
    assert not is_video("broken.mp4", b"nothing", "content")
