"""Any number of pictures on any number of machines, by Ray Data.

One task lists the pictures that have no row yet; workers (Ray's actors), each with a
classifier of its own, read, decode and score them; a bad picture is a row with an
error. `ray_tasks` is what runs there. This process writes the rows, some thousands a
Parquet file. A row is done when its file is there: Ray may lose workers, or do a block
twice, and whatever ends the run leaves a table that the next one completes. (Ray Data's
own checkpoint does the same for what its writers wrote; this is exact for rows that
were scored twice, too.)
"""

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from open_nsfw_tf import engines
from open_nsfw_tf.architecture import LABELS, Weights
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.batch.item import Row, columns_of
from open_nsfw_tf.batch.remote import check_remote, is_remote, local_path
from open_nsfw_tf.batch.scoring import DEFAULTS, BatchOptions, RowWriter, Summary
from open_nsfw_tf.batch.sources import check_sources
from open_nsfw_tf.classifier import Classifier, network_source
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import STDIN
from open_nsfw_tf.image import EXACT, YAHOO, check_decode
from open_nsfw_tf.libraries import need
from open_nsfw_tf.tables import DigestMap, digest
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.tables.parquet_folder import PartsWriter
from open_nsfw_tf.weights import load_weights

LOCAL = "local"  # an address: start a Ray on this machine, and end it
PART_ROWS = 1 << 14  # rows of a part at most, nearly
PART_SECONDS = 20.0  # that a row waits at most for others, and that a kill can cost
# Ray cuts work into blocks by their bytes: some 50 to 100 paths, or one picture that
# came out of an archive.
BLOCK_BYTES = 6000
OBJECT_STORE = 1 << 29  # bytes of a local Ray's shared memory; rows and paths are small
# Names of Unix sockets may have 104 bytes, of which Ray's own take 70.
LONGEST_FOLDER = 24
TIMEOUT = 10.0  # seconds, for an address to answer


@dataclass(frozen=True)
class RayCluster:
    """Where Ray runs, and how much of it is used.

    Attributes:
        address: "local" starts a Ray here, without dashboard and usage statistics, in a
            temporary folder that is removed with it. Others are Ray's: "auto",
            "host:port", "ray://host:port". Where this process is connected already,
            that connection is used and stays.
        actors: how many workers, each on one CPU; None: as many as there are CPUs, or
            as the GPUs allow.
        gpus: of each worker; less than 1 to share one.
    """

    address: str = LOCAL
    actors: int | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class Network:
    """What the workers' classifiers are made of: `Classifier` has the same arguments.

    The weights, or the model, are loaded in this process and sent to the workers.
    """

    engine: str = "auto"
    weights: str | os.PathLike[str] | Weights | None = None
    precision: str = "float32"
    device: str | None = None
    model: str | os.PathLike[str] | TrainedModel | None = None
    decode: str = EXACT


def score_on_ray(
    sources: Iterable[str],
    output: str | os.PathLike[str],
    *,
    cluster: RayCluster = RayCluster(),
    network: Network | Callable[[], Classifier] = Network(),
    mode: Mode = "new",
    options: BatchOptions = DEFAULTS,
    progress: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Score pictures into a folder of Parquet files, with `score_batch`'s columns.

    Args:
        sources: as for `score_batch`, but for "-": folders, globs, lists, archives and
            files that all machines can read by the same path; and URIs of files and
            folders, s3://, gs:// and whatever pyarrow knows.
        output: the folder, on this machine.
        cluster: where Ray runs, and with how many workers.
        network: that scores; or a function that makes a worker's classifier, there,
            whose classes are sfw and nsfw.
        mode, options: as for `score_batch`.
        progress: called with numbers of pictures that are done.
        stop: asked now and then; True ends the run.

    Returns:
        What was done.

    Raises:
        FileExistsError: the folder has parts and `mode` is "new".
        OSError: it cannot be written to; a remote storage or Ray does not answer.
        ValueError: a source that does not exist, or more CPUs or GPUs than there are.
        WeightsError: the weights are not found, or not readable.
        RuntimeError: the workers could not start, or failed at something that is no
            picture's fault; the message has the first reason.
        ImportError: the extra `ray` is not installed.
    """
    found = _check_sources(sources, options.select)
    import_ray()
    loaded = _loaded(network) if isinstance(network, Network) else None
    classes = loaded.classes if isinstance(loaded, TrainedModel) else LABELS
    columns = columns_of(classes, options.hashes, options.videos is not None)
    if options.videos is not None:
        need("video", "av")
    if mode == "new":
        with PartsWriter(output, columns, mode):
            pass  # what cannot be written is refused at once, before Ray starts
    # The folder is made only when Ray has answered.
    with (
        connected(cluster) as ray,
        PartsWriter(output, columns, mode) as table,
        _one_line_errors(ray),
    ):
        make_classifier: Callable[[], Classifier]
        if isinstance(network, Network):
            make_classifier = partial(_make_classifier, ray.put(loaded), network)
        else:
            make_classifier = network
        workers = _count_workers(ray, cluster)
        run = _Run(ray, table, workers, progress)
        blocks = run.score(found, options, make_classifier, cluster.gpus)
        return run.collect(blocks, stop)


def _check_sources(sources: Iterable[str], select: str) -> list[str]:
    found = [local_path(os.fspath(source)) for source in sources]
    if STDIN in found:
        raise ValueError("standard input (-) cannot be read by Ray: name a file")
    local = [source for source in found if not is_remote(source)]
    if local or not found:
        check_sources(local, select)
    for source in found:
        if is_remote(source):
            check_remote(source)
    return found


def _loaded(network: Network) -> Weights | TrainedModel:
    """What a network is made of, and that its engine computes: errors are seen here."""
    source = network_source(network.weights, network.model)
    loaded = load_weights(source) if isinstance(source, Path) else source
    engines.choose(network.engine, network.precision, loaded)
    check_decode(
        network.decode,
        loaded.preprocessing if isinstance(loaded, TrainedModel) else YAHOO,
    )
    return loaded


def _make_classifier(reference: Any, network: Network) -> Classifier:
    """The classifier of a worker, in the worker: one thread, as it has one CPU."""
    loaded = import_ray().get(reference)
    name = "model" if isinstance(loaded, TrainedModel) else "weights"
    return Classifier(
        network.engine,
        precision=network.precision,
        threads=1,
        device=network.device,
        workers=1,
        decode=network.decode,
        **{name: loaded},
    )


def _count_workers(ray: Any, cluster: RayCluster) -> int:
    """How many workers there will be.

    Raises:
        ValueError: there is room for none.
    """
    has = ray.cluster_resources()
    room = int(has.get("CPU", 0))
    if cluster.gpus:
        room = min(room, int(has.get("GPU", 0) / cluster.gpus))
    wanted = room if cluster.actors is None else cluster.actors
    if not 1 <= wanted <= room:
        raise ValueError(
            f"expected 1 to {room} actors of one CPU and {cluster.gpus:g} GPUs each, "
            f"got {wanted}: Ray has {has.get('CPU', 0):g} CPUs and "
            f"{has.get('GPU', 0):g} GPUs"
        )
    return wanted


# -- the run


class _Run:
    """Blocks of rows as Ray hands them over, without those that come twice."""

    def __init__(
        self,
        ray: Any,
        table: PartsWriter,
        workers: int,
        progress: Callable[[int], None],
    ) -> None:
        self._ray, self._table, self._workers = ray, table, workers
        self._progress = progress
        self._tasks = import_module("open_nsfw_tf.batch.ray_tasks")
        self._written = DigestMap()  # digests of the paths and frames that have a row
        self.tracker = (
            ray.remote(self._tasks.Tracker)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(workers)
        )

    def score(
        self,
        sources: list[str],
        options: BatchOptions,
        make_classifier: Callable[[], Classifier],
        gpus: float,
    ) -> Iterator[Any]:
        """The rows of all pictures, as they are ready, as Arrow tables.

        Args:
            sources: of pictures, URIs among them.
            options: how they are chosen and scored.
            make_classifier: called once in each worker.
            gpus: of each worker.
        """
        done = self._ray.put(self._table.done)
        # Folders are listed on the machine where the user sees them.
        here = {"ray.io/node-id": self._ray.get_runtime_context().get_node_id()}
        with _data_context(self._ray):
            dataset = self._ray.data.read_datasource(
                self._tasks.Listing(sources, options, done, self.tracker),
                override_num_blocks=1,
                num_cpus=0,
                label_selector=here,
            ).map_batches(
                self._tasks.Scorer,
                fn_constructor_args=(make_classifier, self.tracker, options),
                batch_size=None,  # a block
                batch_format="pyarrow",
                compute=self._ray.data.ActorPoolStrategy(
                    min_size=1, max_size=self._workers, initial_size=self._workers
                ),
                num_cpus=1,
                num_gpus=gpus or None,
            )
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")

    def collect(self, blocks: Iterator[Any], stop: Callable[[], bool]) -> Summary:
        """Write the rows of some seconds at a time, until all are there or `stop`."""
        finished = True
        with RowWriter(self._table, PART_ROWS, PART_SECONDS, self._progress) as writer:
            for block in blocks:
                writer.add(self._new(self._tasks.to_rows(block)))
                if stop():
                    finished = False
                    break
        listed = self._ray.get(self.tracker.listed.remote())
        self._progress(listed.skipped)
        if finished:
            self._table.forget(listed.readable)
            self._table.finish()
        else:
            self._table.drop_stale()
        return writer.summary(
            listed.skipped, listed.passed_over, listed.named, finished
        )

    def _new(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows, but for those that Ray made a second time."""
        for row in rows:
            frame = row.get("frame")
            key = digest(row["path"] if frame is None else f"{row['path']}\0{frame}")
            if key not in self._written:
                self._written[key] = b""
                yield row


@contextmanager
def _data_context(ray: Any) -> Iterator[None]:
    """Ray Data's settings, for a while."""
    context = ray.data.DataContext.get_current()
    settings = {
        "target_max_block_size": BLOCK_BYTES,
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": 0,  # or whole blocks of good pictures would be dropped
    }
    before = {name: getattr(context, name) for name in settings}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


@contextmanager
def _one_line_errors(ray: Any) -> Iterator[None]:
    """Ray's errors, of many lines, become one line: what caused the first of them."""
    try:
        yield
    except ray.exceptions.RayError as error:
        reason: BaseException = error
        while (cause := getattr(reason, "cause", None) or reason.__cause__) is not None:
            reason = cause
        raise RuntimeError(
            f"Ray gave up: {sanitize(one_line(reason))}; the rows that were written "
            "are whole: go on with --resume"
        ) from error


# -- the cluster


def import_ray() -> Any:
    """Ray, with Ray Data.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    need("ray", "ray", "pyarrow")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # or it sends statistics to its makers
    # Or it warns of what its next version will do.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import_module("ray.data")
    return import_module("ray")


@contextmanager
def connected(cluster: RayCluster) -> Iterator[Any]:
    """Ray, connected to a cluster.

    A local Ray has room for the cluster's `actors`, whatever CPUs there are.

    Yields:
        The module ray.

    Raises:
        ImportError: Ray is missing.
        OSError: there is no cluster at this address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    local = cluster.address == LOCAL
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True
    ) as folder:
        if local:
            options |= {
                "include_dashboard": False,
                "num_cpus": max(os.cpu_count() or 1, cluster.actors or 0),
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": folder,
            }
        try:
            _try_port(cluster.address)
            ray.init(cluster.address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            advice = "" if local else "; --ray alone starts one here"
            raise ConnectionError(
                f"no Ray at {sanitize(cluster.address)} ({one_line(error)}){advice}"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _try_port(address: str) -> None:
    """Connect once, or Ray would wait for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal() and host:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    shared = Path("/tmp")
    return str(shared) if len(folder) > LONGEST_FOLDER and shared.is_dir() else folder
