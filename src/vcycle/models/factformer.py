"""FactFormer (Li, Shu, Barati Farimani, NeurIPS 2023, arXiv:2305.17560)."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.axial import AxialAttention
from vcycle.layers.convolution import CONV, pointwise
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.positions import GaussianFeatures, axis_weights, places, points
from vcycle.models.base import GridModel, Where, conditioned


class FactFormer(GridModel):
    """Attention in factors: one kernel per axis, computed from averages over the other axes.

    Blocks ``v <- v + E_l x``, ``v <- v + A_l N v`` with ``E_l`` a linear map of Gaussian Fourier features of the place
    ``x``, ``A_l`` an :class:`~vcycle.layers.axial.AxialAttention` and ``N`` layer normalisation; cost grows with the
    number of points times the sum of the sides.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions; 128 in the paper.
    depth
        Number of blocks; 3 or 4 in the paper.
    heads
        Number of heads; 6 to 12 in the paper.
    head_size
        Channels of a head's values; 64 in the paper.
    kernel_multiplier
        Channels of queries and keys over ``head_size``.
    frequency_scale
        Standard deviation of the frequencies of the Fourier features, in waves per box; 1 for Darcy in the paper.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Differs from the authors' code in: kernels carry quadrature weights; what they give is divided by its standard
    deviation over all points, not by the unbiased estimate; queries and keys turn by 64 radians over the box, whatever
    its side, as there in the unit box; all blocks see the same 32 Fourier features, which close around periodic axes;
    the projection is a network point by point. :class:`PublishedFactFormer` has the authors' features and projection.
    The strided convolutions beside the projection, there for Darcy's equation alone, know the grid and are left out.

    Checked against the authors' code (github.com/BaratiLab/FactFormer) with converted weights, to rounding, on one grid
    of equal weights: blocks and encoders in two and three dimensions, and the network for Darcy's equation without the
    convolutions and the group normalisation of its projection.

    References
    ----------
    Li, Shu, Barati Farimani, "Scalable Transformer for PDE Surrogate Modeling", NeurIPS 2023. arXiv:2305.17560.
    """

    name = "factformer"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 48,
        depth: int = 3,
        heads: int = 4,
        head_size: int = 24,
        kernel_multiplier: int = 2,
        frequency_scale: float = 1.0,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            heads=heads,
            head_size=head_size,
            kernel_multiplier=kernel_multiplier,
            frequency_scale=_check.positive("frequency_scale", frequency_scale),
        )
        d = self.num_axes
        self.P = pointwise(in_channels, width, d)
        self.features: nn.Module = GaussianFeatures(self.periodic, 32, frequency_scale)
        self.E = nn.ModuleList(nn.Linear(32, width) for _ in range(depth))
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(depth))
        self.A = nn.ModuleList(
            AxialAttention(width, heads, head_size, d, kernel_multiplier=kernel_multiplier) for _ in range(depth)
        )
        self.Q: nn.Module = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        axes, weights = (f(u, self.periodic, self.centring) for f in (places, axis_weights))
        features = self.features(points(u, self.periodic, self.centring))
        v = self.P(u)
        for layer, (E, norm, A) in enumerate(zip(self.E, self.norms, self.A, strict=True)):
            v = v + E(features).T.unflatten(1, u.shape[2:])
            v = conditioned(v + A(norm(v), axes, weights), maps, layer)
        return self.Q(v)


class PublishedFactFormer(FactFormer):
    """The authors' network for flows in the plane: each block has its own Fourier features, and time is latent.

    After the blocks ``z = L v`` has twice the channels; ``steps`` times ``z <- z + e_t``, ``z <- z + M N z`` with a
    learned vector ``e_t`` per step and one network ``M`` of the channels; every ``z`` is projected, with group
    normalisation over all points and two hidden layers.

    Parameters
    ----------
    in_channels
        Channels of the input: of all states that it sees.
    out_channels
        Channels of all the states that it gives, one after the other.
    steps
        Number of states; 1 to 4 in the paper, more in the course of training.
    width
        Channels of the hidden functions, a multiple of 8; 128 in the paper.
    options
        As in :class:`FactFormer`.

    Raises
    ------
    ValueError
        If ``steps`` does not divide ``out_channels``, 8 does not divide ``width``, or a count is not positive.

    Notes
    -----
    Of the differences named in :class:`FactFormer` the first three remain; Fourier features do not close around
    periodic axes. With converted weights they do not show on one grid of equal weights in the unit box: so the whole
    network is checked against the authors' code, to rounding.

    References
    ----------
    Li, Shu, Barati Farimani, "Scalable Transformer for PDE Surrogate Modeling", NeurIPS 2023. arXiv:2305.17560.
    """

    name = "published_factformer"

    def __init__(self, in_channels: int, out_channels: int, *, steps: int = 1, width: int = 48, **options: Any) -> None:
        super().__init__(in_channels, out_channels, width=width, **options)
        if out_channels % _check.integer("steps", steps, 1):
            raise ValueError(f"`steps` must divide `out_channels`, {out_channels}. Got {steps}.")
        if width % 8:
            raise ValueError(f"`width` must be a multiple of 8. Got {width}.")
        self._config |= {"steps": steps}
        d, scale = self.num_axes, self._config["frequency_scale"]
        straight = (False,) * d  # theirs are waves of x around periodic axes too, and jump at the seam
        self.features = nn.Identity()
        self.E = nn.ModuleList(
            nn.Sequential(GaussianFeatures(straight, width, scale), nn.Linear(width, width)) for _ in range(len(self.E))
        )
        self.Q = _Marching(width, out_channels // steps, steps, d)


class _Marching(nn.Module):
    """Steps in time of a latent state, each projected by the same network."""

    def __init__(self, width: int, fields: int, steps: int, num_axes: int) -> None:
        super().__init__()
        latent = 2 * width
        self.enter = pointwise(width, latent, num_axes, bias=False)
        self.time = nn.Parameter(0.02 * torch.randn(steps, latent, *(1,) * num_axes))
        self.norm = ChannelNorm(latent)
        self.advance = ChannelMLP(latent, width, latent, num_axes)
        self.leave = nn.Sequential(
            nn.GroupNorm(16, latent),
            CONV[num_axes](latent, width, 1, groups=8, bias=False),
            nn.GELU(),
            pointwise(width, width // 2, num_axes, bias=False),
            nn.GELU(),
            pointwise(width // 2, fields, num_axes),
        )

    def forward(self, v: Tensor) -> Tensor:
        z, states = self.enter(v), []
        for time in self.time:
            z = z + time
            z = z + self.advance(self.norm(z))
            states.append(self.leave(z))
        return torch.cat(states, 1)
