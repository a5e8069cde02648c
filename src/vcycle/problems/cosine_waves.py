"""Waves between Neumann walls in a basis of cosines: at few points per wave as exact as a very fine grid of volumes."""

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.sparse as sp
import torch
from torch import Tensor

from vcycle.grid import Grid
from vcycle.solvers.krylov import gmres
from vcycle.solvers.result import SequenceResult, Status
from vcycle.solvers.systems import LinearSystems

RESTART, MAX_STEPS = 200, 2000
"""Krylov dimension and steps of GMRES; the media of the MgNO paper take about ten."""
NEAR = 1e-3
"""The preconditioner keeps this much of the mean ``k^2`` off its resonances, dimensionless."""


@dataclass(frozen=True)
class CosineWaves:
    """The matrices of ``-Laplace u + r u`` between Neumann walls, integrated over cells, by values in cells.

    The values stand for the sum of the box's first cosines, one per cell, that passes through them; the Laplacian of
    that sum is exact, the product with r is taken in cells. The matrices are dense along every axis and symmetric.

    Parameters
    ----------
    grid
        Cells, without periodic axes.
    reaction
        ``r`` times the volume of a cell, ``(batch, *space)``.
    """

    grid: Grid
    reaction: Tensor

    @property
    def batch(self) -> int:
        """Number of matrices."""
        return self.reaction.shape[0]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that the matrices depend on."""
        return (self.reaction,)

    def with_parts(self, parts: tuple[Tensor, ...]) -> "CosineWaves":
        """Return the operator with other :attr:`parts`."""
        return replace(self, reaction=parts[0])

    def adjoint(self) -> "CosineWaves":
        """Return the transposed matrices, which are the same."""
        return self

    def select(self, indices: "slice | list[int] | Tensor") -> "CosineWaves":
        """Return the operators of some samples."""
        return replace(self, reaction=self.reaction[indices])

    def apply(self, u: Tensor) -> Tensor:
        """Return ``A u`` for ``u`` of shape ``(batch, *space)``; differentiable in ``u`` and in the reaction."""
        result = self.reaction * u
        for axis, (n, length) in enumerate(zip(self.grid.shape, self.grid.extent, strict=True)):
            second = torch.from_numpy(_minus_second_derivative(n, length)) * self.grid.cell_volume
            result = result + (u.movedim(axis + 1, -1) @ second).movedim(-1, axis + 1)
        return result

    def to_csr(self, index: int = 0) -> sp.csr_matrix:
        """Return matrix ``index``, points in row-major order; dense along every axis, so for small grids."""
        result = sp.diags(self.reaction[index].detach().numpy().ravel())
        for axis, (n, length) in enumerate(zip(self.grid.shape, self.grid.extent, strict=True)):
            before, after = math.prod(self.grid.shape[:axis]), math.prod(self.grid.shape[axis + 1 :])
            second = _minus_second_derivative(n, length) * self.grid.cell_volume
            result = result + sp.kron(sp.kron(sp.eye(before), second), sp.eye(after))
        return sp.csr_matrix(result)


def load_on_face(grid: Grid, face: str, values: Tensor) -> Tensor:
    """Return what a flux through a face adds to the right-hand side, integrated over cells, ``(num, *space)``.

    Parameters
    ----------
    grid
        Cells.
    face
        ``"x_low"``, ``"x_high"``, ...
    values
        ``du/dn``, n pointing outward, constant in each cell of the face: ``(num, *face)``, or one value for the face.
    """
    normal = grid.axis_names.index(face[0])
    others = [axis for axis in range(grid.num_axes) if axis != normal]
    flux = values.expand(len(values), *(grid.shape[axis] for axis in others))
    for position, axis in enumerate(others):  # the exact integrals of the cosines over cells, back at points
        n = grid.shape[axis]
        smooth = _cosines(n).T @ (np.sinc(np.arange(n) / (2 * n))[:, None] * _cosines(n))
        flux = (flux.movedim(position + 1, -1) @ torch.from_numpy(smooth)).movedim(-1, position + 1)
    n = grid.shape[normal]
    at_wall = np.sqrt(np.where(np.arange(n) > 0, 2.0, 1.0) / n)
    if face.endswith("high"):
        at_wall = at_wall * (-1.0) ** np.arange(n)
    inward = torch.from_numpy(_cosines(n).T @ at_wall)
    area = grid.cell_volume / grid.spacing[normal]
    return (flux.unsqueeze(-1) * inward).movedim(-1, normal + 1) * area


def resampled_cosines(values: Tensor, here: Grid, there: Grid) -> Tensor:
    """Return the sums of cosines through ``(..., *here.shape)`` at the points of another grid of the same box."""
    axes = range(-here.num_axes, 0)
    for axis, n, length, points in zip(axes, here.shape, here.extent, there.coordinates(), strict=True):
        modes = np.arange(n)
        shapes = np.cos(np.outer(points, modes * math.pi / length)) * np.sqrt(np.where(modes > 0, 2.0, 1.0) / n)
        values = (values.movedim(axis, -1) @ torch.from_numpy((shapes @ _cosines(n)).T)).movedim(-1, axis)
    return values


def solve_waves(systems: LinearSystems, operator: CosineWaves, *, rtol: float) -> SequenceResult:
    """Solve by GMRES, preconditioned with the medium's mean, which cosines make diagonal; never raises.

    Parameters
    ----------
    systems
        With a right-hand side of ``(num, *space)``, float64.
    operator
        That of the systems.
    rtol
        Tolerance for the true ``|b - A u| / |b|``, dimensionless.
    """
    rhs, reactions = systems.rhs.detach(), operator.reaction.detach()
    solutions, steps, seconds = torch.full_like(rhs, torch.nan), [], []
    finite = (torch.isfinite(rhs.flatten(1).sum(1)) & torch.isfinite(reactions.flatten(1).sum(1))).tolist()
    for index, ok in enumerate(finite):
        start, count = time.perf_counter(), 0
        if ok:
            answer, count = _solve(operator.grid, reactions[index].numpy(), rhs[index].numpy(), rtol)
            solutions[index] = torch.from_numpy(answer)
        steps.append(count)
        seconds.append(time.perf_counter() - start)
    residuals = replace(systems, operator=operator.with_parts((reactions,)), rhs=rhs).relative_residuals(solutions)  # type: ignore[arg-type]  # has what residuals need
    facts = zip(residuals.tolist(), finite, steps, strict=True)
    statuses = tuple(_status(r, rtol, finite=ok, exhausted=count >= MAX_STEPS) for r, ok, count in facts)
    return SequenceResult(
        solutions, residuals, torch.tensor(steps), torch.tensor(seconds), statuses, torch.arange(len(rhs))
    )


def _solve(grid: Grid, reaction: np.ndarray, rhs: np.ndarray, rtol: float) -> tuple[np.ndarray, int]:
    shape, axes = grid.shape, zip(grid.shape, grid.extent, strict=True)
    symbol: np.ndarray = np.zeros(())
    for n, length in axes:
        symbol = np.add.outer(symbol, _symbol(n, length))
    symbol = symbol * grid.cell_volume
    mean = float(reaction.mean())
    shifted, near = symbol + mean, NEAR * abs(mean)
    shifted = np.where(np.abs(shifted) < near, np.copysign(near, shifted), shifted)

    def diagonal(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
        return scipy.fft.idctn(factors * scipy.fft.dctn(values.reshape(shape), norm="ortho"), norm="ortho").ravel()

    flat = reaction.ravel()
    result = gmres(
        lambda v: diagonal(v, symbol) + flat * v,
        rhs.ravel(),
        preconditioner=lambda v: diagonal(v, 1.0 / shifted),
        restart=RESTART,
        rtol=rtol,
        max_steps=MAX_STEPS,
    )
    return result.solution.reshape(shape), result.iterations


def _status(residual: float, rtol: float, *, finite: bool, exhausted: bool) -> Status:
    if not finite:
        return Status.NOT_FINITE
    if residual <= rtol:
        return Status.SOLVED
    return Status.MAX_STEPS if exhausted else Status.STAGNATED


def _symbol(n: int, length: float) -> np.ndarray:
    """Return the squares of the wave numbers of n cosines, in 1 / length^2."""
    return (np.arange(n) * math.pi / length) ** 2


@lru_cache(maxsize=16)
def _cosines(n: int) -> np.ndarray:
    """Return the orthonormal cosines at n cell centres, one mode per row."""
    return np.asarray(scipy.fft.dct(np.eye(n), axis=0, norm="ortho"))


@lru_cache(maxsize=16)
def _minus_second_derivative(n: int, length: float) -> np.ndarray:
    """Return ``-d^2/dx^2`` of the sum of cosines through n values, a symmetric matrix."""
    return np.asarray(_cosines(n).T @ (_symbol(n, length)[:, None] * _cosines(n)))
