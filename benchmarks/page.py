"""The page in Chromium: time by stage beside nsfwjs, first load, memory.

``python -m benchmarks.page`` needs node, npm, Chromium, playwright, and the files of
`web/vendor.js`. Both classifiers get the same JPEG files in the same browser, one after
the other; milliseconds are medians of turns.
"""

import argparse
import base64
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.machine import machine
from benchmarks.photos import write_photos
from open_nsfw_tf.export import export
from open_nsfw_tf.page import ISOLATION

SIZES = ((640, 480), (1633, 1225), (4000, 3000))  # .3, 2 and 12 megapixels
TURNS = 9
COUNTS = (50, 500)  # pictures, after which memory is read
PEER = ("nsfwjs@4.3.0", "@tensorflow/tfjs@4.22.0")
SCRIPTS = (
    "@tensorflow/tfjs/dist/tf.min.js",
    "nsfwjs/dist/models/mobilenet_v2/model.min.js",
    "nsfwjs/dist/models/mobilenet_v2/group1-shard1of1.min.js",
    "nsfwjs/dist/browser/nsfwjs.min.js",
)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
BROTLI = """const zlib = require("zlib"), fs = require("fs");
const quality = { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 9 } };
let sum = 0;
for (const name of process.argv.slice(1)) {
  sum += zlib.brotliCompressSync(fs.readFileSync(name), quality).length;
}
console.log(sum);"""
OURS = """async ([text, turns]) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const tiny = new ImageData(1, 1), found = [];
  for (let turn = -1; turn < turns; turn += 1) {
    const start = performance.now();
    const { milliseconds } = await model.classify(new Blob([bytes]));
    const all = performance.now() - start;
    const network = (await model.classify(tiny)).milliseconds.score;
    const { decode, score } = milliseconds;
    if (turn >= 0) found.push([decode, score - network, network, all]);
  }
  return found;
}"""
THEIRS = """async ([text, turns]) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const found = [];
  for (let turn = -1; turn < turns; turn += 1) {
    const start = performance.now();
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([bytes]));
    await image.decode();
    const decoded = performance.now();
    await peer.classify(image);
    const all = performance.now() - start;
    URL.revokeObjectURL(image.src);
    if (turn >= 0) found.push([decoded - start, start + all - decoded, all]);
  }
  return found;
}"""
LOAD_OURS = """async (threads) => {
  const { OpenNsfw } = await import("./open-nsfw.js");
  globalThis.model = await OpenNsfw.load({ threads });
  return model.info.threads;
}"""
LOAD_THEIRS = """async () => {
  globalThis.peer = await nsfwjs.load("MobileNetV2");
  return tf.getBackend();
}"""


class _Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        """With the headers that let a page use several threads."""
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the folder is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def install_peer(folder: Path) -> None:
    """nsfwjs and TensorFlow.js, as npm has them."""
    folder.mkdir()
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PEER]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def medians(rows: list[list[float]]) -> list[float]:
    """Of each column."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def stages(page: Any, address: str, photos: list[Path]) -> None:
    """Print the milliseconds of a picture's stages, of both."""
    page.goto(f"{address}model.json")
    print(
        "| picture | threads | decode | prepare | network | all |\n" + "|---" * 6 + "|"
    )
    for threads in (1, 2):
        used = page.evaluate(LOAD_OURS, threads)
        for (width, height), photo in zip(SIZES, photos, strict=True):
            text = base64.b64encode(photo.read_bytes()).decode()
            found = medians(page.evaluate(OURS, [text, TURNS]))
            row = " | ".join(f"{value:.0f}" for value in found)
            print(f"| {width} x {height} | {used} | {row} |")
        page.evaluate("model.close()")
    for script in SCRIPTS:
        page.add_script_tag(url=f"{address}peer/node_modules/{script}")
    backend = page.evaluate(LOAD_THEIRS)
    print(f"\nnsfwjs, MobileNetV2, backend {backend}:\n")
    print("| picture | decode | classify | all |\n|---|---|---|---|")
    for (width, height), photo in zip(SIZES, photos, strict=True):
        text = base64.b64encode(photo.read_bytes()).decode()
        found = medians(page.evaluate(THEIRS, [text, TURNS]))
        row = " | ".join(f"{value:.0f}" for value in found)
        print(f"| {width} x {height} | {row} |")


def first_load(page: Any, address: str, site: Path) -> None:
    """Print how many bytes a first visit asks for, the service worker's among them."""
    names = set(
        json.loads((site / "precache.js").read_text().partition("=")[2])["files"]
    )
    names |= {"precache.js", "service-worker.js"}
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url.removeprefix(address)))
    page.goto(address)
    page.get_by_text("Ready, with").wait_for()
    shown = [name or "index.html" for name in asked]
    for title, found in (("until ready", shown), ("with the service worker", names)):
        paths = [site / name for name in found if (site / name).is_file()]
        raw = sum(path.stat().st_size for path in paths)
        command = ["node", "-e", BROTLI, *map(str, paths)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        packed = int(done.stdout) / 1e6
        print(f"first load, {title}: {raw / 1e6:.1f} MB, by brotli {packed:.1f} MB")
    peer = [site / "peer" / "node_modules" / name for name in SCRIPTS]
    command = ["node", "-e", BROTLI, *map(str, peer)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    raw = sum(path.stat().st_size for path in peer)
    print(f"nsfwjs: {raw / 1e6:.1f} MB, by brotli {int(done.stdout) / 1e6:.1f} MB")


def memory(browser: Any, page: Any, photos: list[Path]) -> None:
    """Print the memory of the page's process after some pictures and after many.

    What JavaScript no longer uses is collected before, as it would be sooner or later.
    """
    session = browser.new_browser_cdp_session()
    collector = page.context.new_cdp_session(page)
    done = 0
    for count in COUNTS:
        while done < count:
            some = [photos[number % len(photos)] for number in range(done, done + 10)]
            page.set_input_files("#files", some)
            done += len(some)
            page.locator(".card:not(.pending)").nth(done - 1).wait_for()
        collector.send("HeapProfiler.collectGarbage")
        time.sleep(1)
        found = session.send("SystemInfo.getProcessInfo")["processInfo"]
        largest = max(
            _resident(one["id"]) for one in found if one["type"] == "renderer"
        )
        print(f"after {count} pictures: {largest / 1e6:.0f} MB")


def _resident(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print all."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    from playwright.sync_api import sync_playwright

    print(json.dumps(machine()))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = Path(folder) / "site"
        export("page", site)
        install_peer(site / "peer")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS)
        )
        print(f"Chromium {browser.version}")
        photos = Path(folder) / "photos"
        photos.mkdir()
        with served(site) as address:
            page = browser.new_page()
            stages(page, address, write_photos(photos, 3, SIZES))
            page.close()  # or its memory would be measured
            page = browser.new_page()
            page.set_default_timeout(300_000)
            first_load(page, address, site)
            memory(browser, page, write_photos(photos, 16, SIZES[:2]))
        browser.close()


if __name__ == "__main__":
    main()
