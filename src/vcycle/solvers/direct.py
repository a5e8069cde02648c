"""Sparse LU with the work that depends on the pattern done once per family: assembly map and fill-reducing order."""

import time

import numpy as np
import torch

from vcycle.solvers._threads import share_out
from vcycle.solvers.factors import DirectFactors, Factor
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems

BLOCK = 64
"""Right-hand sides solved at a time when all systems share one matrix."""


def solve_all(systems: LinearSystems, *, rtol: float, workers: int = 1, factors: DirectFactors | None = None) -> Solves:
    """Factor and solve every system; a shared matrix is factored once.

    Parameters
    ----------
    systems
        Finite systems; where singular, right-hand sides with zero sum.
    rtol
        One step of iterative refinement is made where the true relative residual is above this.
    workers
        Number of threads over matrices.
    factors
        Of an earlier sequence of the same family; ``None`` works them out.

    Returns
    -------
    Solves
        Solutions of NaN where a matrix is singular to machine precision. No iterations. The factors that were used.

    Raises
    ------
    ValueError
        If ``factors`` come from another family.
    """
    started = time.perf_counter()
    if factors is None:
        factors = DirectFactors.of(systems)
    factors.require_fit(systems)
    common = time.perf_counter() - started
    num, size = len(systems), systems.operator.grid.num_points
    rhs = systems.rhs.detach().numpy().reshape(num, size)
    solutions, seconds = np.empty((num, size), rhs.dtype), np.empty(num)
    shared = systems.operator.batch == 1
    groups = [slice(0, num)] if shared else [slice(i, i + 1) for i in range(num)]

    def work(share: range) -> None:
        for matrix in share:
            rows, start = groups[matrix], time.perf_counter()
            factor = factors.factored(systems.operator.entries(matrix))
            solutions[rows] = _solved(factor, rhs[rows], order=factors.pattern.order, rtol=rtol)
            seconds[rows] = (time.perf_counter() - start) / max(rows.stop - rows.start, 1)

    share_out(work, len(groups) if num else 0, workers)
    if systems.singular:
        solutions -= solutions.mean(axis=1, keepdims=True)
    shaped = torch.from_numpy(solutions).reshape(systems.rhs.shape)
    return Solves(
        shaped, torch.zeros(num, dtype=torch.int64), torch.from_numpy(seconds + common / max(num, 1)), factors=factors
    )


def _solved(factor: Factor, rhs: np.ndarray, *, order: np.ndarray, rtol: float) -> np.ndarray:
    """Return solutions ``(num, n)`` for right-hand sides ``(num, n)``; NaN if the matrix is singular."""
    if factor.lu is None:
        return np.full_like(rhs, np.nan)
    permuted, solutions = rhs[:, order], np.empty_like(rhs)
    for start in range(0, len(rhs), BLOCK):
        b = permuted[start : start + BLOCK].T
        x = factor.lu.solve(b)
        r = b - factor.matrix @ x
        if (np.linalg.norm(r, axis=0) > rtol * np.linalg.norm(b, axis=0)).any():
            x += factor.lu.solve(r)
        solutions[start : start + BLOCK, order] = x.T
    return solutions
