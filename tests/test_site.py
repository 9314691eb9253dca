"""The site of the documentation: it builds, and is whole without any other server."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin, urlparse

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow  # a quarter of a minute on a quiet machine


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, ROOT / "tools" / "build_site.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in ROOT.glob("docs/*.md"):
        html = "." if page.stem == "index" else page.stem
        assert (site / html / "index.html").exists(), page.name
    home = (site / "index.html").read_text("utf-8")
    for page in ROOT.glob("docs/*.md"):  # in the navigation, which every page has
        assert page.stem == "index" or f'href="{page.stem}/"' in home, page.name


def test_links_lead_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        where = f"/{page.relative_to(site)}"
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text("utf-8")):
            if re.match("https?:|data:|#", link):
                continue
            path = urlparse(urljoin(where, link)).path
            assert (site / path.lstrip("/")).exists(), (where, link)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture; links that a reader follows are no loads."""
    loads = (
        r"<(?:script|link|img|source|iframe)\b[^>]*?(?:src|href)=\"?((?:https?:)?//)"
    )
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.search(loads, text), page
        # The theme's script would fetch what draws these.
        assert not re.search(r'class="[^"]*(?:mermaid|glightbox|pyodide)', text), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\"?(?:https?:)?//", style.read_text("utf-8")), style


def test_the_reference_is_of_the_docstrings(site: Path) -> None:
    text = (site / "reference" / "index.html").read_text("utf-8")
    for name in ("Classifier.classify_many", "batch.score_batch", "serve.create_app"):
        assert f'id="open_nsfw_tf.{name}"' in text
    assert text.count("Raises:") > 20
