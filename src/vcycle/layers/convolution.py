"""Which convolution module belongs to which number of axes."""

import torch.nn.functional as F
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def pointwise(in_channels: int, out_channels: int, num_axes: int, *, bias: bool = True) -> nn.Module:
    """Return the 1x1 convolution: the same affine map of the channels at every point."""
    conv = PointwiseConv3d if num_axes == 3 else CONV[num_axes]
    return conv(in_channels, out_channels, 1, bias=bias)


def unpatch(in_channels: int, out_channels: int, patch: int, num_axes: int) -> nn.Module:
    """Return the map from a token to the points of its patch, each of which has a matrix of its own.

    Weights start at a standard deviation of 0.02, the heads of vision transformers' own: PyTorch's depends on the size
    of the patch alone, and the jumps between patches would begin ten times as large as the field.
    """
    conv = TRANSPOSED[num_axes](in_channels, out_channels, patch, stride=patch)
    nn.init.trunc_normal_(conv.weight, std=0.02)
    return conv


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution as a product of matrices: on one CPU thread PyTorch's own copies its input first."""

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        flat = F.conv1d(v.flatten(2), self.weight.flatten(2), self.bias)
        return flat.reshape(v.shape[0], self.out_channels, *v.shape[2:])
