"""The state that direct solvers carry from one sequence to the next: an order with little fill, and a shared factor."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, cast

import numpy as np
import scipy.sparse as sp

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.solvers.elimination_order import SYMMETRIC_PATTERN, fill_reducing_order
from vcycle.solvers.pattern import Pattern
from vcycle.solvers.systems import LinearSystems

ENGINES = ("superlu", "pardiso")

BLOCK = 8
"""Right-hand sides solved at a time: with more, they no longer stay in cache beside the factor."""
REFINEMENTS = 3
"""Most steps of iterative refinement; usually none is needed, and one suffices."""

THIN_PANEL = 4
"""Columns that SuperLU updates together on 1-D and 2-D grids; its own choice is 20."""


Trans = Literal["N", "T", "H"]


class Lu(Protocol):
    """A factored matrix, as SciPy's SuperLU presents it."""

    def solve(self, rhs: np.ndarray, trans: Trans = "N") -> np.ndarray:
        """Solve with the matrix, its transpose (``"T"``) or its conjugate transpose (``"H"``)."""


Eliminate = Callable[[sp.csc_matrix], "Lu | None"]


@dataclass(frozen=True)
class Factor:
    """One matrix and its factors.

    Parameters
    ----------
    entries
        What it was made from, as :meth:`vcycle.multigrid.fluxes.FaceFluxes.entries` gives it.
    matrix
        The matrix in the order of the pattern.
    order
        Unknown ``order[j]`` is row and column ``j`` of the matrix.
    lu
        Its factors, of the pinned matrix where it is singular; ``None`` where a pivot is zero.
    """

    entries: np.ndarray
    matrix: sp.csc_matrix
    order: np.ndarray
    lu: Lu | None

    def solve(self, rhs: np.ndarray, *, rtol: float = 1e-8, adjoint: bool = False) -> np.ndarray:
        """Solve for any number of right-hand sides.

        Parameters
        ----------
        rhs
            Right-hand sides ``(num, n)``, points in row-major order; complex ones are allowed with a real matrix.
        rtol
            Steps of iterative refinement are made while a true relative residual is above this.
        adjoint
            Solve with the conjugate transpose.

        Returns
        -------
        np.ndarray
            Solutions ``(num, n)``; NaN where the matrix has no factors.
        """
        dtype = np.result_type(rhs, self.matrix.dtype)
        solutions = np.full(rhs.shape, np.nan, dtype)
        if self.lu is None:
            return solutions
        matrix = self.matrix.conj().T.tocsc() if adjoint else self.matrix
        for start in range(0, len(rhs), BLOCK):
            b = rhs[start : start + BLOCK, self.order].astype(dtype, copy=False).T
            solutions[start : start + BLOCK, self.order] = self._refined(self.lu, matrix, b, rtol, adjoint=adjoint).T
        return solutions

    @staticmethod
    def _refined(lu: Lu, matrix: sp.csc_matrix, b: np.ndarray, rtol: float, *, adjoint: bool) -> np.ndarray:
        how = {"adjoint": adjoint, "real": not np.iscomplexobj(matrix.data)}
        x, target, before = _applied(lu, b, **how), rtol * np.linalg.norm(b, axis=0), np.inf
        for _ in range(REFINEMENTS):
            r = b - matrix @ x
            size = np.linalg.norm(r, axis=0)
            if (size <= target).all() or not size.max() < 0.5 * before:
                break
            before = size.max()
            x = x + _applied(lu, r, **how)
        return x


def _applied(lu: Lu, b: np.ndarray, *, adjoint: bool, real: bool) -> np.ndarray:
    """Solve for ``b`` of shape ``(n, k)`` without refinement; with real factors both parts of a complex one."""
    trans: Trans = "H" if adjoint else "N"
    if not (real and np.iscomplexobj(b)):
        return lu.solve(b, trans)
    parts = lu.solve(np.concatenate([b.real, b.imag], axis=1), trans)
    return parts[:, : b.shape[1]] + 1j * parts[:, b.shape[1] :]


@dataclass(frozen=True)
class DirectFactors:
    """What matrices of one family share; threads may use it together.

    Parameters
    ----------
    grid, boundary
        Of the operators.
    singular, positive_definite, symmetric
        As the systems say.
    engine
        ``"superlu"`` or ``"pardiso"``.
    pattern
        Their structure, in an order with little fill.
    shared
        The factor of the matrix that all systems share, or ``None`` where each has its own.
    """

    grid: Grid
    boundary: Boundary
    singular: bool
    positive_definite: bool
    symmetric: bool
    engine: str
    pattern: Pattern
    shared: Factor | None = None
    _idle: list[Eliminate] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, systems: LinearSystems, *, engine: str = "superlu") -> "DirectFactors":
        """Work out the order and, if the systems share one matrix, factor it.

        Raises
        ------
        ModuleNotFoundError
            If the engine is Pardiso and MKL is not installed.
        """
        _check.choice("engine", engine, ENGINES)
        grid, boundary = systems.operator.grid, systems.operator.boundary
        if engine == "pardiso":
            from vcycle.solvers import pardiso

            order = pardiso.dissection(Pattern(grid, boundary))
        else:
            order = fill_reducing_order(grid, boundary)
        pattern = Pattern(grid, boundary, order=order)
        kind = (systems.singular, systems.positive_definite, systems.symmetric)
        factors = cls(grid, boundary, *kind, engine, pattern)
        if systems.operator.batch > 1 or len(systems) == 0:
            return factors
        eliminate = factors._superlu if engine == "superlu" else factors._pardiso()  # a shared factor is kept
        return replace(factors, shared=factors.factored(systems.operator.entries(), eliminate))

    def require_fit(self, systems: LinearSystems) -> None:
        """Raise a ValueError unless these systems are of the same family."""
        operator = systems.operator
        mine = (self.grid, self.boundary, self.singular, self.positive_definite, self.symmetric)
        kind = (systems.singular, systems.positive_definite, systems.symmetric)
        if mine != (operator.grid, operator.boundary, *kind):
            raise ValueError(
                "`factors` must come from systems with the same grid, boundary and definiteness. "
                f"Got factors of {self.grid.shape} for systems of {operator.grid.shape}."
            )

    @contextlib.contextmanager
    def elimination(self) -> Iterator[Eliminate]:
        """Lend a function from matrices of this pattern to their factors, for one thread.

        With Pardiso a factor lasts until the next one is made, or the function is given back; analyses are kept for
        whoever comes next.
        """
        if self.engine == "superlu":
            yield self._superlu
            return
        try:
            eliminate = self._idle.pop()
        except IndexError:
            eliminate = self._pardiso()
        yield eliminate
        self._idle.append(eliminate)

    def _pardiso(self) -> Eliminate:
        from vcycle.solvers.pardiso import Pardiso

        @functools.cache
        def analysed(dtype: np.dtype) -> Pardiso:
            return Pardiso(
                self.pattern, dtype=dtype, symmetric=self.symmetric, positive_definite=self.positive_definite
            )

        return lambda matrix: analysed(matrix.dtype).factor(matrix)

    def factored(self, entries: np.ndarray, eliminate: Eliminate) -> Factor:
        """Return the factor of the matrix with these entries: the shared one if they are the same.

        ``eliminate`` comes from :meth:`elimination`.
        """
        if self.shared is not None and np.array_equal(self.shared.entries, entries):
            return self.shared
        A = self.pattern.scatter(entries)
        pinned = A
        if self.singular:
            pinned = A.copy()
            pinned[0, 0] += A[0, 0]  # leaves, of all solutions up to a constant, the one that is zero there
        return Factor(entries, A, self.pattern.order, eliminate(pinned))

    def _superlu(self, matrix: sp.csc_matrix) -> "Lu | None":
        from scipy.sparse.linalg import splu

        threshold = 0.0 if self.positive_definite else 0.1  # definite: the diagonal is always a good pivot
        # Thin panels save a third of the time on the small supernodes of two dimensions, and cost in three.
        panel = THIN_PANEL if self.grid.num_axes < 3 else None
        try:
            lu = splu(
                matrix,
                permc_spec="NATURAL",
                diag_pivot_thresh=threshold,
                panel_size=panel,
                options=SYMMETRIC_PATTERN,
            )
        except RuntimeError:  # SuperLU's word for an exactly singular matrix
            return None
        return cast("Lu", lu)  # SciPy's stubs leave `trans` out
