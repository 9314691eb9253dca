"""What a network says of a picture."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

from open_nsfw_tf.architecture import LABELS


class Scores(NamedTuple):
    """What the network says of a picture; the two sum to one.

    Attributes:
        sfw: probability that it is safe for work, 0..1.
        nsfw: probability that it is pornographic, 0..1.
    """

    sfw: float
    nsfw: float


class ClassScores(tuple[float, ...]):
    """What a model of other classes says of a picture: a probability a class.

    It is a tuple in the order of the model's classes, whose sum is one. A class is asked
    for by its name, ``scores["cat"]``, or ``scores.cat`` where that is a name in Python
    and no method of a tuple.

    Args:
        classes: the model's.
        scores: as many, 0..1.

    Raises:
        ValueError: they are not as many.
    """

    classes: tuple[str, ...]

    def __new__(cls, classes: Sequence[str], scores: Sequence[float]) -> Self:
        """Make one of names and numbers."""
        if len(classes) != len(scores):
            raise ValueError(f"expected {len(classes)} scores, got {len(scores)}")
        made = super().__new__(cls, scores)
        made.classes = tuple(classes)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.classes, tuple(self)

    def __getitem__(self, key: Any) -> Any:
        """The score of a class, by its name or its place."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self.classes:
            raise KeyError(f"no class {key!r:.80}: there are {', '.join(self.classes)}")
        return super().__getitem__(self.classes.index(key))

    def __getattr__(self, name: str) -> float:
        if name not in self.__dict__.get("classes", ()):
            raise AttributeError(f"no class {name!r:.80}")
        score: float = self[name]
        return score

    def __repr__(self) -> str:
        pairs = zip(self.classes, self, strict=True)
        return f"ClassScores({', '.join(f'{name}={score!r}' for name, score in pairs)})"


AnyScores = Scores | ClassScores


def scores_of(classes: tuple[str, ...]) -> Callable[[list[float]], AnyScores]:
    """What makes scores of a row of numbers: `Scores` for sfw and nsfw."""
    if classes == LABELS:
        return Scores._make
    return partial(ClassScores, classes)
