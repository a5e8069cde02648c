"""The front door to all solvers: a sequence of systems in; solutions, true residuals and a status each out."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from vcycle import _check
from vcycle.solvers import batched, direct, krylov_sequence, multigrid
from vcycle.solvers.choice import Choice, choose
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.implicit import differentiable, needs_gradient
from vcycle.solvers.krylov_sequence import RECYCLING, Krylov
from vcycle.solvers.ordering import order_of
from vcycle.solvers.recycle import RecycleSpace
from vcycle.solvers.result import SequenceResult, Solves, Status
from vcycle.solvers.systems import LinearSystems

METHODS = ("auto", "direct", "pardiso", "multigrid", "batched", *krylov_sequence.METHODS)
DIRECT = ("direct", "pardiso")
DEFAULT_STEPS = dict.fromkeys(DIRECT, 1) | {"multigrid": 500, "batched": 500}
DEFAULT_STEPS |= dict.fromkeys(krylov_sequence.METHODS, 10000)
AUTO_STEPS = 300
"""Krylov steps after which `auto` gives a system to sparse LU."""
ORDERS = ("given", "nearest", "auto")

FALLBACK_POINTS = 100_000
"""Largest grid on which `auto` tries sparse LU for what an iteration left unsolved."""
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
    krylov: Krylov | None = None,
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
        ``"direct"`` is sparse LU, its symbolic work shared, and ``"pardiso"`` the same by MKL, from the extra
        ``vcycle[direct]``. ``"multigrid"`` is conjugate gradients with a V-cycle, for definite systems in 2-D and 3-D;
        ``"batched"`` is the same in tensors, all systems at once, on whatever device they are. ``"cg"``, ``"gmres"``,
        ``"recycling-cg"`` and ``"gcrodr"`` are Krylov methods; the last two carry a subspace from each system to the
        next. ``"auto"`` chooses by what the systems are (:func:`vcycle.solvers.choice.choose`); what an iteration then
        leaves unsolved on up to 100 000 points goes to sparse LU.
    order
        ``"given"``, ``"nearest"`` (:func:`order_of` the features), or ``"auto"``: nearest for the methods that
        recycle, given otherwise. Results come back in the caller's order all the same.
    features
        What distances are measured in, shape ``(num, p)``; default the coefficients, or right-hand sides where the
        matrix is shared.
    recycle
        A space from an earlier sequence, for the methods that recycle.
    factors
        Factors from an earlier sequence of the same family, for the direct methods and ``"auto"``. They spare the work
        on the structure; a matrix that all systems share, and shared then, is not factored again. Answers do not depend
        on it.
    krylov
        Preconditioner and further options of a Krylov method; default ``Krylov()``, with Jacobi's.
    max_steps
        Largest number of steps per system; default 500 V-cycles, or 10 000 Krylov steps.
    workers
        Number of threads over systems, for the direct methods and ``"multigrid"``. Answers do not depend on it.

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
    _check_belongings(method, recycle, krylov, factors)
    if factors is not None:
        factors.require_fit(systems)
    recorded, asked_method = systems, method
    systems = _checked_systems(systems)
    finite = _finite(systems)
    _check_sums(systems, finite)
    visits = _visits(systems, order, features, method)
    chosen = visits[finite[visits]]
    choice = choose(systems) if method == "auto" else Choice(method, krylov)
    limit = _limit(choice.method, automatic=method == "auto") if max_steps is None else max_steps

    solves = _solve(
        _select(systems, chosen), choice, rtol=rtol, limit=limit, carried=(recycle, factors), workers=workers
    )
    answers = Solves.blank(systems.rhs)
    answers.store(chosen, solves)
    residuals = _residuals(systems, answers.solutions)
    exhausted = answers.iterations >= limit
    left = torch.nonzero(finite & ~(residuals <= rtol)).flatten()
    iterated = method == "auto" and choice.method != "direct"
    if iterated and len(left) and systems.operator.grid.num_points <= FALLBACK_POINTS:
        rescued = direct.solve_all(systems.select(left), rtol=rtol, workers=workers, factors=factors)
        answers.store(left, rescued)
        solves = replace(solves, factors=rescued.factors)
        residuals = _residuals(systems, answers.solutions)
        exhausted[left] = False
    facts = zip(residuals.tolist(), finite.tolist(), exhausted.tolist(), strict=True)
    result = SequenceResult(
        answers.solutions,
        residuals,
        answers.iterations,
        answers.seconds,
        tuple(_status(r, rtol, finite=ok, exhausted=out) for r, ok, out in facts),
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
            krylov=krylov,
            max_steps=max_steps,
            workers=workers,
        )
        return solved.raise_if_failed().solutions

    return replace(result, solutions=differentiable(result.solutions, recorded, solve_adjoint))


def _check_belongings(
    method: str, recycle: RecycleSpace | None, krylov: Krylov | None, factors: DirectFactors | None
) -> None:
    """Raise where an argument is given that the method has no use for."""
    if recycle is not None and method not in RECYCLING:
        raise ValueError(f"`recycle` must be None unless `method` is {' or '.join(RECYCLING)}. Got method {method!r}.")
    if krylov is not None:
        _check.choice("method", method, krylov_sequence.METHODS)
    if factors is not None:
        _check.choice("method", method, (*DIRECT, "auto"))


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
    if order == "given" or (order == "auto" and method not in RECYCLING):
        return torch.arange(num)
    if features is not None and (features.dim() != 2 or len(features) != num):
        raise ValueError(f"`features` must have shape ({num}, p), one row per system. Got {tuple(features.shape)}.")
    if features is None:
        varying = (systems.rhs,) if systems.operator.batch == 1 else systems.operator.parts
        flat = [torch.view_as_real(part) if part.is_complex() else part for part in varying]
        rows = torch.cat([part.flatten(1) for part in flat], dim=1)
        features = torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return order_of(features)


def _select(systems: LinearSystems, chosen: Tensor) -> LinearSystems:
    if len(chosen) == len(systems) and torch.equal(chosen, torch.arange(len(chosen))):
        return systems  # spares a copy of all coefficients
    return systems.select(chosen)


def resolved_method(method: str, systems: LinearSystems) -> str:
    """Return the method itself, or what ``"auto"`` stands for on these systems."""
    return choose(systems).method if method == "auto" else method


def _limit(method: str, *, automatic: bool) -> int:
    return AUTO_STEPS if automatic and method in krylov_sequence.METHODS else DEFAULT_STEPS[method]


def _solve(
    systems: LinearSystems,
    choice: Choice,
    *,
    rtol: float,
    limit: int,
    carried: tuple[RecycleSpace | None, DirectFactors | None],
    workers: int,
) -> Solves:
    method, (recycle, factors) = choice.method, carried
    if method in DIRECT:
        engine = "superlu" if method == "direct" else "pardiso"
        return direct.solve_all(systems, rtol=rtol, workers=workers, factors=factors, engine=engine)
    if method == "multigrid":
        return multigrid.solve_all(systems, rtol=rtol, max_steps=limit, workers=workers)
    if method == "batched":
        return batched.solve_all(systems, rtol=rtol, max_steps=limit)
    return krylov_sequence.solve_all(
        systems, method=method, rtol=rtol, max_steps=limit, recycle=recycle, options=choice.krylov
    )


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
