"""The sparse structure that a family of matrices shares: worked out once, values scattered into it for each sample."""

import numpy as np
import scipy.sparse as sp

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes


class Pattern:
    """Rows, columns and value slots of the matrices of :class:`FaceFluxes` on one grid.

    Parameters
    ----------
    grid, boundary
        Of the operators.
    order
        Unknown ``order[j]`` becomes row and column ``j``, shape ``(n,)``; default row-major order as it is.
    """

    def __init__(self, grid: Grid, boundary: Boundary, *, order: np.ndarray | None = None) -> None:
        rows, columns = _positions(grid, boundary)
        self.size = grid.num_points
        self.order = np.arange(self.size) if order is None else order
        place = np.argsort(self.order)
        keys, self.slot = np.unique(place[columns] * self.size + place[rows], return_inverse=True)
        self.indices = (keys % self.size).astype(np.int32)
        self.indptr = np.searchsorted(keys, np.arange(self.size + 1) * self.size).astype(np.int32)

    def scatter(self, values: np.ndarray) -> sp.csc_matrix:
        """Return the matrix with these values, which come in the order of :func:`entries`."""
        data = np.bincount(self.slot, weights=values, minlength=len(self.indices))
        return sp.csc_matrix((data, self.indices, self.indptr), shape=(self.size, self.size))


def entries(operator: FaceFluxes, index: int) -> np.ndarray:
    """Return the entries of matrix ``index``: the diagonal, every pair of neighbours, and the pairs transposed."""
    operator = operator.select([index])
    diagonal = operator.diagonal()[0].detach().numpy().ravel()
    pairs = []
    for axis, face in enumerate(operator.faces):
        faces = np.moveaxis(face[0].detach().numpy(), axis, 0)
        pairs.append(-faces[1:-1].ravel())
        if operator.boundary.periodic[axis]:
            pairs.append(-faces[0].ravel())
    return np.concatenate([diagonal, *pairs, *pairs])


def _positions(grid: Grid, boundary: Boundary) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns in the order of :func:`entries`."""
    number = np.arange(grid.num_points).reshape(grid.shape)
    below, above = [], []
    for axis, periodic in enumerate(boundary.periodic):
        cells = np.moveaxis(number, axis, 0)
        below.append(cells[:-1].ravel())
        above.append(cells[1:].ravel())
        if periodic:
            below.append(cells[-1].ravel())
            above.append(cells[0].ravel())
    here = number.ravel()
    return np.concatenate([here, *below, *above]), np.concatenate([here, *above, *below])
