"""The two networks of nsfwjs that are ours: what is published, and fetching it.

They were trained for the tutorial's five classes, drawings among them. Upstream has them
as TensorFlow.js layers models; the npm package has the same data inside scripts, which are
not run. Every file is verified by git's name of its content.
"""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.formats.tfjs import MODEL, SCRIPT, LayersModel
from open_nsfw_tf.weights import MAX_BYTES, TIMEOUT, Published, download

CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")  # in the networks' order
LICENCE = "MIT, Copyright (c) 2019 Infinite Red, Inc."
SOURCE = "infinitered/nsfwjs"
COMMIT = "d55a54c51f14380670064cc129b2ea51029c5e46"
UPSTREAM = f"https://raw.githubusercontent.com/{SOURCE}/{COMMIT}/models"
# Its sha512 is the one that npm publishes:
# WTKDte0vp1X97N1h34P79G/hG+sVT3+TnDz9di1WseIJR93v11E4viNX7Vg9WsO6HYoR772Nzq2iM8jo3XBZ+g==
PACKAGE = Published(
    title="nsfwjs 4.3.0, the npm package",
    file="nsfwjs-4.3.0.tgz",
    url="https://registry.npmjs.org/nsfwjs/-/nsfwjs-4.3.0.tgz",
    sha256="4496790efc9bdc6f3e85a826a8e482c1fa1e9db4b3d18c095e98cc0c73cfb12f",
    licence=LICENCE,
)
PACKED = "package/dist/models"  # the folder of the networks in it


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
                    f"{sanitize(file, 80)}: expected that of {name}, as its other files "
                    f"are: git blob {wanted[0]}, got {blob}: fetch it with `open-nsfw "
                    f"weights fetch {name}`"
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
    """Download the files of a network: from upstream, or else in the npm package.

    Args:
        name: a key of `NETWORKS`.
        folder: where to put them; it exists.
        url: of a mirror: of the folder of the network, or of the package, a .tgz.
        timeout: seconds without an answer before giving up.

    Raises:
        WeightsError: neither can be had; the message has both reasons.
    """
    network, target = NETWORKS[name], Path(folder)
    if url is not None:
        if url.endswith(".tgz"):
            _fetch_package(network, target, url, timeout)
        else:
            _fetch_files(network, target, url.rstrip("/"), timeout)
        return
    try:
        _fetch_files(network, target, f"{UPSTREAM}/{network.folder}", timeout)
    except WeightsError as first:
        try:
            _fetch_package(network, target, None, timeout)
        except WeightsError as second:
            raise WeightsError(f"{first}; {second}") from second


def _fetch_files(network: Network, folder: Path, url: str, timeout: float) -> None:
    files = {MODEL: network.model[0], **network.git_blobs}
    for number, (file, blob) in enumerate(files.items(), 1):
        title = f"{network.folder}/{file}, file {number} of {len(files)}"
        copy = Published(title, file, f"{url}/{file}", git_blob=blob, licence=LICENCE)
        download(copy, folder / file, timeout=timeout)


def _fetch_package(
    network: Network, folder: Path, url: str | None, timeout: float
) -> None:
    """Take the network's scripts out of the package; nothing else is unpacked."""
    packed = folder / PACKAGE.file
    download(PACKAGE, packed, url, timeout)
    for model in (folder / MODEL, *(folder / name for name in network.git_blobs)):
        model.unlink(missing_ok=True)  # of a download that was cut
    names = [MODEL.replace(".json", SCRIPT), *(n + SCRIPT for n in network.git_blobs)]
    with tarfile.open(packed) as archive:
        for name in names:
            member = archive.extractfile(f"{PACKED}/{network.folder}/{name}")
            if member is None:
                raise WeightsError(f"{PACKAGE.file}: {name} is not in it")
            (folder / name).write_bytes(member.read(MAX_BYTES))
    packed.unlink()
