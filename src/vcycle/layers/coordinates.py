"""The grid's coordinates as channels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vcycle.grid import Centring
from vcycle.layers.positions import places


def append_coordinates(u: Tensor, centring: Centring, periodic: tuple[bool, ...]) -> Tensor:
    """Append one channel per axis with the coordinates in the unit box.

    Parameters
    ----------
    u
        ``(batch, channel, *space)``.
    centring, periodic
        As in :class:`~vcycle.grid.Grid`.

    Returns
    -------
    Tensor
        ``(batch, channel + num_axes, *space)``.
    """
    coordinates = torch.stack(torch.meshgrid(*places(u, periodic, centring), indexing="ij"))
    return torch.cat([u, coordinates.expand(u.shape[0], *coordinates.shape)], dim=1)


def count_smooth_coordinates(periodic: Sequence[bool]) -> int:
    """Return how many channels :func:`append_smooth_coordinates` appends: one per axis, two around a periodic one."""
    return len(periodic) + sum(periodic)


def append_smooth_coordinates(u: Tensor, centring: Centring, periodic: Sequence[bool]) -> Tensor:
    """Append where a point lies: ``x`` along an axis between walls, its sine and cosine around a periodic one.

    ``x`` itself jumps where a periodic axis closes: a derivative would make a spike of it that grows with the grid, and
    a network of ``x`` would have to learn that the two ends are one point.

    Parameters
    ----------
    u
        ``(batch, channel, *space)``.
    centring, periodic
        As in :class:`~vcycle.grid.Grid`.

    Returns
    -------
    Tensor
        ``(batch, channel + num_axes + number of periodic axes, *space)``.
    """
    shape, found = u.shape[2:], [u]
    for axis, (x, closed) in enumerate(zip(places(u, periodic, centring), periodic, strict=True)):
        line = x.reshape(-1, *(1,) * (len(shape) - 1 - axis)).expand(u.shape[0], 1, *shape)
        found += [(2 * math.pi * line).sin(), (2 * math.pi * line).cos()] if closed else [line]
    return torch.cat(found, 1)
