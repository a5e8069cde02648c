"""SRNO, the super-resolution neural operator (Wei, Zhang, CVPR 2023, arXiv:2303.02584)."""

import itertools
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Grid
from vcycle.layers.attention import KernelAttention
from vcycle.layers.convolution import pointwise
from vcycle.layers.local import LocalConv
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import quadrature_weights
from vcycle.models.base import GridModel, Where, conditioned


class _Residual(nn.Module):
    """``v + K_2 relu(K_1 v)``, two convolutions without norms."""

    def __init__(self, width: int, periodic: Sequence[bool]) -> None:
        super().__init__()
        self.first, self.second = LocalConv(width, width, 3, periodic), LocalConv(width, width, 3, periodic)

    def forward(self, v: Tensor) -> Tensor:
        return v + self.second(F.relu(self.first(v)))


class SRNO(GridModel):
    """A function given on one grid, evaluated on any other of the same box.

    Convolutions encode the input on its own grid. At every point of the output's grid, the features of the nearest
    points of the input, each with its weight in linear interpolation and its distance, and the size of a cell make one
    vector. Layers ``v <- v + A v``, ``v <- v + M v`` follow, with ``A`` Galerkin attention among all points of the
    output, :class:`~vcycle.layers.attention.KernelAttention`, and ``M`` a network of the channels. What comes out is
    added to the linear interpolation of the input.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions, a multiple of ``heads``; 256 in the paper.
    depth
        Attention layers; 2 in the paper.
    features
        Channels of the encoder; 64 in the paper.
    encoder_depth
        Residual blocks of the encoder; 16 in the paper.
    heads
        Heads of the attention; 16 in the paper.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive or ``heads`` does not divide ``width``.

    Notes
    -----
    Structure follows the authors' code. Differs from it in: any number of axes, periodic ones too; a pointwise map of
    the interpolated input where numbers of channels differ; the attention starts with small maps, as in the Galerkin
    transformer. The encoder's kernels are a number of points wide, so that the map changes with the input's grid, and
    tends to a function as the output's is refined.

    References
    ----------
    Wei, Zhang, "Super-Resolution Neural Operator", CVPR 2023. arXiv:2303.02584.
    """

    name = "srno"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 48,
        depth: int = 2,
        features: int = 24,
        encoder_depth: int = 4,
        heads: int = 4,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            features=_check.integer("features", features, 1),
            encoder_depth=_check.integer("encoder_depth", encoder_depth, 0),
            heads=heads,
        )
        d = self.num_axes
        self.P = LocalConv(in_channels, features, 3, self.periodic)
        self.encoder = nn.Sequential(*(_Residual(features, self.periodic) for _ in range(encoder_depth)))
        self.lift = pointwise((features + d) * 2**d + d, width, d)
        self.A = nn.ModuleList(KernelAttention(width, heads) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, width, width, d) for _ in range(depth))
        self.Q = ChannelMLP(width, width, out_channels, d)
        self.skip = nn.Identity() if in_channels == out_channels else pointwise(in_channels, out_channels, d)

    def forward(self, u: Tensor, parameters: Tensor | None = None, shape: Sequence[int] | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *shape)``.

        ``parameters`` are ``(batch, num_parameters)``, or None for a model without any; ``shape`` is the number of
        points per axis of the output, None for those of the input.

        Raises
        ------
        ValueError
            If the number of channels, axes or parameters is wrong.
        """
        if shape is not None and len(shape) != self.num_axes:
            raise ValueError(f"`shape` must have {self.num_axes} axes. Got {tuple(shape)}.")
        maps = self.maps_of(u, parameters)
        sizes = [_check.integer("shape", n, self.smallest) for n in shape] if shape is not None else u.shape[2:]
        return self.evaluate(u, maps, sizes)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises, on the grid of the input."""
        return self.evaluate(u, maps, u.shape[2:])

    def evaluate(self, u: Tensor, maps: Tensor | None, shape: Sequence[int]) -> Tensor:
        """Return the output on ``shape`` points per axis."""
        corners = self._corners(u, shape)
        v = self.P(u)
        v = self.lift(self._gathered(v + self.encoder(v), corners, shape))
        weights = quadrature_weights(v, self.periodic, self.centring)
        for layer, (A, M) in enumerate(zip(self.A, self.M, strict=True)):
            attended = A(v.flatten(2).transpose(1, 2), None, weights)
            v = v + attended.transpose(1, 2).reshape(v.shape)
            v = conditioned(v + M(v), maps, layer)
        linear = sum(_weighted(u, corner)[0] for corner in itertools.product(*corners))
        return self.skip(linear) + self.Q(v)

    def _gathered(self, v: Tensor, corners: list[Any], shape: Sequence[int]) -> Tensor:
        """Return weighted features and distances of the nearest points, and the cell's size."""
        parts, here, there = [], self._grid(v.shape[2:]), self._grid(shape)
        for corner in itertools.product(*corners):
            weighted, distances = _weighted(v, corner)
            parts += [weighted, distances.expand(v.shape[0], *distances.shape)]
        ratios = [2 * fine / coarse for fine, coarse in zip(there.spacing, here.spacing, strict=True)]
        sizes = torch.tensor(ratios, dtype=v.dtype)
        cell = sizes.to(v.device).reshape(1, -1, *(1,) * len(shape))
        return torch.cat([*parts, cell.expand(v.shape[0], -1, *shape)], 1)

    def _grid(self, shape: Sequence[int]) -> Grid:
        return Grid(tuple(shape), centring=self.centring, periodic=self.periodic)

    def _corners(self, u: Tensor, shape: Sequence[int]) -> list[Any]:
        """Return per axis the lower and the upper neighbour of every output point: index, weight, signed distance.

        Distances are in cells of the input. Beyond the outermost points, both neighbours are the same.
        """
        here, there = self._grid(u.shape[2:]), self._grid(shape)
        axes = []
        for axis, (n, spacing) in enumerate(zip(here.shape, here.spacing, strict=True)):
            first = here.coordinates()[axis][0]
            exact = (there.coordinates()[axis] - first) / spacing
            near = np.round(exact)  # on a point of the input, not a rounding error beside it
            place = torch.from_numpy(np.where(abs(exact - near) < 1e-9, near, exact)).to(u.device)
            low = place.floor()
            pair = []
            for corner, weight in ((low, 1 - (place - low)), (low + 1, place - low)):
                index = corner.long()
                index = index % n if self.periodic[axis] else index.clamp(0, n - 1)
                pair.append((index, weight.to(u.dtype), (place - corner).to(u.dtype)))
            axes.append(pair)
        return axes


def _weighted(v: Tensor, corner: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return one neighbour's values times its weight in linear interpolation, and its distances ``(axis, *shape)``."""
    distances = torch.stack(torch.meshgrid(*(distance for _, _, distance in corner), indexing="ij"))
    for axis, (index, weight, _) in enumerate(corner, 2):
        v = v.index_select(axis, index) * weight.reshape(-1, *(1,) * (v.ndim - 1 - axis))
    return v, distances
