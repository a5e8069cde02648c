"""F-FNO, the factorised Fourier neural operator (Tran et al., ICLR 2023, arXiv:2111.13802)."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.spectral import SeparableSpectralConv
from vcycle.models.base import GridModel, Where, conditioned


class FFNO(GridModel):
    """Residual blocks ``v <- v + M_l(sum_a K_{l,a} v)`` whose convolutions act along one axis ``a`` each.

    Weights grow with the number of axes instead of exponentially, and the residual runs past the network ``M_l``, so
    that many layers can be trained.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Fourier modes kept per axis, one number or one per axis; 16 in the paper.
    width
        Channels of the hidden functions; 64 in the paper.
    depth
        Number of blocks; up to 24 in the paper.
    expansion
        Hidden channels of the networks over ``width``.
    shared
        Use one convolution for all blocks, the paper's weight sharing.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive.

    References
    ----------
    Tran et al., "Factorized Fourier Neural Operators", ICLR 2023. arXiv:2111.13802.
    """

    name = "ffno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 16,
        width: int = 32,
        depth: int = 4,
        expansion: int = 2,
        shared: bool = False,
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
            expansion=_check.integer("expansion", expansion, 1),
            shared=shared,
            padding=read_padding(padding),
        )
        d, self.padding = self.num_axes, padding
        self.P = pointwise(in_channels + d, width, d)
        self.K = nn.ModuleList(SeparableSpectralConv(width, width, modes) for _ in range(1 if shared else depth))
        self.M = nn.ModuleList(ChannelMLP(width, expansion * width, width, d) for _ in range(depth))
        self.Q = ChannelMLP(width, 128, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        v = pad_walls(v, self.periodic, self.padding, self.centring)
        for layer, M in enumerate(self.M):
            v = conditioned(v + M(self.K[layer % len(self.K)](v)), maps, layer)
        return self.Q(crop(v, u.shape[2:]))
