"""The unit-coefficient Laplacian on cells, inverted by sine, cosine and Fourier transforms."""

from collections.abc import Callable

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Grid

_Transform = Callable[..., np.ndarray]
# Eigenfunctions at cell centres (i + 1/2) / n, with the angle per mode k, and the transform that expands in them.
_SINE_COSINE: dict[tuple[str, str], tuple[_Transform, _Transform, int, float]] = {
    ("dirichlet", "dirichlet"): (scipy.fft.dst, scipy.fft.idst, 2, 1.0),
    ("neumann", "neumann"): (scipy.fft.dct, scipy.fft.idct, 2, 0.0),
    ("dirichlet", "neumann"): (scipy.fft.dst, scipy.fft.idst, 4, 0.5),
    ("neumann", "dirichlet"): (scipy.fft.dct, scipy.fft.idct, 4, 0.5),
}


def solve_laplacian(grid: Grid, boundary: Boundary, rhs: Tensor) -> Tensor:
    """Solve ``L w = rhs`` with the operator that :func:`vcycle.multigrid.fluxes.laplacian` gives for coefficient 1.

    Parameters
    ----------
    grid, boundary
        A cell grid whose faces are Dirichlet, Neumann or periodic.
    rhs
        Right-hand sides integrated over cells, ``(batch, *grid.shape)``, float64. Where constants are in the kernel
        their mean is left out, and solutions have zero mean.

    Returns
    -------
    Tensor
        ``w``, shaped like ``rhs``.
    """
    eigenvalues = laplacian_eigenvalues(grid, boundary)
    kernel = eigenvalues == 0
    values = _transformed(rhs.detach().cpu().numpy(), boundary, inverse=False)
    values = _transformed(np.where(kernel, 0, values / np.where(kernel, 1, eigenvalues)), boundary, inverse=True)
    return torch.from_numpy(np.ascontiguousarray(values.real)).to(rhs)


def _transformed(values: np.ndarray, boundary: Boundary, *, inverse: bool) -> np.ndarray:
    """Expand ``(batch, *space)`` in the orthonormal eigenfunctions, or sum the expansion up."""
    for axis, pair in enumerate(boundary.kinds, start=1):
        if pair == ("periodic", "periodic"):
            values = (scipy.fft.ifft if inverse else scipy.fft.fft)(values, axis=axis, norm="ortho")
        else:
            forward, backward, kind, _ = _SINE_COSINE[pair]
            values = (backward if inverse else forward)(values, kind, axis=axis, norm="ortho")
    return values


def laplacian_eigenvalues(grid: Grid, boundary: Boundary) -> np.ndarray:
    """Return the eigenvalues of the unit-coefficient Laplacian, ``grid.shape``, in the order of its modes."""
    eigenvalues = np.zeros((1,) * grid.num_axes)
    for axis, pair in enumerate(boundary.kinds):
        modes = np.arange(grid.shape[axis])
        if pair == ("periodic", "periodic"):
            angles = 2 * np.pi * modes / grid.shape[axis]
        else:
            angles = np.pi * (modes + _SINE_COSINE[pair][3]) / grid.shape[axis]
        along = (2 - 2 * np.cos(angles)) * grid.cell_volume / grid.spacing[axis] ** 2
        eigenvalues = eigenvalues + along.reshape([-1 if a == axis else 1 for a in range(grid.num_axes)])
    return eigenvalues
