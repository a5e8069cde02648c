"""AFFNet, adaptive frequency filters (Huang et al., ICCV 2023, arXiv:2307.14008)."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.depthwise import DepthwiseConv
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.spectral_mlp import SpectralMLP
from vcycle.models.base import GridModel, Where, conditioned

MaskInput = Literal["spectrum", "energy"]


class FrequencyFilter(SpectralMLP):
    r"""``y = v + F^-1 [M z]``, ``z = F v``: a mask of the spectrum that a network makes of that same spectrum.

    That is a circular convolution of every channel with a kernel as large as the domain, which depends on the input.

    Parameters
    ----------
    width, blocks, threshold
        As in :class:`~vcycle.layers.spectral_mlp.SpectralMLP`.
    mask_input
        ``"spectrum"``: the network sees real and imaginary parts, as published. ``"energy"``: it sees
        :math:`\log(1 + |z|^2)`, which does not change when the function is shifted, so that the filter commutes with
        shifts.
    """

    def __init__(self, width: int, blocks: int, *, threshold: float = 1e-2, mask_input: MaskInput = "spectrum") -> None:
        super().__init__(width, blocks, threshold=threshold, mixer="mask")
        self.mask_input = _check.choice("mask_input", mask_input, ("spectrum", "energy"))

    def _network(self, z: Tensor) -> Tensor:
        if self.mask_input == "energy":
            energy = z.square().sum(0).log1p()
            z = torch.stack([energy, torch.zeros_like(energy)])
        return super()._network(z)


class _Bottleneck(nn.Module):
    """``v + W_2 a D a W_1 v``: more channels, a depthwise convolution among them, and back; ``a`` is silu."""

    def __init__(self, width: int, expansion: int, kernel: int, periodic: Sequence[bool]) -> None:
        super().__init__()
        d, hidden = len(periodic), expansion * width
        self.enter, self.leave = pointwise(width, hidden, d), pointwise(hidden, width, d)
        self.D = DepthwiseConv(hidden, kernel, periodic)

    def forward(self, v: Tensor) -> Tensor:
        return self.leave(F.silu(self.D(F.silu(self.enter(v)))))


class AFFNet(GridModel):
    """Local convolutions and global filters that adapt to their input, in turn, on the full grid.

    Blocks ``v <- v + C N v``, ``v <- v + S N v`` with ``C`` an inverted bottleneck around a depthwise convolution,
    ``S`` a :class:`FrequencyFilter` and ``N`` layer normalisation. A filter made of the function that it acts on is a
    quadratic map, such as ``u grad u`` is.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions, a multiple of ``blocks``.
    depth
        Number of blocks.
    blocks
        Diagonal blocks of the network that makes the mask; 8 in the paper.
    expansion
        Hidden channels of the bottleneck over ``width``.
    kernel
        Points of the depthwise convolution per axis, odd; 3 in the paper.
    threshold
        Soft threshold of the mask; 0.01 in the paper.
    mask_input
        ``"spectrum"`` (the paper's) or ``"energy"`` (which commutes with shifts), see :class:`FrequencyFilter`.
    padding
        As in :class:`~vcycle.models.FNO`, for the filters; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive, ``blocks`` does not divide ``width`` or ``kernel`` is even.

    Notes
    -----
    Mixer and block follow the authors' code, a classifier of images; the network around them is ours: one grid, in
    place of a pyramid that ends in a mean, coordinates as input, a pointwise projection. Samples are normalised one by
    one, not by batch. Coefficients are those of the function, not growing with the number of points; weights start with
    unit gain. Kernels are a number of points wide: the map changes with the grid.

    References
    ----------
    Huang et al., "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023. arXiv:2307.14008.
    """

    name = "affnet"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 4,
        blocks: int = 8,
        expansion: int = 2,
        kernel: int = 3,
        threshold: float = 1e-2,
        mask_input: MaskInput = "spectrum",
        padding: float = 0.25,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            blocks=blocks,
            expansion=_check.integer("expansion", expansion, 1),
            kernel=_check.integer("kernel", kernel, 1),
            threshold=threshold,
            mask_input=mask_input,
            padding=read_padding(padding),
        )
        d, self.padding = self.num_axes, padding
        self.P = pointwise(in_channels + count_smooth_coordinates(self.periodic), width, d)
        self.C = nn.ModuleList(_Bottleneck(width, expansion, kernel, self.periodic) for _ in range(depth))
        self.S = nn.ModuleList(
            FrequencyFilter(width, blocks, threshold=threshold, mask_input=mask_input) for _ in range(depth)
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2 * depth))
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape = u.shape[2:]
        v = self.P(append_smooth_coordinates(u, self.centring, self.periodic))
        blocks = zip(self.C, self.S, self.norms[::2], self.norms[1::2], strict=True)
        for layer, (C, S, before, between) in enumerate(blocks):
            v = v + C(before(v))
            padded = pad_walls(between(v), self.periodic, self.padding, self.centring)
            v = conditioned(v + crop(S(padded), shape), maps, layer)
        return self.Q(v)
