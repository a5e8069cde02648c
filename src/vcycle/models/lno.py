"""LNO, the low-rank neural operator (Kovachki et al., JMLR 2023, arXiv:2108.08481)."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.kernel import LowRankKernel
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import quadrature_weights
from vcycle.models.base import GridModel, Where, conditioned


class LNO(GridModel):
    """Alternates integrals with kernels of finite rank and pointwise maps, ``v <- gelu(W_l v + K_l v)``.

    ``K_l`` is a :class:`~vcycle.layers.kernel.LowRankKernel` over the whole box: linear in the number of points. Not to
    be confused with the latent or the Laplace neural operator, which have the same three letters.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions.
    depth
        Number of layers.
    rank
        Terms of each kernel.
    hidden
        Width of the kernels' networks.
    **where
        See :class:`~vcycle.models.base.Where`. Boundary and centring decide what the points weigh.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Differs from the paper in: around a periodic axis, coordinates are a sine and a cosine, since kernels of a
    coordinate that jumps are hardly learnt.

    References
    ----------
    Kovachki et al., "Neural Operator: Learning Maps Between Function Spaces", JMLR 24 (2023). arXiv:2108.08481.
    """

    name = "lno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 4,
        rank: int = 8,
        hidden: int = 64,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            rank=_check.integer("rank", rank, 1),
            hidden=_check.integer("hidden", hidden, 1),
        )
        d = self.num_axes
        known = in_channels + count_smooth_coordinates(self.periodic)
        self.P = pointwise(known, width, d)
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(depth))
        self.K = nn.ModuleList(LowRankKernel(known, width, rank, hidden, d) for _ in range(depth))
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        f = append_smooth_coordinates(u, self.centring, self.periodic)
        weights = quadrature_weights(u, self.periodic, self.centring)
        v = self.P(f)
        for layer, (W, K) in enumerate(zip(self.W, self.K, strict=True)):
            v = F.gelu(conditioned(W(v) + K(f, v, weights), maps, layer))
        return self.Q(v)
