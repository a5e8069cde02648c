"""Residuals in coefficients: a loss without data and without a grid's differences."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.layers.derivatives import chebyshev_derivative, fourier_derivative
from vcycle.layers.transforms import along, chebyshev_series, fourier_series, offset_of, series


@dataclass(frozen=True)
class PeriodicPoissonLoss:
    """Mean square of the coefficients of ``-Laplace u - f`` on a periodic box, by Parseval its L2 norm squared.

    Constants are left out, as no periodic ``u`` can give them.

    Parameters
    ----------
    grid
        Periodic on all axes; its highest cosine on an even number of points is left out too.

    Raises
    ------
    ValueError
        If the grid is not periodic.

    References
    ----------
    Du, Chalapathi, Krishnapriyan, "Neural Spectral Methods: Self-Supervised Learning in the Spectral Domain", ICLR
    2024, section 3.2. arXiv:2312.05225.
    """

    grid: Grid

    def __post_init__(self) -> None:
        if not all(self.grid.periodic):
            raise ValueError(f"`grid` must be periodic on all axes. Got {self.grid.periodic}.")

    def coefficients(self, solution: Tensor, source: Tensor) -> Tensor:
        """Return the coefficients of the residual, ``(batch, channel, *modes)``, without the constant.

        Parameters
        ----------
        solution, source
            ``(batch, channel, *grid.shape)``.

        Raises
        ------
        ValueError
            If a shape does not fit the grid.
        """
        shape = (None, None, *self.grid.shape)
        for name, fields in (("solution", solution), ("source", source)):
            _check.shape(name, fields.shape, shape, "(batch, channel, *grid.shape)")
        u, residual = self._transformed(solution), -self._transformed(source)
        for axis, length in enumerate(self.grid.extent, 2):
            first = torch.from_numpy(fourier_derivative(u.shape[axis]) / length).to(u)
            residual = residual - along(first @ first, u, axis)
        inside = torch.ones(residual.shape[2:], dtype=residual.dtype, device=residual.device)
        inside[(0,) * inside.ndim] = 0.0
        return residual * inside

    def __call__(self, solution: Tensor, source: Tensor) -> Tensor:
        """Return the mean over the batch of the mean square of the residual over the box, shape ``()``."""
        return self.coefficients(solution, source).square().flatten(1).sum(1).mean()

    def _transformed(self, v: Tensor) -> Tensor:
        def once(v: Tensor, axis: int) -> Tensor:
            n = v.shape[axis]
            modes = n - 1 + n % 2
            return along(series(v, n, n, periodic=True, centring=self.grid.centring, modes=modes)[0], v, axis)

        return reduce(once, range(2, v.ndim), v)


@dataclass(frozen=True)
class ReactionDiffusionLoss:
    """Mean square of the coefficients of ``u_t - diffusion u_xx - reaction u (1 - u)`` in time and on a ring.

    Functions are polynomials in time, given at :func:`~vcycle.layers.transforms.chebyshev_nodes` of ``[0, duration]``,
    and Fourier series on the ring. The product has its coefficients exactly: it is formed on twice as many points.

    Parameters
    ----------
    grid
        The ring: one periodic axis with an odd number of points.
    duration
        End of time, in the unit of time.
    diffusion
        In the unit of length squared over that of time.
    reaction
        Rate of growth, per unit of time.

    Raises
    ------
    ValueError
        If the grid is not such a ring or ``duration`` is not positive.

    Notes
    -----
    As in the authors' code the squares of the coefficients of Chebyshev polynomials are summed: in time that is the
    mean for the weight ``(t (T - t))^(-1/2) / pi``.

    References
    ----------
    Du, Chalapathi, Krishnapriyan, "Neural Spectral Methods: Self-Supervised Learning in the Spectral Domain", ICLR
    2024, section 4.2. arXiv:2312.05225.
    """

    grid: Grid
    duration: float = 1.0
    diffusion: float = 0.01
    reaction: float = 5.0

    def __post_init__(self) -> None:
        _check.positive("duration", self.duration)
        if self.grid.periodic != (True,) or self.grid.shape[0] % 2 == 0:
            raise ValueError(f"`grid` must be one periodic axis with an odd number of points. Got {self.grid}.")

    def coefficients(self, solution: Tensor) -> Tensor:
        """Return the coefficients of the residual, ``(batch, 1, 2 times, 2 points - 1)``.

        Parameters
        ----------
        solution
            ``(batch, 1, times, *grid.shape)``.

        Raises
        ------
        ValueError
            If the shape does not fit the grid.
        """
        _check.shape("solution", solution.shape, (None, 1, None, *self.grid.shape), "(batch, 1, times, *grid.shape)")
        times, points = solution.shape[2:]
        offset = offset_of(self.grid.centring)
        z = _on_both(solution, chebyshev_series(times, times)[0], fourier_series(points, points, offset)[0])
        many, fine = 2 * times, 2 * points - 1
        to_time, from_time = chebyshev_series(many, many)
        to_ring, from_ring = fourier_series(fine, fine, offset)
        square = _on_both(_on_both(z, from_time[:, :times], from_ring[:, :points]).square(), to_time, to_ring)
        in_time, on_ring = chebyshev_derivative(times) / self.duration, fourier_derivative(points) / self.grid.extent[0]
        linear = -self.diffusion * _on_both(z, None, on_ring @ on_ring) - self.reaction * z
        linear = linear + F.pad(_on_both(z, in_time, None), (0, 0, 0, 1))
        return F.pad(linear, (0, fine - points, 0, many - times)) + self.reaction * square

    def __call__(self, solution: Tensor) -> Tensor:
        """Return the mean over the batch of the sum of the squared coefficients, shape ``()``."""
        return self.coefficients(solution).square().flatten(1).sum(1).mean()


def _on_both(v: Tensor, of_time: np.ndarray | None, of_ring: np.ndarray | None) -> Tensor:
    """Apply one matrix along the axis of time and one along the ring."""
    for axis, matrix in ((2, of_time), (3, of_ring)):
        v = v if matrix is None else along(torch.from_numpy(np.ascontiguousarray(matrix)).to(v), v, axis)
    return v
