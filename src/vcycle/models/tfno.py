"""TFNO, the tensorised Fourier neural operator (Kossaifi et al., TMLR 2024, arXiv:2310.00120)."""

from collections.abc import Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.factorised import Factorisation, FactorisedSpectralConv
from vcycle.layers.mlp import ChannelMLP, SoftGate
from vcycle.models.base import GridModel, Where, conditioned


class TFNO(GridModel):
    """An FNO with multipliers of low tensor rank, a network of the channels in every block, and gated skips.

    ``w = gelu(K_l v + W_l v)``, ``v <- M_l w + g_l v`` followed by a gelu (except after the last block), with ``K_l`` a
    :class:`~vcycle.layers.factorised.FactorisedSpectralConv`, ``M_l`` a two-layer network of the channels and ``g_l``
    one factor per channel.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Fourier modes kept per axis, one number or one per axis.
    width
        Channels of the hidden functions.
    depth
        Number of blocks.
    factorisation
        ``"tucker"``, ``"cp"`` or ``"tensor-train"``.
    rank
        Share of the dense number of spectral weights, or the ranks themselves.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive, or the ranks do not fit.

    Notes
    -----
    Differs from the authors' code in: every layer has its own tensor, and it is the real tensor of real and imaginary
    parts that is factorised. The decomposition of the domain into patches is :class:`~vcycle.models.MGTFNO`.

    References
    ----------
    Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs", TMLR 2024.
    arXiv:2310.00120.
    """

    name = "tfno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        width: int = 32,
        depth: int = 4,
        factorisation: Factorisation = "tucker",
        rank: float | Sequence[int] = 0.1,
        padding: float = 0.25,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            modes=list(modes),
            width=width,
            depth=depth,
            factorisation=factorisation,
            rank=list(rank) if isinstance(rank, Sequence) else rank,
            padding=read_padding(padding),
        )
        d, self.padding = self.num_axes, padding
        self.P = ChannelMLP(in_channels + d, 2 * width, width, d)
        self.K = nn.ModuleList(
            FactorisedSpectralConv(width, width, modes, factorisation=factorisation, rank=rank) for _ in range(depth)
        )
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, max(width // 2, 1), width, d) for _ in range(depth))
        self.gates = nn.ModuleList(SoftGate(width, d) for _ in range(depth))
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        v = pad_walls(v, self.periodic, self.padding, self.centring)
        for layer, (K, W, M, gate) in enumerate(zip(self.K, self.W, self.M, self.gates, strict=True)):
            v = conditioned(M(F.gelu(K(v) + W(v))) + gate(v), maps, layer)
            v = F.gelu(v) if layer < len(self.K) - 1 else v
        return self.Q(crop(v, u.shape[2:]))
