"""The multipole graph neural operator (Li et al., NeurIPS 2020, arXiv:2006.09535), on grids. It is not MgNO."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.kernel import BallKernel
from vcycle.layers.local import enlarge, halve
from vcycle.layers.mlp import ChannelMLP
from vcycle.models.base import GridModel, Where, conditioned


class MultipoleGNO(GridModel):
    """V-cycles of learned kernel integrals: near points on the fine grid, far ones on coarser grids.

    Down: ``v_{l+1} = gelu(D_l halve(v_l))``. Up from the coarsest: ``v_l <- gelu(W_l v_l + K_l v_l + U_l w)`` where
    ``w`` is ``v_{l+1}`` interpolated, with :class:`~vcycle.layers.kernel.BallKernel` of radius ``radius 2^l``: as many
    neighbours on every level.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions.
    depth
        Number of cycles; they share their weights.
    levels
        Number of grids.
    radius
        Of the balls on the finest grid, in units of the box.
    hidden
        Width of the kernels' networks on the finest grid; it halves from level to level, at least 4.
    **where
        See :class:`~vcycle.models.base.Where`. Balls reach around periodic axes and end at walls.

    Raises
    ------
    ValueError
        If a count or the radius is not positive.

    Notes
    -----
    The published name is MGNO; this one keeps apart the multigrid neural operator :class:`~vcycle.models.MgNO`, whose
    levels hold convolutions. Differs from the authors' code in: coarse nodes are means of pairs of points in place of
    random samples, and between levels act means, linear interpolation and one matrix in place of kernels; coordinates
    of periodic axes by sine and cosine.

    References
    ----------
    Li et al., "Multipole Graph Neural Operator for Parametric Partial Differential Equations", NeurIPS 2020.
    arXiv:2006.09535.
    """

    name = "multipole_gno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 2,
        levels: int = 4,
        radius: float = 0.05,
        hidden: int = 32,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            levels=_check.integer("levels", levels, 1),
            radius=_check.positive("radius", radius),
            hidden=_check.integer("hidden", hidden, 1),
        )
        d, known = self.num_axes, in_channels + count_smooth_coordinates(self.periodic)
        self.P = pointwise(known, width, d)
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(levels))
        self.K = nn.ModuleList(
            BallKernel(known, width, max(hidden // 2**level, min(hidden, 4)), radius * 2**level, d)
            for level in range(levels)
        )
        self.D = nn.ModuleList(pointwise(width, width, d) for _ in range(levels - 1))
        self.U = nn.ModuleList(pointwise(width, width, d, bias=False) for _ in range(levels - 1))
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        known = [append_smooth_coordinates(u, self.centring, self.periodic)]
        for _ in self.D:
            known.append(halve(known[-1]))
        v = self.P(known[0])
        for number in range(self._config["depth"]):
            v = conditioned(self._cycle(known, v), maps, number)
        return self.Q(v)

    def _cycle(self, known: list[Tensor], v: Tensor) -> Tensor:
        levels = [v]
        for D in self.D:
            levels.append(F.gelu(D(halve(levels[-1]))))
        below = v
        for level in reversed(range(len(levels))):
            v = levels[level]
            # Coarse points stand for pairs: they are cells whatever the fine ones are.
            update = self.W[level](v) + self.K[level](
                known[level], v, self.periodic, "cell" if level else self.centring
            )
            if level < len(self.U):
                update = update + self.U[level](enlarge(below, v.shape[2:], self.periodic))
            below = F.gelu(update)
        return below
