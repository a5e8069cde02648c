"""Residuals in coefficients: a loss without data and without a grid's differences."""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.layers.derivatives import fourier_derivative
from vcycle.layers.transforms import along, series


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
