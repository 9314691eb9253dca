"""Build the site of the documentation: docs/ and what its pages link to.

The pages link to files beside docs/, such as CHANGELOG.md and the examples, as whoever
reads the repository wants it. A site has no such place: the files are copied into it,
and the links follow. The API reference is made from the docstrings.

python tools/build_site.py [FOLDER]    (needs the extra `docs`)
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "open_nsfw_tf"
ROOMS = (
    *("batch", "tables", "evaluate", "report", "explain", "dataset", "train"),
    *("export", "serve", "image", "tf_image", "model", "weights"),
)


def copy_pages(site: Path) -> None:
    """Copy docs/ and all that its pages link to into one folder."""
    shutil.copytree(ROOT / "docs", site)
    for page in sorted(site.glob("*.md")):
        text = page.read_text("utf-8")
        for name in re.findall(r"\]\(\.\./([^)#]+)", text):
            copy_beside(name, site)
        page.write_text(text.replace("](../", "]("), "utf-8")


def copy_beside(name: str, site: Path) -> None:
    """Copy a file that stands beside docs/; a page's links into docs/ follow."""
    copy = site / name
    copy.parent.mkdir(exist_ok=True, parents=True)
    shutil.copy(ROOT / name, copy)
    if copy.suffix == ".md":
        text = re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", copy.read_text("utf-8"))
        copy.write_text(text, "utf-8")


def reference() -> str:
    """A page whose text mkdocstrings takes from the docstrings of the public names."""
    modules = [PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS)]
    return "# Reference\n\n" + "".join(f"::: {module}\n\n" for module in modules)


def build(folder: Path) -> None:
    """Build the site into a folder; a warning is an error."""
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        copy_pages(stage / "docs")
        (stage / "docs" / "reference.md").write_text(reference(), "utf-8")
        (stage / PACKAGE).symlink_to(ROOT / PACKAGE)
        shutil.copy(ROOT / "zensical.toml", stage)
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        subprocess.run(command, cwd=stage, check=True)
        shutil.copytree(stage / "site", folder, dirs_exist_ok=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
