"""Any number of pictures on any number of machines, by Ray Data.

One task lists the pictures that have no row yet; workers (Ray's actors), each with a
classifier of its own, read, decode and score them, a bad picture being a row with an
error; this process writes the rows, some thousands a Parquet file. A row is done when
its file is there: Ray may lose workers, or do a block twice, and whatever ends the run
leaves a table that the next one goes on with. (Ray Data's own checkpoint does the same
for what its writers wrote; ours is exact for rows that were scored twice, too.)
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from open_nsfw_tf import engines
from open_nsfw_tf.architecture import LABELS, Weights
from open_nsfw_tf.batch import Summary, columns_of, counted
from open_nsfw_tf.batch.sources import STDIN, check_sources
from open_nsfw_tf.classifier import Classifier, network_source
from open_nsfw_tf.distributed.cluster import LOCAL, connected, import_ray
from open_nsfw_tf.distributed.remote import check_remote, is_remote, local_path
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.tables import digest
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.tables.parquet_folder import PartsWriter
from open_nsfw_tf.trained import TrainedModel
from open_nsfw_tf.weights import load_weights

PART_ROWS = 1 << 14  # rows of a part at most, nearly
PART_SECONDS = 20.0  # that a row waits at most for others, and a kill can cost
# Ray cuts work into blocks by their bytes: some 50 to 100 paths, or one picture that
# came out of an archive.
BLOCK_BYTES = 6000


def score_with_ray(
    sources: Iterable[str],
    output: str | os.PathLike[str],
    *,
    address: str = LOCAL,
    actors: int | None = None,
    gpus: float = 0.0,
    engine: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    precision: str = "float32",
    device: str | None = None,
    model: str | os.PathLike[str] | TrainedModel | None = None,
    mode: Mode = "new",
    hashes: bool = False,
    select: str = "either",
    make_classifier: Callable[[], Classifier] | None = None,
    progress: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Score pictures into a folder of Parquet files, with `score_batch`'s columns.

    With a `model` its classes are the columns in the middle. Remote pictures have no
    size and mtime_ns: a row is a row.

    Args:
        sources: as for `open_nsfw_tf.batch.score_batch`, but for "-": folders, globs,
            lists, archives and files that all machines can read by the same path; and
            URIs of files and folders, s3://, gs:// and whatever pyarrow knows.
        output: the folder, on this machine.
        address: of a Ray cluster; see `cluster.connected`. "local" starts one here.
        actors: how many workers, each on one CPU; None: as many as there are CPUs, or
            as the GPUs allow.
        gpus: of each worker; less than 1 to share one.
        engine, weights, precision, device, model: as for `Classifier`. The weights, or
            the model, are loaded here and sent to the workers.
        mode: "new" refuses a folder with parts, "overwrite" begins anew, "resume" skips
            what has a row in it: see `open_nsfw_tf.batch.is_done`.
        hashes: whether rows have the SHA-256 of the picture's file, in hexadecimal.
        select: what is a picture in folders and archives: a key of `item.SELECT`.
        make_classifier: makes the classifier of a worker, there, of `engine` and what
            follows it up to `model`, whose classes it has.
        progress: called with numbers of pictures that are done.
        stop: asked now and then; True ends the run.

    Returns:
        What was done.

    Raises:
        FileExistsError: the folder has parts and `mode` is "new".
        OSError: it cannot be written to; a remote storage or Ray does not answer.
        ValueError: a source that does not exist, or more CPUs or GPUs than there are.
        WeightsError: the weights are not found, or not readable.
        RuntimeError: the workers could not start, or stumbled over something that is
            no picture's fault; the message has their first reason.
        ImportError: the extra `ray` is not installed.
    """
    found = _checked(sources, select)
    import_ray()
    made_of = None
    if make_classifier is None or model is not None:
        made_of = _loaded(weights, model)
        engines.choose(engine, precision, made_of)  # here, where its error is seen
    classes = made_of.classes if isinstance(made_of, TrainedModel) else LABELS
    with (
        PartsWriter(output, columns_of(classes, hashes), mode) as table,
        connected(address, actors) as ray,
    ):
        if make_classifier is None:
            sent = ray.put(made_of)
            make_classifier = partial(_made, sent, engine, precision, device)
        run = _Run(ray, table, progress, stop)
        workers = _workers(ray, actors, gpus)
        with _one_line(ray):
            run.collect(found, select, hashes, make_classifier, workers, gpus)
        return run.summary()


def _checked(sources: Iterable[str], select: str) -> list[str]:
    found = [local_path(os.fspath(source)) for source in sources]
    if STDIN in found:
        raise ValueError("standard input (-) cannot be read by Ray: name a file")
    there = [source for source in found if not is_remote(source)]
    if there or not found:
        check_sources(there, select)
    for source in found:
        if is_remote(source):
            check_remote(source)
    return found


def _loaded(
    weights: str | os.PathLike[str] | None,
    model: str | os.PathLike[str] | TrainedModel | None,
) -> Weights | TrainedModel:
    source = network_source(weights, model)
    return load_weights(source) if isinstance(source, Path) else source


def _made(sent: Any, engine: str, precision: str, device: str | None) -> Classifier:
    """The classifier of a worker, in the worker: one thread, as it has one CPU."""
    made_of = import_ray().get(sent)
    name = "model" if isinstance(made_of, TrainedModel) else "weights"
    return Classifier(
        engine,
        precision=precision,
        threads=1,
        device=device,
        workers=1,
        **{name: made_of},
    )


def _workers(ray: Any, actors: int | None, gpus: float) -> int:
    """How many workers there will be.

    Raises:
        ValueError: there is room for none.
    """
    has = ray.cluster_resources()
    room = int(has.get("CPU", 0))
    if gpus:
        room = min(room, int(has.get("GPU", 0) / gpus))
    wanted = room if actors is None else actors
    if not 1 <= wanted <= room:
        raise ValueError(
            f"expected 1 to {room} actors of one CPU and {gpus:g} GPUs each, got "
            f"{wanted}: Ray has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
        )
    return wanted


class _Run:
    """Rows as they come, those that come twice left out, and written."""

    def __init__(
        self,
        ray: Any,
        table: PartsWriter,
        progress: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        self.ray, self.table, self.progress, self.stop = ray, table, progress, stop
        self.count = Summary()
        self.start = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.named: set[bytes] = set()

    def collect(
        self,
        sources: list[str],
        select: str,
        hashes: bool,
        make_classifier: Callable[[], Classifier],
        workers: int,
        gpus: float,
    ) -> None:
        """Score all, and write the rows of each some seconds."""
        scorer = import_module(f"{__name__}.scorer")
        blocks = import_module(f"{__name__}.blocks")
        journal = (
            self.ray.remote(scorer.Journal)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(workers)
        )
        done = self.ray.put(self.table.done)
        listing = import_module(f"{__name__}.listing").Listing(
            sources, select, done, journal
        )
        arguments = (make_classifier, journal, hashes)
        written = time.monotonic()
        finished = False
        try:
            for table in _tables(self.ray, listing, scorer, arguments, workers, gpus):
                self._take(blocks.to_rows(table), hashes)
                full = len(self.rows) >= PART_ROWS
                if full or time.monotonic() - written > PART_SECONDS:
                    self._write()
                    written = time.monotonic()
                if self.stop():
                    break
            else:
                finished = True
        finally:
            self._write()
        skipped, had_rows, others = self.ray.get(journal.skipped.remote())
        self.progress(skipped)
        self.named |= had_rows
        self.count.passed_over.update(others)
        self.count = replace(self.count, skipped=skipped, finished=finished)
        if finished:
            self.table.finish()

    def _take(self, rows: Iterator[dict[str, Any]], hashes: bool) -> None:
        before = len(self.rows)
        for row in rows:
            key = digest(row["path"])
            if key not in self.named:
                self.named.add(key)
                self.rows.append(row)
        self.progress(len(self.rows) - before)

    def _write(self) -> None:
        if not self.rows:
            return
        again = sum(digest(row["path"]) in self.table.done for row in self.rows)
        self.table.write(self.rows)
        self.count = counted(self.count, self.rows, again)
        self.rows.clear()

    def summary(self) -> Summary:
        """What was done, until now."""
        seconds = time.monotonic() - self.start
        return replace(self.count, seconds=seconds, named=self.named)


def _tables(
    ray: Any,
    listing: Any,
    scorer: Any,
    arguments: tuple[Any, ...],
    workers: int,
    gpus: float,
) -> Iterator[Any]:
    """The rows of all pictures, as they are ready, as tables of `blocks.ROWS`."""
    # Folders are listed where the user sees them.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    with _data_context(ray):
        dataset = ray.data.read_datasource(
            listing,
            override_num_blocks=1,
            num_cpus=0,
            label_selector=here,
        ).map_batches(
            scorer.Scorer,
            fn_constructor_args=arguments,
            batch_size=None,  # a block
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers
            ),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


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
def _one_line(ray: Any) -> Iterator[None]:
    """Ray's errors, of many lines, as what was at their beginning."""
    try:
        yield
    except ray.exceptions.RayError as error:
        reason: BaseException = error
        while (cause := getattr(reason, "cause", None) or reason.__cause__) is not None:
            reason = cause
        raise RuntimeError(
            f"Ray gave up: {sanitize(one_line(reason))}; the rows that were written are "
            "whole: go on with --resume"
        ) from error
