"""Conjugate gradients with black-box multigrid: for jumps, stretched cells, and grids that do not halve."""

import math
import time

import numpy as np

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.solvers.krylov import SAFETY
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems

SMALL = 32
"""Levels end where so few points are left; they are solved with a dense inverse."""
STRONG = 0.3
"""Axes are coarsened together whose couplings are at least this much of the strongest."""


def plan(grid: Grid, boundary: Boundary) -> list[tuple[int, ...]]:
    """Return ``(n_0, n_1, n_2, axis, smooth)`` per level: its points, the axis coarsened next, and if it smooths.

    The axes that are coupled most strongly are coarsened first, until cells are nearly as long as wide; the couplings
    are those of a constant coefficient. A periodic axis ends where it is odd, as every second point must meet itself.
    """
    front = 3 - grid.num_axes
    shape = [*(1,) * front, *grid.shape]
    coupling = [*(0.0,) * front, *(h**-2 for h in grid.spacing)]
    wraps = [*(False,) * front, *boundary.periodic]
    levels: list[tuple[int, ...]] = []
    while math.prod(shape) > SMALL:
        fit = [a for a, n in enumerate(shape) if n >= 3 and not (wraps[a] and n % 2)]
        if not fit:
            break
        strongest = max(coupling[a] for a in fit)
        chosen = [a for a in fit if coupling[a] >= STRONG * strongest]
        for axis in chosen:
            levels.append((*shape, axis, int(axis == chosen[0])))
            shape[axis] = (shape[axis] + 1) // 2
            coupling[axis] /= 4
    return [*levels, (*shape, 0, 0)]


def fluxes_of(systems: LinearSystems) -> FaceFluxes:
    """Return the operator, which is face fluxes wherever multigrid applies.

    Raises
    ------
    TypeError
        If it is something else.
    """
    _check.instance("systems.operator", systems.operator, FaceFluxes, "face fluxes")
    return systems.operator  # type: ignore[return-value]


class Workspace:
    """The arrays of one thread, and the hierarchy of the matrix that they hold."""

    def __init__(self, systems: LinearSystems) -> None:
        from vcycle.solvers import _blackbox as kernels
        from vcycle.solvers import _blackbox_cycle

        operator = fluxes_of(systems)
        grid, self.systems, self.kernels, self.compiled = operator.grid, systems, kernels, _blackbox_cycle
        flat = grid.num_axes == 2
        levels = plan(grid, operator.boundary)
        sizes = [(1 if flat else n0 + 2) * (n1 + 2) * (n2 + 2) for n0, n1, n2, _, _ in levels]
        pad = 2 * (levels[0][1] + 2) * (levels[0][2] + 2) if not flat else 2 * (levels[0][2] + 2)
        offsets = pad + np.concatenate([[0], np.cumsum(sizes)[:-1]])
        lines = [
            (n0, n1, n2, at, axis, smooth, 1 if flat else n0 + 2)
            for (n0, n1, n2, axis, smooth), at in zip(levels, offsets, strict=True)
        ]
        total = sum(sizes) + 2 * pad
        coarsest = math.prod(levels[-1][:3])
        self.work = (
            np.zeros((27, total)),
            np.zeros((kernels.ROWS, total)),
            np.zeros((kernels.DOUBLES, sizes[0])),
            np.zeros((coarsest, coarsest)),
        )
        star, rows = [10, 12, 14, 16], [m for m in range(9, 18) if m != 13]
        if not flat:
            star, rows = [4, *star, 22], [m for m in range(27) if m != 13]
        self.levels = (
            np.array(lines, dtype=np.uint64),
            np.array([*(False,) * (3 - grid.num_axes), *operator.boundary.periodic]),
            np.array(rows, dtype=np.uint64),
            np.array(star, dtype=np.uint64),
        )
        lead = (1,) * (3 - grid.num_axes)
        self.nothing = np.zeros((0, 0, 0))
        self.faces = [face.detach().numpy() for face in operator.faces]
        self.faces = [np.ascontiguousarray(f).reshape(len(f), *lead, *f.shape[1:]) for f in self.faces]
        c = operator.reaction
        self.reaction = (
            None if c is None else np.ascontiguousarray(c.detach().numpy()).reshape(len(c), *lead, *c.shape[1:])
        )
        n0, n1, n2 = levels[0][:3]
        inside = (slice(None) if flat else slice(1, -1), slice(1, -1), slice(1, -1))
        padded = self.work[2].reshape(kernels.DOUBLES, 1 if flat else n0 + 2, n1 + 2, n2 + 2)
        self.x, self.b = padded[kernels.X][inside], padded[kernels.B][inside]
        first = self.work[1][:, pad : pad + sizes[0]].reshape(kernels.ROWS, *padded.shape[1:])
        self.left, self.right = first[kernels.U][inside], first[kernels.F][inside]
        self.rhs = systems.rhs.detach().numpy()
        self.matrix = -1

    def build(self, matrix: int) -> None:
        """Fill all levels from one matrix."""
        own = [face[matrix] for face in self.faces]
        reaction = self.nothing if self.reaction is None else self.reaction[matrix]
        largest = max(float(np.abs(face).max()) for face in own)
        self.scale = 1.0 / largest if largest > 0 and math.isfinite(largest) else 1.0
        faces = (*(self.nothing,) * (3 - len(own)), *own)
        self.kernels.build(self.work, self.levels, (*faces, reaction), self.scale, self.systems.singular)
        self.matrix = matrix

    def cycle(self, r: np.ndarray) -> np.ndarray:
        """Return one V-cycle's answer ``B r`` to a right-hand side ``(n,)``, for the matrix that was built."""
        self.right[...] = r.reshape(self.right.shape)
        self.compiled.vcycle(self.work, self.levels)
        return self.left.ravel() * self.scale

    def solve_into(self, solves: Solves, index: int, *, rtol: float, max_steps: int) -> None:
        """Solve system ``index``, write the answer to its place in ``solves`` and add to its steps and seconds."""
        start = time.perf_counter()
        matrix = 0 if self.systems.operator.batch == 1 else index
        if matrix != self.matrix:
            self.build(matrix)
        b = self.rhs[index]
        if self.systems.singular:
            b = b - b.mean()
        norm, solution = np.linalg.norm(b), solves.solutions[index].numpy()
        if norm > 0:
            np.divide(b.reshape(self.b.shape), norm, out=self.b)
            steps = self.compiled.conjugate_gradients(self.work, self.levels, SAFETY * rtol, max_steps)
            np.multiply(self.x.reshape(solution.shape), norm * self.scale, out=solution)
            if self.systems.singular:
                solution -= solution.mean()
            solves.iterations[index] += steps
        solves.seconds[index] += time.perf_counter() - start
