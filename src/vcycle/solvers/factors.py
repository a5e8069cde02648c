"""The state that sparse LU carries from one sequence to the next: an order with little fill, and a shared factor."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.solvers.pattern import Pattern
from vcycle.solvers.systems import LinearSystems

if TYPE_CHECKING:
    from scipy.sparse.linalg import SuperLU

_SYMMETRIC = {"SymmetricMode": True}


@dataclass(frozen=True)
class Factor:
    """One matrix and its sparse LU.

    Parameters
    ----------
    entries
        What it was made from, as :meth:`vcycle.multigrid.fluxes.FaceFluxes.entries` gives it.
    matrix
        The matrix in the order of the pattern.
    lu
        Its factors, or ``None`` where it is singular to machine precision.
    """

    entries: np.ndarray
    matrix: sp.csc_matrix
    lu: "SuperLU | None"


@dataclass(frozen=True)
class DirectFactors:
    """What matrices of one family share; never changed once made, so that threads may use it together.

    Parameters
    ----------
    grid, boundary
        Of the operators.
    singular, positive_definite
        As the systems say.
    pattern
        Their structure, in an order with little fill.
    shared
        The factor of the matrix that all systems share, or ``None`` where each has its own.
    """

    grid: Grid
    boundary: Boundary
    singular: bool
    positive_definite: bool
    pattern: Pattern
    shared: Factor | None = None

    @classmethod
    def of(cls, systems: LinearSystems) -> "DirectFactors":
        """Work out the order and, if the systems share one matrix, factor it."""
        grid, boundary = systems.operator.grid, systems.operator.boundary
        pattern = Pattern(grid, boundary, order=_fill_reducing_order(grid, boundary))
        factors = cls(grid, boundary, systems.singular, systems.positive_definite, pattern)
        if systems.operator.batch > 1 or len(systems) == 0:
            return factors
        return replace(factors, shared=factors.factored(systems.operator.entries()))

    def require_fit(self, systems: LinearSystems) -> None:
        """Raise a ValueError unless these systems are of the same family."""
        operator = systems.operator
        mine = (self.grid, self.boundary, self.singular, self.positive_definite)
        if mine != (operator.grid, operator.boundary, systems.singular, systems.positive_definite):
            raise ValueError(
                "`factors` must come from systems with the same grid, boundary and definiteness. "
                f"Got factors of {self.grid.shape} for systems of {operator.grid.shape}."
            )

    def factored(self, entries: np.ndarray) -> Factor:
        """Return the factor of the matrix with these entries: the shared one if they are the same."""
        from scipy.sparse.linalg import splu

        if self.shared is not None and np.array_equal(self.shared.entries, entries):
            return self.shared
        A = self.pattern.scatter(entries)
        pinned = A
        if self.singular:
            pinned = A.copy()
            pinned[0, 0] += A[0, 0]  # leaves, of all solutions up to a constant, the one that is zero there
        threshold = 0.0 if self.positive_definite else 0.1  # definite: the diagonal is always a good pivot
        try:
            lu = splu(pinned, permc_spec="NATURAL", diag_pivot_thresh=threshold, options=_SYMMETRIC)
        except RuntimeError:  # SuperLU's word for an exactly singular matrix
            lu = None
        return Factor(entries, A, lu)


def _fill_reducing_order(grid: Grid, boundary: Boundary) -> np.ndarray:
    """Return SuperLU's minimum-degree order of the pattern: entry ``j`` is the unknown eliminated ``j``-th."""
    from scipy.sparse.linalg import splu

    pattern = Pattern(grid, boundary)
    size = pattern.size
    values = np.full(len(pattern.slot), -1.0)
    values[:size] = 4.0 * size  # any dominant diagonal will do: the order depends on the pattern only
    factor = splu(pattern.scatter(values), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=_SYMMETRIC)
    return np.argsort(factor.perm_c)
