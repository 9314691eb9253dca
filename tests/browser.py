"""Pages in headless Chromium: what overflows, and what they look like."""

import json
import re
import shutil
import subprocess
import tempfile
from html import escape, unescape
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
PATIENCE = 300  # seconds until a browser that hangs is given up
# Runs beside the page, not in it: the page itself forbids scripts.
PROBE = """
const inside = (box, room) =>
  box.right <= room.right + 1 && box.left >= room.left - 1;
const name = (node) => `${node.localName}.${node.getAttribute("class") || ""}`
  + ` ${(node.textContent || "").slice(0, 40)}`;
const look = (frame) => {
  const page = frame.contentDocument, found = [];
  const room = {left: 0, right: page.documentElement.clientWidth};
  page.querySelectorAll("details").forEach((one) => { one.open = true; });
  page.querySelectorAll("body *").forEach((node) => {
    const box = node.getBoundingClientRect();
    if (!box.width || node.closest(".scroll table")) return;
    const svg = node.localName === "text" && node.ownerSVGElement;
    if (svg && !inside(box, svg.getBoundingClientRect())) found.push(name(node));
    if (!node.ownerSVGElement && !inside(box, room)) found.push(name(node));
    const spills = getComputedStyle(node).overflowX === "visible"
      && getComputedStyle(node).display !== "inline"
      && node.scrollWidth > node.clientWidth + 1;
    if (spills && !node.closest("svg")) found.push("spills: " + name(node));
  });
  const seen = {};
  page.querySelectorAll("svg, img, table, .zones, .thumb").forEach((node) => {
    const box = node.getBoundingClientRect();
    const kind = node.localName;
    seen[kind] = (seen[kind] || 0) + (box.width > 20 && box.height > 20 ? 1 : 0);
  });
  return {width: room.right, wide: page.documentElement.scrollWidth, found, seen};
};
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.querySelector("pre").textContent = JSON.stringify(frames.map(look));
});
"""


def chromium(url: Path, *flags: str) -> str:
    """Run Chromium once, with a new profile, and give what it prints."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        done = subprocess.run(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, url.as_uri()],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def overflows(pages: list[Path], widths: list[int], folder: Path) -> list[Any]:
    """How each page lies in each width (CSS pixels): what reaches over its borders."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{escape(page.read_text(encoding="utf-8"))}"></iframe>'
        for page in pages
        for width in widths
    )
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8"><pre></pre>{frames}'
        f"<script>{PROBE}</script>",
        encoding="utf-8",
    )
    dumped = chromium(wrapper, "--window-size=1600,1200", "--dump-dom")
    found = re.search(r"<pre>(.*?)</pre>", dumped, re.DOTALL)
    assert found is not None
    return list(json.loads(unescape(found[1])))


def screenshot(page: Path, png: Path, width: int, height: int, scheme: str) -> Path:
    """A picture of the page's beginning."""
    size = f"--window-size={width},{height}"
    chromium(page, size, f"--screenshot={png}", scheme)
    return png
