"""Which convolution module belongs to which number of axes."""

from torch import nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def pointwise(in_channels: int, out_channels: int, num_axes: int, *, bias: bool = True) -> nn.Module:
    """Return the 1x1 convolution: the same affine map of the channels at every point."""
    return CONV[num_axes](in_channels, out_channels, 1, bias=bias)
