"""The U: convolutions on halved grids, and back with what was seen on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcycle.layers.local import conv_block, enlarge, halve


class UShape(nn.Module):
    """Blocks of two convolutions on ``depth + 1`` grids, each half as fine as the one before.

    Channels double from grid to grid. Any number of points works: a halved odd axis keeps its last point.

    Parameters
    ----------
    width
        Channels on the finest grid.
    depth
        How often the grid is halved.
    kernel
        Points per axis of every convolution, odd.
    periodic
        Which axes close on themselves.
    blocks
        One module per grid, finest first, that the features of that grid pass on their way to the decoder; None for
        none.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        kernel: int,
        periodic: Sequence[bool],
        blocks: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.periodic = tuple(periodic)
        channels = self.channels(width, depth)
        self.first = conv_block(width, width, kernel, periodic)
        self.down = nn.ModuleList(conv_block(channels[i], channels[i + 1], kernel, periodic) for i in range(depth))
        self.up = nn.ModuleList(
            conv_block(channels[i] + channels[i + 1], channels[i], kernel, periodic) for i in range(depth)
        )
        self.blocks = nn.ModuleList(blocks if blocks is not None else [nn.Identity() for _ in channels])

    @staticmethod
    def channels(width: int, depth: int) -> list[int]:
        """Return the channels of each grid, finest first."""
        return [width * 2**i for i in range(depth + 1)]

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, width, *space)`` to the same shape."""
        features = [self.first(v)]
        for block in self.down:
            features.append(block(halve(features[-1])))
        passed = [block(f) for block, f in zip(self.blocks, features, strict=True)]
        v = passed.pop()
        for up in reversed(self.up):
            skip = passed.pop()
            v = up(torch.cat([skip, enlarge(v, skip.shape[2:], self.periodic)], 1))
        return v
