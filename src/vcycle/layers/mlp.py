"""Maps of the channels at every point, and of the channels of a skip."""

import torch
from torch import Tensor, nn

from vcycle.layers.convolution import pointwise


class ChannelMLP(nn.Sequential):
    """Two pointwise affine maps with a gelu between, the same at every point.

    Parameters
    ----------
    in_channels, hidden, out_channels
        Channels in, between and out.
    num_axes
        Space dimensions.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int, num_axes: int) -> None:
        super().__init__(pointwise(in_channels, hidden, num_axes), nn.GELU(), pointwise(hidden, out_channels, num_axes))


class SoftGate(nn.Module):
    """A skip that scales each channel by a learned factor, one at the start.

    Parameters
    ----------
    channels
        Number of channels.
    num_axes
        Space dimensions.
    """

    def __init__(self, channels: int, num_axes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, *(1,) * num_axes))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, channels, *space)`` to the same shape."""
        return v * self.scale
