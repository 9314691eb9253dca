"""Stochastic gradient descent with momentum, as Caffe does it: a rate for every variable.

Keras' optimizers have one learning rate for all variables, and do not run on several
machines (see `workers`), so this is our own; it is short.
"""

from collections.abc import Sequence
from typing import Any

from open_nsfw_tf.backend import import_tensorflow

LARGEST_SCALE = 2.0**15  # of a loss in float16
PATIENCE = 1000  # steps without an overflow, after which the scale is doubled


class Momentum:
    """v = momentum * v - rate * multiplier * (gradient + decay * w); w = w + v.

    Args:
        variables: TensorFlow's, that are trained.
        multipliers: of the learning rate, one a variable.
        decays: one a variable.
        momentum: 0 to below 1.
        scaled: whether the loss is scaled so that float16 can hold its gradients. A step
            whose gradients overflow is then left out, and the scale halved.

    Attributes:
        rate: the learning rate, a variable.
        scale: what the loss is to be multiplied by, a variable.
        state: variables that belong into a checkpoint, by name.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        multipliers: Sequence[float],
        decays: Sequence[float],
        momentum: float,
        scaled: bool = False,
    ) -> None:
        tf = import_tensorflow()

        def made(value: Any, dtype: Any = tf.float32) -> Any:
            return tf.Variable(value, trainable=False, dtype=dtype)

        self.variables = list(variables)
        self.rules = list(zip(multipliers, decays, strict=True))
        self.momentum = momentum
        self.scaled = scaled
        self.velocities = [made(tf.zeros(v.shape, v.dtype)) for v in variables]
        self.rate = made(0.0)
        self.scale = made(LARGEST_SCALE if scaled else 1.0)
        self.good = made(0, tf.int32)  # steps since the scale was last changed
        self.state = {
            f"velocity/{number}": one for number, one in enumerate(self.velocities)
        }
        if scaled:
            self.state |= {"scale": self.scale, "good": self.good}

    def apply(self, gradients: Sequence[Any]) -> None:
        """Take one step, in a graph.

        Args:
            gradients: of the scaled loss, summed over all devices, one a variable.
        """
        tf = import_tensorflow()
        gradients = [gradient / self.scale for gradient in gradients]
        if not self.scaled:
            self._step(gradients)
            return
        finite = [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
        fits = tf.reduce_all(finite)
        kept = [tf.where(fits, g, tf.zeros_like(g)) for g in gradients]
        self._step(kept, tf.cast(fits, tf.float32))
        grown = self.good + 1 >= PATIENCE
        factor = tf.where(fits, tf.where(grown, 2.0, 1.0), 0.5)
        self.scale.assign(tf.clip_by_value(self.scale * factor, 1.0, LARGEST_SCALE))
        self.good.assign(tf.where(fits & ~grown, self.good + 1, 0))

    def _step(self, gradients: Sequence[Any], taken: Any = 1.0) -> None:
        """Change the variables; not at all where `taken` is 0."""
        rows = zip(self.variables, self.velocities, self.rules, gradients, strict=True)
        for variable, velocity, (multiplier, decay), gradient in rows:
            step = self.rate * multiplier * (gradient + decay * variable)
            wanted = self.momentum * velocity - step
            velocity.assign(taken * wanted + (1 - taken) * velocity)
            variable.assign_add(taken * velocity)
