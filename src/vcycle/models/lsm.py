"""LSM, latent spectral models (Wu et al., ICML 2023, arXiv:2301.12664)."""

import itertools
from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, divisible
from vcycle.layers.latent import LatentSpectralBlock
from vcycle.layers.local import LocalConv
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.transforms import resample
from vcycle.layers.ushape import UShape
from vcycle.models.base import GridModel, Where, conditioned

_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class PublishedUShape(nn.Module):
    """The U of the authors' code: batch normalisation and relu, maxima downwards, corners kept upwards.

    Unlike in :class:`~vcycle.layers.ushape.UShape` the coarsest grid has the channels of the one above it, and every
    block on the way up hands over the channels of the next finer grid.

    Parameters
    ----------
    width, depth, kernel, periodic, blocks
        As in :class:`~vcycle.layers.ushape.UShape`; ``2^depth`` divides every axis.
    """

    def __init__(
        self, width: int, depth: int, kernel: int, periodic: Sequence[bool], blocks: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        c, axes = self.channels(width, depth), tuple(periodic)
        self.first = _batch_block([width, width, width], kernel, axes)
        self.down = nn.ModuleList(_batch_block([c[i], c[i + 1], c[i + 1]], kernel, axes) for i in range(depth))
        self.up = nn.ModuleList(_batch_block([2 * c[i], c[i], c[max(i - 1, 0)]], kernel, axes) for i in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.last = pointwise(width, width, len(axes))

    @staticmethod
    def channels(width: int, depth: int) -> list[int]:
        """Return the channels of each grid, finest first."""
        return [width * 2 ** min(i, depth - 1) for i in range(depth + 1)]

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, width, *space)`` to the same shape."""
        seen = [self.first(v)]
        for down in self.down:
            seen.append(down(_POOL[v.ndim - 2](seen[-1], 2)))
        v = self.blocks[-1](seen[-1])
        for i in reversed(range(len(self.up))):
            finer = F.interpolate(v, seen[i].shape[2:], mode=_LINEAR[v.ndim - 2], align_corners=True)
            v = self.up[i](torch.cat([self.blocks[i](seen[i]), finer], 1))
        return self.last(v)


def _batch_block(channels: Sequence[int], kernel: int, periodic: Sequence[bool]) -> nn.Sequential:
    """Return convolutions from one number of channels to the next, each with batch normalisation and relu."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        conv = LocalConv(before, after, kernel, periodic)
        conv.conv.bias = None  # the normalisation has one
        layers += [conv, _NORM[len(periodic)](after), nn.ReLU()]
    return nn.Sequential(*layers)


class LSM(GridModel):
    """A U-Net whose features pass, at every size, a few latent tokens per patch in which the map is made.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels on the finest grid, a multiple of ``heads``; every halving doubles them.
    depth
        Number of halvings; 4 in the paper.
    tokens
        Latent tokens per patch; 4 in the paper.
    bases
        Waves of the map between tokens; 12 in the paper.
    heads
        Heads of the attention; 8 in the paper.
    patch
        Points of a patch per axis, at every size. A grid that ``patch 2^depth`` does not divide is resampled to the
        next one that it does.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive or ``heads`` does not divide ``width``.

    Notes
    -----
    Differs from the authors' code in: groups of channels are normalised per sample, not per batch, so that the samples
    of a batch do not mix, with gelu for relu; averages instead of maxima on the way down; twice the channels on the
    coarsest grid, and no affine map after the U; a grid is resampled, not padded, to a divisible one.
    :class:`PublishedLSM` has all of this as published. Checked against the authors' code
    (github.com/thuml/Latent-Spectral-Models) with converted weights: that one whole, this one with their convolutions
    in place of its own. Kernels and patches are a number of points wide: the map changes with the grid.

    References
    ----------
    Wu et al., "Solving High-Dimensional PDEs with Latent Spectral Models", ICML 2023. arXiv:2301.12664.
    """

    name = "lsm"
    resolution_free = False
    backbone: ClassVar[type[UShape | PublishedUShape]] = UShape

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 3,
        tokens: int = 4,
        bases: int = 12,
        heads: int = 8,
        patch: int = 4,
        **where: Unpack[Where],
    ) -> None:
        counts = {"tokens": tokens, "bases": bases, "heads": heads, "patch": patch}
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=2,
            width=width,
            depth=depth,
            **{key: _check.integer(key, count, 1) for key, count in counts.items()},
        )
        d, self.step = self.num_axes, patch * 2**depth
        self.P = pointwise(in_channels + d, width, d)
        blocks = [LatentSpectralBlock(c, tokens, bases, heads, patch, d) for c in self.backbone.channels(width, depth)]
        self.body = self.backbone(width, depth, 3, self.periodic, blocks)
        self.Q = ChannelMLP(width, 128, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape = u.shape[2:]
        u = divisible(u, self.step, self.periodic, self.centring)
        v = conditioned(self.P(append_coordinates(u, self.centring, self.periodic)), maps, 0)
        v = conditioned(self.body(v), maps, 1)
        return resample(self.Q(v), shape, self.periodic, self.centring)


class PublishedLSM(LSM):
    """The network of the authors' code, arguments as in :class:`LSM`.

    Convolutions have batch normalisation and relu, grids are halved by maxima and refined by linear interpolation that
    keeps the corners, the coarsest grid has the channels of the one above, and lifted functions are padded with zeros
    beyond the upper faces to a size that ``patch 2^depth`` divides.

    Notes
    -----
    In training the samples of a batch mix, which is why this is not the default. Checked against the authors' code
    (github.com/thuml/Latent-Spectral-Models) with converted weights. Padding and interpolation do not close periodic
    axes.

    References
    ----------
    Wu et al., "Solving High-Dimensional PDEs with Latent Spectral Models", ICML 2023. arXiv:2301.12664.
    """

    name = "published_lsm"
    backbone = PublishedUShape

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape = u.shape[2:]
        v = conditioned(self.P(append_coordinates(u, self.centring, self.periodic)), maps, 0)
        v = F.pad(v, [extra for n in reversed(shape) for extra in (0, -n % self.step)])
        v = conditioned(self.body(v), maps, 1)
        return self.Q(crop(v, shape))
