"""Domains that a transform or a hierarchy can take: padded at walls, or brought to a divisible size."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.transforms import resample


def read_padding(padding: float) -> float:
    """Return ``padding`` if it is a number of points (an int) or a share of the box (a float), not negative."""
    return (
        _check.integer("padding", padding, 0) if isinstance(padding, int) else _check.not_negative("padding", padding)
    )


def pad_walls(
    v: Tensor, periodic: Sequence[bool], padding: float, centring: Centring = "cell", *, both: bool = False
) -> Tensor:
    """Add zeros beyond the upper face (or both faces) of every axis that is not periodic.

    Parameters
    ----------
    v
        ``(batch, channel, *space)``.
    periodic
        Which axes close on themselves and are left alone.
    padding
        An int is a number of points. A float is a share of the box: then the padded box, of which a Fourier series sees
        a period, is as long on every grid (where the spacing divides it), and weights mean the same there.
    centring
        Where the points lie.
    both
        Add that much at the lower face too, so that reflections map the domain to itself.
    """
    sides: list[int] = []
    for n, closed in zip(v.shape[2:], periodic, strict=True):
        extra = 0 if closed else _points(n, padding, centring)
        sides = [extra if both else 0, extra, *sides]
    return F.pad(v, sides)


def _points(n: int, padding: float, centring: Centring) -> int:
    if isinstance(padding, int):
        return padding
    if centring == "cell":
        return round(padding * n)
    return max(round(padding * (n - 1)) - 1, 0)  # n - 1 intervals; the end points close the period


def crop(v: Tensor, shape: Sequence[int], *, both: bool = False) -> Tensor:
    """Undo :func:`pad_walls`: keep ``shape`` points per axis from the lower face, or from the middle."""
    first = [(have - keep) // 2 if both else 0 for have, keep in zip(v.shape[2:], shape, strict=True)]
    for axis, (low, keep) in enumerate(zip(first, shape, strict=True), 2):
        v = v.narrow(axis, low, keep)
    return v


def divisible(v: Tensor, step: int, periodic: Sequence[bool], centring: Centring, least: int = 1) -> Tensor:
    """Resample to the next number of points per axis that ``step`` divides, at least ``least`` times.

    The series of the field is evaluated on the finer grid, so that a periodic field stays periodic and the points
    stay evenly spread; fields that fit are returned as they are.
    """
    shape = [max(-(-n // step), least) * step for n in v.shape[2:]]
    return resample(v, shape, periodic, centring)
