"""The grid's coordinates as channels."""

import torch
from torch import Tensor

from vcycle.grid import Centring, Grid


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
    grid = Grid(tuple(u.shape[2:]), centring=centring, periodic=periodic)
    coordinates = torch.stack([torch.from_numpy(axis) for axis in grid.mesh()]).to(u)
    return torch.cat([u, coordinates.expand(u.shape[0], *coordinates.shape)], dim=1)
