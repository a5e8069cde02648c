"""Krylov methods over a sequence of grid systems, one after the other, with the Jacobi preconditioner."""

import time

import numpy as np
import scipy.sparse as sp

from vcycle.solvers.arnoldi import KrylovResult
from vcycle.solvers.gcrodr import gcrodr
from vcycle.solvers.krylov import cg, gmres, jacobi
from vcycle.solvers.pattern import Pattern
from vcycle.solvers.recycle import RecycleSpace
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems


def solve_all(
    systems: LinearSystems,
    *,
    method: str,
    rtol: float,
    max_steps: int,
    recycle: RecycleSpace | None = None,
) -> Solves:
    """Solve every system by ``"cg"``, ``"gmres"`` or ``"gcrodr"``, in the order of the batch.

    Parameters
    ----------
    systems
        Finite systems; where singular, right-hand sides with zero sum.
    method
        ``"gcrodr"`` carries its recycled space from each system to the next; the others carry nothing.
    rtol
        Tolerance for the true relative residual.
    max_steps
        Largest number of steps per system.
    recycle
        The space to begin with.

    Raises
    ------
    ValueError
        If the method is ``"cg"`` and the matrices are not definite.
    """
    if method == "cg" and not systems.positive_definite:
        raise ValueError("`method` must not be 'cg' unless the matrix is positive definite. Use 'gmres' or 'direct'.")
    operator, num = systems.operator, len(systems)
    pattern = Pattern(operator.grid, operator.boundary)
    solves = Solves.blank(systems.rhs)
    flat = solves.solutions.numpy().reshape(num, operator.grid.num_points)
    for index in range(num):
        start = time.perf_counter()
        A = pattern.scatter(operator.entries(index)).T  # symmetric, so that this is the same matrix in CSR form
        b = systems.rhs[index].numpy().ravel()
        b = b - b.mean() if systems.singular else b
        result, recycle = _solve(method, A, b, rtol=rtol, max_steps=max_steps, space=recycle)
        flat[index] = result.solution - (result.solution.mean() if systems.singular else 0.0)
        solves.iterations[index] = result.iterations
        solves.seconds[index] = time.perf_counter() - start
    return Solves(solves.solutions, solves.iterations, solves.seconds, recycle)


def _solve(
    method: str,
    A: sp.csr_matrix,
    b: np.ndarray,
    *,
    rtol: float,
    max_steps: int,
    space: RecycleSpace | None,
) -> tuple[KrylovResult, RecycleSpace | None]:
    preconditioner = jacobi(A.diagonal())
    if method == "gcrodr":
        return gcrodr(A, b, space=space, preconditioner=preconditioner, rtol=rtol, max_steps=max_steps)
    solve = cg if method == "cg" else gmres
    return solve(A, b, preconditioner=preconditioner, rtol=rtol, max_steps=max_steps), None
