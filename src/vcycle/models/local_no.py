"""LocalNO, neural operators with local kernels (Liu-Schiaffini et al., ICML 2024, arXiv:2402.16845)."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.local import DifferenceConv, LocalIntegral
from vcycle.layers.mlp import ChannelMLP, SoftGate
from vcycle.layers.spectral import SpectralConv
from vcycle.models.base import GridModel, Where, conditioned

Layers = Literal["all", "last", "none"]
LAYERS = ("all", "last", "none")


class LocalNO(GridModel):
    """An FNO with two more summands in its layers, both local: derivatives, and integrals over a small ball.

    ``w = gelu(K_l v + D_l v + I_l v + W_l v)``, ``v <- M_l w + g_l v`` followed by a gelu (except after the last
    block), with ``K_l`` a :class:`~vcycle.layers.spectral.SpectralConv`, ``D_l`` a
    :class:`~vcycle.layers.local.DifferenceConv`, ``I_l`` a :class:`~vcycle.layers.local.LocalIntegral`, ``M_l`` a
    two-layer network of the channels and ``g_l`` one factor per channel. What an FNO truncates, sharp local structure,
    passes through ``D`` and ``I``, which unlike convolutions of some points mean the same on every grid.

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
    radius
        Of the balls of ``I``, in units of the box; 1/64 in the paper's flows on 128 x 128 points.
    differences, integrals
        Which blocks have ``D`` and ``I``: ``"all"``, ``"last"`` or ``"none"``. The paper's flows have ``D`` in the last
        and ``I`` in all.
    central
        Let ``D`` have second order, with the odd part of its weights.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box. ``K`` alone sees what is padded.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count or ``radius`` is not positive, or a choice is unknown.

    Notes
    -----
    Block and options as in the authors' code. Differs from it in: derivatives are divided by the spacing in the unit
    box; functions are continued linearly at walls for derivatives, reflected for integrals, and wrap around periodic
    axes for both; coordinates of periodic axes by sine and cosine; integrals are made for the grid at hand; no
    normalisation of layers; 1-D and 3-D. The defaults for ``modes``, ``width`` and ``radius`` are for small grids, not
    those of the paper.

    References
    ----------
    Liu-Schiaffini et al., "Neural Operators with Localized Integral and Differential Kernels", ICML 2024.
    arXiv:2402.16845.
    """

    name = "local_no"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        width: int = 32,
        depth: int = 4,
        radius: float = 0.0625,
        differences: Layers = "last",
        integrals: Layers = "all",
        central: bool = False,
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
            radius=_check.positive("radius", radius),
            differences=_check.choice("differences", differences, LAYERS),
            integrals=_check.choice("integrals", integrals, LAYERS),
            central=central,
            padding=read_padding(padding),
        )
        d, self.padding, place = self.num_axes, padding, (self.periodic, self.centring)
        self.P = ChannelMLP(in_channels + count_smooth_coordinates(self.periodic), 2 * width, width, d)
        self.K = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(depth))
        self.D = nn.ModuleDict(
            {str(i): DifferenceConv(width, width, *place, central=central) for i in _chosen(differences, depth)}
        )
        self.I = nn.ModuleDict({str(i): LocalIntegral(width, width, radius, *place) for i in _chosen(integrals, depth)})
        self.M = nn.ModuleList(ChannelMLP(width, max(width // 2, 1), width, d) for _ in range(depth))
        self.gates = nn.ModuleList(SoftGate(width, d) for _ in range(depth))
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_smooth_coordinates(u, self.centring, self.periodic))
        for layer, (M, gate) in enumerate(zip(self.M, self.gates, strict=True)):
            v = conditioned(M(F.gelu(self.summands(layer, v))) + gate(v), maps, layer)
            v = F.gelu(v) if layer < len(self.K) - 1 else v
        return self.Q(v)

    def summands(self, layer: int, v: Tensor) -> Tensor:
        """Return ``K v + W v``, and where the layer has them ``D v`` and ``I v``."""
        padded = pad_walls(v, self.periodic, self.padding, self.centring)
        total = crop(self.K[layer](padded), v.shape[2:]) + self.W[layer](v)
        for local in (self.D, self.I):
            if str(layer) in local:
                total = total + local[str(layer)](v)
        return total


def _chosen(layers: Layers, depth: int) -> range:
    return {"all": range(depth), "last": range(depth - 1, depth), "none": range(0)}[layers]
