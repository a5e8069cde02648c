"""scOT, the network of Poseidon (Herde et al., NeurIPS 2024, arXiv:2405.19101)."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.conditioning import modulate
from vcycle.layers.convolution import CONV, pointwise, unpatch
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.depthwise import ConvNeXtBlock
from vcycle.layers.domain import divisible
from vcycle.layers.local import LocalConv
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.transforms import resample
from vcycle.layers.window import WindowAttention
from vcycle.models.base import GridModel, Where


class _Norms:
    """Counts the channels that parameters scale and shift, one slice per conditional norm."""

    def __init__(self) -> None:
        self.channels = 0

    def __call__(self, channels: int) -> "ConditionalNorm":
        self.channels += channels
        return ConditionalNorm(channels, self.channels - channels)


class ConditionalNorm(ChannelNorm):
    """Layer normalisation over the channels, then a scale and a shift that depend on parameters.

    Parameters
    ----------
    channels
        Number of channels.
    first
        Where this norm's channels begin among those of all conditional norms of the network.
    """

    def __init__(self, channels: int, first: int) -> None:
        super().__init__(channels, eps=1e-5)
        self.first, self.channels = first, channels

    def forward(self, v: Tensor, maps: Tensor | None = None) -> Tensor:
        """Map ``(batch, channels, *space)`` to the same shape; ``maps`` are ``(2, batch, channels of all norms)``."""
        v = super().forward(v)
        return v if maps is None else modulate(v, maps.narrow(2, self.first, self.channels))


class _SwinBlock(nn.Module):
    """``v + N A v``, then ``v + N M v``: attention in windows and a network of the channels, normalised after."""

    def __init__(
        self, width: int, heads: int, window: int, shift: int, periodic: Sequence[bool], norms: _Norms
    ) -> None:
        super().__init__()
        self.A = WindowAttention(width, heads, window, shift, periodic)
        self.M = ChannelMLP(width, 4 * width, width, len(periodic))
        self.after_attention, self.after_network = norms(width), norms(width)

    def forward(self, v: Tensor, maps: Tensor | None) -> Tensor:
        v = v + self.after_attention(self.A(v), maps)
        return v + self.after_network(self.M(v), maps)


class _Stage(nn.Module):
    """Blocks on one grid, with windows shifted in every second one, counted from the last where ``up``."""

    def __init__(
        self, width: int, depth: int, heads: int, window: int, periodic: Sequence[bool], norms: _Norms, *, up: bool
    ) -> None:
        super().__init__()
        order = reversed(range(depth)) if up else range(depth)
        self.blocks = nn.ModuleList(
            _SwinBlock(width, heads, window, i % 2 * (window // 2), periodic, norms) for i in order
        )

    def forward(self, v: Tensor, maps: Tensor | None) -> Tensor:
        for block in self.blocks:
            v = block(v, maps)
        return v


class _Merge(nn.Module):
    """Neighbours side by side, half as many points per axis and twice the channels."""

    def __init__(self, channels: int, num_axes: int, norms: _Norms) -> None:
        super().__init__()
        self.map = pointwise(2**num_axes * channels, 2 * channels, num_axes, bias=False)
        self.norm = norms(2 * channels)

    def forward(self, v: Tensor, maps: Tensor | None) -> Tensor:
        return self.norm(self.map(fold(v)), maps)


class _Unmerge(nn.Module):
    """Twice as many points per axis, and half the channels."""

    def __init__(self, channels: int, num_axes: int, norms: _Norms) -> None:
        super().__init__()
        self.spread = pointwise(channels, 2 ** (num_axes - 1) * channels, num_axes, bias=False)
        self.norm = norms(channels // 2)
        self.mix = pointwise(channels // 2, channels // 2, num_axes, bias=False)

    def forward(self, v: Tensor, maps: Tensor | None) -> Tensor:
        return self.mix(self.norm(unfold(self.spread(v)), maps))


def fold(v: Tensor) -> Tensor:
    """Put pairs of neighbours of every axis side by side as channels, ``(batch, channels 2^d, *space / 2)``."""
    for axis in range(v.ndim - 2):
        v = v.unflatten(axis + 2, (v.shape[axis + 2] // 2, 2)).movedim(axis + 3, 2).flatten(1, 2)
    return v


def unfold(v: Tensor) -> Tensor:
    """Undo :func:`fold`."""
    for axis in reversed(range(v.ndim - 2)):
        v = v.unflatten(1, (v.shape[1] // 2, 2)).movedim(2, axis + 3).flatten(axis + 2, axis + 3)
    return v


class ScOT(GridModel):
    """A U of transformers in windows: patches, merged on the way down, and norms that know the parameters.

    On every grid, blocks ``v <- v + N A v``, ``v <- v + N M v`` with ``A`` a
    :class:`~vcycle.layers.window.WindowAttention`, shifted in every second block, ``M`` a network of the channels and
    ``N`` layer normalisation with a scale and a shift made of the parameters, such as the lead time. Skips between the
    two sides of the U pass convolutional blocks and are added.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of a token on the finest grid, a multiple of ``heads``, even; every merging doubles them. 48 to 192 in
        the paper.
    depth
        Blocks per grid and side; 4 or 8 in the paper.
    stages
        Number of grids, each half as fine as the one before; 4 in the paper.
    heads
        Heads of the attention on the finest grid; every merging doubles them. 3 in the paper.
    window
        Points of a window per axis; 16 in the paper.
    patch
        Points of a patch per axis; 4 in the paper. A grid that ``patch 2^(stages - 1)`` does not divide is resampled to
        the next one that it does.
    skip_depth
        Convolutional blocks per skip; 2 in the paper.
    coordinates
        Append where a point lies to the input, around a periodic axis by its sine and cosine; not in the paper.
        Windows know differences of places alone: on a torus a constant input gets the same answer in every window of
        the coarsest grid, which is wrong where forces have their places.
    **where
        See :class:`~vcycle.models.base.Where`. Windows and convolutions close around periodic axes and are cut at
        walls. The paper has one parameter, the lead time.

    Raises
    ------
    ValueError
        If a count is not positive or ``heads`` does not divide ``width``.

    Notes
    -----
    Checked against the authors' code with converted weights: the whole network, to 1e-12, where walls bound the domain.
    Differs from it in: scales and shifts of all norms come from one network with a hidden layer, added to a learned
    affine map, which contains theirs, affine in the time; grids are resampled to a divisible one only, not to the one
    of training; at walls windows are cut, not wrapped around and masked, which is the same; no dropout of paths.
    Patches and windows are a number of points, so that the map changes with the grid.

    References
    ----------
    Herde et al., "Poseidon: Efficient Foundation Models for PDEs", NeurIPS 2024. arXiv:2405.19101.
    """

    name = "scot"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 48,
        depth: int = 2,
        stages: int = 3,
        heads: int = 3,
        window: int = 8,
        patch: int = 2,
        skip_depth: int = 2,
        coordinates: bool = False,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=0,
            width=width,
            depth=depth,
            stages=_check.integer("stages", stages, 1),
            heads=heads,
            window=_check.integer("window", window, 2),
            patch=_check.integer("patch", patch, 1),
            skip_depth=_check.integer("skip_depth", skip_depth, 0),
            coordinates=coordinates,
        )
        d, periodic, self.step = self.num_axes, self.periodic, patch * 2 ** (stages - 1)
        self.coordinates, norms = coordinates, _Norms()
        sizes = [(width * 2**i, heads * 2**i) for i in range(stages)]

        def side(*, up: bool) -> nn.ModuleList:
            return nn.ModuleList(_Stage(c, depth, h, window, periodic, norms, up=up) for c, h in sizes)

        known = in_channels + (count_smooth_coordinates(periodic) if coordinates else 0)
        self.embed, self.norm = CONV[d](known, width, patch, stride=patch), norms(width)
        self.encoder, self.decoder = side(up=False), side(up=True)
        self.merge = nn.ModuleList(_Merge(c, d, norms) for c, _ in sizes[:-1])
        self.unmerge = nn.ModuleList(_Unmerge(c, d, norms) for c, _ in sizes[1:])
        self.skips = nn.ModuleList(
            nn.ModuleList(ConvNeXtBlock(c, norms(c), periodic) for _ in range(skip_depth)) for c, _ in sizes[:-1]
        )
        self.recover = unpatch(width, out_channels, patch, d)
        self.smooth = LocalConv(out_channels, out_channels, 5, periodic)
        self.condition = self._conditioning(norms.channels, sites=1)  # every norm has channels of its own

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape, maps = u.shape[2:], None if maps is None else maps[0]
        u = divisible(u, self.step, self.periodic, self.centring)
        u = append_smooth_coordinates(u, self.centring, self.periodic) if self.coordinates else u
        v = self.norm(self.embed(u), maps)
        kept = []
        for stage, merge, skip in zip(self.encoder, self.merge, self.skips, strict=False):
            before, v = v, stage(v, maps)
            kept.append(v)
            for block in skip:  # type: ignore[attr-defined]
                kept[-1] = block(kept[-1], maps)
            v = merge(v + before, maps)
        v = self.encoder[-1](v, maps)
        for stage, unmerge, passed in zip(self.decoder[:0:-1], reversed(self.unmerge), reversed(kept), strict=True):
            v = unmerge(stage(v, maps), maps) + passed
        v = self.decoder[0](v, maps)
        return resample(self.smooth(self.recover(v)), shape, self.periodic, self.centring)
