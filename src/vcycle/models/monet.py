"""MONet, multilinear operator networks (Cheng et al., ICLR 2024, arXiv:2401.17992)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.local import enlarge, halve
from vcycle.layers.norm import ChannelNorm
from vcycle.models.base import GridModel, Where, conditioned


class MuLayer(nn.Module):
    r"""A layer without activation: :math:`y = C (u + \alpha\, u \odot w)`, :math:`u = A x`, :math:`w = B D x`.

    Without norms it is a polynomial of degree 2 in its input, and ``n`` of them one of degree ``2^n``.

    Parameters
    ----------
    in_channels, hidden, out_channels
        Channels in, of ``u`` and ``w``, and out.
    rank
        Channels between ``B`` and ``D``; ``hidden / 8`` in the paper.
    periodic
        Which axes close on themselves; its length is the number of axes.
    shift
        Whether ``A x`` and ``D x`` are moved by one point, each of their parts in another direction, see
        :func:`shifted`: the only mixing of points.
    norm
        Whether ``u`` and ``w`` pass a layer normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        rank: int,
        periodic: Sequence[bool],
        shift: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        d, self.periodic, self.shift = len(periodic), tuple(periodic), shift
        self.A, self.D = pointwise(in_channels, hidden, d), pointwise(in_channels, rank, d)
        self.B, self.C = pointwise(rank, hidden, d), pointwise(hidden, out_channels, d)
        self.alpha = nn.Parameter(torch.ones(()))
        self.norms = nn.ModuleList(ChannelNorm(hidden) if norm else nn.Identity() for _ in range(2))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        u, w = self.A(v), self.D(v)
        if self.shift:
            u, w = shifted(u, self.periodic), shifted(w, self.periodic)
        u, w = self.norms[0](u), self.norms[1](self.B(w))
        return self.C(u + self.alpha * (u * w))


def shifted(v: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Move the channels by one point: the first part of them up the first axis, the next down, and so for every axis.

    There are as many parts as directions, as even as the number of channels allows. At walls the outermost values stay.

    Parameters
    ----------
    v
        ``(batch, channel, *space)``.
    periodic
        Which axes close on themselves.
    """
    parts = []
    for direction, part in enumerate(torch.tensor_split(v, 2 * len(periodic), 1)):
        axis, step = direction // 2 + 2, 1 - 2 * (direction % 2)
        n = v.shape[axis]
        index = torch.arange(n, device=v.device) - step
        index = index % n if periodic[axis - 2] else index.clamp(0, n - 1)
        parts.append(part.index_select(axis, index))
    return torch.cat(parts, 1)


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
