"""IFNO, the implicit Fourier neural operator (You et al., CMAME 2022, arXiv:2203.08205)."""

from collections.abc import Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.spectral import SpectralConv
from vcycle.models.base import GridModel, Where, conditioned


class IFNO(GridModel):
    """One Fourier layer, applied ``depth`` times as the step of an evolution.

    ``v_0 = P [u, x]``, ``v_{l+1} = v_l + gelu(K v_l + W v_l + b) / depth``, ``out = Q(v_L)``: ``K``, ``W`` and ``b``
    are those of all layers, so that the number of weights does not depend on the depth, and as the depth grows the
    network tends to the flow of an ordinary differential equation.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Fourier modes kept per axis, one number or one per axis.
    width
        Channels of the hidden functions; 150 with 20 steps in the turbulent flows of the second reference.
    depth
        Number of steps.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`. Parameters act alike in every step.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Structure after the second reference's code, where the last step has no activation; here all steps are alike, as the
    limit of many steps needs. Differs in: gelu, weights at the start as in :class:`~vcycle.models.FNO`.

    References
    ----------
    You et al., "Learning Deep Implicit Fourier Neural Operators (IFNOs) with Applications to Heterogeneous Material
    Modeling", Comput. Methods Appl. Mech. Eng. 398 (2022) 115296. arXiv:2203.08205. Zhao et al., "LESnets", for the
    use in turbulence.
    """

    name = "implicit_fno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        width: int = 32,
        depth: int = 8,
        padding: float = 0.25,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=1,
            modes=list(modes),
            width=width,
            depth=depth,
            padding=read_padding(padding),
        )
        d, self.padding, self.depth = self.num_axes, padding, depth
        self.P = pointwise(in_channels + d, width, d)
        self.K = SpectralConv(width, width, modes)
        self.W = pointwise(width, width, d)
        self.Q = ChannelMLP(width, 128, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        v = pad_walls(v, self.periodic, self.padding, self.centring)
        for _ in range(self.depth):
            v = v + F.gelu(conditioned(self.K(v) + self.W(v), maps, 0)) / self.depth
        return self.Q(crop(v, u.shape[2:]))
