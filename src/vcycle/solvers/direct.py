"""Sparse LU with the work that depends on the pattern done once per family: assembly map and fill-reducing order."""

import time

import numpy as np
import torch

from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.solvers._threads import share_out
from vcycle.solvers.pattern import Pattern, entries
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems

BLOCK = 64
"""Right-hand sides solved at a time when all systems share one matrix."""


def solve_all(systems: LinearSystems, *, rtol: float, workers: int = 1) -> Solves:
    """Factor and solve every system; a shared matrix is factored once.

    Parameters
    ----------
    systems
        Finite systems; where singular, right-hand sides with zero sum.
    rtol
        One step of iterative refinement is made where the true relative residual is above this.
    workers
        Number of threads over matrices.

    Returns
    -------
    Solves
        Solutions of NaN where a matrix is singular to machine precision. No iterations.
    """
    num, size = len(systems), systems.operator.grid.num_points
    rhs = systems.rhs.detach().numpy().reshape(num, size)
    solutions, seconds = np.empty((num, size)), np.empty(num)
    factors = _Family(systems)
    shared = systems.operator.batch == 1
    groups = [slice(0, num)] if shared else [slice(i, i + 1) for i in range(num)]

    def work(share: range) -> None:
        for matrix in share:
            rows, start = groups[matrix], time.perf_counter()
            solutions[rows] = factors.solve(matrix, rhs[rows], rtol=rtol)
            seconds[rows] = (time.perf_counter() - start) / max(rows.stop - rows.start, 1)

    share_out(work, len(groups), workers)
    if systems.singular:
        solutions -= solutions.mean(axis=1, keepdims=True)
    shaped = torch.from_numpy(solutions).reshape(systems.rhs.shape)
    return Solves(shaped, torch.zeros(num, dtype=torch.int64), torch.from_numpy(seconds))


class _Family:
    """Matrices of one pattern, permuted once to an order with little fill."""

    def __init__(self, systems: LinearSystems) -> None:
        self.operator, self.singular = systems.operator, systems.singular
        self.pivot_threshold = (
            0.0 if systems.positive_definite else 0.1
        )  # definite: the diagonal is always a good pivot
        grid, boundary = self.operator.grid, self.operator.boundary
        self.pattern = Pattern(grid, boundary, order=_fill_reducing_order(self.operator))

    def solve(self, index: int, rhs: np.ndarray, *, rtol: float) -> np.ndarray:
        """Return solutions ``(num, n)`` of matrix ``index`` for right-hand sides ``(num, n)``; NaN if singular."""
        from scipy.sparse.linalg import splu

        A = self.pattern.scatter(entries(self.operator, index))
        factored = A
        if self.singular:
            factored = A.copy()
            factored[0, 0] += A[0, 0]  # leaves, of all solutions up to a constant, the one that is zero there
        try:
            factor = splu(factored, permc_spec="NATURAL", diag_pivot_thresh=self.pivot_threshold, options=_SYMMETRIC)
        except RuntimeError:  # SuperLU's word for an exactly singular matrix
            return np.full_like(rhs, np.nan)
        permuted, solutions = rhs[:, self.pattern.order], np.empty_like(rhs)
        for start in range(0, len(rhs), BLOCK):
            b = permuted[start : start + BLOCK].T
            x = factor.solve(b)
            r = b - A @ x
            if (np.linalg.norm(r, axis=0) > rtol * np.linalg.norm(b, axis=0)).any():
                x += factor.solve(r)
            solutions[start : start + BLOCK, self.pattern.order] = x.T
        return solutions


_SYMMETRIC = {"SymmetricMode": True}


def _fill_reducing_order(operator: FaceFluxes) -> np.ndarray:
    """Return SuperLU's minimum-degree order of the pattern: entry ``j`` is the unknown eliminated ``j``-th."""
    from scipy.sparse.linalg import splu

    pattern = Pattern(operator.grid, operator.boundary)
    size = pattern.size
    values = np.full(len(pattern.slot), -1.0)
    values[:size] = 4.0 * size  # any dominant diagonal will do: the order depends on the pattern only
    factor = splu(pattern.scatter(values), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=_SYMMETRIC)
    return np.argsort(factor.perm_c)
