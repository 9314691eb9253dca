"""An export with the input "picture": time of its preprocessing, drift of its scores.

``python -m benchmarks.onnx_picture`` prints milliseconds a picture beside Pillow's, of
one thread: the medians of turns, in which both take the same picture one after the
other. ``python -m benchmarks.onnx_picture --photographs FOLDER EXPORT...`` prints
how far the scores of exported files are from the exact ones.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photos import readable
from open_nsfw_tf import Classifier, load_weights
from open_nsfw_tf.export.onnx import preprocessing_only
from open_nsfw_tf.formats.onnx_graph import OUTPUT, graph
from open_nsfw_tf.formats.onnx_picture import IMAGE, with_picture
from open_nsfw_tf.image import YAHOO, load_rgb, tensor
from open_nsfw_tf.libraries import open_session

SIZES = ((640, 480), (1633, 1225), (4000, 3000))  # .3, 2 and 12 megapixels
TURNS = 15


def times() -> None:
    """Print a row for each size."""
    network = graph(load_weights(None), "nchw")
    model = preprocessing_only(with_picture(network, YAHOO)).SerializeToString()
    session = open_session(model, threads=1)
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


def drift(photographs: list[Path], exports: list[Path]) -> None:
    """Print a row for each export."""
    pictures = [load_rgb(path) for path in photographs]
    classifier = Classifier()
    exact = np.array(
        [classifier.predict(tensor(one)[np.newaxis])[0, 1] for one in pictures]
    )
    print("| file | MB | largest, mean change of a score |\n|---|---|---|")
    for path in exports:
        session = open_session(path.read_bytes())
        batches = (np.asarray(one)[np.newaxis] for one in pictures)
        scores = [session.run([OUTPUT], {IMAGE: one})[0][0, 1] for one in batches]
        change = np.abs(np.array(scores) - exact)
        size = path.stat().st_size / 1e6
        print(f"| {path.name} | {size:.1f} | {change.max():.2g}, {change.mean():.2g} |")


def main() -> None:
    """Print the times, or the drift of files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="a folder")
    parser.add_argument("exports", type=Path, nargs="*", help="files, for the drift")
    arguments = parser.parse_args()
    if bool(arguments.photographs) != bool(arguments.exports):
        parser.error("the drift needs both --photographs and exported files")
    if arguments.photographs:
        drift(readable(arguments.photographs, 1000), arguments.exports)
    else:
        times()


if __name__ == "__main__":
    main()
