"""GNO, the graph kernel network (Li et al., 2020, arXiv:2003.03485), on grids."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.kernel import BallKernel
from vcycle.layers.mlp import ChannelMLP
from vcycle.models.base import GridModel, Where, conditioned


class GNO(GridModel):
    """Iterates one learned kernel integral over balls, ``v <- gelu(W v + K v)``.

    The grid's points are the graph's nodes, all points of a ball its edges. ``K`` is one
    :class:`~vcycle.layers.kernel.BallKernel` for all iterations; what it knows of a point is the input and where it is.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions.
    depth
        Number of iterations.
    radius
        Of the balls, in units of the box. A point sees ``depth * radius`` far.
    hidden
        Width of the kernel's network.
    **where
        See :class:`~vcycle.models.base.Where`. Balls reach around periodic axes and end at walls.

    Raises
    ------
    ValueError
        If a count or the radius is not positive.

    Notes
    -----
    Differs from the authors' code in: the kernel's network has one hidden layer, so that its matrices need not be
    formed; means weigh points by their cells; no smoothed coefficients as inputs; coordinates of periodic axes by sine
    and cosine. The work per point grows with the number of points in a ball, ``(radius / h)^num_axes``. The points of a
    ball change from grid to grid; least where its radius ends midway between two points.

    References
    ----------
    Li et al., "Neural Operator: Graph Kernel Network for Partial Differential Equations", 2020. arXiv:2003.03485.
    """

    name = "gno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 4,
        radius: float = 0.1,
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
            radius=_check.positive("radius", radius),
            hidden=_check.integer("hidden", hidden, 1),
        )
        d = self.num_axes
        known = in_channels + count_smooth_coordinates(self.periodic)
        self.P = pointwise(known, width, d)
        self.W = pointwise(width, width, d)
        self.K = BallKernel(known, width, hidden, radius, d)
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        f = append_smooth_coordinates(u, self.centring, self.periodic)
        v = self.P(f)
        for layer in range(self._config["depth"]):
            v = F.gelu(conditioned(self.W(v) + self.K(f, v, self.periodic, self.centring), maps, layer))
        return self.Q(v)
