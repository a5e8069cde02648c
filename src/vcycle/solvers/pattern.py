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
        # Where no two values meet, each slot knows where its value comes from, which is faster than adding up.
        self._from = np.argsort(self.slot) if len(keys) == len(rows) else None
        self.indices = (keys % self.size).astype(np.int32)
        self.indptr = np.searchsorted(keys, np.arange(self.size + 1) * self.size).astype(np.int32)

    def scatter(self, values: np.ndarray) -> sp.csc_matrix:
        """Return the matrix with these values, which come in the order of the operators' ``entries``."""
        data = np.zeros(len(self.indices), np.result_type(values, np.float64))
        if self._from is not None:
            np.take(values, self._from, out=data)
        else:
            np.add.at(data, self.slot, values)
        return sp.csc_matrix((data, self.indices, self.indptr), shape=(self.size, self.size))
