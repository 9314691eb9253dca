"""Who may import whom: a room imports only from rooms above it in `ROOMS`."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "open_nsfw_tf"

# The order of docs/architecture.md. A room is a file or a folder of the package.
ROOMS = (
    "errors",
    "forks",
    "files",
    "encoding",
    "progress",
    "parallel",
    "libraries",
    "architecture",
    "tables",
    "image",
    "tf_image",
    "formats",
    "weights",
    "model",
    "backbones",
    "quantize",
    "engines",
    "classifier",
    "explain",
    "video",
    "moves",
    "undo",
    "batch",
    "evaluate",
    "report",
    "dataset",
    "train",
    "page",
    "export",
    "convert",
    "serve",
    "doctor",
    "cli",
)
# A heavy library is owned by few; nobody else may name it.
OWNERS = {
    "tensorflow": {
        "export.graph",
        "libraries",
        "tf_image.decode",
        "tf_image.header",
        "tf_image.jpeg",
        "tf_image.loader",
        "tf_image.png",
        "tf_image.resize",
        "tf_image.webp",
        "train.augment",
        "train.inputs",
    },
    "keras": {
        "backbones.builder",
        "backbones.caffe_nets",
        "backbones.head",
        "backbones.keras_apps",
        "libraries",
        "model",
        "train.learner",
    },
    "onnx": {
        "backbones.onnx_ops",
        "export.onnx",
        "formats.onnx",
        "formats.onnx_graph",
        "formats.onnx_picture",
        "quantize.calibrate",
        "quantize.qdq",
    },
    "onnxruntime": {"libraries"},
    "openvino": {"libraries"},
    "ai_edge_litert": {"engines.litert", "export.tflite"},
    "PIL": {
        "dataset.fingerprints",
        "dataset.sort",
        "explain.cover",
        "explain.overlay",
        "export.job",
        "image.decode",
        "image.preprocessing",
        "quantize.samples",
        "tf_image.loader",
        "report.page",
        "report.video",
        "video.animation",
        "video.container",
    },
    "av": {"video.container"},
    "pillow_heif": {"image.decode", "video.animation"},
    "coremltools": {"export.coreml", "export.mil"},
    "h5py": {"formats.keras_h5", "formats.opennsfw2"},
    "matplotlib": {"report.plots"},
    "pooch": {"weights"},
    "sklearn": {"evaluate.metrics"},
    "scipy": {
        "dataset.duplicates",
        "evaluate.bootstrap",
        "evaluate.comparison",
        "report.plots",
    },
    "faiss": {"dataset.duplicates"},
    "imagehash": {"dataset.fingerprints"},
    "cleanlab": {"dataset.label_errors"},
    "pyarrow": {"batch.ray_tasks", "batch.remote", "tables.parquet"},
    "ray": {"batch.ray", "batch.ray_tasks"},
    "rich": {"progress"},
    "typer": {
        "cli.app",
        "cli.batch",
        "cli.classify",
        "cli.compare",
        "cli.dataset",
        "cli.doctor",
        "cli.evaluate",
        "cli.explain",
        "cli.export",
        "cli.legacy",
        "cli.models",
        "cli.options",
        "cli.page",
        "cli.request",
        "cli.serve",
        "cli.train",
        "cli.video",
        "cli.weights",
    },
    "filelock": {"files"},
    "jinja2": {"report.page", "report.video"},
    "fastapi": {
        "serve.app",
        "serve.moderations",
        "serve.native",
        "serve.page",
        "serve.server",
    },
    "uvicorn": {"serve.server"},
    "prometheus_client": {"serve.records"},
    "safetensors": {"formats.safetensors", "formats.sandbox", "train.run_folder"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """`engines/cache.py` is `engines.cache`, `engines/__init__.py` is `engines`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def imports(path: Path) -> set[str]:
    """What a file imports anywhere, by statements and by `import_module`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= named(node)
        elif isinstance(node, ast.Call) and called(node) == "import_module":
            found |= set(named_later(node.args[0], path))
    return found


def named(node: ast.Import | ast.ImportFrom) -> set[str]:
    """What a statement imports; of `from package import module` the module alone."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    return {
        name if name.removeprefix("open_nsfw_tf.") in MODULES else str(node.module)
        for name in names
    }


def called(node: ast.Call) -> str:
    """The function's name, of `import_module` and `importlib.import_module` alike."""
    return ast.unparse(node.func).rpartition(".")[2]


def named_later(argument: ast.expr, path: Path) -> Iterator[str]:
    """What `import_module` may be asked for: a name, or any member of a folder."""
    own = f"open_nsfw_tf.{module_of(path)}".removesuffix(".")
    if isinstance(argument, ast.Constant):
        yield argument.value
        return
    if own == "open_nsfw_tf":
        return  # the public names: of any room, when one is asked for
    if isinstance(argument, ast.JoinedStr):
        start = ast.unparse(argument).strip("f'\"").split("{")
        folder = "".join(start[:1]) if start[0] else own
    else:
        folder = PARSERS[own]
    yield from (f"open_nsfw_tf.{m}" for m in members(folder.strip(".")))


# Whoever imports modules that only its callers know: what they are members of.
PARSERS = {"open_nsfw_tf.formats.sandbox": "open_nsfw_tf.formats"}


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    prefix = "open_nsfw_tf."
    found = {name.removeprefix(prefix) for name in imports(path) if prefix in name}
    return found & set(MODULES)


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in MODULES if module} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_rooms_import_only_from_above(path: Path) -> None:
    module = module_of(path)
    if not module:
        return  # the package itself names every room and opens none before it is asked
    for imported in own_imports(path):
        if room(imported) != room(module):
            assert ROOMS.index(room(imported)) < ROOMS.index(room(module)), (
                f"{module} imports {imported}"
            )


def at_import(path: Path) -> set[str]:
    """The modules of the package that are imported when the file is."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {name.removeprefix("open_nsfw_tf.") for name in named(node)}
    return found & set(MODULES)


FOLDERS = sorted(m for m, path in MODULES.items() if m and path.stem == "__init__")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_circle_inside_a_folder(folder: str) -> None:
    """Inside a folder imports run one way too, but for members found by their name."""
    inside = members(f"open_nsfw_tf.{folder}")
    graph = {module: at_import(MODULES[module]) & inside for module in inside}
    while graph:
        free = [module for module, needs in graph.items() if not needs & set(graph)]
        assert free, f"a circle of imports: {', '.join(sorted(graph))}"
        for module in free:
            del graph[module]


def members(folder: str) -> set[str]:
    name = folder.removeprefix("open_nsfw_tf.")
    return {m for m in MODULES if m == name or m.startswith(f"{name}.")}


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_owners(library: str) -> None:
    users = {
        module_of(path)
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users == OWNERS[library]
