"""Convolutions with small kernels, for networks that see a neighbourhood.

The kernels of :class:`LocalConv` are a number of points wide. Those of :class:`DifferenceConv` and
:class:`LocalIntegral` mean the same on every grid: a derivative, and an integral over a ball of fixed radius.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Centring, Grid
from vcycle.layers.convolution import CONV
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import resample_linearly

_APPLY = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class LocalConv(nn.Module):
    """A convolution that keeps the size: around periodic axes, with zeros beyond walls.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    kernel
        Odd number of points per axis.
    periodic
        Which axes close on themselves; its length is the number of axes.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, periodic: Sequence[bool]) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd. Got {kernel}.")
        self.reach, self.periodic = kernel // 2, tuple(periodic)
        self.conv = CONV[len(self.periodic)](in_channels, out_channels, kernel)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        zeros: list[int] = []
        for axis, closed in enumerate(self.periodic):
            v = wrapped(v, axis + 2, self.reach) if closed else v
            zeros = [0 if closed else self.reach] * 2 + zeros
        return self.conv(F.pad(v, zeros))


def wrapped(v: Tensor, axis: int, reach: int) -> Tensor:
    """Continue an axis periodically by ``reach`` points to both sides, also where it has fewer points than that."""
    n = v.shape[axis]
    return v.index_select(axis, torch.arange(-reach, n + reach, device=v.device) % n)


def conv_block(in_channels: int, out_channels: int, kernel: int, periodic: Sequence[bool]) -> nn.Sequential:
    """Return two convolutions, each followed by a normalisation per sample and channel group and a gelu."""
    groups = next(g for g in (8, 4, 2, 1) if (out_channels % g == 0 and out_channels // g > 1) or g == 1)
    return nn.Sequential(
        LocalConv(in_channels, out_channels, kernel, periodic),
        nn.GroupNorm(groups, out_channels),
        nn.GELU(),
        LocalConv(out_channels, out_channels, kernel, periodic),
        nn.GroupNorm(groups, out_channels),
        nn.GELU(),
    )


def halve(v: Tensor) -> Tensor:
    """Average pairs of points along every axis; a last odd point, or an axis of one point, stands for itself."""
    return _POOL[v.ndim - 2](v, 2, ceil_mode=True, count_include_pad=False)


def enlarge(v: Tensor, shape: Sequence[int], periodic: Sequence[bool] = ()) -> Tensor:
    """Interpolate linearly to ``shape`` points per axis, across the seam of those that ``periodic`` says are closed."""
    return resample_linearly(v, shape, periodic or (False,) * len(shape), "cell")


class DifferenceConv(nn.Module):
    r"""A convolution of three points per axis that tends to first derivatives: zero sum, divided by the spacing.

    .. math:: (D v)(x) = \frac{1}{h} \sum_{\delta \in \{-1, 0, 1\}^d} w_\delta \, (v(x + \delta h) - v(x))

    tends to :math:`\sum_\delta w_\delta \, \delta \cdot \nabla v` as the grid is refined, with first order; with
    ``central=True`` only the odd part of ``w`` acts, and the order is two. Constants are mapped to zero. Beyond walls
    functions are continued linearly, so that linear functions have their exact derivative up to the wall.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`; the length of ``periodic`` is the number of axes.
    central
        Let only the odd part of the weights act.

    Notes
    -----
    ``h`` is the geometric mean of the spacings in the unit box. The authors' code divides by the spacing relative to
    that of the training grid; a weight here is a derivative on any grid of the same proportions.

    References
    ----------
    Liu-Schiaffini et al., "Neural Operators with Localized Integral and Differential Kernels", ICML 2024.
    arXiv:2402.16845.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        periodic: Sequence[bool],
        centring: Centring = "cell",
        *,
        central: bool = False,
    ) -> None:
        super().__init__()
        self.periodic, self.centring, self.central = tuple(periodic), centring, central
        neighbours = 3 ** len(self.periodic) - 1
        # A derivative of waves of the box's size is 2 pi times as large as they are.
        scale = 1.0 / (2 * math.pi * math.sqrt(in_channels * neighbours))
        self.weight = nn.Parameter(scale * torch.randn(out_channels, in_channels, neighbours))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        grid = Grid(tuple(v.shape[2:]), centring=self.centring, periodic=self.periodic)
        h = math.prod(grid.spacing) ** (1 / grid.num_axes)
        with no_autocast(v):
            padded = single(v)
            for axis, closed in enumerate(self.periodic, 2):
                padded = wrapped(padded, axis, 1) if closed else _continued_linearly(padded, axis)
            return _APPLY[grid.num_axes](padded, self.stencil() / h).to(v.dtype)

    def stencil(self) -> Tensor:
        """Return the weights of all points of the stencil, ``(out_channels, in_channels, 3, ..)``, with zero sum."""
        w = (self.weight - self.weight.flip(-1)) / 2 if self.central else self.weight
        half = w.shape[-1] // 2
        middle = -w.sum(-1, keepdim=True)
        return torch.cat([w[..., :half], middle, w[..., half:]], -1).unflatten(-1, (3,) * len(self.periodic))


class LocalIntegral(nn.Module):
    r"""A convolution with a learned function on a ball of fixed radius, as a sum over the grid's points.

    .. math:: (I v)(x) = \sum_k \theta_k \int \psi_k(y) \, v(x + y) \, dy

    with ``psi_k`` piecewise linear in the distance and in the direction, each of integral one *as the grid sums it*: a
    constant is multiplied by ``sum_k theta_k`` on every grid. The sums are made for each grid when it is first met. A
    function into whose support no point of a coarse grid falls is replaced by the value at the point itself, to which
    small kernels tend.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    radius
        Of the ball, in units of the box.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`; the length of ``periodic`` is the number of axes. Functions are reflected at
        walls.
    rings
        Number of distances: with an odd one the first is the centre, which has no direction.
    directions
        Number of directions on the others in the plane. On the line they are two, in space the six of the axes.

    Notes
    -----
    In one and three dimensions, of which the paper does not speak: the functions of the direction are there the squared
    cosines to the axes. At the centre itself an even number of rings counts all directions alike.

    References
    ----------
    Liu-Schiaffini et al., "Neural Operators with Localized Integral and Differential Kernels", ICML 2024;
    Ocampo, Price, McEwen, "Scalable and Equivariant Spherical CNNs by Discrete-Continuous (DISCO) Convolutions", ICLR
    2023.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        radius: float,
        periodic: Sequence[bool],
        centring: Centring = "cell",
        *,
        rings: int = 3,
        directions: int = 4,
    ) -> None:
        super().__init__()
        self.radius, self.rings = _check.positive("radius", radius), _check.integer("rings", rings, 1)
        self.directions = _check.integer("directions", directions, 1)
        self.periodic, self.centring = tuple(periodic), centring
        kernels = len(ball_functions(np.zeros((1, len(self.periodic))), 1.0, rings, directions))
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernels) / math.sqrt(in_channels * kernels))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        batch, channels, *shape = v.shape
        grid = Grid(tuple(shape), centring=self.centring, periodic=self.periodic)
        kernels = _ball_kernels(v, grid.spacing, self.radius, self.rings, self.directions)
        for axis, closed in enumerate(self.periodic, 2):
            reach = kernels.shape[axis] // 2
            v = wrapped(v, axis, reach) if closed else _reflected(v, axis, reach, self.centring)
        # Few functions and many channels: first every function of every channel, then the weights.
        felt = _APPLY[grid.num_axes](v.flatten(0, 1).unsqueeze(1), kernels)
        felt = felt.reshape(batch, channels * len(kernels), math.prod(shape))
        return (self.weight.flatten(1) @ felt).unflatten(-1, shape)


def ball_functions(points: np.ndarray, radius: float, rings: int, directions: int) -> np.ndarray:
    """Return the functions that :class:`LocalIntegral` combines, at given points.

    Parameters
    ----------
    points
        ``(point, num_axes)``, relative to the centre of the ball.
    radius
        Of the ball, in the unit of the points.
    rings, directions
        As in :class:`LocalIntegral`.

    Returns
    -------
    ndarray
        ``(function, point)``, not normalised.
    """
    distance, step = np.linalg.norm(points, axis=1), 2 * radius / (rings + 1)
    first = 0.0 if rings % 2 else step / 2
    found = []
    for ring in range((rings + 1) // 2):
        at = first + ring * step
        hat = np.clip(1 - np.abs(distance - at) / step, 0, None)
        found += [hat] if at == 0 else list(hat * _directions(points, distance, directions))
    return np.stack(found)


def _directions(points: np.ndarray, distance: np.ndarray, directions: int) -> np.ndarray:
    """Return functions of the direction whose sum is one, ``(function, point)``."""
    here = distance < 1e-12
    if points.shape[1] == 2:
        step = 2 * np.pi / directions
        away = (np.arctan2(points[:, 1], points[:, 0]) - step * np.arange(directions)[:, None] + np.pi) % (2 * np.pi)
        made = np.clip(1 - np.abs(away - np.pi) / step, 0, None)
        made = made if directions > 1 else np.ones_like(made)
    else:
        cosines = points.T / np.where(here, 1.0, distance)
        made = np.concatenate([np.clip(cosines, 0, None), np.clip(-cosines, 0, None)]) ** 2
    return np.where(here, 1 / len(made), made)


def _kernels(spacing: tuple[float, ...], radius: float, rings: int, directions: int) -> np.ndarray:
    reaches = [math.floor(radius / h * (1 + 1e-9)) for h in spacing]
    offsets = [h * np.arange(-reach, reach + 1) for h, reach in zip(spacing, reaches, strict=True)]
    points = np.stack(np.meshgrid(*offsets, indexing="ij"), -1).reshape(-1, len(spacing))
    made = ball_functions(points, radius, rings, directions)
    total = made.sum(1, keepdims=True)
    centre = np.arange(len(points)) == len(points) // 2
    made = np.where(total > 1e-9, made / np.where(total > 1e-9, total, 1.0), centre)
    return made.reshape(len(made), 1, *(len(offset) for offset in offsets))


def _ball_kernels(v: Tensor, *arguments: Any) -> Tensor:
    """Return the functions on a grid, ``(function, 1, *points)``, in the precision and on the device of ``v``."""
    build = _kernels if torch.compiler.is_compiling() else _kept_kernels  # nothing may be kept from a recorded program
    return torch.from_numpy(build(*arguments)).to(v)


_kept_kernels = lru_cache(maxsize=64)(_kernels)


def _continued_linearly(v: Tensor, axis: int) -> Tensor:
    """Add one point at both ends of an axis, on the line through the two outermost."""
    n = v.shape[axis]
    low = 2 * v.narrow(axis, 0, 1) - v.narrow(axis, 1, 1)
    high = 2 * v.narrow(axis, n - 1, 1) - v.narrow(axis, n - 2, 1)
    return torch.cat([low, v, high], axis)


def _reflected(v: Tensor, axis: int, reach: int, centring: Centring) -> Tensor:
    """Continue an axis by ``reach`` points to both sides by reflections at its walls."""
    n = v.shape[axis]
    return v.index_select(axis, folded(torch.arange(-reach, n + reach, device=v.device), n, centring))


def folded(index: Tensor, n: int, centring: Centring) -> Tensor:
    """Return which of ``n`` points lies where reflections at the walls bring ``index``."""
    if centring == "cell":
        index = index % (2 * n)
        return torch.where(index < n, index, 2 * n - 1 - index)
    index = index % max(2 * n - 2, 1)
    return torch.where(index < n, index, 2 * n - 2 - index)
