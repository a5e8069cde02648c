"""SFNO, the spherical Fourier neural operator (Bonev et al., ICML 2023, arXiv:2306.03838)."""

from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.precision import single
from vcycle.layers.spherical import SphericalConv, colatitudes
from vcycle.models.base import GridModel, Where, conditioned


class SFNO(GridModel):
    """An FNO on the sphere, whose multipliers act on spherical harmonics and commute with rotations.

    ``v_0 = P [u, cos(colatitude)]``, ``v_{l+1} = v_l + M_l gelu(K_l v_l + W_l v_l)``, ``out = Q(v_L)``, with ``K_l`` a
    :class:`~vcycle.layers.spherical.SphericalConv` and ``M_l`` a two-layer network of the channels. The first axis is
    colatitude, from pole to pole, the second longitude, whatever the boundary.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Number of degrees kept, from 0; the grid resolves less than one per colatitude and half of one per longitude.
    width
        Channels of the hidden functions; 32 in the authors' example of shallow water.
    depth
        Number of blocks.
    position
        Give the network the colatitude, which a rotating planet needs; without it the operator commutes with every
        rotation, up to what the nonlinearity aliases.
    **where
        See :class:`~vcycle.models.base.Where`. The boundary decides nothing, as poles are no walls. On a
        vertex grid, the default, both poles are points, as in :class:`vcycle.problems.ShallowWater`; on cells none is.

    Raises
    ------
    ValueError
        If a count is not positive, or there are not two axes.

    Notes
    -----
    Checked against the code in torch-harmonics with converted weights: the whole network, to 1e-12, given real
    multipliers, exact amplitudes and one grid. Differs from it in just these: real multipliers, since complex ones turn
    with the axis; amplitudes exact on the grid of the data, where the code has quadrature and an inner Gauss grid; and
    in the gelu and the pointwise map ``W_l`` before ``M_l``, networks as encoder and decoder, coordinates instead of
    learned positions, and no normalisation of layers as an option.

    References
    ----------
    Bonev et al., "Spherical Fourier Neural Operators: Learning Stable Dynamics on the Sphere", ICML 2023.
    arXiv:2306.03838.
    """

    name = "sfno"
    where: ClassVar[Where] = {"boundary": ("neumann", "periodic"), "centring": "vertex"}
    axes = (2,)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int = 16,
        width: int = 32,
        depth: int = 4,
        position: bool = True,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            modes=_check.integer("modes", modes, 1),
            width=width,
            depth=depth,
            position=position,
        )
        self.position = position
        self.P = ChannelMLP(in_channels + position, 2 * width, width, 2)
        self.K = nn.ModuleList(SphericalConv(width, width, modes, self.centring) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, 2) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, 2 * width, width, 2) for _ in range(depth))
        self.Q = ChannelMLP(width, 2 * width, out_channels, 2)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        if self.position:
            height = torch.from_numpy(colatitudes(u.shape[2], self.centring)).cos().to(u)
            u = torch.cat([u, height[:, None].expand(u.shape[0], 1, *u.shape[2:])], 1)
        v, table = self.P(u), self.K[0].table(single(u))  # type: ignore[operator]
        for layer, (K, W, M) in enumerate(zip(self.K, self.W, self.M, strict=True)):
            v = conditioned(v + M(F.gelu(K(v, table) + W(v))), maps, layer)
        return self.Q(v)
