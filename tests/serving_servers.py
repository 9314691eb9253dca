"""Real servers, of the tests' own, that serve a SavedModel as TF Serving does.

What they accept and answer is TF Serving's: prediction_service.proto for gRPC; for REST
``:predict`` with "instances", one a row, as its json_tensor.cc reads them.
"""

import base64
import binascii
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

NAME = "open_nsfw"  # the model's, as by MODEL_NAME
DEFAULT = "serving_default"
SCRIPTS = Path(sys.executable).parent


def run(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with the installed scripts on its path and no proxy."""
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "no_proxy": "127.0.0.1,localhost"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
        **options,
    )
    assert "Traceback" not in done.stderr
    return done


class BadRequest(ValueError):
    """What is wrong with a request."""


class Served:
    """A SavedModel, and `predict` as both interfaces have it."""

    def __init__(self, path: Path) -> None:
        from open_nsfw_tf.libraries import import_tensorflow

        self.tf = import_tensorflow()
        self.signatures = self.tf.saved_model.load(str(path)).signatures

    def predict(self, name: str, inputs: dict[str, Any]) -> np.ndarray:
        """The answer of a signature: float32 (N, 2)."""
        expected = self.spec(name)
        if set(inputs) != {"inputs"}:
            raise BadRequest(f"expected the input 'inputs', got {sorted(inputs)}")
        given = self.tf.constant(inputs["inputs"])
        if given.dtype != expected.dtype or not expected.shape.is_compatible_with(
            given.shape
        ):
            raise BadRequest(f"expected {expected}, got {given.dtype} {given.shape}")
        try:
            return np.asarray(self.signatures[name or DEFAULT](given)["outputs"])
        except self.tf.errors.OpError as error:
            raise BadRequest(error.message) from error

    def spec(self, name: str) -> Any:
        """The dtype and the shape of a signature's input."""
        if (name or DEFAULT) not in self.signatures:
            raise BadRequest(f'Serving signature key "{name}" not found.')
        return self.signatures[name or DEFAULT].structured_input_signature[1]["inputs"]


# -- REST


def _rows(served: Served, body: bytes) -> list[list[float]]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise BadRequest("JSON Value: Is not object")
    if not isinstance(document.get("instances"), list) or not document["instances"]:
        raise BadRequest("Missing 'instances', a list of one or more")
    name = document.get("signature_name", "")
    values = [_value(value) for value in document["instances"]]
    dtype = np.float32 if served.spec(name).dtype == served.tf.float32 else object
    try:
        return served.predict(name, {"inputs": np.array(values, dtype)}).tolist()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"Failed to process 'instances': {error}") from error


def _value(value: Any) -> Any:
    """A row: a string, ``{"b64": ...}``, or nested numbers."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict):
        return value
    if list(value) == ["inputs"]:  # by the input's name, too
        return _value(value["inputs"])
    if list(value) != ["b64"] or not isinstance(value["b64"], str):
        raise BadRequest('expected {"b64": ...} alone')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise BadRequest("Unable to base64 decode") from error


@contextmanager
def rest_server(served: Served) -> Iterator[str]:
    """Serve on a free port; gives the model's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path not in (f"{root}:predict", f"{root}/versions/1:predict"):
                self.answer(404, {"error": f"Malformed request: POST {self.path}"})
                return
            try:
                self.answer(200, {"predictions": _rows(served, body)})
            except BadRequest as error:
                self.answer(400, {"error": str(error)})

        def answer(self, status: int, document: Any) -> None:
            data = json.dumps(document, indent=4).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests' output stays readable."""

    root = f"/v1/models/{NAME}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{root}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- gRPC


@contextmanager
def grpc_server(served: Served) -> Iterator[str]:
    """Serve PredictionService on a free port; gives HOST:PORT."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            spec = request.model_spec
            if spec.name != NAME:
                missing = f"Servable not found for request: Latest({spec.name})"
                context.abort(grpc.StatusCode.NOT_FOUND, missing)
            try:
                given = {
                    key: served.tf.make_ndarray(value)
                    for key, value in request.inputs.items()
                }
                scores = served.predict(spec.signature_name, given)
            except BadRequest as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            answer = predict_pb2.PredictResponse(model_spec=spec)
            answer.outputs["outputs"].CopyFrom(served.tf.make_tensor_proto(scores))
            return answer

    limit = [("grpc.max_receive_message_length", -1)]  # as TF Serving: none
    server = grpc.server(ThreadPoolExecutor(2), options=limit)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Service(), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
