"""The front door to all solvers: a sequence of systems in; solutions, true residuals and a status each out."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from vcycle import _check
from vcycle.solvers import direct, krylov_sequence, multigrid
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.implicit import differentiable, needs_gradient
from vcycle.solvers.ordering import nearest_neighbour_order
from vcycle.solvers.recycle import RecycleSpace
from vcycle.solvers.result import SequenceResult, Solves, Status
from vcycle.solvers.systems import LinearSystems

METHODS = ("auto", "direct", "multigrid", "cg", "gmres", "gcrodr")
DEFAULT_STEPS = {"direct": 1, "multigrid": 500, "cg": 10_000, "gmres": 10_000, "gcrodr": 10_000}
ORDERS = ("given", "nearest", "auto")

AUTO_COARSEST = 256
"""Most unknowns of a coarsest level, for `auto`: with more, sparse LU is faster than a dense inverse."""
FALLBACK_POINTS = 100_000
"""Largest grid on which `auto` tries sparse LU for what multigrid left unsolved."""
RESIDUAL_POINTS = 2**16
ZERO_SUM = 1e-10
"""A right-hand side of a singular system may sum to this much of the sum of its absolute values."""


def solve_sequence(
    systems: LinearSystems,
    *,
    rtol: float = 1e-8,
    method: str = "auto",
    order: str = "auto",
    features: Tensor | None = None,
    recycle: RecycleSpace | None = None,
    factors: DirectFactors | None = None,
    max_steps: int | None = None,
    workers: int = 1,
) -> SequenceResult:
    """Solve a sequence of linear systems; never raises on non-convergence.

    Solutions pass gradients on to matrices and right-hand sides that ask for them, by one adjoint solve with the same
    method, which raises a SolveError where it fails.

    Parameters
    ----------
    systems
        The systems, real or complex.
    rtol
        Tolerance for the true relative residual ``|b - A u| / |b|``, dimensionless.
    method
        ``"direct"`` is sparse LU, its symbolic work shared. ``"multigrid"`` is conjugate gradients with a V-cycle, for
        definite systems in 2-D and 3-D. ``"cg"``, ``"gmres"`` and ``"gcrodr"`` are Krylov methods with the Jacobi
        preconditioner; the last carries a subspace from each system to the next. ``"auto"`` takes multigrid where it
        can coarsen far enough, and otherwise LU; what multigrid leaves unsolved on up to 100 000 points goes to LU.
    order
        ``"given"``, ``"nearest"`` (:func:`nearest_neighbour_order` of the features), or ``"auto"``: nearest for
        ``"gcrodr"``, given otherwise. Results come back in the caller's order all the same.
    features
        What distances are measured in, shape ``(num, p)``; default the coefficients, or right-hand sides where the
        matrix is shared.
    recycle
        A space from an earlier sequence, for ``"gcrodr"``.
    factors
        Factors from an earlier sequence of the same family, for ``"direct"`` and ``"auto"``. They spare the work on the
        structure; a matrix that all systems share, and shared then, is not factored again. Answers do not depend on it.
    max_steps
        Largest number of steps per system; default 500 V-cycles, or 10 000 Krylov steps.
    workers
        Number of threads over systems, for ``"direct"`` and ``"multigrid"``. Answers do not depend on it.

    Returns
    -------
    SequenceResult
        Solutions of zero mean where the systems are singular. A system with NaN or infinity gets a solution of NaN and
        the status that says so; one with a zero right-hand side the solution zero.

    Raises
    ------
    ValueError
        If an argument is out of range, the shapes do not fit, a method does not apply, or a singular system has a
        right-hand side with non-zero sum.
    TypeError
        If ``systems.rhs`` is neither float64 nor complex128.
    """
    _check.positive("rtol", rtol)
    _check.choice("method", method, METHODS)
    _check.choice("order", order, ORDERS)
    _check.integer("workers", workers, 1)
    if max_steps is not None:
        _check.integer("max_steps", max_steps, 1)
    if recycle is not None and method != "gcrodr":
        raise ValueError(f"`recycle` must be None unless `method` is 'gcrodr'. Got method {method!r}.")
    if factors is not None:
        _check.choice("method", method, ("direct", "auto"))
        factors.require_fit(systems)
    recorded, asked_method = systems, method
    systems = _checked_systems(systems)
    finite = _finite(systems)
    _check_sums(systems, finite)
    visits = _visits(systems, order, features, method)
    chosen = visits[finite[visits]]
    use_fallback = method == "auto"
    method = resolved_method(method, systems)
    limit = DEFAULT_STEPS[method] if max_steps is None else max_steps

    solves = _solve(
        _select(systems, chosen), method, rtol=rtol, limit=limit, carried=(recycle, factors), workers=workers
    )
    answers = Solves.blank(systems.rhs)
    answers.store(chosen, solves)
    residuals = _residuals(systems, answers.solutions)
    exhausted = answers.iterations >= limit
    left = torch.nonzero(finite & ~(residuals <= rtol)).flatten()
    if use_fallback and method != "direct" and len(left) and systems.operator.grid.num_points <= FALLBACK_POINTS:
        rescued = direct.solve_all(systems.select(left), rtol=rtol, workers=workers, factors=factors)
        answers.store(left, rescued)
        solves = replace(solves, factors=rescued.factors)
        residuals = _residuals(systems, answers.solutions)
        exhausted[left] = False
    facts = zip(residuals.tolist(), finite.tolist(), exhausted.tolist(), strict=True)
    statuses = tuple(_status(r, rtol, finite=ok, exhausted=out) for r, ok, out in facts)
    result = SequenceResult(
        answers.solutions,
        residuals,
        answers.iterations,
        answers.seconds,
        statuses,
        visits,
        recycle=solves.recycle,
        factors=solves.factors,
    )
    if not needs_gradient(recorded):
        return result

    def solve_adjoint(adjoint: LinearSystems) -> Tensor:
        solved = solve_sequence(
            adjoint,
            rtol=rtol,
            method=asked_method,
            recycle=result.recycle if systems.symmetric else None,
            factors=result.factors,
            max_steps=max_steps,
            workers=workers,
        )
        return solved.raise_if_failed().solutions

    return replace(result, solutions=differentiable(result.solutions, recorded, solve_adjoint))


def _checked_systems(systems: LinearSystems) -> LinearSystems:
    """Return the systems without their gradient history, or raise if their parts do not fit."""
    operator, rhs = systems.operator, systems.rhs
    if rhs.dtype not in (torch.float64, torch.complex128):
        raise TypeError(f"`systems.rhs` must be float64 or complex128. Got {rhs.dtype}.")
    _check.shape("systems.rhs", rhs.shape, (None, *operator.grid.shape), "one right-hand side per system on the grid")
    if operator.batch not in (1, len(rhs)):
        raise ValueError(
            f"`systems.operator` must have 1 or {len(rhs)} matrices, as `rhs` has rows. Got {operator.batch}."
        )
    plain = operator.with_parts(tuple(part.detach() for part in operator.parts))
    return replace(systems, operator=plain, rhs=rhs.detach().to(systems.dtype))


def _finite(systems: LinearSystems) -> Tensor:
    """Return which systems are free of NaN and infinity, shape ``(num,)``."""
    finite = torch.ones(len(systems), dtype=torch.bool)
    for part in (*systems.operator.parts, systems.rhs):
        finite = finite & torch.isfinite(part.flatten(1).sum(1))  # a sum is finite only if every term is
    return finite


def _check_sums(systems: LinearSystems, finite: Tensor) -> None:
    if not systems.singular:
        return
    flat = systems.rhs.flatten(1)
    wrong = finite & (flat.sum(1).abs() > ZERO_SUM * flat.abs().sum(1))
    if wrong.any():
        first = int(torch.nonzero(wrong)[0])
        raise ValueError(
            "`systems.rhs` must have zero sum where constants are in the kernel; subtract its mean. "
            f"Got sum {flat[first].sum():.3e} in system {first}."
        )


def _visits(systems: LinearSystems, order: str, features: Tensor | None, method: str) -> Tensor:
    """Return the order of solution, shape ``(num,)``."""
    num = len(systems)
    if order == "given" or (order == "auto" and method != "gcrodr"):
        return torch.arange(num)
    if features is not None and (features.dim() != 2 or len(features) != num):
        raise ValueError(f"`features` must have shape ({num}, p), one row per system. Got {tuple(features.shape)}.")
    if features is None:
        varying = (systems.rhs,) if systems.operator.batch == 1 else systems.operator.parts
        flat = [torch.view_as_real(part) if part.is_complex() else part for part in varying]
        rows = torch.cat([part.flatten(1) for part in flat], dim=1)
        features = torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return nearest_neighbour_order(features)


def _select(systems: LinearSystems, chosen: Tensor) -> LinearSystems:
    if len(chosen) == len(systems) and torch.equal(chosen, torch.arange(len(chosen))):
        return systems  # spares a copy of all coefficients
    return systems.select(chosen)


def resolved_method(method: str, systems: LinearSystems) -> str:
    """Return the method itself, or what ``"auto"`` stands for on these systems."""
    if method != "auto":
        return method
    can_coarsen = systems.operator.grid.can_coarsen
    return "multigrid" if can_coarsen and multigrid.can_solve(systems, max_coarsest=AUTO_COARSEST) else "direct"


def _solve(
    systems: LinearSystems,
    method: str,
    *,
    rtol: float,
    limit: int,
    carried: tuple[RecycleSpace | None, DirectFactors | None],
    workers: int,
) -> Solves:
    recycle, factors = carried
    if method == "direct":
        return direct.solve_all(systems, rtol=rtol, workers=workers, factors=factors)
    if method == "multigrid":
        return multigrid.solve_all(systems, rtol=rtol, max_steps=limit, workers=workers)
    return krylov_sequence.solve_all(systems, method=method, rtol=rtol, max_steps=limit, recycle=recycle)


def _residuals(systems: LinearSystems, solutions: Tensor) -> Tensor:
    """Return the true relative residuals, some systems at a time: their temporaries stay in cache."""
    some = max(1, RESIDUAL_POINTS // systems.operator.grid.num_points)
    starts = range(0, len(systems), some)
    blocks = [systems.select(slice(i, i + some)).relative_residuals(solutions[i : i + some]) for i in starts]
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.float64)


def _status(residual: float, rtol: float, *, finite: bool, exhausted: bool) -> Status:
    if not finite:
        return Status.NOT_FINITE
    if residual <= rtol:
        return Status.SOLVED
    if not math.isfinite(residual):
        return Status.BREAKDOWN
    return Status.MAX_STEPS if exhausted else Status.STAGNATED
