"""The page's files, without a browser: what Git has, and what is said without them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from trained_models import open_nsfw_of_three

import open_nsfw_tf.page as page_module
from open_nsfw_tf import Classifier
from open_nsfw_tf.architecture import DENSE
from open_nsfw_tf.cli.options import BandOption, Scoring
from open_nsfw_tf.cli.serve import load_classifier, page_of
from open_nsfw_tf.engines.cache import weights_sha256
from open_nsfw_tf.export import export
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.page import LIST, POLICY, RUNTIME, STATIC, Site, check_installed
from open_nsfw_tf.serve import create_app
from open_nsfw_tf.tables.decision import YAHOO_BAND
from open_nsfw_tf.weights import ENVIRONMENT, save_weights

WEB = Path(__file__).parent.parent / "web"


def test_the_policy_stands_in_the_page_too() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert f'content="{POLICY}"' in page


def test_the_page_and_the_help_have_yahoos_band() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    values = re.findall(r'id="(?:low|high)" type="range" .* value="(.*)">', page)
    assert tuple(map(float, values)) == YAHOO_BAND
    assert "suggests {} and {} as".format(*YAHOO_BAND) in page
    assert "Without it {}:{}, ".format(*YAHOO_BAND) in BandOption.__metadata__[0].help


def test_the_page_names_no_other_host() -> None:
    """But the namespace of SVG."""
    for path in (*STATIC.glob("*"), *STATIC.glob("decode/*")):
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org", "")
            assert not re.search(r"https?://", text), path


def test_each_file_of_others_has_a_checksum_and_a_licence() -> None:
    listed = json.loads((WEB / "vendor.json").read_text(encoding="utf-8"))["files"]
    for name, entry in listed.items():
        assert re.fullmatch("[0-9a-f]{64}", entry["sha256"]), name
        text = WEB / "licences" / entry.get("licence", Path(entry["from"]).name)
        assert text.stat().st_size > 500, name
        assert f"licence-{text.name}" in listed
    lock = (WEB / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock  # no host, so that npm asks the one that is set
    assert '"integrity"' in lock


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of static files that has one of others."""
    vendor = (tmp_path / LIST).parent
    vendor.mkdir()
    (vendor / "one.js").write_bytes(b"one")
    sha256 = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    listed = {"files": {"one.js": {"from": "one.js", "sha256": sha256}}}
    (tmp_path / LIST).write_text(json.dumps(listed))
    monkeypatch.setattr(page_module, "STATIC", tmp_path)
    return tmp_path


def test_files_that_are_missing_or_wrong(installed: Path, tmp_path: Path) -> None:
    check_installed()
    path = (installed / LIST).parent / "one.js"
    path.write_bytes(b"two")
    with pytest.raises(ValueError, match="one.js: expected the file with the SHA-256"):
        check_installed()
    (installed / LIST).unlink()
    with pytest.raises(FileNotFoundError, match="run `node web/vendor.js`"):
        Site(lambda: b"").write(tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_service_does_without(
    installed: Path, classifier: Classifier, tmp_path: Path
) -> None:
    (installed / LIST).unlink()
    with TestClient(create_app(classifier, site=Site(lambda: b""))) as client:
        answer = client.get("/")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "no_page"
        assert "node web/vendor.js" in answer.json()["error"]["message"]
        assert client.get("/health/ready").status_code == 200


def test_clients_are_not_told_paths(
    installed: Path, classifier: Classifier, tmp_path: Path
) -> None:
    ((installed / LIST).parent / "one.js").write_bytes(b"two")
    with TestClient(create_app(classifier, site=Site(lambda: b""))) as client:
        answer = client.get("/")
    assert answer.json()["error"]["code"] == "no_page"
    assert "one.js: expected" in answer.json()["error"]["message"]
    assert str(tmp_path) not in answer.text


def test_a_changed_file_is_not_served_under_another_sum(
    installed: Path, classifier: Classifier
) -> None:
    (installed / "package.json").write_text("{}")
    (installed / RUNTIME).write_bytes(b"runtime")
    page = installed / "index.html"
    page.write_bytes(b"a page")
    with TestClient(create_app(classifier, site=Site(lambda: b"model"))) as client:
        assert "GET /<" in client.get("/docs").text
        page.unlink()
        answer = client.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert answer.json()["error"]["code"] == "no_page"
        page.write_bytes(b"a page")
        first = client.get("/")
        assert first.headers["etag"] == f'"{hashlib.sha256(b"a page").hexdigest()}"'
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        for change in (lambda: page.write_bytes(b"another"), page.unlink):
            change()
            answer = client.get("/")
            assert (answer.status_code, answer.content) == (200, b"a page")
            assert answer.headers["etag"] == first.headers["etag"]
            assert answer.headers["content-length"] == "6"
        known = {"if-none-match": first.headers["etag"]}
        assert client.get("/", headers=known).status_code == 304


@pytest.fixture
def own_weights(weights: Any, tmp_path: Path) -> Path:
    """A file of weights that nobody has published."""
    path = tmp_path / "own.safetensors"
    last = {**weights[DENSE], "biases": weights[DENSE]["biases"] + np.float32(1)}
    save_weights({**weights, DENSE: last}, path)
    return path


def test_strangers_get_published_weights_alone(
    own_weights: Path, weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, given_to_strangers in ((own_weights, False), (weights_path, True)):
        monkeypatch.setenv(ENVIRONMENT, str(path))
        _, checksum, source = load_classifier(Scoring(), MAX_PIXELS)
        assert source == path
        site = page_of(source, checksum, for_all=False)
        assert (site is not None) == given_to_strangers
        assert page_of(source, checksum, for_all=True) is not None


def test_the_page_has_the_weights_of_the_start(
    installed: Path, own_weights: Path, weights_path: Path, classifier: Classifier
) -> None:
    site = page_of(own_weights, weights_sha256(own_weights), for_all=True)
    assert site is not None
    other = weights_path.read_bytes()
    with TestClient(create_app(classifier, site=site)) as client:
        for content in (other, b"no weights", None):
            own_weights.unlink()
            if content:
                own_weights.write_bytes(content)
            answer = client.get("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
            assert answer.json()["error"]["code"] == "no_page"
            assert own_weights.name not in answer.text


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
def test_an_interrupted_copy_is_not_published(tmp_path: Path) -> None:
    static = tmp_path / "open_nsfw_tf" / "page" / "static"
    static.mkdir(parents=True)
    (tmp_path / "web").mkdir()
    shutil.copy(WEB / "vendor.js", tmp_path / "web")
    listed = {"files": {"one.js": {"from": "vendor.js", "sha256": "another"}}}
    (tmp_path / "web" / "vendor.json").write_text(json.dumps(listed))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\n")
    npm.chmod(0o755)
    done = subprocess.run(
        ["node", tmp_path / "web" / "vendor.js"],
        env=os.environ | {"PATH": f"{npm.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "vendor.js: expected SHA-256 another" in done.stderr
    assert (static.parent / "vendor.new").exists()
    assert not list(static.iterdir())


def test_other_networks_have_no_page(weights: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the page is for Yahoo's network"):
        export("page", tmp_path / "site", model=open_nsfw_of_three(weights))
    assert not list(tmp_path.iterdir())
