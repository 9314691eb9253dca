"""Time of the preprocessing inside an ONNX file, beside that of Pillow.

``python -m benchmarks.onnx_picture`` prints milliseconds a picture, of one thread: the
medians of turns, in which both take the same picture one after the other.
"""

import time

import numpy as np
from PIL import Image

from open_nsfw_tf import load_weights
from open_nsfw_tf.export.onnx import preprocessing_only
from open_nsfw_tf.formats.onnx_graph import graph
from open_nsfw_tf.formats.onnx_picture import IMAGE, with_picture
from open_nsfw_tf.image import YAHOO, tensor
from open_nsfw_tf.libraries import import_onnxruntime

SIZES = ((640, 480), (1633, 1225), (4000, 3000))  # .3, 2 and 12 megapixels
TURNS = 15


def main() -> None:
    """Print a row for each size."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    network = graph(load_weights(None), "nchw")
    model = preprocessing_only(with_picture(network, YAHOO)).SerializeToString()
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )
    print("| picture | Pillow | ONNX | ratio |\n|---|---|---|---|")
    for width, height in SIZES:
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        picture, batch = Image.fromarray(noise), noise[np.newaxis]
        turns = []
        for _ in range(TURNS):
            begin = time.process_time()
            tensor(picture)
            middle = time.process_time()
            session.run(None, {IMAGE: batch})
            turns.append((middle - begin, time.process_time() - middle))
        pillow, inside = 1e3 * np.median(turns, axis=0)
        ratio = inside / pillow
        print(f"| {width} x {height} | {pillow:.1f} | {inside:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
