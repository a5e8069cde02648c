"""IFactFormer-m, factorised attention iterated with one set of weights (Yang, Wang, Wang, 2025, arXiv:2412.18840)."""

from typing import Unpack

from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.axial import AxialAttention
from vcycle.layers.convolution import pointwise
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.positions import GaussianFeatures, axis_weights, places, points
from vcycle.models.base import GridModel, Where, conditioned


class IFactFormer(GridModel):
    """One block of axial attention, all axes side by side, applied many times over with small steps.

    ``v = P u + E x`` with ``E`` a linear map of Gaussian Fourier features of the place ``x``; then ``depth`` times
    ``v <- v + A N v / depth``, always with the same ``A``, an :class:`~vcycle.layers.axial.AxialAttention` whose axes
    act on the same values in parallel, and the same layer normalisation ``N``: Euler's method for ``dv/ds = A N v`` on
    the unit interval.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions; 96 in the paper.
    depth
        Number of iterations; 10 in the paper. It costs no weights.
    heads
        Number of heads; 5 in the paper.
    head_size
        Channels of a head's values; 96 in the paper.
    kernel_multiplier
        Channels of queries and keys over ``head_size``; 3 in the paper.
    frequency_scale
        Standard deviation of the frequencies of the Fourier features, in waves per box.
    **where
        See :class:`~vcycle.models.base.Where`. Parameters act alike in every iteration.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Structure follows the authors' code. Differs from it in: a layer normalisation before the attention, as in
    FactFormer; what the axes give is normalised per head, not per channel; kernels carry quadrature weights; the input
    is lifted and the output projected point by point.

    References
    ----------
    Yang, Wang, Wang, "Implicit factorized transformer approach to fast prediction of turbulent channel flows", 2025,
    doi:10.1007/s11433-024-2666-9. arXiv:2412.18840. Li, Shu, Barati Farimani, "Scalable Transformer for PDE Surrogate
    Modeling", NeurIPS 2023. arXiv:2305.17560.
    """

    name = "ifactformer"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 48,
        depth: int = 4,
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
            sites=1,
            width=width,
            depth=depth,
            heads=heads,
            head_size=head_size,
            kernel_multiplier=kernel_multiplier,
            frequency_scale=_check.positive("frequency_scale", frequency_scale),
        )
        d, self.depth = self.num_axes, depth
        self.P = pointwise(in_channels, width, d)
        self.features = GaussianFeatures(self.periodic, 32, frequency_scale)
        self.E = nn.Linear(32, width)
        self.N = ChannelNorm(width)
        self.A = AxialAttention(width, heads, head_size, d, kernel_multiplier=kernel_multiplier, combine="parallel")
        self.Q = ChannelMLP(width, 2 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        axes, weights = (f(u, self.periodic, self.centring) for f in (places, axis_weights))
        v = self.P(u) + self.E(self.features(points(u, self.periodic, self.centring))).T.unflatten(1, u.shape[2:])
        for _ in range(self.depth):
            v = v + conditioned(self.A(self.N(v), axes, weights), maps, 0) / self.depth
        return self.Q(v)
