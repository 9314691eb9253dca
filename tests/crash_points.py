"""Kill moving, and then undoing, before every single thing they do to the disk.

Run as a program: `crash_points.py HOW SOURCE_ROOT TARGET_ROOT`. Each round makes a
child that kills itself with SIGKILL at the n-th call that touches the disk, until a
child comes through. After each, undoing must bring back every file, byte by byte.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from open_nsfw_tf.moves import Journal, Move, plan, undo

EVENTS = {
    "open",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.utime",
}
LINK = "a/to_one.jpg"  # relative, to a/one.jpg: moved after it, and made anew
FILES = {"a/one.jpg": b"1" * 3000, "a/two\n.jpg": b"22", "b/one.jpg": b"333"}


def killed_at(point: int, work: Callable[[], None]) -> bool:
    """Whether a child that does `work` was killed before its `point`-th event."""
    child = os.fork()
    if not child:
        left = [point]

        def hook(event: str, _: object) -> None:
            if event in EVENTS:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        failed = 1
        try:
            work()
            failed = 0
        finally:
            os._exit(failed)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status)
    return os.WIFSIGNALED(status)


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def fresh(source: Path, target: Path) -> None:
    for root in (source, target):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
    for name, data in FILES.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(data)
    (source / LINK).symlink_to("one.jpg")


def move(how: str, source: Path, target: Path) -> None:
    wanted = [
        Move(str(source / name), str(target / "in" / Path(name).name))
        for name in (LINK, *FILES)
    ]
    Journal(plan(wanted, how).moves, str(target), how, "test").run()


def take_back(target: Path) -> None:
    for manifest in target.glob("undo-*"):
        assert undo(manifest, apply=True).whole


def check(source: Path, target: Path) -> None:
    files = {**FILES, LINK: FILES["a/one.jpg"]}
    assert content(source) == files, content(source).keys()
    assert os.readlink(source / LINK) == "one.jpg"
    left = [path for path in target.rglob("*") if path.name[:5] != "undo-"]
    # What was killed while it wrote the manifest leaves that, and nothing else.
    assert all(path.name.startswith(".undo-") for path in left), left


def main(how: str, source: Path, target: Path) -> int:
    points = 0
    done = False
    while not done:
        points += 1
        fresh(source, target)
        done = not killed_at(points, lambda: move(how, source, target))
        take_back(target)
        take_back(target)
        check(source, target)
    done, point = False, 0
    while not done:
        point += 1
        fresh(source, target)
        move(how, source, target)
        done = not killed_at(point, lambda: take_back(target))
        take_back(target)
        check(source, target)
    return points + point


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
