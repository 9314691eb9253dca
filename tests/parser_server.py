"""Parses files in forked children of a process that is small, and stays so.

    python parser_server.py SECONDS

reads a JSON list a line, of a parser's module, its name, a file for the answer and the
paths to parse, and prints 0, or the status that the child ended with. The tests' own
process holds gigabytes by then, of which each fork would copy the tables. A child
parses one file after the other until one ends it, or it has worked for SHARE. It may
read ahead: the next line is sent after the answer to the one before.
"""

import gc
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

import h5py  # noqa: F401 - not in every child anew
import onnx  # noqa: F401
from google.protobuf import message_factory  # noqa: F401
from safetensors import numpy  # noqa: F401

from open_nsfw_tf.formats import caffemodel, sandbox

SHARE = 0.2  # seconds of the processor, after which the next file gets another child
NO_MORE = 3  # how a child ends when no line is left


def parse(module: str, name: str, answer: str, *paths: str) -> None:
    parser = getattr(import_module(module), name)
    packed = sandbox.packed_answer(parser, tuple(map(Path, paths)))
    Path(answer).write_bytes(packed)


def parse_some() -> int:
    while time.process_time() < SHARE:
        line = sys.stdin.readline()
        if not line:
            return NO_MORE
        parse(*json.loads(line))
        print(0, flush=True)
    return 0


def status_of_child() -> int:
    child = os.fork()
    if not child:
        try:
            os._exit(parse_some())
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    gc.freeze()  # or collecting would copy pages that the children share
    caffemodel._message("Net")
    sandbox.TIMEOUT = float(sys.argv[1])
    while (status := status_of_child()) != NO_MORE << 8:
        if status:
            print(status, flush=True)
