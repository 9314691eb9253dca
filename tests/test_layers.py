"""Who may import whom: a room imports only from rooms below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "open_nsfw_tf"

# From the ground up. Rooms of one row do not import each other, but for the parts of a
# folder, which may import the folder's own `__init__`.
ROWS = [
    ["errors", "parallel", "forks"],
    ["files"],
    ["architecture", "image", "backend"],
    ["scores", "folding"],
    ["formats", "published", "tf_image", "samples"],
    ["weights", "mmdnn_route", "network", "quantize", "tables", "moves"],
    ["trained", "undo"],
    ["model"],
    ["backbones"],
    ["engines"],
    ["classifier", "export", "convert"],
    ["request", "batch"],
    ["evaluate", "distributed"],
    ["report", "dataset"],
    ["train"],
    ["cli"],
]
# A heavy library is owned by few; nobody else may name it.
OWNERS = {
    "tensorflow": {"backend", "export/graph", "train/augment", "train/inputs"}
    | {"tf_image/decode", "tf_image/loader", "tf_image/resize"},
    "keras": {"backend", "model", "backbones/__init__", "backbones/head"}
    | {"backbones/keras_apps", "backbones/tables", "train/learner"},
    "onnx": {
        "formats/onnx",
        "formats/onnx_graph",
        "export/onnx",
        "export/keras_onnx",
        "quantize/qdq",
    },
    "onnxruntime": {"backend"},
    "openvino": {"backend"},
    "ai_edge_litert": {"engines/litert", "export/tflite"},
    "PIL": {
        "image",
        "tf_image/loader",
        "samples",
        "dataset/fingerprints",
        "dataset/sort",
        "export/job",
        "export/savedmodel",
    },
    "coremltools": {"export/coreml", "export/mil"},
    "h5py": {"formats/keras_h5", "formats/opennsfw2"},
    "matplotlib": {"plots"},
    "pillow_heif": {"image"},
    "pooch": {"weights"},
    "sklearn": {"evaluate/figures"},
    "faiss": {"dataset/duplicates"},
    "imagehash": {"dataset/fingerprints"},
    "cleanlab": {"dataset/label_errors"},
    "pyarrow": {"tables/parquet", "distributed/blocks", "distributed/scorer"}
    | {"distributed/listing", "distributed/remote"},
    "ray": {"distributed/cluster", "distributed/listing", "distributed/scorer"},
    "rich": {"cli/progress", "weights"},
    "typer": {
        "cli/app",
        "cli/batch",
        "cli/classify",
        "cli/compare",
        "cli/dataset",
        "cli/evaluate",
        "cli/export",
        "cli/legacy",
        "cli/models",
        "cli/options",
        "cli/request",
        "cli/train",
        "cli/weights",
    },
    "filelock": {"files"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def row(name: str) -> int:
    top = name.split("/")[0]
    return next(index for index, names in enumerate(ROWS) if top in names)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "open_nsfw_tf":
                found |= {f"open_nsfw_tf.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=room)
def test_rooms_import_only_from_below(path: Path) -> None:
    name = room(path)
    if name == "__init__":
        return  # the door: it names every room and opens none before it is asked
    for imported in imports(path):
        if not imported.startswith("open_nsfw_tf."):
            continue
        other = imported.removeprefix("open_nsfw_tf.").replace(".", "/")
        if not (PACKAGE / f"{other}.py").exists() and not (PACKAGE / other).is_dir():
            continue  # a name of the door, such as __version__
        inside = name.split("/")[0] == other.split("/")[0]
        assert row(other) < row(name) or inside, f"{name} imports {other}"


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_owners(library: str) -> None:
    users = {
        room(path)
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= OWNERS[library]
