"""NSM, neural spectral methods (Du et al., ICLR 2024, arXiv:2312.05225)."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.positions import places
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import along, chebyshev_nodes, series
from vcycle.models.base import GridModel, Where, conditioned


class NeuralSpectral(GridModel):
    """A network between coefficients of series whose nonlinearity acts on values at collocation points.

    Coefficients ``z`` of the input (cosine series, Fourier series on periodic axes) pass
    ``z <- T gelu(T^-1 (A_l z + W_l z) + b_l)``, where ``A_l`` has a matrix for every coefficient, ``W_l`` one for all,
    and ``T`` takes values on twice as many points as there are coefficients per axis to coefficients. The cost does not
    depend on the grid. Trained on the equation's residual in coefficients
    (:class:`vcycle.objectives.parseval.PeriodicPoissonLoss`,
    :class:`vcycle.objectives.parseval.ReactionDiffusionLoss`) it needs no solutions.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Coefficients kept per axis, one number or one per axis; 31 in the paper.
    width
        Channels of the hidden functions; 64 in the paper.
    depth
        Number of layers; 4 in the paper.
    hard_boundary
        Multiply the output by sines that vanish on Dirichlet faces (the paper's mollifier), for outputs that do.
    initial_value
        The first axis is time from 0 to 1, values at :func:`~vcycle.layers.transforms.chebyshev_nodes`, whose cosines
        are Chebyshev polynomials; the first input channels are the initial state, the same at all times; the output is
        that state plus time times what the network says.
    **where
        See :class:`~vcycle.models.base.Where`. Boundary and centring choose the series.

    Raises
    ------
    ValueError
        If a count is not positive, or, with ``initial_value``, if the first axis is no such axis or the input has fewer
        channels than the output.

    Notes
    -----
    Structure after the authors' code. Differs from it in: cosine series where that has Chebyshev polynomials, whose
    points are not those of a uniform grid; gelu; no factor 1e-3 on the output; coefficients are orthonormal; biases act
    on values.

    References
    ----------
    Du, Chalapathi, Krishnapriyan, "Neural Spectral Methods: Self-Supervised Learning in the Spectral Domain", ICLR
    2024. arXiv:2312.05225.
    """

    name = "neural_spectral"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 15,
        width: int = 32,
        depth: int = 4,
        hard_boundary: bool = False,
        initial_value: bool = False,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            modes=[_check.integer("modes", k, 1) for k in modes],
            width=width,
            depth=depth,
            hard_boundary=hard_boundary,
            initial_value=initial_value,
        )
        d, self.modes, self.hard_boundary = self.num_axes, tuple(modes), hard_boundary
        self.initial_value = initial_value
        if initial_value and (self.periodic[0] or self.centring != "cell" or in_channels < out_channels):
            raise ValueError(
                "`initial_value` needs a first axis that is not periodic, cells, and at least as many channels in as "
                f"out. Got periodic={self.periodic}, {self.centring!r}, {in_channels} in and {out_channels} out."
            )
        self.points = tuple(2 * k for k in modes)
        self.P = pointwise(in_channels + d, 4 * width, d)
        self.lift = pointwise(4 * width, width, d, bias=False)
        self.A = nn.ParameterList(torch.randn(width, width, *modes) / math.sqrt(width) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, d, bias=False) for _ in range(depth))
        self.bias = nn.ParameterList(torch.zeros(width, *(1,) * d) for _ in range(depth))
        self.Q = nn.Sequential(pointwise(width, 4 * width, d), nn.GELU())
        self.out = pointwise(4 * width, out_channels, d, bias=False)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        placed = append_coordinates(u, self.centring, self.periodic)
        with no_autocast(u):
            start = self.values(self.coefficients(single(placed), self.centring), self.points)
            z = self.coefficients(self.lift(F.gelu(self.P(start))))
            for layer, (A, W, bias) in enumerate(zip(self.A, self.W, self.bias, strict=True)):
                mixed = torch.einsum("bi...,io...->bo...", z, A) + W(z)
                v = conditioned(self.values(mixed, self.points) + bias, maps, layer)
                z = self.coefficients(F.gelu(v))
            z = self.coefficients(self.out(self.Q(self.values(z, self.points))))
            found = self.values(z, u.shape[2:], self.centring)
            found = found * self.mollifier(found) if self.hard_boundary else found
            if self.initial_value:
                time = torch.from_numpy(chebyshev_nodes(u.shape[2])).to(found)
                found = u[:, : self.out_channels] + time.reshape(-1, *(1,) * (self.num_axes - 1)) * found
            return found.to(u.dtype)

    def coefficients(self, v: Tensor, centring: Centring = "cell") -> Tensor:
        """Return the coefficients ``(batch, channel, *modes)`` of functions on a grid."""
        for axis, (k, closed) in enumerate(zip(self.modes, self.periodic, strict=True), 2):
            n = v.shape[axis]
            v = along(series(v, n, n, periodic=closed, centring=centring, modes=k)[0], v, axis)
        return v

    def values(self, z: Tensor, shape: Sequence[int], centring: Centring = "cell") -> Tensor:
        """Return the functions on ``shape`` points with given coefficients; by default in cells, to collocate."""
        for axis, (n, closed) in enumerate(zip(shape, self.periodic, strict=True), 2):
            z = along(series(z, n, n, periodic=closed, centring=centring, modes=z.shape[axis])[1], z, axis)
        return z

    def mollifier(self, v: Tensor) -> Tensor:
        """Return a function, ``space``, that is positive inside and zero on every Dirichlet face in space."""
        total = torch.ones((), dtype=v.dtype, device=v.device)
        lines = places(v, self.periodic, self.centring)
        for axis, (x, pair) in enumerate(zip(lines, self.kinds.kinds, strict=True)):
            low, high = (kind == "dirichlet" for kind in pair)
            if (low or high) and not (self.initial_value and axis == 0):  # time has no walls
                line = (math.pi * x).sin() if low and high else (math.pi / 2 * (x if low else 1 - x)).sin()
                total = total * line.reshape(-1, *(1,) * (self.num_axes - 1 - axis))
        return total
