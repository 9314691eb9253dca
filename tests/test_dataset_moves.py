"""Moves: nothing is overwritten, nothing is lost, everything can be undone."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from open_nsfw_tf import moves as moving
from open_nsfw_tf import undo as undoing
from open_nsfw_tf.errors import MoveError
from open_nsfw_tf.files import stamp_of
from open_nsfw_tf.moves import Journal, Move, plan
from open_nsfw_tf.undo import undo

HOWS = ("move", "copy", "link")


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def files(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * (number + 1))
    return paths


def journal(pairs: list[tuple[Path, Path]], folder: Path, how: str = "move") -> Journal:
    planned = plan((Move(str(source), str(target)) for source, target in pairs), how)
    return Journal(planned.moves, str(folder), how, "test")


def test_files_of_one_name_get_numbers(tmp_path: Path) -> None:
    sources = files(tmp_path, "a/x.jpg", "b/x.jpg", "c/x.jpg", "out/x-2.jpg")
    made = journal([(path, tmp_path / "out/x.jpg") for path in sources[:3]], tmp_path)
    made.run()
    there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there == {
        "x.jpg": b"0",
        "x-2.jpg": b"3333",
        "x-3.jpg": b"11",
        "x-4.jpg": b"222",
    }
    assert undo(made.path, apply=True).whole
    assert [path.read_bytes() for path in sources] == [b"0", b"11", b"222", b"3333"]


@pytest.mark.parametrize("how", HOWS)
def test_a_name_taken_after_the_plan_is_not_overwritten(
    tmp_path: Path, how: str
) -> None:
    (source,) = files(tmp_path, "a/x.jpg")
    made = journal([(source, tmp_path / "out/x.jpg")], tmp_path / "out", how)
    (somebodys,) = files(tmp_path, "out/x.jpg")
    somebodys.write_text("mine")
    made.run()
    assert somebodys.read_text() == "mine"
    assert (tmp_path / "out/x-2.jpg").read_bytes() == b"0"
    assert undo(made.path, apply=True).whole
    assert somebodys.read_text() == "mine"
    assert source.read_bytes() == b"0"
    assert not (tmp_path / "out/x-2.jpg").exists()


@pytest.mark.parametrize("how", HOWS)
def test_undoing_twice_is_harmless_and_removes_made_folders(
    tmp_path: Path, how: str
) -> None:
    sources = files(tmp_path, "a/x.jpg", "a/y.jpg")
    out = tmp_path / "out"
    made = journal([(p, out / "deep" / "er" / p.name) for p in sources], out, how)
    made.run()
    assert all(path.exists() == (how != "move") for path in sources)
    said = undo(made.path)
    assert said.counts == {undoing.TAKEN_BACK: 2}
    assert len(list((out / "deep/er").iterdir())) == 2  # nothing was touched yet
    assert undo(made.path, apply=True).counts == {undoing.TAKEN_BACK: 2}
    assert undo(made.path, apply=True).counts == {undoing.ALREADY: 2}
    assert [path.read_bytes() for path in sources] == [b"0", b"11"]
    assert list(out.iterdir()) == [made.path]


def test_undo_says_what_is_not_there(tmp_path: Path) -> None:
    names = ("gone.jpg", "edited.jpg", "fine.jpg", "replaced.jpg")
    sources = files(tmp_path / "a", *names)
    out = tmp_path / "out"
    made = journal([(path, out / path.name) for path in sources], out)
    made.run()
    (out / "gone.jpg").unlink()
    (out / "edited.jpg").unlink()
    (out / "edited.jpg").write_text("another picture")
    (tmp_path / "a/replaced.jpg").write_text("a new one")
    done = undo(made.path, apply=True)
    assert {Path(path).name: outcome for path, outcome in done.outcomes} == {
        "gone.jpg": undoing.GONE,
        "edited.jpg": undoing.CHANGED,
        "fine.jpg": undoing.TAKEN_BACK,
        "replaced.jpg": undoing.IN_THE_WAY,
    }
    assert not done.whole
    assert (tmp_path / "a/replaced.jpg").read_text() == "a new one"
    assert (out / "replaced.jpg").read_bytes() == b"3333"
    assert (tmp_path / "a/fine.jpg").read_bytes() == b"222"


def test_a_copy_whose_original_is_gone_is_left(tmp_path: Path) -> None:
    (source,) = files(tmp_path, "a/x.jpg")
    made = journal([(source, tmp_path / "out/x.jpg")], tmp_path / "out", "copy")
    made.run()
    source.unlink()
    assert undo(made.path, apply=True).counts == {undoing.ONLY: 1}
    assert (tmp_path / "out/x.jpg").read_bytes() == b"0"


def test_another_link_is_left(tmp_path: Path) -> None:
    (source,) = files(tmp_path, "a/x.jpg")
    target = tmp_path / "out/x.jpg"
    made = journal([(source, target)], tmp_path / "out", "link")
    made.run()
    target.unlink()
    target.symlink_to(tmp_path)
    assert undo(made.path, apply=True).counts == {undoing.CHANGED: 1}
    assert target.is_symlink()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    strange = os.fsdecode(b"line\nbreak \xff\xfe \xf0\x9f\x98\x80 ' \".jpg")
    (source,) = files(tmp_path, f"a/{strange}")
    made = journal([(source, tmp_path / "out" / strange)], tmp_path / "out")
    made.run()
    assert (tmp_path / "out" / strange).read_bytes() == b"0"
    assert made.path.read_text(encoding="ascii").count("\n") == 3
    assert undo(made.path, apply=True).whole
    assert source.read_bytes() == b"0"


def test_long_names_are_cut_and_still_apart(tmp_path: Path) -> None:
    long = "ä" * 123 + ".jpeg"  # 251 bytes
    sources = files(tmp_path, *(f"{folder}/{long}" for folder in "abc"))
    targets = [(path, tmp_path / "out" / f"0.1234_{long}") for path in sources]
    made = journal(targets, tmp_path / "out")
    made.run()
    there = sorted((tmp_path / "out").glob("*.jpeg"))
    assert len(there) == 3
    assert {path.read_bytes() for path in there} == {b"0", b"11", b"222"}
    assert undo(made.path, apply=True).whole


def test_a_long_name_without_suffix_gets_a_number(tmp_path: Path) -> None:
    long = f"a.{'x' * 250}"
    sources = files(tmp_path, f"a/{long}", f"b/{long}")
    made = journal([(p, tmp_path / "out" / long) for p in sources], tmp_path / "out")
    assert Path(made.moves[1].target).name == f"{long}-2"
    made.run()
    assert undo(made.path, apply=True).whole


def test_a_file_where_the_source_folder_was(tmp_path: Path) -> None:
    sources = files(tmp_path, "a/x.jpg", "b/y.jpg")
    out = tmp_path / "out"
    made = journal([(path, out / path.name) for path in sources], out)
    made.run()
    (tmp_path / "a").rmdir()
    (tmp_path / "a").write_text("a file now")
    done = undo(made.path, apply=True)
    assert done.counts == {undoing.TAKEN_BACK: 1, undoing.IN_THE_WAY: 1}
    assert (out / "x.jpg").read_bytes() == b"0"
    assert sources[1].read_bytes() == b"11"


def test_sources_that_went_are_named_and_the_rest_is_moved(tmp_path: Path) -> None:
    sources = files(tmp_path, "a/x.jpg", "a/y.jpg", "a/z.jpg", "a/before.jpg")
    wanted = [Move(str(path), str(tmp_path / "out" / path.name)) for path in sources]
    sources[0].unlink()
    planned = plan(wanted)
    assert planned.missing == [str(sources[0])]
    sources[3].unlink()
    made = Journal(planned.moves, str(tmp_path / "out"), "move", "test")
    sources[1].unlink()
    made.run()
    assert made.missing == [str(sources[3]), str(sources[1])]
    assert len(made.finished) == 1
    assert undo(made.path, apply=True).counts == {
        undoing.TAKEN_BACK: 1,
        undoing.GONE: 1,
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills its children")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
def test_undo_after_kill_9_anywhere(
    how: str, far: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("other_disk") if far else tmp_path
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("crash_points.py"),
            how,
            tmp_path / "from",
            root / "to",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # so many times it was killed


def test_another_file_system(tmp_path: Path, other_disk: Path) -> None:
    sources = files(tmp_path, "a/x.jpg", "b/x.jpg")
    os.utime(sources[0], ns=(1, 1_000_000_007))
    made = journal([(path, other_disk / "x.jpg") for path in sources], other_disk)
    made.run()
    assert not any(path.exists() for path in sources)
    assert (other_disk / "x-2.jpg").read_bytes() == b"11"
    assert (other_disk / "x.jpg").stat().st_mtime_ns == 1_000_000_007
    assert undo(made.path, apply=True).whole
    assert [path.read_bytes() for path in sources] == [b"0", b"11"]


def test_a_file_that_changes_while_it_is_copied_stays(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = files(tmp_path, "a/x.jpg", "a/y.jpg")
    made = journal([(path, other_disk / path.name) for path in sources], other_disk)
    new = tmp_path / "new.jpg"
    new.write_bytes(b"another picture")

    copy = moving.shutil.copyfileobj

    def copy_late(*arguments: Any) -> None:
        copy(*arguments)
        if new.exists():
            new.replace(sources[0])

    monkeypatch.setattr(moving.shutil, "copyfileobj", copy_late)
    with pytest.raises(
        MoveError, match="changed while it was copied; 1 of 2 were done"
    ):
        made.run()
    assert sources[0].read_bytes() == b"another picture"
    assert {path.name for path in other_disk.iterdir()} == {"y.jpg", made.path.name}


FULL = """
import resource, sys
from open_nsfw_tf.moves import Journal, Move, plan
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
source, target = sys.argv[1:]
wanted = [Move(f"{source}/{n}.jpg", f"{target}/{n}.jpg") for n in range(4)]
journal = Journal(plan(wanted).moves, target, "move", "test")
print(journal.path, flush=True)
journal.run()
"""


def test_a_full_disk_in_the_middle(tmp_path: Path, other_disk: Path) -> None:
    # A limit of the process on the size of files is met just as a full disk is.
    contents = [bytes([n]) * size for n, size in enumerate((10, 9000, 30_000, 10))]
    for number, data in enumerate(contents):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path, other_disk],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MoveError" in done.stderr
    assert "File too large; 2 of 4 were done" in done.stderr
    assert (tmp_path / "2.jpg").read_bytes() == contents[2]
    manifest = Path(done.stdout.strip())
    left = {path.name for path in other_disk.iterdir()}
    assert left == {"0.jpg", "1.jpg", manifest.name}  # and no part of the third
    assert undo(manifest, apply=True).whole
    assert [(tmp_path / f"{n}.jpg").read_bytes() for n in range(4)] == contents


def test_a_source_that_cannot_be_taken_away(nobodys: Path) -> None:
    sources = files(nobodys, "a/x.jpg", "b/x.jpg")
    made = journal([(p, nobodys / "out/x.jpg") for p in sources], nobodys / "out")
    sources[1].parent.chmod(0o500)
    with pytest.raises(MoveError, match="Permission denied; 1 of 2 were done"):
        made.run()
    assert sources[1].read_bytes() == b"11"
    assert not (nobodys / "out/x-2.jpg").exists()  # no second name is left
    sources[1].parent.chmod(0o700)
    assert undo(made.path, apply=True).whole
    assert [path.read_bytes() for path in sources] == [b"0", b"11"]


def test_undo_takes_back_the_others_where_one_cannot_be(nobodys: Path) -> None:
    sources = files(nobodys, "a/x.jpg", "b/x.jpg", "c/x.jpg")
    out = nobodys / "out"
    made = journal([(p, out / p.parent.name / "x.jpg") for p in sources], out)
    made.run()
    sources[1].parent.chmod(0o500)  # nothing can come back into it
    (out / "c").chmod(0o500)  # nothing can go out of it
    done = undo(made.path, apply=True)
    sources[1].parent.chmod(0o700)
    (out / "c").chmod(0o700)
    left = "Permission denied: left where it is"
    assert done.counts == {undoing.TAKEN_BACK: 1, left: 2}
    assert not done.whole
    assert undo(made.path, apply=True).whole
    assert [path.read_bytes() for path in sources] == [b"0", b"11", b"222"]


def test_undo_leaves_a_folder_that_it_may_not_remove(nobodys: Path) -> None:
    (source,) = files(nobodys, "a/x.jpg")
    made = journal([(source, nobodys / "top/out/x.jpg")], nobodys / "a")
    made.run()
    (nobodys / "top").chmod(0o500)
    done = undo(made.path, apply=True)
    (nobodys / "top").chmod(0o700)
    assert done.whole
    assert source.read_bytes() == b"0"
    assert (nobodys / "top/out").is_dir()


def test_a_read_only_target(nobodys: Path) -> None:
    (source,) = files(nobodys, "a/x.jpg")
    (nobodys / "out").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="out/undo-"):
        journal([(source, nobodys / "out/x.jpg")], nobodys / "out")
    assert source.read_bytes() == b"0"
    assert not list((nobodys / "out").iterdir())


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    sources = files(tmp_path, "a/x.jpg", "a/y.jpg")
    out = tmp_path / "out"
    pairs = [(sources[0], out / "x.jpg"), (sources[1], out / "folder" / "y.jpg")]
    made = journal(pairs, out)
    (out / "folder").write_text("no folder")
    with pytest.raises(MoveError, match="1 of 2 were done: `open-nsfw dataset undo"):
        made.run()
    assert undo(made.path, apply=True).whole
    assert [path.read_bytes() for path in sources] == [b"0", b"11"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    (source, taken) = files(tmp_path, "a/x.jpg", "out/x.jpg")
    with pytest.raises(FileExistsError, match=r"File exists: .*x\.jpg"):
        moving.move(str(source), str(taken), str(tmp_path / "part"))
    made = journal([(source, taken)], tmp_path / "out")
    made.run()
    assert taken.read_bytes() == b"11"
    assert (tmp_path / "out/x-2.jpg").read_bytes() == b"0"
    assert undo(made.path, apply=True).whole
    assert source.read_bytes() == b"0"


def test_a_disk_without_links_and_modes(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "as on FAT")

    (source,) = files(tmp_path, "a/x.jpg")
    os.utime(source, ns=(1, 1_000_000_007))
    made = journal([(source, other_disk / "x.jpg")], other_disk)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    made.run()
    assert (other_disk / "x.jpg").stat().st_mtime_ns == 1_000_000_007
    os.utime(other_disk / "x.jpg", ns=(1, 0))  # which FAT does to odd seconds
    assert undo(made.path, apply=True).whole
    assert source.read_bytes() == b"0"


def test_a_cut_last_line_was_not_begun(tmp_path: Path) -> None:
    (source,) = files(tmp_path, "a/x.jpg")
    made = journal([(source, tmp_path / "out/x.jpg")], tmp_path / "out")
    made.run()
    with made.path.open("a") as file:
        file.write('{"n": 0, "to": "/somewh')
    assert undo(made.path, apply=True).counts == {undoing.TAKEN_BACK: 1}


def lines(tmp_path: Path) -> list[str]:
    (source,) = files(tmp_path, "a/x.jpg")
    made = journal([(source, tmp_path / "out/x.jpg")], tmp_path / "out")
    return made.path.read_text().splitlines()


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        (0, "open_nsfw_tf", "other"),
        (0, "version", 2),
        (0, "how", "delete"),
        (0, "moves", 2),
        (0, "moves", "1"),
        (0, "made", ["relative"]),
        (0, "token", "../../x"),
        (1, "from", "relative.jpg"),
        (1, "from", 7),
        (1, "size", "large"),
        (1, "mtime_ns", None),
        (0, "folder", "relative"),
        (1, "leads", 7),
        (1, "was", ["x"]),
    ],
)
def test_manifests_that_are_none(
    number: int, field: str, value: object, tmp_path: Path
) -> None:
    text = lines(tmp_path)
    line = json.loads(text[number])
    line[field] = value
    text[number] = json.dumps(line)
    manifest = tmp_path / "undo-x.jsonl"
    manifest.write_text("\n".join([*text, ""]))
    with pytest.raises(ValueError, match=r"undo-x\.jsonl: expected a manifest"):
        undo(manifest, apply=True)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"[1]\n", b"{}\n", b"\xff\n", b"{", b"null\nnull\n"]
)
def test_files_that_are_no_manifest(data: bytes, tmp_path: Path) -> None:
    manifest = tmp_path / "undo-x.jsonl"
    manifest.write_bytes(data)
    with pytest.raises(ValueError, match="expected a manifest"):
        undo(manifest)


def test_an_unknown_way_to_move(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of move, copy, link, got 'del'"):
        Journal([Move("/a", "/b")], str(tmp_path), "del", "test")
    assert not list(tmp_path.iterdir())


# -- links, and files that have changed


def test_a_link_is_moved_with_what_it_leads_to(tmp_path: Path) -> None:
    (real,) = files(tmp_path, "a/real.jpg")
    link = tmp_path / "a/link.jpg"
    link.symlink_to("real.jpg")
    out = tmp_path / "out"
    made = journal([(link, out / "link.jpg")], out)
    made.run()
    assert (out / "link.jpg").resolve() == real
    assert undo(made.path, apply=True).whole
    assert os.readlink(link) == "real.jpg"
    both = journal([(link, out / "link.jpg"), (real, out / "real.jpg")], out)
    both.run()
    assert (out / "link.jpg").read_bytes() == b"0"
    assert not os.path.lexists(link)
    link.write_text("somebody's")
    assert undo(both.path, apply=True).counts == {
        undoing.TAKEN_BACK: 1,
        undoing.IN_THE_WAY: 1,
    }
    assert link.read_text() == "somebody's"


@pytest.mark.parametrize("how", HOWS)
def test_what_is_not_what_was_looked_at_is_left(tmp_path: Path, how: str) -> None:
    same, other, late = files(tmp_path, "a/same.jpg", "a/other.jpg", "a/late.jpg")
    out = tmp_path / "out"
    wanted = [
        Move(str(path), str(out / path.name), stamp_of(str(path)))
        for path in (same, other, late)
    ]
    other.write_text("another picture")
    planned = plan(wanted, how)
    assert planned.changed == [str(other)]
    made = Journal(planned.moves, str(out), how, "test")
    late.unlink()
    late.symlink_to(same)
    made.run()
    assert made.changed == [str(late)]
    assert sorted(os.listdir(out)) == sorted(["same.jpg", made.path.name])
    assert undo(made.path, apply=True).counts[undoing.TAKEN_BACK] == 1


# -- folders that were renamed


@pytest.mark.parametrize("how", ["move", "copy"])
def test_undo_after_the_folder_was_renamed(tmp_path: Path, how: str) -> None:
    sources = files(tmp_path, "in/x.jpg", "in/y.jpg")
    out = tmp_path / "out"
    made = journal([(path, out / "deep" / path.name) for path in sources], out, how)
    made.run()
    new = tmp_path / "new"
    out.rename(new)
    done = undo(new / made.path.name)
    assert done.counts == {undoing.TAKEN_BACK: 2}
    assert done.renamed == (str(out), str(new))
    # Somebody makes a folder of the old name, and other files in it.
    files(out / "deep", "x.jpg")[0].write_text("another")
    assert undo(new / made.path.name, apply=True).counts == {undoing.TAKEN_BACK: 2}
    assert [path.read_bytes() for path in sources] == [b"0", b"11"]
    assert os.listdir(new) == [made.path.name]
    assert (out / "deep/x.jpg").read_text() == "another"


def test_undo_after_a_folder_around_it_was_renamed(tmp_path: Path) -> None:
    """As after `split` into the folder itself."""
    sources = files(tmp_path / "data", "nsfw/x.jpg", "nsfw/y.jpg")
    data = tmp_path / "data"
    made = journal([(p, data / "train/nsfw" / p.name) for p in sources], data / "log")
    made.run()
    new = tmp_path / "renamed"
    data.rename(new)
    done = undo(new / "log" / made.path.name, apply=True)
    assert done.whole
    assert done.renamed == (str(data), str(new))
    assert sorted(os.listdir(new / "nsfw")) == ["x.jpg", "y.jpg"]
    assert not (new / "train").exists()
    assert not data.exists()


def test_a_manifest_that_was_moved_alone(tmp_path: Path) -> None:
    (source,) = files(tmp_path, "in/x.jpg")
    made = journal([(source, tmp_path / "out/x.jpg")], tmp_path / "out")
    made.run()
    other = made.path.rename(tmp_path / made.path.name)
    done = undo(other, apply=True)
    assert (done.whole, done.renamed) == (True, None)
    assert source.read_bytes() == b"0"


def test_a_folder_that_undo_cannot_find_is_told_of(tmp_path: Path) -> None:
    (source,) = files(tmp_path, "in/x.jpg")
    made = journal([(source, tmp_path / "out/nsfw/x.jpg")], tmp_path / "out")
    made.run()
    (tmp_path / "out/nsfw").rename(tmp_path / "out/other")
    assert undo(made.path, apply=True).counts == {undoing.FOLDER_GONE: 1}
    (tmp_path / "out/other").rename(tmp_path / "out/nsfw")
    assert undo(made.path, apply=True).whole
    assert source.read_bytes() == b"0"


def test_manifests_before_links_and_folders_were_written_down(tmp_path: Path) -> None:
    (source,) = files(tmp_path, "in/x.jpg")
    made = journal([(source, tmp_path / "out/x.jpg")], tmp_path / "out")
    made.run()
    header, *rest = made.path.read_text().splitlines(keepends=True)
    old = json.loads(header)
    del old["folder"]
    made.path.write_text("".join([json.dumps(old) + "\n", *rest]))
    assert undo(made.path, apply=True).whole
