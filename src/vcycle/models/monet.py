"""MONet, multilinear operator networks (Cheng et al., ICLR 2024, arXiv:2401.17992)."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.local import enlarge, halve
from vcycle.layers.multilinear import MuLayer
from vcycle.layers.norm import ChannelNorm
from vcycle.models.base import GridModel, Where, conditioned


class _MuBlock(nn.Module):
    """``v + S N v``, then ``v + M N v``, with one norm for both: a layer that mixes points, and one of the channels."""

    def __init__(self, width: int, expansion: int, periodic: Sequence[bool], *, norm: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(width) if norm else nn.Identity()
        hidden = expansion * width
        rank = max(width // 8, 2 * len(periodic))
        self.S = MuLayer(width, width, width, rank=rank, periodic=periodic, shift=True, norm=norm)
        self.M = MuLayer(width, hidden, width, rank=max(hidden // 8, 1), periodic=periodic, norm=norm)

    def forward(self, v: Tensor) -> Tensor:
        v = v + self.S(self.norm(v))
        return v + self.M(self.norm(v))


class MONet(GridModel):
    """Products of linear maps in place of activations, on a hierarchy of halved grids.

    On every grid, blocks of a :class:`MuLayer` that sees the neighbours and one that sees the channels, both added to
    their input after a normalisation. Grids are averaged on the way down and interpolated on the way up, where what was
    found on the finer grid is added. With ``norm=False`` the output is a polynomial of the input.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions.
    depth
        Blocks per grid and side.
    levels
        Number of grids; 4 in the paper.
    expansion
        Hidden channels of the layer of the channels over ``width``; 3 in the paper.
    norm
        Whether features are normalised; without, training needs small rates.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Layers and blocks follow the authors' code, a classifier of images whose pyramid ends in a mean; the way up is ours.
    Differs from it further in: neighbours along every axis and direction in any dimension, around periodic axes too;
    transfers without weights. Neighbours are one point away: the map changes with the grid.

    References
    ----------
    Cheng et al., "Multilinear Operator Networks", ICLR 2024. arXiv:2401.17992.
    """

    name = "monet"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 2,
        levels: int = 3,
        expansion: int = 3,
        norm: bool = True,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=2,
            width=width,
            depth=depth,
            levels=_check.integer("levels", levels, 1),
            expansion=_check.integer("expansion", expansion, 1),
            norm=bool(norm),
        )

        def side(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*(_MuBlock(width, expansion, self.periodic, norm=norm) for _ in range(depth)))
                for _ in range(count)
            )

        self.P = pointwise(in_channels + count_smooth_coordinates(self.periodic), width, self.num_axes)
        self.down, self.up = side(levels), side(levels - 1)
        self.Q = pointwise(width, out_channels, self.num_axes)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = conditioned(self.P(append_smooth_coordinates(u, self.centring, self.periodic)), maps, 0)
        kept: list[Tensor] = []
        for blocks in self.down:
            kept.append(blocks(v if not kept else halve(kept[-1])))
        v = kept.pop()
        for blocks in self.up:
            finer = kept.pop()
            v = blocks(finer + enlarge(v, finer.shape[2:], self.periodic))
        return self.Q(conditioned(v, maps, 1))
