"""Draw the picture of docs/images: the head of a report, of made-up scores.

Needs the extra `evaluate`, and Chromium.

python tools/draw_docs_images.py [FOLDER]
"""

import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

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


def main() -> None:
    """Draw it."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    draw_report(folder)


if __name__ == "__main__":
    main()
