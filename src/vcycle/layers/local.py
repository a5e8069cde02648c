"""Convolutions with small kernels, for networks that see a neighbourhood."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle.layers.convolution import CONV

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class LocalConv(nn.Module):
    """A convolution that keeps the size: around periodic axes, with zeros beyond walls.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    kernel
        Odd number of points per axis.
    periodic
        Which axes close on themselves; its length is the number of axes.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, periodic: Sequence[bool]) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd. Got {kernel}.")
        self.reach, self.periodic = kernel // 2, tuple(periodic)
        self.conv = CONV[len(self.periodic)](in_channels, out_channels, kernel)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        zeros: list[int] = []
        for axis, closed in enumerate(self.periodic):
            v = wrapped(v, axis + 2, self.reach) if closed else v
            zeros = [0 if closed else self.reach] * 2 + zeros
        return self.conv(F.pad(v, zeros))


def wrapped(v: Tensor, axis: int, reach: int) -> Tensor:
    """Continue an axis periodically by ``reach`` points to both sides, also where it has fewer points than that."""
    n = v.shape[axis]
    return v.index_select(axis, torch.arange(-reach, n + reach, device=v.device) % n)


def conv_block(in_channels: int, out_channels: int, kernel: int, periodic: Sequence[bool]) -> nn.Sequential:
    """Return two convolutions, each followed by a normalisation per sample and channel group and a gelu."""
    groups = next(g for g in (8, 4, 2, 1) if (out_channels % g == 0 and out_channels // g > 1) or g == 1)
    return nn.Sequential(
        LocalConv(in_channels, out_channels, kernel, periodic),
        nn.GroupNorm(groups, out_channels),
        nn.GELU(),
        LocalConv(out_channels, out_channels, kernel, periodic),
        nn.GroupNorm(groups, out_channels),
        nn.GELU(),
    )


def halve(v: Tensor) -> Tensor:
    """Average pairs of points along every axis; a last odd point, or an axis of one point, stands for itself."""
    return _POOL[v.ndim - 2](v, 2, ceil_mode=True, count_include_pad=False)


def enlarge(v: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate linearly to ``shape`` points per axis."""
    return F.interpolate(v, tuple(shape), mode=_LINEAR[v.ndim - 2], align_corners=False)
