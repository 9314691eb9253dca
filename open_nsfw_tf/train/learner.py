"""One step of training and one of validation, on one device or on many."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from open_nsfw_tf.backbones import POOL
from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.errors import TrainingError, one_line, sanitize
from open_nsfw_tf.train.optimizer import Momentum
from open_nsfw_tf.train.recipes import ALL, HEAD, Recipe
from open_nsfw_tf.trained import HeadLayer

PREDICTIONS = "predictions"  # the softmax of every network here
_GONE = "another worker is gone: start all of them again, with --resume"
HINTS = {  # what to do about TensorFlow's errors
    "ResourceExhaustedError": "memory is short: begin anew with a lower --batch-size",
    "UnavailableError": _GONE,
    "AbortedError": _GONE,
    "CancelledError": _GONE,
    "DeadlineExceededError": _GONE,
}
INPUTS = 128.0  # the largest of a network that takes pixels minus their mean
Sums = np.ndarray  # float64: of losses, of right answers, of pictures


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
    if first not in (ALL, HEAD) and first not in names[:body]:
        raise ValueError(
            f"the network has no layer {sanitize(first)!r} to train from: expected {ALL}, "
            f"{HEAD} or one of its layers, such as {names[1]}"
        )
    start = {ALL: 0, HEAD: body}.get(first, names.index(first) if first in names else 0)
    for index, layer in enumerate(model.layers):
        frozen = _is_norm(layer) and index < body and recipe.batch_norm_frozen
        layer.trainable = index >= start and not frozen


def set_batch_norms(model: Any, recipe: Recipe) -> None:
    """Let running statistics follow as fast as the recipe wants it."""
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


def is_folded(model: Any) -> bool:
    """Whether the batch norms of the body change nothing, as they were folded."""
    body = model.layers[: [layer.name for layer in model.layers].index(POOL)]
    norms = [layer for layer in body if _is_norm(layer)]
    return bool(norms) and not any(
        np.any(layer.gamma != 1) or np.any(layer.beta) or np.any(layer.moving_mean)
        for layer in norms
    )


def _is_norm(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.BatchNormalization)


def rules(
    model: Any, variables: Sequence[Any], recipe: Recipe, folded: bool = False
) -> tuple[list[float], list[float]]:
    """Multipliers of the learning rate, and decays, one a variable.

    A layer's own l2 has twice its value as gradient, as Keras adds l2 times the squares.

    Args:
        model: the whole network.
        variables: of it, that are trained.
        recipe: whose multipliers and decays are taken.
        folded: whether batch norms were folded into the kernels. That of the first
            convolution is then as small as its inputs are large, and its gradient is
            in the hundreds: it gets the steps that the unfolded kernel would take.
    """
    first = next(layer for layer in model.layers if layer.weights) if folded else None
    last = model.get_layer(PREDICTIONS).input._keras_history.operation
    own = {f"head_{n}": layer for n, layer in enumerate(recipe.head) if layer.l2}
    kernels = {}
    for layer in model.layers:
        for variable in layer.variables:
            kernels[id(variable)] = layer
    multipliers, decays = [], []
    for variable in variables:
        layer = kernels[id(variable)]
        kernel = variable.name == "kernel"
        factors = {True: recipe.last_kernel, False: recipe.last_bias}
        small = INPUTS**-2 if kernel and layer is first else 1.0
        multipliers.append(factors[kernel] if layer is last else small)
        l2 = own.get(layer.name, HeadLayer("dropout")).l2
        decays.append(recipe.weight_decay + 2 * l2 if kernel else 0.0)
    return multipliers, decays


@contextmanager
def computing() -> Iterator[None]:
    """TensorFlow's errors of computing as errors of one line.

    Raises:
        TrainingError: memory is short, another worker is gone, or whatever it is.
    """
    tf = import_tensorflow()
    try:
        yield
    except tf.errors.OpError as error:
        kind = type(error).__name__
        raise TrainingError(HINTS.get(kind, f"{kind}: {one_line(error)}")) from error


class Learner:
    """A network, what it is trained with, and its two steps.

    Args:
        model: the whole network, whose layers were frozen as the stage wants it.
        network: from inputs to logits: `logits_of` or `head_of` the model.
        recipe: multipliers, momentum, weight decay, label smoothing.
        weights: of the classes, by label; None: all count alike.
        strategy: TensorFlow's, under whose scope the model was built.
        scaled: see `Momentum`.
        folded: see `rules`.

    Attributes:
        optimizer: whose learning rate may be set.
    """

    def __init__(
        self,
        model: Any,
        network: Any,
        recipe: Recipe,
        weights: Mapping[int, float] | None,
        strategy: Any,
        scaled: bool = False,
        folded: bool = False,
    ) -> None:
        tf = import_tensorflow()
        self.model, self.network = model, network
        self.smoothing, self.strategy = recipe.label_smoothing, strategy
        self.classes = int(network.output.shape[-1])
        by_class = [
            1.0 if weights is None else weights.get(k, 1.0) for k in range(self.classes)
        ]
        self.weights = tf.constant(by_class, tf.float32)
        variables = network.trainable_variables
        with strategy.scope():
            self.optimizer = Momentum(
                [variable.value for variable in variables],
                *rules(model, variables, recipe, folded),
                recipe.momentum,
                scaled,
            )
        spec = [
            tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        ]
        flag = tf.TensorSpec((), tf.float32)
        # Pictures that are spread over devices come as one value for each of them.
        spread = isinstance(strategy, tf.distribute.MirroredStrategy)
        signature = None if spread else [*spec, flag]
        self._several = tf.distribute.MultiWorkerMirroredStrategy
        as_graph = partial(tf.function, autograph=False)  # nothing here branches
        self._train = as_graph(self._run, input_signature=signature)
        self._test = as_graph(self._measure, input_signature=spec)
        self._reduce = as_graph(lambda sums: strategy.run(_reduced, args=(sums,)))
        self._average = as_graph(lambda: strategy.run(self._mean_statistics))

    def train(self, pictures: Any, labels: Any, stop: bool = False) -> Sums:
        """Take one step; what is told of it is from before.

        Args:
            pictures: float32 (N, size, size, 3), or features (N, F).
            labels: int64 (N,).
            stop: whether this worker wants to stop after it.

        Returns:
            Sums over the pictures of all devices, and how many of these want to stop:
            it is the same on all workers.
        """
        flag = import_tensorflow().constant(float(stop))
        with computing():
            return self._local(self._train(pictures, labels, flag))

    def test(self, pictures: Any, labels: Any) -> Sums:
        """Sums over these pictures; of the plain loss, without weights and smoothing."""
        with computing():
            return np.asarray(self._test(pictures, labels).numpy(), np.float64)

    def added_up(self, sums: Sums) -> Sums:
        """Sums of all workers, of one device each."""
        if not isinstance(self.strategy, self._several):
            return sums
        with computing():
            return self._local(self._reduce(import_tensorflow().constant(sums)))

    def average_statistics(self) -> None:
        """Give all devices the same running statistics of batch norms, their mean."""
        if self.strategy.num_replicas_in_sync > 1:
            with computing():
                self._average()

    def _local(self, sums: Any) -> Sums:
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
            losses *= tf.gather(self.weights, labels)
            objective = tf.reduce_sum(losses) * self.optimizer.scale
        gradients = tape.gradient(objective, self.optimizer.variables)
        here = tf.distribute.get_replica_context()
        told = tf.concat([_sums(losses, logits, labels), [stop]], axis=0)
        *gradients, sums = here.all_reduce("sum", [*gradients, told])
        self.optimizer.apply([gradient / sums[2] for gradient in gradients])
        return sums

    def _measure(self, pictures: Any, labels: Any) -> Any:
        tf = import_tensorflow()
        logits = tf.cast(self.network(pictures, training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return _sums(losses, logits, labels)

    def _mean_statistics(self) -> None:
        tf = import_tensorflow()
        here = tf.distribute.get_replica_context()
        for variable in self.network.non_trainable_weights:
            if variable.name.startswith("moving_"):
                mean = here.all_reduce("mean", tf.convert_to_tensor(variable))
                variable.assign(mean)


def _reduced(sums: Any) -> Any:
    tf = import_tensorflow()
    # Made anew on the worker's device, without which TensorFlow knows no destination.
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
