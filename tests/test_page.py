"""The page and its module in a real Chromium: exact, offline, and nothing sent away."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from browser import CHROMIUM, FLAGS
from conftest import GOLDEN, SCORE_TOLERANCE
from page_server import Server, serving_folder
from PIL import Image
from serve_process import serving
from typer.testing import CliRunner

from open_nsfw_tf import Classifier
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.export import EXPORTERS, export
from open_nsfw_tf.image import tensor
from open_nsfw_tf.page import ISOLATION, LIST, POLICY, STATIC
from open_nsfw_tf.tables import read_table

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parent.parent
WEB = ROOT / "web"
AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE = 300_000  # milliseconds
CLASSIFY = """async (b64) => {
  const bytes = Uint8Array.from(atob(b64), (one) => one.charCodeAt(0));
  try {
    const found = await model.classify(new Blob([bytes]), { prepared: true });
    const { sfw, nsfw, cells, bias, prepared, width, height } = found;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", prepared));
    const sha256 = Array.from(digest, (one) => one.toString(16).padStart(2, "0"));
    const all = { sfw, nsfw, cells: [...cells], bias, width, height };
    return { ...all, sha256: sha256.join("") };
  } catch (error) {
    return { error: error.message, code: error.code };
  }
}"""
LOAD = """async (options) => {
  const { OpenNsfw } = await import("./open-nsfw.js");
  globalThis.model = await OpenNsfw.load(options);
  return { ...model.info, isolated: crossOriginIsolated };
}"""


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """What `web/vendor.js` installs, and the checker of accessibility."""
    if (STATIC / LIST).exists() and AXE.exists():
        return
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    done = subprocess.run(
        ["node", WEB / "vendor.js"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if "ENOTFOUND" in done.stderr or "ECONNREFUSED" in done.stderr:
        pytest.skip("the npm registry is not there")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(
    installed: None, tmp_path_factory: pytest.TempPathFactory, weights: Any
) -> Path:
    """The page in a folder."""
    path = tmp_path_factory.mktemp("page") / "site"
    photos = [pictures.path("astronaut.png")]
    made = export("page", path, weights, pictures=photos)
    assert made.difference <= EXPORTERS["page"].tolerances["float32"]
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS[1:], *camera]
        )
        yield browser
        browser.close()


@contextmanager
def tab(chromium: Any, **options: Any) -> Iterator[Any]:
    """A tab with a profile of its own, in which nothing may go wrong.

    What it asks for is in its `requests`.
    """
    context = chromium.new_context(**options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.requests, wrong = [], []
    context.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    try:
        yield page
    finally:
        context.close()
    # Violations of the policy are printed there too.
    assert not wrong


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Server]:
    """A host of static files that forbids all but the page's own."""
    with serving_folder(site, {"Content-Security-Policy": POLICY}) as server:
        yield server


# -- the module


def pixels(name: str) -> Any:
    """What Pillow reads, and the file's bytes."""
    source = pictures.MADE[name]() if name in pictures.MADE else pictures.path(name)
    if isinstance(source, Image.Image):
        source = pictures.encoded(source, "PNG")
    return source if isinstance(source, bytes) else source.read_bytes()


def gif(**options: Any) -> bytes:
    return pictures.encoded(
        pictures.sample("coffee.png").quantize(77), "GIF", **options
    )


def part_of_a_gif() -> bytes:
    """A GIF whose first frame is smaller than it, at (5, 7), with a transparent 3."""
    still = bytearray(gif(transparency=3))
    frame = still.index(b"\x2c", 13 + 3 * 128)
    width, height = (int.from_bytes(still[at : at + 2], "little") for at in (6, 8))
    still[6:10] = b"".join((side + 9).to_bytes(2, "little") for side in (width, height))
    still[frame + 1 : frame + 5] = bytes((5, 0, 7, 0))
    return bytes(still)


def animation(format: str) -> bytes:
    first, second = pictures.sample("coffee.png"), pictures.sample("chelsea.png")
    frames = [second.resize(first.size)]
    return pictures.encoded(first, format, save_all=True, append_images=frames)


def clear(image: Image.Image) -> Image.Image:
    """With transparency, under which the colours stay."""
    alpha = Image.linear_gradient("L").resize(image.size)
    return Image.merge("RGBA", (*image.convert("RGB").split(), alpha))


COFFEE = pictures.sample("coffee.png")
WRITTEN = {
    "progressive": lambda: pictures.encoded(COFFEE, "JPEG", progressive=True),
    "4:2:2": lambda: pictures.encoded(COFFEE, "JPEG", subsampling=1, quality=33),
    "4:4:4": lambda: pictures.encoded(COFFEE, "JPEG", subsampling=0, quality=99),
    "exif": lambda: pictures.encoded(COFFEE, "JPEG", exif=_turned()),
    "trailing": lambda: pictures.encoded(COFFEE, "JPEG") + b"behind the end",
    "rgba png": lambda: pictures.encoded(clear(COFFEE), "PNG"),
    "la png": lambda: pictures.encoded(clear(COFFEE).convert("LA"), "PNG"),
    "palette png": lambda: pictures.encoded(COFFEE.quantize(50), "PNG", transparency=2),
    "no end png": lambda: pictures.encoded(COFFEE, "PNG")[:-12],
    "apng": lambda: animation("PNG"),
    "lossy webp": lambda: pictures.encoded(COFFEE, "WEBP", quality=60),
    "rgba webp": lambda: pictures.encoded(clear(COFFEE), "WEBP", exact=True),
    "lossless webp": lambda: pictures.encoded(COFFEE, "WEBP", lossless=True),
    "animated webp": lambda: animation("WEBP"),
    "gif": gif,
    "transparent gif": lambda: gif(transparency=9),
    "interlaced gif": lambda: gif(interlace=1),
    "gray gif": lambda: pictures.encoded(COFFEE.convert("L"), "GIF"),
    "part of a gif": part_of_a_gif,
    "animated gif": lambda: animation("GIF"),
    "32 bit bmp": lambda: pictures.encoded(clear(COFFEE), "BMP"),
    "pgm": lambda: pictures.encoded(COFFEE.convert("L"), "PPM"),
}


def _turned() -> Any:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


REFUSED = {
    "coffee_tiff": ("unsupported", "TIFF is not read here"),
    "coffee_jp2": ("unsupported", "JPEG 2000 is not read here"),
    "cmyk": ("unsupported", "CMYK"),
    "empty": ("broken", "the file is empty"),
    "text": ("broken", "not a picture of a known kind"),
    "cut jpeg": ("broken", "cut off"),
    "no end jpeg": ("broken", "cut off"),
    "damaged png": ("broken", "wrong checksum of IDAT"),
    "cut webp": ("broken", "cut off"),
    "cut gif": ("broken", "cut off"),
    "cut bmp": ("broken", "cut off"),
    "cut ppm": ("broken", "cut off"),
    "bomb": ("too_large", "20000 x 20000 pixels are more than"),
}


def refused(name: str) -> bytes:
    """A file that gets no score."""
    if name in pictures.MADE:
        return bytes(pixels(name))
    jpeg, png = pictures.encoded(COFFEE, "JPEG"), pictures.encoded(COFFEE, "PNG")
    middle = len(png) // 2
    made = {
        "cmyk": lambda: pictures.encoded(COFFEE.convert("CMYK"), "JPEG"),
        "empty": lambda: b"",
        "text": lambda: b"no picture",
        "cut jpeg": lambda: jpeg[: len(jpeg) // 2],
        "no end jpeg": lambda: jpeg[:-2],
        "damaged png": lambda: png[:middle] + b"\0\0\0\0" + png[middle + 4 :],
        "cut webp": lambda: pictures.encoded(COFFEE, "WEBP")[:-99],
        "cut gif": lambda: gif()[:-99],
        "cut bmp": lambda: pixels("coffee_bmp")[:-99],
        "cut ppm": lambda: pixels("coffee_ppm")[:-99],
        "bomb": lambda: pictures.encoded(Image.new("1", (20_000, 20_000)), "PNG"),
    }
    return made[name]()


READ = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")


def golden() -> Iterator[tuple[str, bytes, float]]:
    for kind in ("samples", "made"):
        for name, figures in GOLDEN[kind].items():
            data = pixels(name)
            if Image.open(io.BytesIO(data)).format in READ:
                yield name, data, figures["nsfw"]


def test_the_module_gives_caffes_input_and_scores(
    chromium: Any, server: Server, classifier: Classifier
) -> None:
    with tab(chromium) as page:
        page.goto(f"{server.address}blank")
        info = page.evaluate(LOAD, {})
        assert info["exact"]
        assert info["isolated"] is False
        assert info["threads"] == 1
        scored = {name: (data, nsfw) for name, data, nsfw in golden()}
        for name, make in WRITTEN.items():
            scored[name] = (make(), classifier.classify(make()).nsfw)
        assert len(scored) > 50
        for name, (data, nsfw) in scored.items():
            found = page.evaluate(CLASSIFY, base64.b64encode(data).decode())
            assert "error" not in found, (name, found)
            blob = np.ascontiguousarray(tensor(data).transpose(2, 0, 1))
            assert found["sha256"] == hashlib.sha256(blob).hexdigest(), name
            assert abs(found["nsfw"] - nsfw) <= SCORE_TOLERANCE, name
            assert found["sfw"] + found["nsfw"] == pytest.approx(1, abs=1e-6)
        explained = classifier.explain(data)
        assert found["cells"] == pytest.approx(explained.cells.ravel(), abs=1e-4)
        assert found["bias"] == pytest.approx(explained.bias, abs=1e-5)
        for name, (code, words) in REFUSED.items():
            data = base64.b64encode(refused(name)).decode()
            found = page.evaluate(CLASSIFY, data)
            assert found["code"] == code, (name, found)
            assert words in found["error"]
        # After all those it still answers.
        data = base64.b64encode(pixels("rocket.jpg")).decode()
        found = page.evaluate(CLASSIFY, data)
        score = GOLDEN["samples"]["rocket.jpg"]["nsfw"]
        assert abs(found["nsfw"] - score) <= SCORE_TOLERANCE


TYPES = """async () => {
  const found = [];
  const bytes = new Uint8Array(await (await fetch("picture.png")).arrayBuffer());
  const image = new ImageData(3, 2);
  for (const one of [bytes, bytes.buffer, new Blob([bytes]), image]) {
    found.push((await model.classify(one)).nsfw);
  }
  for (const wrong of ["picture.png", null, 3]) {
    found.push(await model.classify(wrong).catch((error) => error.message));
  }
  const wrong = { preview: "?" };
  const other = await model.classify(bytes, wrong).catch((error) => error);
  found.push([other.constructor === Error, other.code ?? null]);
  const busy = model.classify(bytes).catch((error) => error.message);
  model.close();
  found.push(await busy, await model.classify(bytes).catch((error) => error.message));
  const { OpenNsfw } = await import("./open-nsfw.js");
  const options = { base: "nowhere/" };
  found.push(await OpenNsfw.load(options).catch((error) => error.message));
  return found;
}"""


def test_what_the_module_takes_and_with_threads(chromium: Any, site: Path) -> None:
    (site / "picture.png").write_bytes(pixels("coffee.png"))
    with serving_folder(site, ISOLATION) as server, tab(chromium) as page:
        page.goto(f"{server.address}blank")
        info = page.evaluate(LOAD, {"threads": 2})
        assert info["isolated"] is True
        assert info["threads"] == 2
        # The tab must be without errors, and a file that is not there is one.
        page.route("**/nowhere/*", lambda route: route.fulfill(status=200, body="{"))
        found = page.evaluate(TYPES)
        score = GOLDEN["samples"]["coffee.png"]["nsfw"]
        assert found[:3] == pytest.approx([score] * 3, abs=SCORE_TOLERANCE)
        assert 0 < found[3] < 1
        assert found[4:7] == ["expected a Blob, a File, bytes or an ImageData"] * 3
        assert found[7] == [True, None]  # a DOMException, whose code is a number
        assert found[8:10] == ["the model was closed"] * 2
        assert "JSON" in found[10]
    (site / "picture.png").unlink()


def test_the_folder_is_an_npm_package(site: Path, tmp_path: Path) -> None:
    command = ["npm", "pack", "--json", "--pack-destination", str(tmp_path)]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=True)
    (packed,) = json.loads(done.stdout)
    names = {file["path"] for file in packed["files"]}
    assert {"README.md", "open-nsfw.js", "open-nsfw.d.ts", "model.onnx"} <= names
    assert {"vendor/vendor.json", "vendor/licence-libwebp.txt", "worker.js"} <= names
    assert not {"index.html", "service-worker.js"} & names


# -- the page


def choose(page: Any, *files: tuple[str, bytes]) -> None:
    page.set_input_files(
        "#files",
        [{"name": n, "mimeType": "image/x", "buffer": data} for n, data in files],
    )


def wait_for(page: Any, count: int) -> list[str]:
    """The scores that are shown, once so many pictures have one or none."""
    page.locator(".card:not(.pending)").nth(count - 1).wait_for()
    assert page.locator(".card").count() == count
    # Not the inner text: a card has none until it is on the screen and laid out.
    return list(page.locator(".card .score").all_text_contents())


PHOTOS = ("coffee.png", "rocket.jpg")
EXPECTED = [f"{GOLDEN['samples'][name]['nsfw']:.4f}" for name in PHOTOS]
TRANSITIONS = "one => Promise.all(one.getAnimations().map((each) => each.finished))"
DROP = """([text, name, kind]) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { ...options, clipboardData: transfer })
    : new DragEvent(kind, { ...options, dataTransfer: transfer });
  document.body.dispatchEvent(event);
}"""
SHIFTS = """() => new Promise((done) => {
  let sum = 0;
  const add = (list) => {
    for (const one of list.getEntries()) if (!one.hadRecentInput) sum += one.value;
  };
  new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 200);
})"""


def test_pictures_come_in_every_way(chromium: Any, server: Server) -> None:
    with tab(chromium, permissions=["camera"]) as page:
        page.goto(server.address)
        choose(page, *((name, pixels(name)) for name in PHOTOS))
        assert wait_for(page, 2) == EXPECTED
        data = base64.b64encode(pixels("rocket.jpg")).decode()
        page.evaluate(DROP, [data, "dropped.jpg", "drop"])
        page.evaluate(DROP, [data, "pasted.jpg", "paste"])
        page.evaluate(DROP, [base64.b64encode(b"no").decode(), "bad.jpg", "drop"])
        # The same file once more.
        choose(page, ("rocket.jpg", pixels("rocket.jpg")))
        assert wait_for(page, 6) == [
            *EXPECTED,
            EXPECTED[1],
            EXPECTED[1],
            "",
            EXPECTED[1],
        ]
        assert "not a picture of a known kind" in page.text_content(".card.error")
        assert page.text_content(".card:last-child .name") == "rocket.jpg (2)"
        page.click("#camera")
        page.click("#shoot:not([disabled])")
        page.click("#leave")
        shown = wait_for(page, 7)
        assert 0 < float(shown[6]) < 1
        summary = page.inner_text("#summary")
        assert re.fullmatch(r"\d accepted, (\d \w+ ?\w*, )*1 without a score", summary)
        hosts = {url.split("/")[2] for url in page.requests if url[:4] == "http"}
        assert hosts == {server.address.split("/")[2]}
        page.click("#clear")
        assert page.is_hidden("#results")


COUNT = """() => {
  const { createObjectURL, revokeObjectURL } = URL, { postMessage } = Worker.prototype;
  Object.assign(globalThis, { asked: 0, urls: 0 });
  URL.createObjectURL = (blob) => ((urls += 1), createObjectURL.call(URL, blob));
  URL.revokeObjectURL = (url) => ((urls -= 1), revokeObjectURL.call(URL, url));
  Worker.prototype.postMessage = function (message) {
    asked += Boolean(message.classify);
    postMessage.call(this, message);
  };
}"""


def test_what_is_removed_is_not_scored(chromium: Any, server: Server) -> None:
    with tab(chromium) as page:
        page.goto(server.address)
        page.get_by_text("Ready, with").wait_for()
        page.evaluate(COUNT)
        photo = pixels("rocket.jpg")
        choose(page, *((f"{number}.jpg", photo) for number in range(60)))
        page.get_by_role("button", name="Remove 0.jpg", exact=True).click()
        page.click("#clear")
        choose(page, ("0.jpg", photo))
        assert wait_for(page, 1) == [EXPECTED[1]]
        assert page.text_content(".card .name") == "0.jpg"
        assert page.evaluate("asked") < 61
        assert page.evaluate("urls") == 1  # of the picture that is shown


def test_a_camera_that_shows_nothing(chromium: Any, server: Server) -> None:
    with tab(chromium, permissions=["camera"]) as page:
        page.goto(server.address)
        page.evaluate("""() => {
          HTMLMediaElement.prototype.play = () => Promise.reject(new Error("no"));
        }""")
        page.click("#camera")
        page.get_by_text("does not show what the camera sees").wait_for()
        assert page.is_disabled("#shoot")
        page.click("#leave")


def test_thresholds_maps_blur_and_the_table(
    chromium: Any, server: Server, tmp_path: Path
) -> None:
    with tab(chromium) as page:
        page.goto(server.address)
        assert page.evaluate(SHIFTS) < 0.01
        files = [(name, pixels(name)) for name in PHOTOS]
        choose(page, *files, ('a, "b".gif', b"GIF89a"))
        wait_for(page, 3)
        assert page.locator(".card.accept").count() == 2
        page.fill("#high", "0.01")
        assert page.input_value("#low") == "0.01"
        assert page.locator(".card.block").count() == 1
        image = page.locator(".frame img").first
        blur = "one => getComputedStyle(one).filter"
        assert "blur" in image.evaluate(blur)
        page.locator(".frame").first.press("Enter")
        image.evaluate(TRANSITIONS)
        assert image.evaluate(blur) == "none"
        assert page.locator(".frame svg").count() == 0
        page.check("#maps")
        assert page.locator(".frame svg").first.locator("rect").count() == 49
        page.select_option("#order", "lowest")
        names = page.locator(".card .name").all_text_contents()
        assert names == ["rocket.jpg", "coffee.png", 'a, "b".gif']
        page.locator(".card", has_text="rocket.jpg").get_by_text("Wrong").click()
        for others in (False, True):
            page.set_checked("#others", others)
            with page.expect_download() as download:
                page.click("#save")
            download.value.save_as(tmp_path / "scores.csv")
            text = (tmp_path / "scores.csv").read_text(encoding="utf-8")
            labels = [row["label"] for row in csv.DictReader(io.StringIO(text))]
            assert labels == ["sfw" if others else "", "nsfw", ""]
    table = read_table(tmp_path / "scores.csv")
    assert table.paths == ["coffee.png", "rocket.jpg", 'a, "b".gif']
    scores = str(tmp_path / "scores.csv")
    done = CliRunner().invoke(app, ["evaluate", scores, "--labels", scores, "--json"])
    assert done.exit_code == 0, done.output


def test_without_a_network_after_the_first_visit(chromium: Any, site: Path) -> None:
    """And in several threads, though the host does not isolate the page."""
    with tab(chromium) as page:
        with serving_folder(site, {"Content-Security-Policy": POLICY}) as server:
            page.goto(server.address)
            page.get_by_text("The page now works without a network").wait_for()
        page.reload()
        choose(page, *((name, pixels(name)) for name in PHOTOS))
        assert wait_for(page, 2) == EXPECTED
        assert page.evaluate("crossOriginIsolated") is True
        assert "threads" in page.inner_text("#model-state")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(chromium: Any, server: Server, scheme: str) -> None:
    phone = {"width": 360, "height": 780}
    with tab(chromium, color_scheme=scheme, viewport=phone, bypass_csp=True) as page:
        page.goto(server.address)
        choose(page, ("coffee.png", pixels("coffee.png")), ("bad.gif", b"GIF89a"))
        wait_for(page, 2)
        page.check("#maps")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run()")
        assert [one["id"] for one in found["violations"]] == []
        assert len(found["passes"]) > 20
        # The whole page can be reached by the keyboard.
        reached = set()
        for _ in range(20):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"files", "camera", "low", "high", "blur", "maps", "save"} <= reached


def test_what_is_wrong_with_a_download_is_said(chromium: Any, site: Path) -> None:
    with serving_folder(site) as server, tab(chromium) as page:
        page.route("**/model.onnx", lambda route: route.fulfill(body=b"no model"))
        page.goto(server.address)
        page.get_by_text("model.onnx is not the file that model.json").wait_for()
        choose(page, ("coffee.png", pixels("coffee.png")))
        wait_for(page, 1)
        assert "is not the file" in page.text_content(".card.error")


def test_the_smaller_model_says_that_it_is_approximate(
    chromium: Any, weights: Any, tmp_path: Path
) -> None:
    path, photo = tmp_path / "site", pictures.path("rocket.jpg")
    export("page", path, weights, precision="int8", pictures=[photo])
    assert (path / "model.onnx").stat().st_size < 7e6
    policy = {"Content-Security-Policy": POLICY}
    with serving_folder(path, policy) as server, tab(chromium) as page:
        page.goto(server.address)
        page.get_by_text(
            "its scores are approximate, those of photographs off by up"
        ).wait_for()
        choose(page, ("rocket.jpg", photo.read_bytes()))
        (shown,) = wait_for(page, 1)
    expected = GOLDEN["samples"]["rocket.jpg"]["nsfw"]
    assert abs(float(shown) - expected) <= EXPORTERS["page"].tolerances["int8"]


# -- at the service's root


def test_the_service_has_it(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a-long-random-token\n")
    with (
        serving("--token-file", tmp_path / "tokens") as service,
        tab(chromium) as page,
    ):
        page.goto(service.address)
        page.get_by_text("Ready, with").wait_for()
        assert page.evaluate("crossOriginIsolated") is True
        choose(
            page, ("coffee.png", pixels("coffee.png")), ("c.tif", pixels("coffee_tiff"))
        )
        assert wait_for(page, 2) == [EXPECTED[0], ""]
        assert not [url for url in page.requests if url.endswith("/v1/classify")]
        page.fill("#token", "a-long-random-token")
        page.get_by_role("button", name="Send to the server").click()
        page.get_by_text("scored by the server").wait_for()
        assert wait_for(page, 2) == [EXPECTED[0]] * 2
        answer = service.client.get("/model.json")
        tag = {"If-None-Match": answer.headers["etag"]}
        assert service.client.get("/model.json", headers=tag).status_code == 304
        assert service.client.get("/metrics").status_code == 401
