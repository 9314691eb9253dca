"""Any number of a recipe, set otherwise by its name."""

import dataclasses
import json
from dataclasses import replace
from typing import Any, TypeVar

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.train.recipes import Recipe

_T = TypeVar("_T")


def changed(recipe: Recipe, name: str, value: object) -> Recipe:
    """A recipe with one number set otherwise.

    Args:
        recipe: to start from.
        name: of the number: "momentum", "augmentation.rotation", "head.0.units",
            "stages.1.learning_rate".
        value: of its kind; a string is read as JSON.

    Raises:
        ValueError: there is no such number, or it makes no sense so.
    """
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        parsed = value  # a name
    try:
        return _with(recipe, name.split("."), parsed)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"no recipe has the number {sanitize(name)!r} with such a value; there are "
            f"{', '.join(recipe.settings())}, and those within, such as "
            "stages.0.learning_rate"
        ) from error


def _with(thing: _T, names: list[str], value: object) -> _T:
    """A dataclass, or a tuple of them, with the value somewhere within."""
    name, *rest = names
    if isinstance(thing, tuple):
        parts = list(thing)
        parts[int(name)] = _with(parts[int(name)], rest, value)
        return tuple(parts)  # type: ignore[return-value]
    before = getattr(thing, name)
    if rest:
        after = _with(before, rest, value)
    else:
        after = _like(before, value)
    return replace(thing, **{name: after})  # type: ignore[type-var]


def _like(before: object, value: Any) -> Any:
    """The value in the form of what it replaces."""
    if isinstance(before, (bool, str)):
        if type(value) is not type(before):
            raise TypeError
        return value
    if isinstance(before, tuple):
        if not all(isinstance(number, int | float) for number in (*before, *value)):
            raise TypeError  # stages and layers are set one number at a time
        return tuple(map(float, value))
    if dataclasses.is_dataclass(before) or isinstance(value, bool):
        raise TypeError
    if value is None or before is None:  # such as patience
        return None if value is None else int(value)
    if not isinstance(value, int | float):
        raise TypeError
    if isinstance(before, int) and value != int(value):
        raise TypeError
    return type(before)(value)  # type: ignore[call-arg]
