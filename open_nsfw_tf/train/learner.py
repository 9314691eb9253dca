"""The devices that train together, and one step of training on them.

Found with Keras 3.15 and TensorFlow 2.21: `model.fit` under MultiWorkerMirroredStrategy
fails with two workers (a `PerReplica` value cannot become a tensor; keras-team/keras
issue 20585 is open), and Keras' maintainers say that they do not support it (issue
20601). A loop of one's own works: the network is built in the strategy's scope, each
step is run by `strategy.run`, and Keras' optimizer adds up the gradients of all
devices. So all training runs that way here, on one device as well.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from open_nsfw_tf.backbones import POOL
from open_nsfw_tf.errors import TrainingError, one_line, sanitize
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.train.recipes import ALL, HEAD, Recipe

DEVICES = ("one", "all")
CLUSTER = "TF_CONFIG"  # the environment variable that names the workers
LONGEST_WAIT = 600.0  # seconds, until all workers must have connected
PREDICTIONS = "predictions"  # the softmax of every network here
_WORKER_GONE = "another worker is gone: start all of them again, with --resume"
HINTS = {  # what to do about TensorFlow's errors
    "ResourceExhaustedError": "memory is short: begin anew with a lower --batch-size",
    "UnavailableError": _WORKER_GONE,
    "AbortedError": _WORKER_GONE,
    "CancelledError": _WORKER_GONE,
    "DeadlineExceededError": _WORKER_GONE,
}
LARGEST_INPUT = 128.0  # about that of pixels minus their mean
Sums = np.ndarray  # float64: of losses, of right answers, of pictures

# Another process's program. Arguments: whom to kill unless standard input ends in time,
# the seconds to wait, and the message to print before.
WATCHDOG = """
import os, select, signal, sys
if not select.select([sys.stdin], [], [], float(sys.argv[2]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[1]), getattr(signal, "SIGKILL", signal.SIGTERM))
"""


@dataclass(frozen=True)
class Workers:
    """The processes that train together, and the devices of this one.

    Attributes:
        strategy: TensorFlow's.
        index: of this process among the workers, from 0.
        count: of the workers, one process each.
        devices: of this process.
    """

    strategy: Any
    index: int = 0
    count: int = 1
    devices: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0


def is_chief() -> bool:
    """`Workers.is_chief` before the other workers are found, by `CLUSTER` alone.

    Raises:
        ValueError: `CLUSTER` cannot be read.
    """
    cluster = _cluster()
    return not cluster or cluster["task"]["index"] == 0


def find_workers(devices: str = "one") -> Workers:
    """Find the other workers, and the devices here.

    Args:
        devices: "one", or "all": all graphics cards of this machine. Where the
            environment variable TF_CONFIG names several workers, each is one process
            with one device: start the same command for each, with its own index and,
            where a machine has several cards, its own CUDA_VISIBLE_DEVICES.

    Raises:
        ValueError: no such devices; TF_CONFIG cannot be read.
        RuntimeError: the other workers are not found, or TensorFlow was used before.
    """
    tf = import_tensorflow()
    if devices not in DEVICES:
        raise ValueError(
            f"expected devices of {', '.join(DEVICES)}, got {devices!r:.80}"
        )
    cluster = _cluster()
    if cluster and len(cluster["cluster"]["worker"]) > 1:
        return _cluster_workers(tf, cluster)
    names = [device.name for device in tf.config.list_logical_devices("GPU")]
    if devices == "all" and not names:
        names = [device.name for device in tf.config.list_logical_devices("CPU")]
    if devices == "all" and len(names) > 1:
        return Workers(tf.distribute.MirroredStrategy(names), devices=len(names))
    return Workers(tf.distribute.get_strategy())


def _cluster() -> dict[str, Any]:
    text = os.environ.get(CLUSTER)
    if not text:
        return {}
    try:
        cluster = json.loads(text)
        task, names = cluster["task"], cluster["cluster"]
        known = task["type"] == "worker" and set(names) == {"worker"}
        if known and 0 <= task["index"] < len(names["worker"]):
            return dict(cluster)
        raise ValueError("other tasks")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{CLUSTER}: expected {{"cluster": {{"worker": ["host:port", ...]}}, '
            f'"task": '
            f'{{"type": "worker", "index": 0}}}}, got {sanitize(text, 80)}'
        ) from error


def _cluster_workers(tf: Any, cluster: dict[str, Any]) -> Workers:
    try:
        cards = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(cards[:1], "GPU")
        with _limited_wait():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise RuntimeError(
            f"{CLUSTER}: no cluster came together: {one_line(error)}"
        ) from error
    count = len(cluster["cluster"]["worker"])
    return Workers(strategy, cluster["task"]["index"], count)


@contextmanager
def _limited_wait() -> Iterator[None]:
    """End this process if the other workers do not come: TensorFlow waits for ever.

    Meanwhile it runs neither its own threads nor signal handlers, so that another
    process has to watch it. Nothing is lost: no file has been written yet.
    """
    message = (
        f"error: {CLUSTER}: not all workers came within {LONGEST_WAIT:g} s: start the "
        "same command for each of them, and see whether one has ended"
    )
    watchdog = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-c",
            WATCHDOG,
            f"{os.getpid()}",
            f"{LONGEST_WAIT}",
            message,
        ],
        stdin=subprocess.PIPE,
        stderr=sys.stderr,  # which may not be the file that C libraries write to
    )
    try:
        yield
    finally:
        watchdog.communicate()  # it ends when its input does


def set_trainable(model: Any, recipe: Recipe, first: str) -> None:
    """Freeze what a stage does not train.

    A frozen batch norm also answers with its running statistics, not with the batch's.

    Args:
        model: a network of `open_nsfw_tf.backbones`.
        recipe: whether the backbone's batch norms stay frozen.
        first: see `Stage.trainable_from`.

    Raises:
        ValueError: there is no such layer.
    """
    names = [layer.name for layer in model.layers]
    body = names.index(POOL)
    starts = {name: index for index, name in enumerate(names[:body])}
    starts |= {ALL: 0, HEAD: body}
    if first not in starts:
        raise ValueError(
            f"the network has no layer {sanitize(first)!r} to train from: expected "
            f"{ALL}, {HEAD} or one of its layers, such as {names[1]}"
        )
    for index, layer in enumerate(model.layers):
        frozen = _is_norm(layer) and index < body and recipe.batch_norm_frozen
        layer.trainable = index >= starts[first] and not frozen


def set_batch_norms(model: Any, recipe: Recipe) -> None:
    """Set how fast the running statistics of batch norms follow, as the recipe says."""
    for layer in model.layers:
        if _is_norm(layer):
            layer.momentum = recipe.batch_norm_momentum


def logits_of(model: Any) -> Any:
    """The network up to its last dense layer's output, without the softmax."""
    import keras

    return keras.Model(model.inputs, model.get_layer(PREDICTIONS).input)


def head_of(model: Any) -> Any:
    """What follows the pooled features, from those to the logits; layers are shared."""
    import keras

    names = [layer.name for layer in model.layers]
    start, end = names.index(POOL), names.index(PREDICTIONS)
    features = keras.Input(model.layers[start].output.shape[1:], name="features")
    x = features
    for layer in model.layers[start + 1 : end]:
        x = layer(x)
    return keras.Model(features, x)


def _is_norm(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.BatchNormalization)


def multipliers_and_decays(
    model: Any, variables: Sequence[Any], recipe: Recipe, folded: bool = False
) -> tuple[list[float], list[float]]:
    """What differs between variables: multiples of the learning rate, weight decays.

    A layer's own l2 has twice its value as gradient, as Keras adds l2 times the
    squares.

    Args:
        model: the whole network.
        variables: of it, that are trained.
        recipe: with the multipliers and decays.
        folded: whether batch norms were folded into the kernels. The kernel of the
            first convolution is then as small as its inputs are large, and its gradient
            is in the hundreds: it gets the steps that the unfolded kernel would take.

    Returns:
        The multipliers and the decays, one of each for every variable.
    """
    first = next(layer for layer in model.layers if layer.weights) if folded else None
    last = model.get_layer(PREDICTIONS).input._keras_history.operation
    owners = {id(one): layer for layer in model.layers for one in layer.variables}
    multipliers, decays = [], []
    for variable in variables:
        layer, kernel = owners[id(variable)], variable.name == "kernel"
        multiplier = LARGEST_INPUT**-2 if kernel and layer is first else 1.0
        if layer is last:
            multiplier = recipe.last_kernel if kernel else recipe.last_bias
        l2 = getattr(getattr(layer, "kernel_regularizer", None), "l2", 0.0)
        multipliers.append(multiplier)
        decays.append(recipe.weight_decay + 2 * l2 if kernel else 0.0)
    return multipliers, decays


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise TensorFlow's errors as errors of one line.

    Raises:
        TrainingError: memory is short, another worker is gone, or another of them.
    """
    tf = import_tensorflow()
    try:
        yield
    except tf.errors.OpError as error:
        kind = type(error).__name__
        raise TrainingError(HINTS.get(kind, f"{kind}: {one_line(error)}")) from error


def make_optimizer(variables: Sequence[Any], momentum: float, scaled: bool) -> Any:
    """Stochastic gradient descent with momentum, in Caffe's form, which is Keras' too.

    v = momentum * v - rate * gradient; w = w + v. Its `learning_rate` is a variable.

    Args:
        variables: Keras', that are trained.
        momentum: 0 to below 1.
        scaled: whether the loss is scaled so that float16 can hold its gradients. A
            step whose gradients overflow is then left out, and the scale halved.
    """
    import keras

    optimizer = keras.optimizers.SGD(learning_rate=0.0, momentum=float(momentum))
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


@dataclass(frozen=True)
class LearnerOptions:
    """What a learner does with its network.

    Attributes:
        recipe: multipliers, momentum, clipping, weight decay, label smoothing.
        class_weights: by label; None: all classes count alike.
        scaled: see `make_optimizer`.
        folded: see `multipliers_and_decays`.
    """

    recipe: Recipe
    class_weights: Mapping[int, float] | None = None
    scaled: bool = False
    folded: bool = False


class Learner:
    """A network, its optimizer, and its two steps.

    Args:
        model: the whole network, whose layers are frozen as the stage wants it.
        network: from inputs to logits: `logits_of` or `head_of` the model.
        options: what is done with it.
        strategy: TensorFlow's, under whose scope the model was built.

    Attributes:
        optimizer: Keras', with a variable `learning_rate` to set before each step.
    """

    def __init__(
        self, model: Any, network: Any, options: LearnerOptions, strategy: Any
    ) -> None:
        tf = import_tensorflow()
        recipe, self.scaled = options.recipe, options.scaled
        self.model, self.network = model, network
        self.smoothing, self.strategy = recipe.label_smoothing, strategy
        self.clip_norm = recipe.clip_norm
        self.classes = int(network.output.shape[-1])
        weights = options.class_weights or {}
        self.class_weights = tf.constant(
            [weights.get(label, 1.0) for label in range(self.classes)], tf.float32
        )
        self.variables = network.trainable_variables
        self.multipliers, self.decays = multipliers_and_decays(
            model, self.variables, recipe, options.folded
        )
        with strategy.scope():
            self.optimizer = make_optimizer(
                self.variables, recipe.momentum, options.scaled
            )
        spec = [
            tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        ]
        flag = tf.TensorSpec((), tf.float32)
        # Pictures that are spread over devices come as one value for each of them.
        spread = isinstance(strategy, tf.distribute.MirroredStrategy)
        signature = None if spread else [*spec, flag]
        as_graph = partial(tf.function, autograph=False)  # nothing here branches
        self._train = as_graph(self._run, input_signature=signature)
        self._test = as_graph(self._measure, input_signature=spec)
        self._reduce = as_graph(lambda sums: strategy.run(_all_reduced, args=(sums,)))
        self._average = as_graph(lambda: strategy.run(self._average_statistics))

    @property
    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's variables that belong into a checkpoint, by name."""
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        state = {f"velocity/{n}": one for n, one in enumerate(inner.momentums)}
        if self.scaled:
            state["scale"] = self.optimizer.dynamic_scale
            state["good_steps"] = self.optimizer.step_counter
        return state

    def train(self, pictures: Any, labels: Any, stop: bool = False) -> Sums:
        """Take one step, and measure the network as it was before.

        Args:
            pictures: float32 (N, size, size, 3), or features (N, F).
            labels: int64 (N,).
            stop: whether this worker wants to stop after it.

        Returns:
            Sums over the pictures of all devices, and how many devices want to stop:
            the same on all workers.
        """
        flag = import_tensorflow().constant(float(stop))
        with one_line_errors():
            return self._first(self._train(pictures, labels, flag))

    def test(self, pictures: Any, labels: Any) -> Sums:
        """Sums over these pictures, of the loss without weights and smoothing."""
        with one_line_errors():
            return np.asarray(self._test(pictures, labels).numpy(), np.float64)

    def added_up(self, sums: Sums) -> Sums:
        """Sums of all workers, of one device each."""
        tf = import_tensorflow()
        if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return sums
        with one_line_errors():
            return self._first(self._reduce(tf.constant(sums)))

    def average_statistics(self) -> None:
        """Give all devices the same running statistics of batch norms, their mean."""
        if self.strategy.num_replicas_in_sync > 1:
            with one_line_errors():
                self._average()

    def _first(self, sums: Any) -> Sums:
        first = self.strategy.experimental_local_results(sums)[0]
        return np.asarray(first.numpy(), np.float64)

    def _run(self, pictures: Any, labels: Any, stop: Any) -> Any:
        return self.strategy.run(self._step, args=(pictures, labels, stop))

    def _step(self, pictures: Any, labels: Any, stop: Any) -> Any:
        tf = import_tensorflow()
        with tf.GradientTape() as tape:
            logits = tf.cast(self.network(pictures, training=True), tf.float32)
            smooth = self.smoothing / self.classes
            wanted = tf.one_hot(labels, self.classes) * (1 - self.smoothing) + smooth
            losses = tf.nn.softmax_cross_entropy_with_logits(wanted, logits)
            losses *= tf.gather(self.class_weights, labels)
            objective = tf.reduce_sum(losses) * self._scale
        values = [variable.value for variable in self.variables]
        gradients = tape.gradient(objective, values)
        context = tf.distribute.get_replica_context()
        finite = [tf.reduce_all(tf.math.is_finite(one)) for one in gradients]
        overflows = 1 - tf.cast(tf.reduce_all(finite), tf.float32)
        sums = tf.concat([_sums(losses, logits, labels), [stop, overflows]], axis=0)
        sums = context.all_reduce("sum", sums)
        if self.scaled:
            # Keras looks for overflows on each device, and leaves out a step there
            # alone: with two workers, the other one then waits for ever.
            nan = tf.where(sums[4] > 0, float("nan"), 0.0)
            gradients = [gradient + nan for gradient in gradients]
        if self.clip_norm:
            gradients = self._clipped(gradients, sums[2])
        self.optimizer.apply(self._decayed(gradients, values, sums[2]), self.variables)
        return sums[:4]

    @property
    def _scale(self) -> Any:
        return self.optimizer.dynamic_scale.value if self.scaled else 1.0

    def _clipped(self, gradients: Any, pictures: Any) -> list[Any]:
        """This device's share of all devices' gradients, shortened to `clip_norm`.

        Keras would shorten each device's gradients, not their sum.
        """
        tf = import_tensorflow()
        devices = self.strategy.num_replicas_in_sync
        if devices > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce("sum", gradients)
        length = tf.linalg.global_norm(gradients) / (pictures * self._scale)
        factor = self.clip_norm / tf.maximum(length, self.clip_norm) / devices
        return [gradient * factor for gradient in gradients]

    def _decayed(self, gradients: Any, values: Any, pictures: Any) -> list[Any]:
        """This device's share of the gradients of the mean loss, with weight decay.

        Keras has one learning rate and one decay for all variables, and its decay is
        not part of the gradient, so that momentum does not apply to it as in Caffe.
        """
        share = self._scale / self.strategy.num_replicas_in_sync  # they are added up
        rows = zip(gradients, values, self.multipliers, self.decays, strict=True)
        return [
            multiplier * (gradient / pictures + (decay * share * value if decay else 0))
            for gradient, value, multiplier, decay in rows
        ]

    def _measure(self, pictures: Any, labels: Any) -> Any:
        tf = import_tensorflow()
        logits = tf.cast(self.network(pictures, training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return _sums(losses, logits, labels)

    def _average_statistics(self) -> None:
        tf = import_tensorflow()
        context = tf.distribute.get_replica_context()
        for variable in self.network.non_trainable_weights:
            if variable.name.startswith("moving_"):
                mean = context.all_reduce("mean", tf.convert_to_tensor(variable))
                variable.assign(mean)


def _all_reduced(sums: Any) -> Any:
    tf = import_tensorflow()
    # A copy on the worker's device, as TensorFlow needs to know where the sum goes.
    return tf.distribute.get_replica_context().all_reduce("sum", tf.identity(sums))


def _sums(losses: Any, logits: Any, labels: Any) -> Any:
    tf = import_tensorflow()
    right = tf.cast(tf.equal(tf.argmax(logits, axis=-1), labels), tf.float32)
    return tf.stack(
        [
            tf.reduce_sum(losses),
            tf.reduce_sum(right),
            tf.cast(tf.size(labels), tf.float32),
        ]
    )
