"""FNO, the Fourier neural operator (Li et al., ICLR 2021, arXiv:2010.08895)."""

from collections.abc import Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.spectral import SpectralConv
from vcycle.models.base import GridModel, Where, conditioned


class FNO(GridModel):
    """Alternates learned Fourier multipliers with pointwise maps.

    ``v_0 = P [u, x]``, ``v_{l+1} = gelu(W_l v_l + b_l + K_l v_l)`` (no gelu after the last), ``out = Q(v_L)``, with
    ``P`` pointwise, ``K_l`` a :class:`~vcycle.layers.spectral.SpectralConv` and ``Q`` two pointwise layers (section 4
    of the paper).

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Fourier modes kept per axis, one number or one per axis; 12 in the paper's 2-D experiments.
    width
        Channels of the hidden functions; 32 in the paper.
    depth
        Number of Fourier layers.
    padding
        What is added at the upper end of every non-periodic axis, since Fourier series wrap around: an int is a number
        of points, 8 as in the authors' code for Darcy; a float is a share of the box, which alone lets the weights keep
        their meaning on another grid.
    **where
        See :class:`~vcycle.models.base.Where`. Periodic axes are not padded.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Differs from the authors' code in: weights start complex normal with variance ``2 / (c_in + c_out)`` and the
    transform is normalised forward, so that a mode's multiplier does not depend on the grid; weights are stored as real
    pairs.

    References
    ----------
    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021. arXiv:2010.08895.
    """

    name = "fno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        width: int = 32,
        depth: int = 4,
        padding: float = 8,
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
            padding=read_padding(padding),
        )
        d, self.padding = self.num_axes, padding
        self.P = pointwise(in_channels + d, width, d)
        self.K = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(depth))
        self.Q = ChannelMLP(width, 128, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        if self.padding and not all(self.periodic):  # a pad by nothing would copy
            v = pad_walls(v, self.periodic, self.padding, self.centring)
        for layer, (K, W) in enumerate(zip(self.K, self.W, strict=True)):
            v = conditioned(K(v) + W(v), maps, layer)
            v = F.gelu(v) if layer < len(self.K) - 1 else v
        return self.Q(crop(v, u.shape[2:]))
