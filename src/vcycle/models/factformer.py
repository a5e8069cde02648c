"""FactFormer (Li, Shu, Barati Farimani, NeurIPS 2023, arXiv:2305.17560)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Centring
from vcycle.layers.axial import AxialAttention
from vcycle.layers.convolution import pointwise
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.positions import GaussianFeatures, axis_weights, places, points
from vcycle.models.base import GridModel, conditioned


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
    boundary, centring, num_axes
        As in :class:`~vcycle.models.FNO`.
    num_parameters
        Scalars per sample that ``forward`` takes besides the functions.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Differs from the authors' code in: kernels carry quadrature weights; the input is lifted and the output projected
    point by point. Latent marching in time is a matter of training and not of this class.

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
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        centring: Centring = "cell",
        num_axes: int = 2,
        num_parameters: int = 0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            boundary=boundary,
            centring=centring,
            num_axes=num_axes,
            num_parameters=num_parameters,
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
        self.features = GaussianFeatures(d, 32, frequency_scale)
        self.E = nn.ModuleList(nn.Linear(32, width) for _ in range(depth))
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(depth))
        self.A = nn.ModuleList(
            AxialAttention(width, heads, head_size, d, kernel_multiplier=kernel_multiplier) for _ in range(depth)
        )
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        axes, weights = (f(u, self.periodic, self.centring) for f in (places, axis_weights))
        features = self.features(points(u, self.periodic, self.centring))
        v = self.P(u)
        for layer, (E, norm, A) in enumerate(zip(self.E, self.norms, self.A, strict=True)):
            v = v + E(features).T.unflatten(1, u.shape[2:])
            v = conditioned(v + A(norm(v), axes, weights), maps, layer)
        return self.Q(v)
