"""Load a SavedModel as TF Serving does: by TensorFlow's C++ loader, without Python's.

python tests/c_loader.py FOLDER INPUT OUTPUT FILE...

Prints "loaded", then for each file the two numbers that the C++ session gives for a
batch of its bytes; INPUT and OUTPUT are tensors, such as `predict_bytes_inputs:0`. An
error of the loader or of the session is one line on standard error, and exit status 1.
A process of its own: one process cannot hold two copies of TensorFlow's kernels.
"""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STRING = 7  # TF_STRING
STRING_SIZE = 24  # bytes, sizeof(TF_TString)
ROW = 2  # float32 values in an answer: SFW, NSFW

CDLL = ctypes.CDLL
POINTER = ctypes.c_void_p
# Functions whose result is not an int; every argument is passed with its own type.
RESULTS = {
    "TF_NewStatus": POINTER,
    "TF_Message": ctypes.c_char_p,
    "TF_NewGraph": POINTER,
    "TF_NewSessionOptions": POINTER,
    "TF_LoadSessionFromSavedModel": POINTER,
    "TF_GraphOperationByName": POINTER,
    "TF_AllocateTensor": POINTER,
    "TF_TensorData": POINTER,
}


class Output(ctypes.Structure):
    """TF_Output: one result of an operation."""

    _fields_ = [("operation", POINTER), ("index", ctypes.c_int)]


class Library:
    """TensorFlow's C API: `call` gives a function, `check` raises its last error."""

    def __init__(self) -> None:
        spec = find_spec("tensorflow")  # its place alone: Python's half stays out
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        self.parts = [CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in names]
        self.status = POINTER(self.call("TF_NewStatus"))

    def call(self, name: str, *arguments: Any) -> Any:
        part = next(part for part in self.parts if hasattr(part, name))
        function = getattr(part, name)
        function.restype = RESULTS.get(name, ctypes.c_int)
        return function(*arguments)

    def check(self) -> None:
        if self.call("TF_GetCode", self.status):
            raise RuntimeError(self.call("TF_Message", self.status).decode())


def load(library: Library, folder: str) -> tuple[Any, Any]:
    """The session and the graph of the SavedModel with the tag `serve`."""
    graph = POINTER(library.call("TF_NewGraph"))
    options = POINTER(library.call("TF_NewSessionOptions"))
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = library.call(
        "TF_LoadSessionFromSavedModel",
        *(options, None, folder.encode(), tags, 1, graph, None, library.status),
    )
    library.check()
    return POINTER(session), graph


def output(library: Library, graph: Any, tensor: str) -> Output:
    name, index = tensor.split(":")
    operation = library.call("TF_GraphOperationByName", graph, name.encode())
    if not operation:
        raise RuntimeError(f"no operation {name}")
    return Output(operation, int(index))


def string_tensor(library: Library, data: bytes) -> Any:
    """A tensor (1,) that holds the bytes."""
    shape = (ctypes.c_int64 * 1)(1)
    size = ctypes.c_size_t(STRING_SIZE)
    tensor = POINTER(library.call("TF_AllocateTensor", STRING, shape, 1, size))
    place = POINTER(library.call("TF_TensorData", tensor))
    library.call("TF_StringInit", place)
    library.call("TF_StringCopy", place, data, ctypes.c_size_t(len(data)))
    return tensor


def run(library: Library, loaded: Any, names: list[str], data: bytes) -> list[float]:
    session, graph = loaded
    source, target = (output(library, graph, name) for name in names)
    given = (POINTER * 1)(string_tensor(library, data))
    found = (POINTER * 1)()
    library.call(
        "TF_SessionRun",
        *(session, None, ctypes.byref(source), given, 1),
        *(ctypes.byref(target), found, 1, None, 0, None, library.status),
    )
    library.check()
    values = POINTER(library.call("TF_TensorData", POINTER(found[0])))
    return list(ctypes.cast(values, ctypes.POINTER(ctypes.c_float))[:ROW])


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder, source, target, *files = sys.argv[1:]
    library = Library()
    try:
        loaded = load(library, folder)
        print("loaded", flush=True)
        for file in files:
            row = run(library, loaded, [source, target], Path(file).read_bytes())
            print(*row, flush=True)
    except RuntimeError as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
