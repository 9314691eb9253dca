"""Score every picture named on the command line, in any number, with flat memory.

python examples/classify_pictures.py photo.jpg another.png
"""

import sys

from open_nsfw_tf import Classifier, ImageError


def main() -> None:
    """Print a score, or the reason why there is none, for each picture."""
    paths = sys.argv[1:]
    results = Classifier().classify_many(paths, errors="yield")
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, ImageError):
            print(f"no score: {result}")
        else:
            print(f"{result.nsfw:.4f} {path}")


if __name__ == "__main__":
    main()
