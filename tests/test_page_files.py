"""The page's files, without a browser: what Git has, and what is said without them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from trained_models import open_nsfw_of_three

import open_nsfw_tf.page as page_module
from open_nsfw_tf import Classifier
from open_nsfw_tf.export import export
from open_nsfw_tf.page import LIST, POLICY, STATIC, Site, check_installed
from open_nsfw_tf.serve import create_app

WEB = Path(__file__).parent.parent / "web"


def test_the_policy_stands_in_the_page_too() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert f'content="{POLICY}"' in page


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


def test_other_networks_have_no_page(weights: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the page is for Yahoo's network"):
        export("page", tmp_path / "site", model=open_nsfw_of_three(weights))
    assert not list(tmp_path.iterdir())
