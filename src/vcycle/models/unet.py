"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015, arXiv:1505.04597), a baseline."""

from typing import Unpack

from torch import Tensor

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.local import LocalConv
from vcycle.layers.ushape import UShape
from vcycle.models.base import GridModel, Where, conditioned


class UNet(GridModel):
    """Convolutions on a hierarchy of halved grids, with skips at every size.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels on the finest grid; every halving doubles them.
    depth
        Number of halvings.
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
    Differs from the paper in what later users of the field changed too: sizes are kept by padding, groups of channels
    are normalised per sample in place of none, averages instead of maxima, linear interpolation, coordinates as input.
    Kernels are a number of points wide: the map changes with the grid.

    References
    ----------
    Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
    arXiv:1505.04597. Gupta, Brandstetter, "Towards Multi-spatiotemporal-scale Generalized PDE Modeling", TMLR 2023.
    arXiv:2209.15616.
    """

    name = "unet"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 24,
        depth: int = 3,
        kernel: int = 3,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=2,
            width=width,
            depth=depth,
            kernel=_check.integer("kernel", kernel, 1),
        )
        self.P = LocalConv(in_channels + self.num_axes, width, kernel, self.periodic)
        self.body = UShape(width, depth, kernel, self.periodic)
        self.Q = pointwise(width, out_channels, self.num_axes)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = conditioned(self.P(append_coordinates(u, self.centring, self.periodic)), maps, 0)
        return self.Q(conditioned(self.body(v), maps, 1))
