"""Conjugate gradients with a multigrid V(1,1) cycle, matrix-free: one system at a time, in cache, one thread each."""

import math
import time
from types import ModuleType

import numpy as np
import torch

from vcycle.grid import Grid
from vcycle.solvers._threads import share_out
from vcycle.solvers.krylov import SAFETY
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems

MAX_COARSEST = 1500
"""Most unknowns of the coarsest level, which is inverted densely for every matrix."""

_SIGN = {"dirichlet": -1.0, "neumann": 1.0, "robin": 1.0, "absorbing": 1.0, "periodic": 0.0}


def level_shapes(grid: Grid) -> list[tuple[int, ...]]:
    """Return the shapes of all levels, finest first: halved while every axis has an even number of at least 4 cells."""
    shapes = [grid.shape]
    while grid.can_coarsen:
        grid = grid.coarsened()
        shapes.append(grid.shape)
    return shapes


def can_solve(systems: LinearSystems, *, max_coarsest: int = MAX_COARSEST) -> bool:
    """Whether the multigrid solver takes these systems: definite, 2-D or 3-D, and coarsened far enough."""
    grid = systems.operator.grid
    return systems.positive_definite and grid.num_axes in (2, 3) and math.prod(level_shapes(grid)[-1]) <= max_coarsest


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
        Number of threads, each with systems of its own.

    Raises
    ------
    ValueError
        If the systems are not definite, the grid has one axis, or its coarsest level has more than 1500 cells.
    """
    if not can_solve(systems):
        grid = systems.operator.grid
        raise ValueError(
            "`method` must not be 'multigrid' unless the matrix is positive definite and the grid 2-D or 3-D with at "
            f"most {MAX_COARSEST} cells on its coarsest level. Got {grid.shape}, coarsest {level_shapes(grid)[-1]}."
        )
    num = len(systems)
    solves = Solves(
        torch.zeros_like(systems.rhs), torch.zeros(num, dtype=torch.int64), torch.zeros(num, dtype=torch.float64)
    )
    _kernels(systems.operator.grid.num_axes)  # compiled or loaded once, before threads start

    def work(share: range) -> None:
        workspace = _Workspace(systems)
        for index in share:
            workspace.solve_into(solves, index, rtol=rtol, max_steps=max_steps)

    share_out(work, num, workers)
    return solves


def _kernels(num_axes: int) -> ModuleType:
    if num_axes == 2:
        from vcycle.solvers import _kernels as kernels
    else:
        from vcycle.solvers import _kernels3 as kernels  # type: ignore[no-redef]
    return kernels


class _Workspace:
    """The arrays of one thread, and the hierarchy of the matrix that they hold."""

    def __init__(self, systems: LinearSystems) -> None:
        operator = systems.operator
        grid, self.systems = operator.grid, systems
        self.kernels = _kernels(grid.num_axes)
        shapes = level_shapes(grid)
        sizes = [math.prod(n + 2 for n in shape) for shape in shapes]
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.table = np.array([(*shape, offset) for shape, offset in zip(shapes, offsets, strict=True)], dtype=np.int64)
        self.work = np.zeros((grid.num_axes + 4, sum(sizes)), dtype=np.float32)
        self.vectors = np.zeros((5, sizes[0]))
        inside = (slice(1, -1),) * grid.num_axes
        padded = self.vectors.reshape(5, *(n + 2 for n in grid.shape))
        self.x, self.b = padded[0][inside], padded[1][inside]
        self.signs = np.array([_SIGN[kind] for pair in operator.boundary.kinds for kind in pair], dtype=np.float32)
        self.wrap = np.array(operator.boundary.periodic)
        self.rhs = systems.rhs.detach().numpy()
        self.faces = [face.detach().numpy() for face in operator.faces]
        self.reaction = None if operator.reaction is None else operator.reaction.detach().numpy()
        self.matrix = -1

    def solve_into(self, solves: Solves, index: int, *, rtol: float, max_steps: int) -> None:
        """Solve system ``index`` and write the answer to its place in ``solves``."""
        start = time.perf_counter()
        matrix = 0 if self.systems.operator.batch == 1 else index
        if matrix != self.matrix:
            self._build(matrix)
        b = self.rhs[index]
        if self.systems.singular:
            b = b - b.mean()
        norm = np.linalg.norm(b)
        steps, solution = 0, solves.solutions[index].numpy()
        if norm > 0:
            np.divide(b, norm, out=self.b)
            steps = self.kernels.conjugate_gradients(
                self.work,
                self.vectors,
                self.table,
                self.inverse,
                *self.fine,
                self.signs,
                self.wrap,
                SAFETY * rtol,
                max_steps,
            )
            np.multiply(self.x, norm, out=solution)
            if self.systems.singular:
                solution -= solution.mean()
        solves.iterations[index] = steps
        solves.seconds[index] = time.perf_counter() - start

    def _build(self, matrix: int) -> None:
        faces = [np.ascontiguousarray(face[matrix]) for face in self.faces]
        none = np.zeros((0,) * len(faces))
        reaction = none if self.reaction is None else np.ascontiguousarray(self.reaction[matrix])
        self.fine = (*faces, reaction)
        scale = 1.0 / max(face.max() for face in faces)  # any constant factor leaves the preconditioner as good
        self.kernels.build(self.work, self.table, *self.fine, scale, self.wrap)
        size = int(np.prod(self.table[-1, :-1]))
        dense = np.zeros((size, size))
        self.kernels.coarsest_matrix(self.work, self.table, self.wrap, dense)
        self.inverse = _inverse(dense, singular=self.systems.singular).astype(np.float32)
        self.matrix = matrix


def _inverse(dense: np.ndarray, *, singular: bool) -> np.ndarray:
    """Return the inverse, or the pseudo-inverse where the kernel is the constants."""
    if not singular:
        return np.linalg.inv(dense)
    constant = np.full_like(dense, np.trace(dense) / len(dense) ** 2)
    return np.linalg.inv(dense + constant) - 1.0 / (constant[0, 0] * len(dense) ** 2)
