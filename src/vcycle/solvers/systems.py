"""A batch of linear systems with one structure: what problems hand to solvers."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.multigrid.stencil import Stencil

Operator = FaceFluxes | Stencil


@dataclass(frozen=True)
class LinearSystems:
    """``A_i u_i = b_i`` for i in the batch.

    Parameters
    ----------
    operator
        The matrices, symmetric ones as :class:`FaceFluxes` and others as :class:`Stencil`; batch 1 where all systems
        share one.
    rhs
        ``b``, shape ``(num, *space)``, integrated over cells; float64, or complex128 where matrices or solutions are
        complex.
    positive_definite
        Whether every matrix is symmetric positive (semi-)definite, so that conjugate gradients apply.
    singular
        Whether constants are in the kernel. Then ``rhs`` must have zero sum, and solutions have zero mean.
    removed_mean
        Where singular: the mean that was subtracted to give ``rhs`` zero sum, ``(num,)``, float64, in the unit of the
        source ``f``. ``None`` where nothing was.
    """

    operator: Operator
    rhs: Tensor
    positive_definite: bool
    singular: bool = False
    removed_mean: Tensor | None = None

    def __len__(self) -> int:
        return self.rhs.shape[0]

    @property
    def symmetric(self) -> bool:
        """Whether every matrix equals its transpose, without conjugation."""
        return isinstance(self.operator, FaceFluxes)

    @property
    def fluxes(self) -> FaceFluxes:
        """The matrices of symmetric systems.

        Raises
        ------
        TypeError
            If the systems are not symmetric.
        """
        if not isinstance(self.operator, FaceFluxes):
            raise TypeError("`systems` must be symmetric, with an operator of fluxes through faces. Got a stencil.")
        return self.operator

    @property
    def dtype(self) -> torch.dtype:
        """float64, or complex128 where matrices or right-hand sides are complex."""
        return functools.reduce(torch.promote_types, (part.dtype for part in self.operator.parts), self.rhs.dtype)

    def select(self, indices: "slice | list[int] | Tensor") -> "LinearSystems":
        """Return some of the systems."""
        mean = None if self.removed_mean is None else self.removed_mean[indices]
        return replace(self, operator=self.operator.select(indices), rhs=self.rhs[indices], removed_mean=mean)

    def relative_residuals(self, solutions: Tensor) -> Tensor:
        """Return the true ``|b - A u| / |b|`` per system, float64, shape ``(num,)``; ``|A u|`` where ``b`` is zero."""
        residual = self.rhs - self.operator.apply(solutions.to(self.dtype))
        norm = self.rhs.flatten(1).norm(dim=1)
        return residual.flatten(1).norm(dim=1) / torch.where(norm > 0, norm, torch.ones_like(norm))

    def to_csr(self, index: int) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return ``(A, b)`` of system ``index`` for anyone else's solver; ``b`` has shape ``(num_points,)``."""
        return self.operator.to_csr(index), self.rhs[index].detach().numpy().ravel()
