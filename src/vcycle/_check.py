"""The only place where messages about arguments are worded: name, constraint, value."""

import difflib
import math
from collections.abc import Collection, Sequence
from typing import Any


def choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``; a near miss is hinted at."""
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), list(choices), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}. Got {value!r}.{hint}")


def integer(name: str, value: Any, minimum: int) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"`{name}` must be an integer. Got {value!r}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Got {value}.")
    return int(value)


def positive(name: str, value: float) -> float:
    """Return ``value`` as a float if it is finite and above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number. Got {value!r}.")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be positive and finite. Got {value}.")
    return float(value)


def per_axis(name: str, value: Any, num_axes: int) -> tuple[Any, ...]:
    """Repeat one value for all axes, or check that there is one value per axis."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != num_axes:
            raise ValueError(f"`{name}` must be one value or one per axis ({num_axes}). Got {value!r}.")
        return tuple(value)
    return (value,) * num_axes


def shape(name: str, actual: Sequence[int], expected: Sequence[int | None], meaning: str) -> None:
    """Raise unless ``actual`` fits ``expected``, in which ``None`` stands for any size."""
    fits = len(actual) == len(expected) and all(e is None or a == e for a, e in zip(actual, expected, strict=True))
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"`{name}` must have shape ({wanted}), that is {meaning}. Got {tuple(actual)}.")
