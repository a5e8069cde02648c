"""Sparse LU with the work that depends on the pattern done once per family: assembly map and fill-reducing order."""

import time

import numpy as np
import torch

from vcycle.solvers._threads import share_out
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems


def solve_all(
    systems: LinearSystems,
    *,
    rtol: float,
    workers: int = 1,
    factors: DirectFactors | None = None,
    engine: str = "superlu",
) -> Solves:
    """Factor and solve every system; a shared matrix is factored once.

    Parameters
    ----------
    systems
        Finite systems; where singular, right-hand sides with zero sum.
    rtol
        Iterative refinement is made where the true relative residual is above this.
    workers
        Number of threads over matrices.
    factors
        Of an earlier sequence of the same family, with their engine; ``None`` works them out.
    engine
        ``"superlu"``, or ``"pardiso"`` where MKL is installed. The last digits of solutions depend on it.

    Returns
    -------
    Solves
        Solutions of NaN where a matrix is singular to machine precision. No iterations. The factors that were used.

    Raises
    ------
    ValueError
        If ``factors`` come from another family.
    ModuleNotFoundError
        If the engine is Pardiso and MKL is not installed.
    """
    started = time.perf_counter()
    if factors is None:
        factors = DirectFactors.of(systems, engine=engine)
    factors.require_fit(systems)
    common = time.perf_counter() - started
    num, size = len(systems), systems.operator.grid.num_points
    rhs = systems.rhs.detach().to(systems.dtype).numpy().reshape(num, size)
    solutions, seconds = np.empty_like(rhs), np.empty(num)
    shared = systems.operator.batch == 1
    groups = [slice(0, num)] if shared else [slice(i, i + 1) for i in range(num)]

    def work(share: range) -> None:
        with factors.elimination() as eliminate:
            for matrix in share:
                rows, start = groups[matrix], time.perf_counter()
                factor = factors.factored(systems.operator.entries(matrix), eliminate)
                solutions[rows] = factor.solve(rhs[rows], rtol=rtol)
                seconds[rows] = (time.perf_counter() - start) / max(rows.stop - rows.start, 1)

    share_out(work, len(groups) if num else 0, workers)
    if systems.singular:
        solutions -= solutions.mean(axis=1, keepdims=True)
    shaped = torch.from_numpy(solutions).reshape(systems.rhs.shape)
    return Solves(
        shaped, torch.zeros(num, dtype=torch.int64), torch.from_numpy(seconds + common / max(num, 1)), factors=factors
    )
