"""LordNet, low-rank spatial mixing (Huang et al., Neural Networks 2024, arXiv:2206.09418)."""

from collections.abc import Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.axial import AxialMix
from vcycle.layers.convolution import pointwise
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import resample
from vcycle.models.base import GridModel, Where, conditioned


class LordNet(GridModel):
    r"""A learned matrix per channel and axis, :math:`A_c X_c B_c^T`, as the mixing of all points with all others.

    Layers ``v <- v + W gelu(M v)``: ``M`` multiplies every axis of a channel by a matrix of its own, an
    :class:`~vcycle.layers.axial.AxialMix`, and ``W`` mixes the channels of every point. A sum over channels of such
    products is a low-rank form of a full matrix between all points; the fast Poisson solver is one of them.

    Matrices act on ``points`` values per axis. On another grid, functions are resampled to that many points for the
    mixing, and what is found is resampled back: the matrices are interpolated as kernels, between the modes that both
    grids resolve. The rest of the field passes by the mixing, channel by channel.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    points
        Points per axis of the grid that the matrices are for, one number or one per axis.
    width
        Channels of the hidden functions, that is terms of the low-rank form.
    depth
        Number of layers.
    **where
        See :class:`~vcycle.models.base.Where`. Boundary and centring choose the series for other grids.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Structure inferred: no reference code, and the paper's abstract and reviews say no more than that long-range
    mixing is a series of products with matrices from the left and from the right. The paper trains without data, on
    the mean squared residual of the discrete equations: :class:`vcycle.objectives.residual.ResidualLoss`.

    References
    ----------
    Huang et al., "LordNet: An Efficient Neural Network for Learning to Solve Parametric Partial Differential Equations
    without Simulated Data", Neural Networks 176 (2024) 106354. arXiv:2206.09418.
    """

    name = "lordnet"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        points: int | Sequence[int] = 32,
        width: int = 16,
        depth: int = 2,
        **where: Unpack[Where],
    ) -> None:
        points = _check.per_axis("points", points, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            points=[_check.integer("points", n, 2) for n in points],
            width=width,
            depth=depth,
        )
        d, self.points = self.num_axes, tuple(points)
        self.P = pointwise(in_channels, width, d)
        self.M = nn.ModuleList(AxialMix(width, self.points) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(depth))
        self.Q = pointwise(width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(u)
        for layer, (M, W) in enumerate(zip(self.M, self.W, strict=True)):
            with no_autocast(v):
                # the activation too: on a finer grid it would not alias as it did where the matrices were learnt
                mixed = F.gelu(M(resample(single(v), self.points, self.periodic, self.centring)))
                mixed = resample(mixed, u.shape[2:], self.periodic, self.centring).to(v.dtype)
            v = conditioned(v + W(mixed), maps, layer)
        return self.Q(v)
