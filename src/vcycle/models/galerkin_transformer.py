"""Galerkin and Fourier transformers (Cao, NeurIPS 2021, arXiv:2105.14995)."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Centring
from vcycle.layers.attention import AttentionKind, KernelAttention
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import points, quadrature_weights
from vcycle.layers.spectral import SpectralConv
from vcycle.models.base import GridModel, conditioned


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
    boundary, centring, num_axes
        As in :class:`~vcycle.models.FNO`.
    num_parameters
        Scalars per sample that ``forward`` takes besides the functions.

    Raises
    ------
    ValueError
        If a count is not positive or ``heads`` does not divide ``width``.

    Notes
    -----
    Differs from the authors' code in: attention is between all points of the grid, without the convolutional
    down- and upsampling around it; sums are quadratures with the weights of the grid; no dropout; the decoder sees the
    encoder's width.

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
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        centring: Centring = "cell",
        num_axes: int = 2,
        num_parameters: int = 0,
    ) -> None:
        modes = _check.per_axis("modes", modes, len(boundary.kinds) if isinstance(boundary, Boundary) else num_axes)
        super().__init__(
            in_channels,
            out_channels,
            boundary=boundary,
            centring=centring,
            num_axes=num_axes,
            num_parameters=num_parameters,
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
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        place = points(u, self.periodic, self.centring)
        weights = quadrature_weights(u, self.periodic, self.centring)
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        for layer, (A, M) in enumerate(zip(self.A, self.M, strict=True)):
            attended = A(v.flatten(2).transpose(1, 2), place, weights)
            v = v + attended.transpose(1, 2).reshape(v.shape)
            v = conditioned(v + M(v), maps, layer)
        v = pad_walls(v, self.periodic, self.padding, self.centring)
        for K, W in zip(self.K, self.W, strict=True):
            v = F.silu(K(v) + W(v))
        return self.Q(crop(v, u.shape[2:]))
