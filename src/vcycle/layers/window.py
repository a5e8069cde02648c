"""Attention within windows of a grid, which shift from layer to layer."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.precision import no_autocast, single


class WindowAttention(nn.Module):
    r"""Cosine attention among the points of a window, with a bias that a network makes of their distance.

    Per head :math:`\mathrm{softmax}(\tau \cos(q_i, k_j) + b(x_i - x_j)) v_j` over the points j of the window of point
    i. The network of the bias sees signed logarithms of the offsets, which reach from -1 to 1 across the window, and
    gives at most 16.

    Windows start at the lower faces, or with ``shift`` at ``shift - window``. Around a periodic axis they close; at a
    wall they are cut, and nothing is attended to beyond it. Any number of points works: the last window is cut too, and
    an axis that is no longer than a window has one.

    Parameters
    ----------
    width
        Channels; a multiple of ``heads``.
    heads
        Number of heads.
    window
        Points of a window per axis, at least 2.
    shift
        Points by which windows are shifted, less than ``window``.
    periodic
        Which axes close on themselves; its length is the number of axes.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``width`` or a size is not usable.

    References
    ----------
    Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022. arXiv:2111.09883, eqs. (2)-(4).
    """

    def __init__(self, width: int, heads: int, window: int, shift: int, periodic: Sequence[bool]) -> None:
        super().__init__()
        if width % _check.integer("heads", heads, 1):
            raise ValueError(f"`heads` must divide `width` = {width}. Got {heads}.")
        self.heads, self.window = heads, _check.integer("window", window, 2)
        if not 0 <= shift < window:
            raise ValueError(f"`shift` must be from 0 to `window` - 1 = {window - 1}. Got {shift}.")
        self.shift, self.periodic = shift, tuple(periodic)
        self.to_query, self.to_value = nn.Linear(width, width), nn.Linear(width, width)
        self.to_key = nn.Linear(width, width, bias=False)  # a constant would cancel in the softmax, were it no cosine
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.bias = nn.Sequential(nn.Linear(len(self.periodic), 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.out = nn.Linear(width, width)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, width, *space)`` to the same shape."""
        shape = v.shape[2:]
        sizes = [min(n, self.window) for n in shape]
        shifts = [self.shift if n > self.window else 0 for n in shape]
        tokens, seen, counts = self._cut(v, sizes, shifts)
        query, key, value = (
            m(tokens).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for m in (self.to_query, self.to_key, self.to_value)
        )
        with no_autocast(v):
            query, key = F.normalize(single(query), dim=-1), F.normalize(single(key), dim=-1)
            sharpness = self.sharpness.clamp(max=math.log(100.0)).exp()
            scores = sharpness * (query @ key.transpose(-1, -2)) + self._bias(sizes, v)
            if seen is not None:
                scores = scores.masked_fill(~seen[:, None, None], -math.inf)
            mixed = scores.softmax(-1).to(value.dtype) @ value
        return self._paste(self.out(mixed.transpose(-2, -3).flatten(-2)), shape, sizes, shifts, counts)

    def _bias(self, sizes: list[int], v: Tensor) -> Tensor:
        """Return the bias ``(head, point, point)`` of a window of given sizes."""
        offsets = [
            torch.arange(1 - w, w, device=v.device, dtype=self.sharpness.dtype) * (8 / max(w - 1, 1)) for w in sizes
        ]
        table = torch.stack(torch.meshgrid(*offsets, indexing="ij"), -1).flatten(0, -2)
        table = table.sign() * (1 + table.abs()).log2() / 3.0  # log2(8) = 3
        table = 16 * self.bias(table).sigmoid()
        place = torch.stack(
            torch.meshgrid(*(torch.arange(w, device=v.device) for w in sizes), indexing="ij"), -1
        ).flatten(0, -2)
        index = torch.zeros((), dtype=torch.int64, device=v.device)
        for axis, w in enumerate(sizes):
            index = index * (2 * w - 1) + place[:, None, axis] - place[None, :, axis] + w - 1
        return table[index.flatten()].T.unflatten(1, index.shape)

    def _cut(self, v: Tensor, sizes: list[int], shifts: list[int]) -> tuple[Tensor, Tensor | None, list[int]]:
        """Return tokens ``(batch, window, point, width)``, which points ``(window, point)`` are real, and counts."""
        sides: list[int] = []
        for axis, (w, s, closed) in enumerate(zip(sizes, shifts, self.periodic, strict=True)):
            if s and closed:
                v = v.roll(-s, axis + 2)
            low = w - s if s and not closed else 0
            sides = [low, -(low + v.shape[axis + 2]) % w, *sides]
        counts = [(n + sides[-2 * a - 2] + sides[-2 * a - 1]) // sizes[a] for a, n in enumerate(v.shape[2:])]
        if not any(sides):
            return _split(v, counts, sizes), None, counts
        real = F.pad(torch.ones(1, 1, *v.shape[2:], device=v.device), sides)
        return _split(F.pad(v, sides), counts, sizes), _split(real, counts, sizes)[0, ..., 0] > 0, counts

    def _paste(
        self, tokens: Tensor, shape: Sequence[int], sizes: list[int], shifts: list[int], counts: list[int]
    ) -> Tensor:
        axes = len(counts)
        v = tokens.unflatten(2, sizes).unflatten(1, counts)  # batch, *counts, *sizes, width
        order = [0, 2 * axes + 1, *(a for axis in range(axes) for a in (1 + axis, 1 + axes + axis))]
        v = v.permute(order)
        v = v.reshape(*v.shape[:2], *(c * w for c, w in zip(counts, sizes, strict=True)))
        for axis, (n, w, s, closed) in enumerate(zip(shape, sizes, shifts, self.periodic, strict=True)):
            v = v.narrow(axis + 2, w - s if s and not closed else 0, n)
            if s and closed:
                v = v.roll(s, axis + 2)
        return v


def _split(v: Tensor, counts: list[int], sizes: list[int]) -> Tensor:
    """Return ``(batch, window, point, channel)`` of ``(batch, channel, *space)``."""
    axes = len(counts)
    for axis, (c, w) in enumerate(zip(counts, sizes, strict=True)):
        v = v.unflatten(2 + 2 * axis, (c, w))
    order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    return v.permute(order).flatten(1 + axes, 2 * axes).flatten(1, axes)
