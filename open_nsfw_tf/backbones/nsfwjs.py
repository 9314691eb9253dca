"""The two networks of nsfwjs that are ours: what is published, and fetching it.

They were trained for the tutorial's five classes, drawings among them. Upstream has
them as TensorFlow.js layers models. Every file is verified by git's hash of it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.formats.tfjs import MODEL, SCRIPT, LayersModel
from open_nsfw_tf.weights import TIMEOUT, Published, download

CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")  # in the networks' order
LICENCE = "MIT, Copyright (c) 2019 Infinite Red, Inc."
SOURCE = "infinitered/nsfwjs"
COMMIT = "d55a54c51f14380670064cc129b2ea51029c5e46"
UPSTREAM = f"https://raw.githubusercontent.com/{SOURCE}/{COMMIT}/models"
# Of npm: it has the same data inside scripts, which are not run.
PACKAGE = "nsfwjs@4.3.0"


@dataclass(frozen=True)
class Network:
    """A network of nsfwjs.

    Attributes:
        title: for people.
        folder: upstream's name of it.
        model: git's names of ``model.json`` and of the package's ``model.min.js``.
        shards: git's names of its shards, in order.
    """

    title: str
    folder: str
    model: tuple[str, str]
    shards: tuple[str, ...]

    @property
    def git_blobs(self) -> dict[str, str]:
        """Git's names of the shards, by their names."""
        of = len(self.shards)
        return {f"group1-shard{n}of{of}": b for n, b in enumerate(self.shards, 1)}


NETWORKS = {
    "nsfwjs-inception": Network(
        "nsfwjs's Inception v3, five classes",
        "inception_v3",
        (
            "8b24b119bc9a956a20eaf6c72018d3767d93253d",
            "f64f2804a4aab9cf330f018dd18ae6d3300036bf",
        ),
        (
            "b91a8fad3cf4ec6d5e402f51ddcd11afabea5222",
            "357cc216710042ecf5c7c152acc5e87b95337e4e",
            "27b144f069f8228ef51745b49086b3618460610e",
            "1a9846bf9960509813dd2e9a95db877feed5c2e3",
            "c8a9f74019493ed51785c887775b0bc232900780",
            "0d4556f109829c4fcf20c9b37b2db1c4b874de54",
        ),
    ),
    "nsfwjs-mobilenet": Network(
        "nsfwjs's MobileNetV2, five classes",
        "mobilenet_v2",
        (
            "d68082e4e7cb1d6bdfc1a89f6ca1e098f44078f0",
            "26e5ac2d3735241b0f882aa55654c3455ee55fb9",
        ),
        ("4727ef7ce1f7fe61e00c6fc1c67548419c35a826",),
    ),
}


def origin_of(model: LayersModel) -> dict[str, str]:
    """Where a layers model comes from, with the checksums of its files.

    Raises:
        WeightsError: some of its files are a network of nsfwjs's, and others are not.
    """
    checksums = {f"git blob of {name}": blob for name, blob in model.git_blobs.items()}
    for name, network in NETWORKS.items():
        known = {*network.model, *network.shards}
        if not known & {*model.git_blobs.values()}:
            continue
        for file, blob in model.git_blobs.items():
            wanted = network.model
            if file not in (MODEL, MODEL.replace(".json", SCRIPT)):
                wanted = (network.git_blobs.get(file, "no such file"),) * 2
            if blob not in wanted:
                raise WeightsError(
                    f"{sanitize(file, 80)}: expected that of {name}, as its other "
                    f"files are: git blob {wanted[0]}, got {blob}: fetch it with "
                    f"`open-nsfw weights fetch {name}`"
                )
        source = f"{SOURCE}, models/{network.folder}"
        return {"source": source, "licence": LICENCE, **checksums}
    return {"source": "a TensorFlow.js layers model", **checksums}


def fetch(
    name: str,
    folder: str | os.PathLike[str],
    url: str | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Download the files of a network.

    Args:
        name: a key of `NETWORKS`.
        folder: where to put them; it exists.
        url: of a mirror of the network's folder; None: upstream.
        timeout: seconds without an answer before giving up.

    Raises:
        WeightsError: a file cannot be had, or is damaged.
    """
    network = NETWORKS[name]
    url = (url or f"{UPSTREAM}/{network.folder}").rstrip("/")
    files = {MODEL: network.model[0], **network.git_blobs}
    try:
        for number, (file, blob) in enumerate(files.items(), 1):
            title = f"{network.folder}/{file}, file {number} of {len(files)}"
            copy = Published(
                title, file, f"{url}/{file}", git_blob=blob, licence=LICENCE
            )
            download(copy, Path(folder) / file, timeout=timeout)
    except WeightsError as error:
        raise WeightsError(
            f"{error}; the npm package has the network too: `npm pack {PACKAGE}`, "
            "unpack it, and `open-nsfw convert "
            f"package/dist/models/{network.folder} RUN`"
        ) from error
