"""The page that scores pictures in the browser: its files, and its model.

The folder `static` has our own modules and the page itself; `static/vendor` has what is
shipped of others: ONNX Runtime and the codecs, as WebAssembly. Git does not have those:
`web/vendor.js` puts them there, and the wheel carries them.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf import __version__
from open_nsfw_tf.architecture import LABELS, Weights
from open_nsfw_tf.image import YAHOO

STATIC = Path(__file__).parent / "static"
VENDOR = "vendor"
LIST = f"{VENDOR}/vendor.json"
RUNTIME = f"{VENDOR}/ort-wasm-simd-threaded.wasm"
MODEL, MODEL_FACTS = "model.onnx", "model.json"
SERVICE_WORKER, PRECACHE = "service-worker.js", "precache.js"
PAGE = "index.html"
# For those who use the module without the page; browsers never ask for them.
FOR_PEOPLE = ("README.md", "package.json", "open-nsfw.d.ts")
# What the page may do: nothing but load its own files and show pictures of its own.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'"
)
# With these a browser lets a page compute in several threads.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def check_installed() -> None:
    """Refuse to go on without the files of others, and say how to get them.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: one is not the file that it should be.
    """
    if not (STATIC / LIST).is_file():
        raise FileNotFoundError(
            "the page needs ONNX Runtime and codecs for browsers, which a checkout of "
            "the source does not have: run `node web/vendor.js` in it (with Node.js), "
            "or install the wheel"
        )
    listed = json.loads((STATIC / LIST).read_text(encoding="utf-8"))["files"]
    for name, entry in listed.items():
        path = STATIC / VENDOR / name
        if not path.is_file() or _sha256(path.read_bytes()) != entry["sha256"]:
            raise ValueError(
                f"{VENDOR}/{name}: expected the file with the SHA-256 "
                f"{entry['sha256']}, which the page needs; run "
                "`node web/vendor.js` in the source, or install the wheel again"
            )


def model(weights: Weights, calibration: np.ndarray | None = None) -> bytes:
    """The network with the preprocessing of pictures in front, as ONNX.

    Args:
        weights: the canonical dict, of two classes.
        calibration: a batch to calibrate int8 with, as `quantize` takes it; None:
            float32, which is exact.

    Returns:
        A serialized model with the input of `with_picture`, and the outputs
        ``predictions``; ``cells`` and ``biases``, as of `Writer.cells`; and ``input``,
        float32 (1, 3, 224, 224), which is what Caffe's blob `data` holds.
    """
    from open_nsfw_tf.formats import onnx_graph
    from open_nsfw_tf.formats.onnx_picture import with_picture

    if calibration is None:
        network = onnx_graph.graph(weights, "nchw", lean=True, cells=True)
    else:
        from open_nsfw_tf.quantize import qdq, quantize

        network = qdq.graph(quantize(weights, calibration), "nchw", LABELS, cells=True)
    network.graph.output.append(network.graph.input[0])
    made: bytes = with_picture(network, YAHOO).SerializeToString(deterministic=True)
    return made


@dataclass(frozen=True)
class Site:
    """All files of the page.

    Attributes:
        make_model: gives the model's file, when it is first needed.
        precision: of the model: "float32", which is exact, or "int8".
        server: whether the page may send pictures to the server that it came from, if
            its user wants that.
    """

    make_model: Callable[[], bytes]
    precision: str = "float32"
    server: bool = False

    @cached_property
    def _static(self) -> list[str]:
        return [
            path.relative_to(STATIC).as_posix()
            for path in sorted(STATIC.rglob("*"))
            if path.is_file()
        ]

    @property
    def names(self) -> list[str]:
        """The paths of all files below the page."""
        return [*self._static, MODEL, MODEL_FACTS, PRECACHE]

    @cached_property
    def sums(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: _sha256(each) for name, each in self.files.items()}

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The content of each file, by its path below the page.

        All are kept in memory, so that they belong together and to their sums even
        if the package is replaced meanwhile.
        """
        check_installed()
        found = {name: (STATIC / name).read_bytes() for name in self._static}
        found[MODEL] = made = self.make_model()
        found[MODEL_FACTS] = _json(self._model_facts(made, found[RUNTIME]))
        found["package.json"] = _json(
            json.loads(found["package.json"]) | {"version": __version__}
        )
        found[PRECACHE] = _precache(found)
        return found

    def _model_facts(self, made: bytes, runtime: bytes) -> dict[str, Any]:
        """What the module must know of the model, and of the runtime."""
        return {
            "file": MODEL,
            "bytes": len(made),
            "sha256": _sha256(made),
            "runtime_bytes": len(runtime),
            "runtime_sha256": _sha256(runtime),
            "precision": self.precision,
            "exact": self.precision == "float32",
            "version": __version__,
            "server": self.server,
        }

    def write(self, folder: Path) -> None:
        """Write all files into a folder, which is made."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _precache(files: dict[str, bytes]) -> bytes:
    """A script for the service worker: the SHA-256 of each file that it keeps."""
    sums = {
        name: _sha256(content)
        for name, content in files.items()
        if name not in (*FOR_PEOPLE, SERVICE_WORKER)
        and not name.startswith(f"{VENDOR}/licence-")
    }
    version = _sha256(json.dumps(sums).encode())[:16]
    return b"self.PRECACHE = " + _json({"version": version, "files": sums})


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
