"""Normalisation of the channels at every point."""

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels, at each point on its own, for fields with the channels first."""

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, channels, *space)`` to the same shape."""
        normalised = F.layer_norm(v.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normalised.movedim(-1, 1)
