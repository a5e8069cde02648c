"""Nearest-neighbour operators that need not be symmetric or real: what transport and open boundaries give."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, positions


@dataclass(frozen=True)
class Stencil:
    """A batch of operators ``(A u)_i = centre_i u_i + sum over axes (lower_i u_(i-1) + upper_i u_(i+1))``.

    Parameters
    ----------
    grid, boundary
        The points, and what happens at the outer faces; only whether an axis is periodic matters here.
    centre
        Diagonal of the matrices, ``(batch, *shape)``, float64 or complex128. Batch 1 stands for a matrix shared by all
        systems.
    lower, upper
        Per axis what stands before the neighbour below and above each point, ``(batch, *shape)``. Beyond a wall there
        is no neighbour and the entry is ignored; on a periodic axis the last point follows the first.
    """

    grid: Grid
    boundary: Boundary
    centre: Tensor
    lower: tuple[Tensor, ...]
    upper: tuple[Tensor, ...]

    @property
    def batch(self) -> int:
        """Number of matrices."""
        return self.centre.shape[0]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that the matrices depend on."""
        return (self.centre, *self.lower, *self.upper)

    def with_parts(self, parts: tuple[Tensor, ...]) -> "Stencil":
        """Return the operator with other :attr:`parts`, in the same order."""
        axes = self.grid.num_axes
        return replace(self, centre=parts[0], lower=parts[1 : 1 + axes], upper=parts[1 + axes :])

    def select(self, indices: "slice | list[int] | Tensor") -> "Stencil":
        """Return the operators of some samples; a shared matrix stays shared."""
        return self if self.batch == 1 else self.with_parts(tuple(part[indices] for part in self.parts))

    def adjoint(self) -> "Stencil":
        """Return the conjugate transposed matrices."""
        lower, upper = [], []
        for axis in range(self.grid.num_axes):
            lower.append(self._shifted(self.upper[axis], axis, 1).conj().resolve_conj())
            upper.append(self._shifted(self.lower[axis], axis, -1).conj().resolve_conj())
        return replace(self, centre=self.centre.conj().resolve_conj(), lower=tuple(lower), upper=tuple(upper))

    def symmetric_part(self) -> FaceFluxes:
        """Return ``(A + A') / 2`` of real matrices as fluxes through faces: the diffusion that goes with a transport.

        A Dirichlet face gets twice the transmissibility of the inner face beside it, as with a constant coefficient;
        whatever else the diagonal holds becomes the reaction.
        """
        faces = []
        for axis, (low, high) in enumerate(self.boundary.kinds):
            dim, size = axis + 1, self.grid.shape[axis]
            lower, upper = self.lower[axis], self.upper[axis]
            inner = -0.5 * (lower.narrow(dim, 1, size - 1) + upper.narrow(dim, 0, size - 1))
            if self.boundary.periodic[axis]:
                walls = [-0.5 * (lower.narrow(dim, 0, 1) + upper.narrow(dim, size - 1, 1))] * 2
            else:
                beside = inner.narrow(dim, 0, 1), inner.narrow(dim, size - 2, 1)
                walls = [
                    2.0 * face if kind == "dirichlet" else torch.zeros_like(face)
                    for kind, face in zip((low, high), beside, strict=True)
                ]
            faces.append(torch.cat([walls[0], inner, walls[1]], dim))
        fluxes = FaceFluxes(self.grid, self.boundary, tuple(faces))
        return replace(fluxes, reaction=self.centre - fluxes.diagonal())

    def apply(self, u: Tensor) -> Tensor:
        """Return ``A u`` for ``u`` of shape ``(batch, *space)``; differentiable in ``u`` and in the coefficients."""
        result = self.centre * u
        for axis in range(self.grid.num_axes):
            result = result + self.lower[axis] * self._shifted(u, axis, 1)
            result = result + self.upper[axis] * self._shifted(u, axis, -1)
        return result

    def _shifted(self, u: Tensor, axis: int, step: int) -> Tensor:
        """Return the value one point below (``step`` 1) or above (-1); zero beyond a wall."""
        dim, size = axis + 1, u.shape[axis + 1]
        rolled = u.roll(step, dim)
        if self.boundary.periodic[axis]:
            return rolled
        nothing = torch.zeros_like(u.narrow(dim, 0, 1))
        inside = rolled.narrow(dim, 1 if step == 1 else 0, size - 1)
        return torch.cat([nothing, inside] if step == 1 else [inside, nothing], dim)

    def diagonal(self) -> Tensor:
        """Return the diagonal of the matrices, ``(batch, *space)``."""
        return self.centre

    def entries(self, index: int = 0) -> np.ndarray:
        """Return what stands at :func:`vcycle.multigrid.fluxes.positions` in matrix ``index``."""
        index = index if self.batch > 1 else 0
        above, below = [], []
        for axis, periodic in enumerate(self.boundary.periodic):
            upper, lower = (
                np.moveaxis(side[axis][index].detach().numpy(), axis, 0) for side in (self.upper, self.lower)
            )
            above.append(upper[:-1].ravel())
            below.append(lower[1:].ravel())
            if periodic:
                above.append(upper[-1].ravel())
                below.append(lower[0].ravel())
        return np.concatenate([self.centre[index].detach().numpy().ravel(), *above, *below])

    def to_csr(self, index: int = 0) -> sp.csr_matrix:
        """Return matrix ``index`` (a shared one for every index), points in row-major order."""
        size = self.grid.num_points
        return sp.coo_matrix((self.entries(index), positions(self.grid, self.boundary)), shape=(size, size)).tocsr()
