"""DPOT, the denoising pre-training operator transformer (Hao et al., ICML 2024, arXiv:2403.03542)."""

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import CONV, pointwise, unpatch
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import divisible
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import GaussianFeatures, points
from vcycle.layers.spectral_mlp import SpectralMLP, affine
from vcycle.layers.transforms import resample
from vcycle.models.base import GridModel, Where, conditioned


class FourierMixer(SpectralMLP):
    """The mixer of DPOT: as in AFNO, with a gelu between the two maps and no threshold.

    Parameters
    ----------
    width, blocks
        As in :class:`~vcycle.layers.spectral_mlp.SpectralMLP`.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__(width, blocks, threshold=0.0)

    def _network(self, z: Tensor) -> Tensor:
        return affine(F.gelu(affine(z, self.weight1, self.bias1)), self.weight2, self.bias2)


class TimeAggregator(nn.Module):
    r"""Several times become one: :math:`z = \sum_t W_t (x_t \odot \cos(\gamma t))`, with t from 0 to 1.

    Parameters
    ----------
    width
        Channels at every time.
    times
        Number of times. With one, what remains is a linear map.
    """

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(times, width, width) / (times * math.sqrt(width)))
        # At the only time, zero, frequencies would change nothing.
        self.frequencies = nn.Parameter(2.0 ** torch.linspace(-10, 10, width)) if times > 1 else None

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, time, width, *space)`` to ``(batch, width, *space)``."""
        weight: Tensor = self.weight
        if self.frequencies is not None:
            t = torch.linspace(0, 1, weight.shape[0], dtype=weight.dtype, device=weight.device)
            weight = weight * torch.cos(t[:, None] * self.frequencies)[:, None]
        return torch.einsum("btc...,toc->bo...", v, weight.to(v.dtype))


class DPOT(GridModel):
    r"""Patches of one or several times, gathered in time, mixed by a network for all Fourier coefficients.

    Every time, with its coordinates in space and time, is embedded by patches; a :class:`TimeAggregator` makes one
    field of them. Blocks ``v <- v + M N S N v`` follow, with ``S`` a :class:`FourierMixer`, which has a skip of its
    own, ``M`` a network of the channels and ``N`` group normalisation; a transposed embedding and two pointwise maps
    give the output.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of a token, a multiple of ``blocks``; 512 to 2048 in the paper.
    depth
        Number of blocks; 4 to 27 in the paper.
    times
        Number of times in the input, a divisor of ``in_channels``: channels are those of the first time, then those of
        the second, and so on. 10 in the paper.
    patch
        Points of a patch per axis, 8 in the paper. A grid that it does not divide is resampled to the next one that it
        does.
    blocks
        Diagonal blocks of the spectral network; 4 to 16 in the paper.
    expansion
        Hidden channels of the pointwise networks over ``width``; 1 or 4 in the paper.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive, ``blocks`` does not divide ``width``, or ``times`` does not divide ``in_channels``.

    Notes
    -----
    Structure follows the authors' code. Differs from it in: positions are a learned map of random Fourier features of
    the place, not a table, which would tie it to one grid; all coefficients that the grid resolves are kept, as theirs
    are at the published sizes; weights of the mixer start with unit gain. The head that tells the data sets apart,
    whose loss is off by default, is left out, and noise on the inputs is a matter of training. A patch is a number of
    points, so that the map changes with the grid. Time must be evenly spaced.

    References
    ----------
    Hao et al., "DPOT: Auto-Regressive Denoising Operator Transformer for Large-Scale PDE Pre-Training", ICML 2024.
    arXiv:2403.03542.
    """

    name = "dpot"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        depth: int = 4,
        times: int = 1,
        patch: int = 2,
        blocks: int = 4,
        expansion: int = 1,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            times=_check.integer("times", times, 1),
            patch=_check.integer("patch", patch, 1),
            blocks=blocks,
            expansion=_check.integer("expansion", expansion, 1),
        )
        if in_channels % times:
            raise ValueError(f"`times` must divide `in_channels` = {in_channels}. Got {times}.")
        d, self.times, self.patch = self.num_axes, times, patch
        components = in_channels // times
        hidden = 4 * patch + d + 1
        self.embed = nn.Sequential(
            CONV[d](components + d + 1, hidden, patch, stride=patch), nn.GELU(), pointwise(hidden, width, d)
        )
        self.features = GaussianFeatures(self.periodic, 64, scale=3.0)
        self.E = nn.Linear(64, width)
        self.gather = TimeAggregator(width, times)
        groups = math.gcd(8, width)
        self.S = nn.ModuleList(FourierMixer(width, blocks) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, expansion * width, width, d) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in range(2 * depth))
        self.recover = unpatch(width, 32, patch, d)
        self.Q = nn.Sequential(nn.GELU(), pointwise(32, 32, d), nn.GELU(), pointwise(32, out_channels, d))

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape = u.shape[2:]
        u = divisible(u, self.patch, self.periodic, self.centring, least=2)
        v = self.gather(self._tokens(u))
        blocks = zip(self.S, self.M, self.norms[::2], self.norms[1::2], strict=True)
        for layer, (S, M, before, between) in enumerate(blocks):
            v = conditioned(v + M(between(S(before(v)))), maps, layer)
        return resample(self.Q(self.recover(v)), shape, self.periodic, self.centring)

    def _tokens(self, u: Tensor) -> Tensor:
        """Return the embedded patches of every time, ``(batch, time, width, *tokens)``."""
        frames = u.unflatten(1, (self.times, -1)).transpose(0, 1).flatten(0, 1)  # all samples of a time, then the next
        t = torch.linspace(0, 1, self.times, dtype=u.dtype, device=u.device).repeat_interleave(u.shape[0])
        clock = t.reshape(-1, *(1,) * (u.ndim - 1)).expand(-1, 1, *u.shape[2:])
        v = self.embed(torch.cat([append_coordinates(frames, self.centring, self.periodic), clock], 1))
        # A token stands for the middle of its patch.
        place = self.E(self.features(points(v, self.periodic, "cell"))).T.unflatten(1, v.shape[2:])
        return (v + place).unflatten(0, (self.times, u.shape[0])).transpose(0, 1)
