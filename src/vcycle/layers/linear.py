"""Linear interpolation between grids of the same box."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vcycle.grid import Centring
from vcycle.layers.transforms import along


def resample_linearly(v: Tensor, shape: Sequence[int], periodic: Sequence[bool], centring: Centring) -> Tensor:
    """Evaluate the piecewise linear interpolant of functions on another grid of the same box.

    Parameters
    ----------
    v
        ``(batch, channel, *space)``.
    shape
        New number of points per axis.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`. Interpolation closes periodic axes; between a wall and the cell next to it the
        interpolant is constant.

    Returns
    -------
    Tensor
        ``(batch, channel, *shape)``.
    """
    for axis, (n, closed) in enumerate(zip(shape, periodic, strict=True), 2):
        if n != v.shape[axis]:
            matrix = hat_functions(v.shape[axis], n, periodic=closed, centring=centring)
            v = along(torch.from_numpy(matrix).to(v), v, axis)
    return v


def hat_functions(n_from: int, n_to: int, *, periodic: bool, centring: Centring) -> np.ndarray:
    """Return the matrix ``(n_to, n_from)`` of linear interpolation along an axis, float64."""
    if centring == "vertex" and not periodic:
        place = np.linspace(0, n_from - 1, n_to)
    else:
        offset = 0.5 if centring == "cell" else 0.0
        place = (np.arange(n_to) + offset) * n_from / n_to - offset
    low = np.floor(place).astype(int)
    matrix = np.zeros((n_to, n_from))
    for index, share in ((low, 1 - (place - low)), (low + 1, place - low)):
        column = index % n_from if periodic else index.clip(0, n_from - 1)
        matrix = matrix + share[:, None] * (column[:, None] == np.arange(n_from))
    return matrix
