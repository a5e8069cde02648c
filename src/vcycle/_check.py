"""Checks of arguments that recur, and the wording of all such messages: name, constraint, value."""

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``; a near miss is hinted at."""
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}. Got {value!r}.{hint(value, choices)}")


def hint(value: Any, choices: Iterable[str]) -> str:
    """Return the end of a message, from its blank on, that names the choice nearest to ``value``; often empty."""
    near = difflib.get_close_matches(str(value), list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def word(name: str, value: Any) -> str:
    """Return ``value`` if it can stand in the name of an array on disk."""
    if isinstance(value, str) and value.isidentifier():
        return value
    raise ValueError(f"`{name}` must be words of letters, digits and _. Got {value!r}.")


def instance(name: str, value: Any, kind: type | tuple[type, ...], meaning: str) -> None:
    """Raise unless ``value`` is of a kind, which ``meaning`` names with its article."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {meaning}. Got {type(value).__name__}.")


def real_tensor(name: str, values: Any, meaning: str) -> "Tensor":
    """Return an array or tensor of real numbers as a tensor, sharing memory where PyTorch can.

    PyTorch takes neither negative strides, foreign byte orders nor long doubles, and warns of read-only arrays; NumPy
    has all of them.
    """
    import numpy as np
    from torch import Tensor, from_numpy

    if isinstance(values, Tensor):
        if values.is_complex():
            raise TypeError(f"`{name}` must be real numbers: {meaning}. Got {values.dtype}.")
        return values
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        by_dtype = array.dtype.kind == "c" or isinstance(values, np.ndarray)
        got = array.dtype.type.__name__.rstrip("_") if by_dtype else type(values).__name__
        raise TypeError(f"`{name}` must be real numbers: {meaning}. Got {got}.")
    dtype = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = np.ascontiguousarray(array, dtype)
    return from_numpy(array if array.flags.writeable else array.copy())


def integer(name: str, value: Any, minimum: int) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer. Got {value!r}.")
    if number < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Got {number}.")
    return number


def positive(name: str, value: Any) -> float:
    """Return ``value``, a real number of Python or NumPy, as a float if it is finite and above zero."""
    number = _real(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"`{name}` must be positive and finite. Got {value}.")
    return number


def not_negative(name: str, value: Any) -> float:
    """Return ``value``, a real number of Python or NumPy, as a float if it is finite and at least zero."""
    number = _real(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"`{name}` must not be negative or infinite. Got {value}.")
    return number


def share(name: str, value: Any) -> float:
    """Return ``value``, a real number of Python or NumPy, as a float if it lies between zero and one."""
    number = _real(name, value)
    if not 0 < number < 1:
        raise ValueError(f"`{name}` must lie between 0 and 1. Got {value}.")
    return number


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Got {value!r}.")
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


def keys(what: str, given: Any, known: Any, *, required: tuple[str, ...] = ()) -> None:
    """Raise a ``ValueError`` for an unknown or missing key, with a hint for a near miss.

    ``known=None`` allows any key.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"`{what}` must be a mapping. Got {given!r}.")
    for key in given if known is not None else ():
        if key not in known:
            near = hint(key, known) or f" Known: {', '.join(known)}."
            raise ValueError(f"`{what}` has no {key!r}.{near}")
    missing = [key for key in required if key not in given]
    if missing:
        raise ValueError(f"`{what}` must have {', '.join(missing)}. Got {', '.join(map(str, given)) or 'nothing'}.")


def call(
    what: str, function: Callable[..., Any], given: Any, *, but: tuple[str, ...] = (), required: tuple[str, ...] = ()
) -> None:
    """Raise a ``ValueError`` if ``function`` has no argument of one of the given names, or a required one is missing.

    ``but`` are not for recipes.
    """
    parameters = inspect.signature(function).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    keys(
        what, given, [p.name for p in parameters if p.name not in ("self", *but) and p.kind in plain], required=required
    )
