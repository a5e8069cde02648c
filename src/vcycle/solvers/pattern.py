"""The sparse structure that a family of matrices shares: worked out once, values scattered into it for each sample."""

import numpy as np
import scipy.sparse as sp

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import positions


class Pattern:
    """Rows, columns and value slots of the nearest-neighbour matrices of one grid.

    Parameters
    ----------
    grid, boundary
        Of the operators.
    order
        Unknown ``order[j]`` becomes row and column ``j``, shape ``(n,)``; default row-major order as it is.
    """

    def __init__(self, grid: Grid, boundary: Boundary, *, order: np.ndarray | None = None) -> None:
        rows, columns = positions(grid, boundary)
        self.size = grid.num_points
        self.order = np.arange(self.size) if order is None else order
        place = np.argsort(self.order)
        keys, self.slot = np.unique(place[columns] * self.size + place[rows], return_inverse=True)
        self.indices = (keys % self.size).astype(np.int32)
        self.indptr = np.searchsorted(keys, np.arange(self.size + 1) * self.size).astype(np.int32)

    def scatter(self, values: np.ndarray) -> sp.csc_matrix:
        """Return the matrix with these values, which come in the order of the operators' ``entries``."""
        num = len(self.indices)
        if np.iscomplexobj(values):
            real, imaginary = (np.bincount(self.slot, weights=part, minlength=num) for part in (values.real, values.imag))
            data = real + 1j * imaginary
        else:
            data = np.bincount(self.slot, weights=values, minlength=num)
        return sp.csc_matrix((data, self.indices, self.indptr), shape=(self.size, self.size))
