"""Residual network (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385), a baseline."""

from typing import Unpack

from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.local import LocalConv, conv_block
from vcycle.models.base import GridModel, Where, conditioned


class ResNet(GridModel):
    """Residual blocks of two convolutions on the grid itself: what is local and no more.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions.
    depth
        Number of blocks; every one sees ``kernel - 1`` points further.
    kernel
        Points of the convolutions per axis, odd.
    **where
        See :class:`~vcycle.models.base.Where`. Convolutions wrap around periodic axes and see zeros beyond walls.

    Raises
    ------
    ValueError
        If a count is not positive or ``kernel`` is even.

    Notes
    -----
    Differs from the paper in: no pooling, groups of channels normalised per sample, gelu, coordinates as input. Kernels
    are a number of points wide: the map changes with the grid.

    References
    ----------
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016. arXiv:1512.03385.
    """

    name = "resnet"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 6,
        kernel: int = 5,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            kernel=_check.integer("kernel", kernel, 1),
        )
        self.P = LocalConv(in_channels + self.num_axes, width, kernel, self.periodic)
        self.blocks = nn.ModuleList(conv_block(width, width, kernel, self.periodic) for _ in range(depth))
        self.Q = pointwise(width, out_channels, self.num_axes)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        for layer, block in enumerate(self.blocks):
            v = conditioned(v + block(v), maps, layer)
        return self.Q(v)
