"""Attention by way of a few latent tokens per patch, which change on their own in between."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle.layers.convolution import pointwise


class LatentSpectralBlock(nn.Module):
    r"""Attention from the points of a patch to a few tokens, a map of the tokens by waves of their values, and back.

    Tokens :math:`t` gather :math:`t \leftarrow t + \mathrm{softmax}(t k^T) v` over a patch, change as
    :math:`t \leftarrow t + \sum_{m < M} a_m \sin(\pi m t / M) + b_m \cos(\pi m t / M)`, elementwise with one pair per
    channel, and are handed out: :math:`x \leftarrow x + \mathrm{softmax}(q(x) t^T) t`.

    Parameters
    ----------
    channels
        Channels, a multiple of ``heads``.
    tokens, bases, heads, patch
        As in :class:`~vcycle.models.LSM`.
    num_axes
        Space dimensions.
    """

    def __init__(self, channels: int, tokens: int, bases: int, heads: int, patch: int, num_axes: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"`heads` must divide the channels of every grid, {channels}. Got {heads}.")
        self.heads, self.patch, self.bases = heads, patch, bases
        self.tokens = nn.Parameter(torch.randn(heads, tokens, channels // heads) / math.sqrt(channels // heads))
        self.to_key_value = pointwise(channels, 2 * channels, num_axes)
        self.to_query = pointwise(channels, channels, num_axes)
        self.weight = nn.Parameter(torch.rand(heads, 1, channels // heads, 2 * bases) / channels)

    def solve(self, t: Tensor) -> Tensor:
        """Map tokens ``(.., heads, tokens, channels)`` to the same shape."""
        m = torch.arange(self.bases, dtype=t.dtype, device=t.device)
        angle = math.pi / self.bases * m * t.unsqueeze(-1)
        return t + (self.weight.to(t.dtype) * torch.cat([angle.sin(), angle.cos()], -1)).sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, *space)`` to the same shape; ``patch`` divides every axis."""
        counts = [n // self.patch for n in x.shape[2:]]
        key, value = (self._patches(part) for part in self.to_key_value(x).chunk(2, 1))
        tokens = self.tokens.to(key.dtype)
        tokens = tokens + F.softmax(tokens @ key.transpose(-1, -2), -1) @ value
        tokens = self.solve(tokens)
        query = self._patches(self.to_query(x))
        return x + self._together(F.softmax(query @ tokens.transpose(-1, -2), -1) @ tokens, counts)

    def _patches(self, x: Tensor) -> Tensor:
        """Return ``(batch, patch, head, point, channel)``."""
        axes = x.ndim - 2
        for axis in range(axes):
            x = x.unflatten(2 + 2 * axis, (-1, self.patch))
        order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
        x = x.permute(order).flatten(1, axes)  # batch, patch, channel, points
        return x.flatten(3).unflatten(2, (self.heads, -1)).transpose(-1, -2)

    def _together(self, x: Tensor, counts: list[int]) -> Tensor:
        axes = len(counts)
        x = x.transpose(-1, -2).flatten(2, 3)  # batch, patch, channel, point
        x = x.unflatten(-1, (self.patch,) * axes).unflatten(1, counts)
        order = [0, axes + 1, *(a for axis in range(axes) for a in (1 + axis, axes + 2 + axis))]
        x = x.permute(order)
        return x.reshape(*x.shape[:2], *(n * self.patch for n in counts))
