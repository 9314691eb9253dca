"""Write every backbone's operations, as Keras builds it, into the package.

`open_nsfw_tf.backbones.graph_ops` reads them. Run it after a change of a backbone.
"""

from open_nsfw_tf.backbones import BACKBONES, build
from open_nsfw_tf.backbones.graph_ops import GRAPHS, body_text


def main() -> None:
    """Write a file for each backbone."""
    GRAPHS.mkdir(exist_ok=True)
    for name in BACKBONES:
        text = body_text(build(name, 2, init="random", seed=0))
        (GRAPHS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
