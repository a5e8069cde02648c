"""Galerkin and Fourier transformers (Cao, NeurIPS 2021, arXiv:2105.14995)."""

import itertools
import math
from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.attention import AttentionKind, KernelAttention
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.local import LocalConv
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import points, quadrature_weights
from vcycle.layers.spectral import SpectralConv
from vcycle.layers.transforms import resample_linearly
from vcycle.models.base import GridModel, Where, conditioned


class GalerkinTransformer(GridModel):
    """Attention without softmax among all points, as a quadrature, and a small Fourier decoder.

    Encoder blocks ``v <- v + A_l v``, ``v <- v + M_l v`` with ``A_l`` a
    :class:`~vcycle.layers.attention.KernelAttention`, which sees the coordinates, and ``M_l`` a network of the
    channels; then two spectral convolutions with pointwise skips and silu.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions, a multiple of ``heads``.
    depth
        Number of encoder blocks; 4 in one dimension in the paper, 6 in two.
    heads
        Heads of the attention.
    attention
        ``"galerkin"``, ``"fourier"`` or ``"softmax"``; the last costs the square of the number of points.
    modes
        Fourier modes of the decoder per axis, one number or one per axis.
    padding
        As in :class:`~vcycle.models.FNO`, for the decoder; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive or ``heads`` does not divide ``width``.

    Notes
    -----
    Differs from the authors' code in: attention is between all points of the grid, without the convolutional
    down- and upsampling around it; sums are quadratures with the weights of the grid; gelu for relu in the encoder and
    for silu in the last map; no dropout; the decoder has the encoder's width and is not given the coordinates once
    more; softmax attention has no normalisation. :class:`PublishedGalerkinTransformer` has the rest as published.
    Checked against the authors' code (github.com/scaomath/galerkin-transformer) with converted weights: where all
    points weigh alike and without padding, this is their network in one dimension and their "lite" one in two, but for
    the activations.

    References
    ----------
    Cao, "Choose a Transformer: Fourier or Galerkin", NeurIPS 2021. arXiv:2105.14995.
    """

    name = "galerkin_transformer"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 48,
        depth: int = 4,
        heads: int = 4,
        attention: AttentionKind = "galerkin",
        modes: int | Sequence[int] = 12,
        padding: float = 0.25,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            heads=heads,
            attention=attention,
            modes=list(modes),
            padding=read_padding(padding),
        )
        d, self.padding = self.num_axes, padding
        self.P = pointwise(in_channels + d, width, d)
        self.A = nn.ModuleList(KernelAttention(width, heads, kind=attention, num_coordinates=d) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, 2 * width, width, d) for _ in range(depth))
        self.K = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(2))
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(2))
        self.Q: nn.Module = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        weights = quadrature_weights(u, self.periodic, self.centring)
        v = self.encode(self.P(append_coordinates(u, self.centring, self.periodic)), weights, maps)
        v = self.decode(pad_walls(v, self.periodic, self.padding, self.centring))
        return self.Q(crop(v, u.shape[2:]))

    def encode(self, v: Tensor, weights: Tensor, maps: Tensor | None) -> Tensor:
        """Map hidden functions ``(batch, width, *space)`` to the same shape; ``weights`` are those of the points."""
        place = points(v, self.periodic, self.centring)
        for layer, (A, M) in enumerate(zip(self.A, self.M, strict=True)):
            attended = A(v.flatten(2).transpose(1, 2), place, weights)
            v = v + attended.transpose(1, 2).reshape(v.shape)
            v = conditioned(v + M(v), maps, layer)
        return v

    def decode(self, v: Tensor) -> Tensor:
        """Apply the spectral convolutions, which keep the shape."""
        for K, W in zip(self.K, self.W, strict=True):
            v = F.silu(K(v) + W(v))
        return v


class Narrowing(nn.Module):
    """Convolutions with relu on the given grid and on one between, to features on a coarse grid.

    Features are those of three convolutions after each other, a third of the channels each.

    Parameters
    ----------
    in_channels, width
        Channels in and out; ``width`` is at least 3.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`.
    """

    def __init__(self, in_channels: int, width: int, periodic: Sequence[bool], centring: Centring) -> None:
        super().__init__()
        third = _check.integer("width", width, 3) // 3
        channels = [in_channels, width, third, third, width - 2 * third]
        self.layers = nn.ModuleList(LocalConv(a, b, 3, periodic) for a, b in itertools.pairwise(channels))
        self.periodic, self.centring = tuple(periodic), centring

    def forward(self, u: Tensor, between: Sequence[int], coarse: Sequence[int]) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, width, *coarse)``."""
        first, *rest = self.layers
        v = resample_linearly(first(u).relu(), between, self.periodic, self.centring)
        parts = []
        for layer in rest:
            v = layer(v).relu()
            parts.append(v)
        return resample_linearly(torch.cat(parts, 1), coarse, self.periodic, self.centring)


class PublishedGalerkinTransformer(GalerkinTransformer):
    """The authors' network for Darcy flow: attention on a coarse grid, between convolutions that lead there and back.

    Functions go through a :class:`Narrowing` to the coarse grid, the encoder of :class:`GalerkinTransformer` (with
    relu), linear interpolation with one convolution between to the grid they came from, and are joined by the
    coordinates. The decoder has ``width / 2^num_axes`` channels.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width, depth, heads, attention
        As in :class:`GalerkinTransformer`; the width is at least 3.
    modes
        Fourier modes of the decoder per axis, one number or one per axis.
    coarsening
        Spacing of the coarse grid over that of the given one, at least 1; 10/3 in the paper, from 141 to 43 vertices.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is too small, ``heads`` does not divide ``width``, or ``coarsening`` is below 1.

    Notes
    -----
    Attention means over points, whatever their quadrature weights, and convolutions are 3 points wide: the map changes
    with the grid. Differs from the authors' code in: no dropout; what one enforces on walls is not part of it
    (:func:`vcycle.layers.walls.vanish_on_walls`); softmax attention has no normalisation. Checked against the authors'
    code (github.com/scaomath/galerkin-transformer) with converted weights.

    References
    ----------
    Cao, "Choose a Transformer: Fourier or Galerkin", NeurIPS 2021. arXiv:2105.14995.
    """

    name = "published_galerkin_transformer"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        attention: AttentionKind = "galerkin",
        modes: int | Sequence[int] = 12,
        coarsening: float = 10 / 3,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            width=width,
            depth=depth,
            heads=heads,
            attention=attention,
            modes=modes,
            padding=0,
            **where,
        )
        if _check.positive("coarsening", coarsening) < 1:
            raise ValueError(f"`coarsening` must be at least 1. Got {coarsening}.")
        self.coarsening = coarsening
        self._config = {key: v for key, v in self._config.items() if key != "padding"} | {"coarsening": coarsening}
        d, kept = self.num_axes, self._config["modes"]
        narrow = max(width // 2**d, 1)
        self.P = Narrowing(in_channels, width, self.periodic, self.centring)
        for M in self.M:
            M[1] = nn.ReLU()  # type: ignore[operator]
        self.widen = LocalConv(width, width, 3, self.periodic)
        self.D = pointwise(width + d, narrow, d)
        self.K = nn.ModuleList(SpectralConv(narrow, narrow, kept) for _ in range(2))
        self.W = nn.ModuleList(pointwise(narrow, narrow, d) for _ in range(2))
        self.Q = nn.Sequential(
            pointwise(narrow, 2 * d * narrow, d), nn.SiLU(), pointwise(2 * d * narrow, out_channels, d)
        )

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        between, coarse = self.grids(u.shape[2:])
        v = self.P(u, between, coarse)
        count = math.prod(coarse)
        v = self.encode(v, u.new_full((count,), 1 / count), maps)
        v = F.silu(F.silu(self.widen(resample_linearly(v, between, self.periodic, self.centring))))  # twice, as there
        v = resample_linearly(v, u.shape[2:], self.periodic, self.centring)
        return self.Q(self.decode(self.D(append_coordinates(v, self.centring, self.periodic))))

    def grids(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the points per axis of the grid between, the geometric mean, and of the coarse grid, at least two."""
        between, coarse = [], []
        for n, closed in zip(shape, self.periodic, strict=True):
            ends = int(self.centring == "vertex" and not closed)
            few = max(round((n - ends) / self.coarsening) + ends, 2)
            coarse.append(few)
            between.append(max(round((n * few) ** 0.5), 2))
        return between, coarse
