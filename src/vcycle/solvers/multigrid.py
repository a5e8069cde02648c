"""Conjugate gradients with a multigrid V(1,1) cycle, matrix-free: one system at a time, in cache, one thread each.

Two cycles share the work. The plain one rediscretises and interpolates linearly: the fastest where coefficients are
smooth or jump mildly, cells are nearly as wide as long, and the grid halves down to a few cells. What jumps more, and
every other grid, goes to black-box multigrid (:mod:`vcycle.solvers.blackbox`), whose transfers follow the matrix.
"""

import math
import time
from types import ModuleType

import numpy as np
import torch

from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.solvers import blackbox
from vcycle.solvers._threads import share_out
from vcycle.solvers.krylov import SAFETY
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems

MAX_COARSEST = 256
"""Most unknowns of the coarsest level, which is inverted densely for every matrix."""
PLAIN_COARSEST = 64
"""The same for the plain cycle, which has to halve all axes; above, black-box coarsens further."""
JUMP = 100.0
"""The plain cycle leaves systems alone where neighbouring faces differ by more than this, half the coefficient's jump.

At contrast 100 it needs twice the steps of black-box and half the time; at 300 and 256 x 256 as long; at 1000, longer.
"""
ASPECT = 1.5
"""Longest over shortest side of a cell that the plain cycle takes on."""
PATIENCE = 30
"""Steps after which the plain cycle hands over to the black-box one."""
BLOCK_POINTS = 2**16
"""Systems solved in one compiled call have at most this many points together, so that threads seldom meet."""

_SIGN = {"dirichlet": -1.0, "neumann": 1.0, "robin": 1.0, "absorbing": 1.0, "periodic": 0.0}


def level_shapes(grid: Grid) -> list[tuple[int, ...]]:
    """Return the shapes of the plain levels, finest first: halved while every axis has an even number of 4 or more."""
    shapes = [grid.shape]
    while grid.can_coarsen:
        grid = grid.coarsened()
        shapes.append(grid.shape)
    return shapes


def can_solve(systems: LinearSystems, *, max_coarsest: int = MAX_COARSEST) -> bool:
    """Whether the multigrid solver takes these systems: real face fluxes, definite, 2-D or 3-D, and few points left.

    Sizes need not be even and points may be vertices; only periodic axes must halve, down to ``max_coarsest`` points
    in all.
    """
    operator = systems.operator
    if not isinstance(operator, FaceFluxes) or systems.dtype.is_complex or not systems.positive_definite:
        return False
    if operator.grid.num_axes not in (2, 3):
        return False
    return math.prod(blackbox.plan(operator.grid, operator.boundary)[-1][:3]) <= max_coarsest


def plain_fits(systems: LinearSystems) -> bool:
    """Whether the grid lets the plain cycle try: cells, nearly as wide as long, that halve down to a few."""
    grid = systems.operator.grid
    if grid.centring != "cell" or max(grid.spacing) > ASPECT * min(grid.spacing):
        return False
    return math.prod(level_shapes(grid)[-1]) <= PLAIN_COARSEST


def solve_all(systems: LinearSystems, *, rtol: float, max_steps: int = 500, workers: int = 1) -> Solves:
    """Solve every system by multigrid-preconditioned conjugate gradients.

    Parameters
    ----------
    systems
        Finite positive (semi-)definite systems on a 2-D or 3-D grid; where singular, right-hand sides with zero sum.
    rtol
        Tolerance for the true relative residual.
    max_steps
        Largest number of V-cycles per system.
    workers
        Number of threads, each with systems of its own. Answers do not depend on it.

    Returns
    -------
    Solves
        Seconds are measured over the systems of one compiled call, and shared among them by their numbers of steps.

    Raises
    ------
    ValueError
        If the systems are not real, definite face fluxes, the grid has one axis, or a periodic axis does not halve.
    """
    if not can_solve(systems):
        raise ValueError(
            "`method` must not be 'multigrid' unless the matrix is positive definite, of real face fluxes, and the "
            f"grid 2-D or 3-D, its periodic axes even down to {MAX_COARSEST} points. Got {systems.operator.grid.shape}."
        )
    num = len(systems)
    solves = Solves(
        torch.zeros_like(systems.rhs, memory_format=torch.contiguous_format),
        torch.zeros(num, dtype=torch.int64),
        torch.zeros(num, dtype=torch.float64),
    )
    left = list(range(num))
    if plain_fits(systems):
        _solve_plainly(systems, solves, rtol=rtol, max_steps=max_steps, workers=workers)
        done = solves.iterations.numpy()
        left = [i for i in left if done[i] < 0 or PATIENCE <= done[i] < max_steps]
        solves.iterations.clamp_(min=0)
    if left:
        from vcycle.solvers import _blackbox_cycle  # noqa: F401 - compiled or loaded once, before threads start

        def work(share: range) -> None:
            workspace = blackbox.Workspace(systems)
            for place in share:
                spent = int(solves.iterations[left[place]])
                workspace.solve_into(solves, left[place], rtol=rtol, max_steps=max_steps - spent)

        share_out(work, len(left), workers)
    return solves


def _solve_plainly(systems: LinearSystems, solves: Solves, *, rtol: float, max_steps: int, workers: int) -> None:
    some = max(1, BLOCK_POINTS // systems.operator.grid.num_points)
    blocks = [(first, min(len(systems), first + some)) for first in range(0, len(systems), some)]
    _kernels(systems.operator.grid.num_axes)  # compiled or loaded once, before threads start

    def work(share: range) -> None:
        workspace = _Workspace(systems)
        for block in share:
            workspace.solve_into(solves, *blocks[block], rtol=rtol, max_steps=min(max_steps, PATIENCE))

    share_out(work, len(blocks), workers)


def _kernels(num_axes: int) -> ModuleType:
    if num_axes == 2:
        from vcycle.solvers import _kernels as kernels
    else:
        from vcycle.solvers import _kernels3 as kernels  # type: ignore[no-redef]
    return kernels


class _Workspace:
    """The arrays of one thread for the plain cycle."""

    def __init__(self, systems: LinearSystems) -> None:
        operator, self.systems = blackbox.fluxes_of(systems), systems
        grid = operator.grid
        self.kernels = _kernels(grid.num_axes)
        shapes = level_shapes(grid)
        sizes = [math.prod(n + 2 for n in shape) for shape in shapes]
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.table = np.array([(*shape, at) for shape, at in zip(shapes, offsets, strict=True)], dtype=np.uint64)
        self.signs = np.array([_SIGN[kind] for pair in operator.boundary.kinds for kind in pair], dtype=np.float32)
        self.wrap = np.array(operator.boundary.periodic)
        self.work = np.zeros(self.kernels.ROWS * sum(sizes), dtype=np.float32)
        self.line = np.zeros(sizes[0] // (grid.shape[0] + 2) + grid.shape[-1] + 2, dtype=np.float32)
        coarsest = math.prod(shapes[-1])
        self.inverse = np.zeros((coarsest, coarsest))
        faces = tuple(_contiguous(face) for face in operator.faces)
        none = np.zeros((1, *(0,) * grid.num_axes))
        self.matrices = (*faces, none if operator.reaction is None else _contiguous(operator.reaction))
        self.arrays = (self.work, np.zeros(sizes[0]), self.line, self.inverse)
        self.rhs = _contiguous(systems.rhs)

    def solve_into(self, solves: Solves, first: int, last: int, *, rtol: float, max_steps: int) -> None:
        """Solve the systems ``first`` to ``last - 1``, but for those with jumps: they get the number of steps -1."""
        start = time.perf_counter()
        steps = solves.iterations.numpy()
        self.kernels.solve(
            self.arrays,
            (self.table, self.signs, self.wrap),
            self.matrices,
            (self.rhs, solves.solutions.numpy(), steps),
            (first, last, max_steps),
            self.systems.singular,
            (SAFETY * rtol, JUMP),
        )
        weights = torch.from_numpy(steps[first:last] + 1.0)
        solves.seconds[first:last] = (time.perf_counter() - start) * weights / max(weights.sum().item(), 1.0)


def _contiguous(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy())
