"""Parses files in forked children of a process that is small, and stays so.

    python parser_server.py SECONDS

reads a JSON list a line, of a parser's module, its name, a file for the answer and the
paths to parse, and prints the status that the child ended with. The tests' own process
holds gigabytes by then, of which each fork would copy the tables.
"""

import gc
import json
import os
import sys
from importlib import import_module
from pathlib import Path

import h5py  # noqa: F401 - not in every child anew
import onnx  # noqa: F401
from google.protobuf import message_factory  # noqa: F401
from safetensors import numpy  # noqa: F401

from open_nsfw_tf.formats import caffemodel, sandbox


def status_of_child(module: str, name: str, answer: str, *paths: str) -> int:
    parser = getattr(import_module(module), name)
    child = os.fork()
    if not child:
        try:
            packed = sandbox.packed_answer(parser, tuple(map(Path, paths)))
            Path(answer).write_bytes(packed)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    gc.freeze()  # or collecting would copy pages that the children share
    caffemodel._message("Net")
    sandbox.TIMEOUT = float(sys.argv[1])
    for line in sys.stdin:
        print(status_of_child(*json.loads(line)), flush=True)
