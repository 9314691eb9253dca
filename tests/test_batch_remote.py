"""Pictures on S3, as pyarrow's own client reads them from a server in this process."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from ray_commands import RayCommands

from open_nsfw_tf.batch import remote
from open_nsfw_tf.batch.item import SELECT, Item
from open_nsfw_tf.batch.scoring import Unscored
from open_nsfw_tf.tables import digest, pack_stamp, read_table

SCORED = ("coffee.png", "rocket.jpg")

OBJECTS = {
    "photos/a.jpg": b"first",
    "photos/b c.png": b"second",
    "photos/inner/d.jpg": b"third",
    "photos/inner/notes.md": b"text",
    "photos/inner/no_suffix": b"\xff\xd8\xff of a JPEG",
}


class _S3(BaseHTTPRequestHandler):
    """As much of S3 as reading takes: list, HEAD and GET, of the bucket `bucket`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/bucket").lstrip("/")
        query = parse_qs(url.query, keep_blank_values=True)
        if not key and "list-type" in query:
            self._send(200, _listing(query), head)
        elif not key or key in OBJECTS:
            self._send(206 if key and not head else 200, OBJECTS.get(key, b""), head)
        else:
            self._send(404, b"", head)

    def _send(self, status: int, body: bytes, head: bool) -> None:
        asked = self.headers.get("Range")
        start = 0
        if asked and body:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or len(body) - 1)
            whole, body = len(body), body[start : end + 1]
        self.send_response(200 if status == 206 and not asked else status)
        if asked and body:
            final = start + len(body) - 1
            self.send_header("Content-Range", f"bytes {start}-{final}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if not head:
            self.wfile.write(body)


def _listing(query: dict[str, list[str]]) -> bytes:
    prefix = query.get("prefix", [""])[0]
    delimiter = query.get("delimiter", [""])[0]
    files, folders = [], set()
    for key in OBJECTS:
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.split(delimiter)[0] + delimiter)
        else:
            files.append(key)
    body = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{len(OBJECTS[key])}</Size>"
        "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in files
    ) + "".join(
        f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
        for folder in sorted(folders)
    )
    count = len(files) + len(folders)
    return (
        f"<?xml version='1.0'?><ListBucketResult><Name>bucket</Name>"
        f"<KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{body}"
        "</ListBucketResult>"
    ).encode()


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What a URI needs to reach the server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _S3)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_address[1]
    yield f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    server.shutdown()
    thread.join()
    server.server_close()


def listed(uri: str, select: str = "either") -> list[Item]:
    return list(remote.remote_items(uri, lambda path, stamp: True, SELECT[select]))


def test_a_folder(options: str) -> None:
    remote.check_remote(f"s3://bucket/photos{options}")
    found = listed(f"s3://bucket/photos{options}")
    assert [item.path for item in found] == [
        "s3://bucket/photos/a.jpg",
        "s3://bucket/photos/b c.png",
        "s3://bucket/photos/inner/d.jpg",
        "s3://bucket/photos/inner/no_suffix",
    ]
    data = [remote.fetched(item).picture for item in found]
    assert data == [OBJECTS[item.path.removeprefix("s3://bucket/")] for item in found]
    assert len(listed(f"s3://bucket/photos{options}", "all")) == 5


def test_a_file_and_what_is_not_there(
    options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = listed(f"s3://bucket/photos/a.jpg{options}")
    assert item.path == "s3://bucket/photos/a.jpg"
    stamp = (5, 1_735_689_600 * 10**9)  # of the first of January
    assert remote.fetched(item) == Item(item.path, b"first", stamp=stamp)
    with pytest.raises(ValueError, match="no such file or folder"):
        remote.check_remote(f"s3://bucket/none{options}")
    lost = remote.RemoteItem(
        "s3://x", "bucket/gone.jpg", None, source=f"s3://bucket{options}"
    )
    assert remote.fetched(lost).error
    monkeypatch.setattr(remote, "MAX_BYTES", 3)
    assert "MiB on remote storage" in (remote.fetched(item).error or "")


def test_what_has_changed_needs_a_row_again(
    options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"s3://bucket/photos{options}"
    listed_one = f"s3://bucket/photos/inner/d.jpg{options}"
    done = {}
    for item in [*listed(folder), *listed(listed_one)]:
        assert item.stamp == remote.fetched(item).stamp
        done[digest(item.path)] = pack_stamp(item.stamp)
    done[digest(listed_one)] = pack_stamp(remote.find_stamp(listed_one))
    select = SELECT["either"]

    def again() -> list[str]:
        unscored = Unscored(done, find_stamp=remote.find_stamp)
        found = [item.path for item in remote.remote_items(folder, unscored, select)]
        return found + [path for path in [listed_one] if unscored(path)]

    assert again() == []
    monkeypatch.setitem(OBJECTS, "photos/inner/d.jpg", b"changed")
    monkeypatch.setitem(OBJECTS, "photos/new.jpg", b"new")
    assert again() == [
        "s3://bucket/photos/inner/d.jpg",
        "s3://bucket/photos/new.jpg",
        listed_one,
    ]
    monkeypatch.delitem(OBJECTS, "photos/inner/d.jpg")
    assert again() == ["s3://bucket/photos/new.jpg"]  # what has gone keeps its row


@pytest.mark.ray
def test_ray_scores_what_has_changed_again(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    coffee = pictures.path("coffee.png").read_bytes()
    rocket = pictures.path("rocket.jpg").read_bytes()
    monkeypatch.setitem(OBJECTS, "photos/a.jpg", rocket)
    monkeypatch.setitem(OBJECTS, "photos/inner/d.jpg", rocket)
    listed_one = f"s3://bucket/photos/inner/d.jpg{options}"
    Path("list.txt").write_text(f"{listed_one}\n")

    def scores(report: str) -> dict[str, float]:
        words = ["batch", "--ray", f"s3://bucket/photos{options}", "list.txt"]
        done = ray.command(*words, "-o", "out", "--resume")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"out: {report}")
        table = read_table("out")
        assert len(table) == len(set(table.paths)) == 5
        return dict(zip(table.paths, table.columns["nsfw"].tolist(), strict=True))

    golden = {name: GOLDEN["samples"][name]["nsfw"] for name in SCORED}
    with RayCommands(tmp_path) as ray:
        first = scores("5 pictures, 2 without a score; ")
        for path in ("s3://bucket/photos/a.jpg", listed_one):
            assert abs(first[path] - golden["rocket.jpg"]) <= SCORE_TOLERANCE
        monkeypatch.setitem(OBJECTS, "photos/inner/d.jpg", coffee)
        again = scores(
            "2 pictures, 0 without a score, 2 scored again that had changed or were "
            "not read, 3 skipped"
        )
        for path in ("s3://bucket/photos/inner/d.jpg", listed_one):
            assert abs(again[path] - golden["coffee.png"]) <= SCORE_TOLERANCE


def test_sources_of_this_machine() -> None:
    assert remote.local_path("file:///data/photos") == "/data/photos"
    assert remote.local_path("photos") == "photos"
    assert not remote.is_remote("file:///data/photos")
