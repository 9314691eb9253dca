"""Draw the pictures of docs/images: the head of a report of made-up scores; the page.

Needs the extra `evaluate`, playwright, Chromium, and what web/vendor.js installs.

python tools/draw_docs_images.py [FOLDER]
"""

import math
import runpy
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from PIL import Image, ImageDraw

from open_nsfw_tf.export import export

ROOT = Path(__file__).parent.parent
SIZE = (1000, 1150)  # pixels, width and height


def draw_report(folder: Path) -> None:
    """The first screen of the example's report."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("draws the report by Chromium: install chromium")
    with tempfile.TemporaryDirectory() as made:
        sys.argv = ["choose_threshold.py", made]
        runpy.run_path(str(ROOT / "examples" / sys.argv[0]), run_name="__main__")
        shot = Path(made) / "report.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = ",".join(map(str, SIZE))
        subprocess.run(
            [
                chromium,
                *flags,
                f"--user-data-dir={made}/profile",
                "--blink-settings=preferredColorScheme=1",
                f"--window-size={size}",
                f"--screenshot={shot}",
                (Path(made) / "report.html").as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        with Image.open(shot) as image:
            image.convert("RGB").quantize(64).save(folder / "report.png", optimize=True)


# Of the page: its width and height in pixels, and the scheme of colours.
SHOTS = {
    "page": (1100, 1260, "light"),
    "page-dark": (1100, 1260, "dark"),
    "page-phone": (390, 1400, "light"),
}


def drawings(folder: Path) -> list[Path]:
    """Pictures to show on the page: hills at four times of the day."""
    skies = {
        "morning": 0xF4B183,
        "noon": 0x7FB8E6,
        "evening": 0xD9795D,
        "night": 0x1B2A49,
    }
    found = []
    for number, (name, colour) in enumerate(skies.items()):
        sky = (colour >> 16, colour >> 8 & 255, colour & 255)
        image = Image.new("RGB", (640, 427), sky)
        draw = ImageDraw.Draw(image)
        x, y = 90 + 140 * number, 190 - round(110 * math.sin(number))
        draw.ellipse((x, y, x + 80, y + 80), (250, 236, 190))
        for hill in range(4):
            shade = tuple(round(part * (0.75 - 0.17 * hill)) for part in sky)
            tops = [
                (x, 230 + 55 * hill - round(35 * math.sin(x / 70 + 2 * hill + number)))
                for x in range(0, 641, 8)
            ]
            draw.polygon([(0, 427), *tops, (640, 427)], shade)
        found.append(folder / f"{name}.png")
        image.save(found[-1])
    return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def draw_page(folder: Path) -> None:
    """The page with some pictures, in light, in dark and on a phone."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        site = Path(made) / "site"
        export("page", site)
        pictures = drawings(Path(made))
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=site))
        Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (width, height, scheme) in SHOTS.items():
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.set_input_files("#files", pictures)
            page.locator(".card:not(.pending)").nth(len(pictures) - 1).wait_for()
            page.uncheck("#blur")
            page.set_checked("#maps", scheme == "dark")
            page.wait_for_timeout(500)  # the transition
            shot = Path(made) / f"{name}.png"
            page.screenshot(path=shot)
            with Image.open(shot) as image:
                small = image.convert("RGB").quantize(96)
                small.save(folder / shot.name, optimize=True)
        browser.close()
        server.shutdown()


def main() -> None:
    """Draw them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    draw_report(folder)
    draw_page(folder)


if __name__ == "__main__":
    main()
