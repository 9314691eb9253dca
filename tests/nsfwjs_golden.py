"""What nsfwjs itself answers for our pictures, by node; writes golden/nsfwjs.json.

Run it with Python, and name an empty folder: npm installs nsfwjs and TensorFlow.js
there (300 MB). Inception v3 takes 15 seconds a picture.
"""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pictures
from PIL import Image

from open_nsfw_tf.image import load_rgb

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "nsfwjs.json"
COMMAND = "python tests/nsfwjs_golden.py FOLDER"
PACKAGES = ("nsfwjs@4.3.0", "@tensorflow/tfjs@4.22.0")
NETWORKS = ("mobilenet_v2", "inception_v3")
SAMPLES = ("coffee.png", "rocket.jpg", "grace_hopper.jpg", "camera.png")
MADE = ("skin", "wide_2000x20", "tiny_10x10", "224x224")


def golden_picture(name: str) -> Image.Image:
    """A picture by its name in the golden file, RGB."""
    if name in SAMPLES:
        return load_rgb(pictures.path(name))
    return load_rgb(pictures.MADE[name]())


def install(folder: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Install packages by npm, whose scripts do not run."""
    npm = shutil.which("npm")
    assert npm, "npm is not installed"
    (folder / "package.json").write_text("{}")
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
    done = subprocess.run(
        [npm, "install", *quiet, *packages],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise OSError(f"npm cannot install {', '.join(packages)}: {done.stderr[-500:]}")


def scores(folder: Path, network: str, names: tuple[str, ...]) -> dict[str, Any]:
    """nsfwjs's answers: the name of a picture, its classes, their probabilities."""
    lines = []
    for name in names:
        rgb = np.asarray(golden_picture(name))
        height, width, _ = rgb.shape
        text = base64.b64encode(rgb.tobytes()).decode()
        lines.append(
            json.dumps({"name": name, "height": height, "width": width, "rgb": text})
        )
    done = subprocess.run(
        ["node", str(HERE / "nsfwjs_scores.cjs"), network],
        cwd=folder,
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    return {answer["name"]: answer["scores"] for answer in answers}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    install(target)
    found = {network: scores(target, network, SAMPLES + MADE) for network in NETWORKS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
