"""Krylov methods over a sequence of grid systems, one after the other, with what survives from each to the next."""

import time
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from vcycle import _check
from vcycle.multigrid.stencil import Stencil
from vcycle.solvers.arnoldi import SIDES, Apply, KrylovResult
from vcycle.solvers.gcrodr import gcrodr
from vcycle.solvers.krylov import cg, gmres
from vcycle.solvers.pattern import Pattern
from vcycle.solvers.preconditioners import PRECONDITIONERS, definite_part, multigrid, preconditioner
from vcycle.solvers.recycle import STRATEGIES, RecycleSpace
from vcycle.solvers.recycling_cg import recycling_cg
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems

METHODS = ("cg", "recycling-cg", "gmres", "gcrodr")
RECYCLING = ("recycling-cg", "gcrodr")
WARM_STARTS = ("none", "previous", "projection")
GROWTH, SLACK = 1.3, 3
"""A reused preconditioner is renewed once steps exceed those right after it was made by this factor and so many."""
REMEMBERED = 4
"""Earlier solutions that a projected warm start combines."""


@dataclass(frozen=True)
class Krylov:
    """How the Krylov methods work: one set of options for a whole sequence.

    Parameters
    ----------
    preconditioner
        One of :data:`vcycle.solvers.preconditioners.PRECONDITIONERS`, or ``"multigrid"``: a V-cycle for the operator,
        or for its :func:`~vcycle.solvers.preconditioners.definite_part`, so that it serves waves and transport, too.
    side
        ``"right"``, ``"left"`` or ``"flexible"``, for ``"gmres"`` and ``"gcrodr"``; all stop on true residuals.
    strategy
        ``"A"`` or ``"B"``, see :func:`vcycle.solvers.gcrodr`.
    restart
        Vectors in one cycle of ``"gmres"`` and ``"gcrodr"``, recycled ones included; directions that ``"recycling-cg"``
        gathers before it chooses.
    recycled
        Vectors carried from each system to the next.
    warm_start
        ``"none"`` starts from zero; ``"previous"`` from the last solution, that of the nearest system in a sorted
        sequence; ``"projection"`` from the combination of the last four that leaves the smallest residual.
    reuse_preconditioner
        Keep the preconditioner of an earlier system until the steps grow by 30 per cent and 3; a system that an old one
        leaves unsolved is taken up again with a new one.

    Raises
    ------
    ValueError
        If a word is unknown, or a number out of range.
    """

    preconditioner: str = "jacobi"
    side: str = "right"
    strategy: str = "A"
    restart: int = 40
    recycled: int = 20
    warm_start: str = "none"
    reuse_preconditioner: bool = False

    def __post_init__(self) -> None:
        _check.choice("preconditioner", self.preconditioner, (*PRECONDITIONERS, "multigrid"))
        _check.choice("side", self.side, SIDES)
        _check.choice("strategy", self.strategy, STRATEGIES)
        _check.choice("warm_start", self.warm_start, WARM_STARTS)
        _check.integer("recycled", self.recycled, 1)
        _check.integer("restart", self.restart, self.recycled + 2)
        _check.instance("reuse_preconditioner", self.reuse_preconditioner, bool, "True or False")


def solve_all(
    systems: LinearSystems,
    *,
    method: str,
    rtol: float,
    max_steps: int,
    recycle: RecycleSpace | None = None,
    options: Krylov | None = None,
) -> Solves:
    """Solve every system by a Krylov method, in the order of the batch.

    Parameters
    ----------
    systems
        Finite systems; where singular, right-hand sides with zero sum.
    method
        ``"gcrodr"`` and ``"recycling-cg"`` carry a space from each system to the next; ``"cg"`` and ``"gmres"`` do not.
    rtol
        Tolerance for the true relative residual.
    max_steps
        Largest number of steps per system.
    recycle
        The space to begin with.
    options
        Preconditioner, sizes and what else is carried; default ``Krylov()``.

    Raises
    ------
    ValueError
        If the method is a kind of conjugate gradients and the matrices are not definite, or the preconditioner is
        multigrid and the matrices are complex and not symmetric.
    """
    options = Krylov() if options is None else options
    _check.choice("method", method, METHODS)
    if method in ("cg", "recycling-cg") and not systems.positive_definite:
        raise ValueError(
            f"`method` must not be {method!r} unless the matrix is positive definite. Use 'gmres' or 'direct'."
        )
    operator, num = systems.operator, len(systems)
    pattern = Pattern(operator.grid, operator.boundary)
    solves = Solves.blank(systems.rhs)
    flat = solves.solutions.numpy().reshape(num, operator.grid.num_points)
    state = _State(method, options, rtol, max_steps, recycle)
    A = None
    for index in range(num):
        start = time.perf_counter()
        same = A is not None and operator.batch == 1
        if A is None or not same:
            matrix = pattern.scatter(operator.entries(index))
            A = matrix.T if systems.symmetric else matrix.tocsr()  # by rows; the transpose of columns is for free
        b = systems.rhs[index].numpy().ravel()
        b = b - b.mean() if systems.singular else b
        result = state.solve(systems, index, A, b, same=same)
        flat[index] = result.solution - (result.solution.mean() if systems.singular else 0.0)
        solves.iterations[index] = result.iterations
        solves.seconds[index] = time.perf_counter() - start
    return Solves(solves.solutions, solves.iterations, solves.seconds, state.space)


@dataclass
class _State:
    """What survives between the systems of a sequence: the space, the preconditioner, the last solutions."""

    method: str
    options: Krylov
    rtol: float
    max_steps: int
    space: RecycleSpace | None
    inverse: Apply | None = None
    steps_when_new: int = 0
    solutions: list[np.ndarray] = field(default_factory=list)

    def solve(self, systems: LinearSystems, index: int, A: sp.csr_matrix, b: np.ndarray, *, same: bool) -> KrylovResult:
        """Solve one system; ``same`` where its matrix is that of the last one."""
        kept = self.inverse if same or self.options.reuse_preconditioner else None
        inverse = self._build(systems, index, A) if kept is None else kept
        start, spent = self._start(A, b)
        result = self._solve(A, b, inverse, start, same=same and kept is not None)
        fresh = kept is None
        if not (fresh or same) and not result.relative_residual <= self.rtol:
            inverse, fresh, spent = self._build(systems, index, A), True, spent + result.iterations
            start = result.solution if np.isfinite(result.solution).all() else None
            result = self._solve(A, b, inverse, start, same=False)
        if fresh:
            self.steps_when_new = result.iterations
        grown = result.iterations > GROWTH * self.steps_when_new + SLACK
        self.inverse = None if grown and not fresh and systems.operator.batch > 1 else inverse
        if self.options.warm_start != "none" and np.isfinite(result.solution).all():
            self.solutions = [result.solution, *self.solutions][:REMEMBERED]
        return KrylovResult(
            result.solution, result.relative_residual, result.iterations + spent, result.products + spent
        )

    def _build(self, systems: LinearSystems, index: int, A: sp.csr_matrix) -> Apply:
        if self.options.preconditioner != "multigrid":
            return preconditioner(self.options.preconditioner, A)
        operator = systems.operator
        if isinstance(operator, Stencil) and systems.dtype.is_complex:
            raise ValueError("`preconditioner` must not be 'multigrid' where the matrix is complex and not symmetric.")
        one = operator.select(slice(index, index + 1))
        return multigrid(
            systems.fluxes.select(slice(index, index + 1)) if systems.positive_definite else definite_part(one)
        )

    def _start(self, A: sp.csr_matrix, b: np.ndarray) -> tuple[np.ndarray | None, int]:
        """Return the first guess, and the products with ``A`` that it took."""
        if not self.solutions:
            return None, 0
        if self.options.warm_start == "previous":
            return self.solutions[0], 0
        X = np.stack(self.solutions, axis=1)
        AX = A @ X
        return X @ np.linalg.lstsq(AX, b, rcond=1e-10)[0], X.shape[1]

    def _solve(
        self, A: sp.csr_matrix, b: np.ndarray, inverse: Apply, start: np.ndarray | None, *, same: bool
    ) -> KrylovResult:
        options, rtol, max_steps = self.options, self.rtol, self.max_steps
        if self.method == "cg":
            return cg(A, b, preconditioner=inverse, start=start, rtol=rtol, max_steps=max_steps)
        if self.method == "gmres":
            return gmres(
                A,
                b,
                preconditioner=inverse,
                side=options.side,
                restart=options.restart,
                start=start,
                rtol=rtol,
                max_steps=max_steps,
            )
        if self.method == "recycling-cg":
            result, self.space = recycling_cg(
                A,
                b,
                space=self.space,
                preconditioner=inverse,
                recycle_size=options.recycled,
                window=options.restart,
                start=start,
                rtol=rtol,
                max_steps=max_steps,
            )
            return result
        result, self.space = gcrodr(
            A,
            b,
            space=self.space,
            same_matrix=same and self.space is not None and self.space.images is not None,
            preconditioner=inverse,
            side=options.side,
            strategy=options.strategy,
            basis_size=options.restart,
            recycle_size=options.recycled,
            start=start,
            rtol=rtol,
            max_steps=max_steps,
        )
        return result
