"""Ask a running TF Serving for scores; docs/tf-serving.md has a line that starts one.

`open-nsfw serve` answers --rest as well (docs/serve.md).

python examples/serving_client.py --rest http://127.0.0.1:8501/v1/models/open_nsfw *.jpg
python examples/serving_client.py --grpc 127.0.0.1:8500 *.jpg
"""

import argparse
import json
import sys
from collections.abc import Callable
from http.client import HTTPException
from importlib.util import find_spec
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.export import predict_request
from open_nsfw_tf.image import describe, read_file
from open_nsfw_tf.libraries import import_tensorflow

SIGNATURE = "predict_bytes"  # takes picture files; answers (N, 2), columns SFW, NSFW

Ask = Callable[[str], float]  # from the path of a picture to its NSFW score, 0..1


class Refused(ValueError):
    """The server answers, but not with a score for this picture."""


def ask_by_rest(url: str, timeout: float) -> Ask:
    """Ask the REST interface.

    Args:
        url: of the model, such as ``http://127.0.0.1:8501/v1/models/open_nsfw``.
        timeout: seconds.

    Raises:
        ValueError: the URL is none of HTTP. Asking raises `Refused`, `ImageError`, or
            OSError where nothing answers.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected http://HOST:PORT/v1/models/NAME, got {url!r}")

    def ask(path: str) -> float:
        body = predict_request(path, input_type="bytes").encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"{url.rstrip('/')}:predict", body, headers)
        try:
            with urlopen(request, timeout=timeout) as answer:
                return float(_json(answer)["predictions"][0][1])
        except HTTPError as error:
            with error:
                reason = _json(error).get("error", error.reason)
            raise Refused(f"{error.code}: {reason}") from error
        except (LookupError, TypeError) as error:
            raise Refused('expected {"predictions": [[SFW, NSFW]]}') from error

    return ask


def _json(answer: Any) -> Any:
    try:
        return json.load(answer)
    except ValueError as error:
        raise Refused(
            f"{answer.status} without JSON: is {answer.url} TF Serving?"
        ) from error


def ask_by_grpc(address: str, model: str, timeout: float) -> Ask:
    """Ask the gRPC interface, through the stubs of tensorflow-serving-api.

    Args:
        address: ``HOST:PORT``, without encryption.
        model: its name, TF Serving's MODEL_NAME.
        timeout: seconds.

    Raises:
        ImportError: the extra `serving` is not installed. Asking raises as by REST.
    """
    if find_spec("tensorflow_serving") is None:
        raise ImportError("--grpc needs: pip install 'open_nsfw_tf[serving]'")
    tf = import_tensorflow()
    import grpc
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )

    service = PredictionServiceStub(grpc.insecure_channel(address))
    nobody = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

    def ask(path: str) -> float:
        request = PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = SIGNATURE
        request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([read_file(path)]))
        try:
            answer = service.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            kind = ConnectionError if error.code() in nobody else Refused
            raise kind(f"{error.code().name}: {error.details()}") from error
        return float(tf.make_ndarray(answer.outputs["outputs"])[0, 1])

    return ask


def main() -> None:
    """Print a score, or the reason why there is none, for each picture."""
    parser = argparse.ArgumentParser(description="NSFW scores from a TF Serving.")
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--rest", metavar="URL", help="http://HOST:PORT/v1/models/NAME")
    server.add_argument("--grpc", metavar="HOST:PORT")
    parser.add_argument("--model", default="open_nsfw", help="its name, for --grpc")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    args = parser.parse_args()
    try:
        if args.rest:
            ask = ask_by_rest(args.rest, args.timeout)
        else:
            ask = ask_by_grpc(args.grpc, args.model, args.timeout)
        sys.exit(_print_scores(ask, args.pictures))
    except (ImportError, OSError, HTTPException, ValueError) as error:
        sys.exit(f"error: no answer from {args.rest or args.grpc}: {_one_line(error)}")


def _print_scores(ask: Ask, pictures: list[str]) -> int:
    failed = 0
    for path in pictures:
        try:
            print(f"{ask(path):.7f} {describe(path)}", flush=True)
        except ImageError as error:
            failed = 1
            print(f"no score: {_one_line(error)}", flush=True)
        except Refused as error:
            failed = 1
            print(f"no score: {describe(path)}: {_one_line(error)}", flush=True)
    return failed


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
