"""Convolutions of every channel with a small kernel of its own, and the block around them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle.layers.convolution import CONV, pointwise
from vcycle.layers.local import LocalConv


class DepthwiseConv(LocalConv):
    """A :class:`~vcycle.layers.local.LocalConv` that keeps the channels apart.

    Parameters
    ----------
    channels
        Channels in and out.
    kernel, periodic
        As in :class:`~vcycle.layers.local.LocalConv`.
    """

    def __init__(self, channels: int, kernel: int, periodic: Sequence[bool]) -> None:
        super().__init__(1, channels, kernel, periodic)
        self.conv = CONV[len(self.periodic)](channels, channels, kernel, groups=channels)


class ConvNeXtBlock(nn.Module):
    """``v + s * W_2 gelu(W_1 N(D v))``: a depthwise convolution, a norm, and a network of the channels.

    Parameters
    ----------
    channels
        Channels in and out.
    norm
        The norm ``N``; its further arguments are those of ``forward``.
    periodic
        Which axes close on themselves.
    kernel
        Points of the convolution per axis.
    scale
        Start of the learned factor ``s`` per channel.

    References
    ----------
    Liu et al., "A ConvNet for the 2020s", CVPR 2022. arXiv:2201.03545.
    """

    def __init__(
        self, channels: int, norm: nn.Module, periodic: Sequence[bool], *, kernel: int = 7, scale: float = 1e-6
    ) -> None:
        super().__init__()
        d = len(periodic)
        self.D, self.norm = DepthwiseConv(channels, kernel, periodic), norm
        self.enter, self.leave = pointwise(channels, 4 * channels, d), pointwise(4 * channels, channels, d)
        self.scale = nn.Parameter(torch.full((channels, *(1,) * d), scale))

    def forward(self, v: Tensor, *norm_arguments: Tensor | None) -> Tensor:
        """Map ``(batch, channels, *space)`` to the same shape."""
        return v + self.scale * self.leave(F.gelu(self.enter(self.norm(self.D(v), *norm_arguments))))
