"""The coarsest level of the cycle, which smooths by solving: densely, or by sparse LU where the grid hardly halves."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from vcycle.multigrid.fluxes import FaceFluxes

SINGULAR = 1e-12
"""Constants are in the kernel where ``A 1`` is nowhere larger than this times the diagonal."""
MOST_ENTRIES = 2**22
"""Entries of dense matrices that are assembled at a time."""


class _NothingCoarser:
    def restrict(self, f: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Never called: nothing is coarser."""
        raise NotImplementedError("the coarsest level has nothing to restrict to")

    def correct(self, u: Tensor, u_coarse: Tensor) -> Tensor:
        """Never called: nothing is coarser."""
        raise NotImplementedError("the coarsest level has nothing to correct from")


class DenseLevel(_NothingCoarser):
    """A dense solve; the pseudo-inverse where constants are in the kernel."""

    def __init__(self, operator: FaceFluxes) -> None:
        self.inverse = torch.linalg.pinv(_dense(operator), hermitian=True)
        self._held = self.inverse

    def smooth(self, f: Tensor, u: Tensor | None, *, post: bool = False) -> Tensor:
        """Solve; the starting value does not matter."""
        if self._held.dtype != f.dtype or self._held.device != f.device:
            self._held = self.inverse.to(f)  # every cycle of one solve comes with the same precision and device
        return (self._held @ f.flatten(1).unsqueeze(-1)).squeeze(-1).reshape(f.shape)


def _dense(operator: FaceFluxes) -> Tensor:
    """Return the matrices, ``(batch, points, points)``, float64 on the CPU: the operator on all unit vectors."""
    shape, num, size = operator.grid.shape, operator.batch, operator.grid.num_points
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    some = max(1, MOST_ENTRIES // size**2)
    blocks = []
    for first in range(0, num, some):
        parts = [part[first : first + some].detach().to("cpu", torch.float64) for part in operator.parts]
        repeated = operator.with_parts(tuple(part.repeat_interleave(size, 0) for part in parts))
        columns = repeated.apply(units.repeat(len(parts[0]), *(1,) * len(shape)))
        blocks.append(columns.reshape(-1, size, size))
    return torch.cat(blocks)


class SparseLevel(_NothingCoarser):
    """The same solve by one sparse LU per matrix, which takes the memory of 57 functions at 101 x 101, 73 at 201 x 201.

    Differentiable in ``f``, not in the coefficients.

    Parameters
    ----------
    operator
        Symmetric positive definite matrices, or semi-definite ones with the constants as kernel.
    """

    def __init__(self, operator: FaceFluxes) -> None:
        self.factors = [_Factor(operator.to_csr(index)) for index in range(operator.batch)]

    def smooth(self, f: Tensor, u: Tensor | None, *, post: bool = False) -> Tensor:
        """Solve; the starting value does not matter."""
        return _Solve.apply(f, self)

    def solve(self, f: Tensor) -> Tensor:
        """Return the solutions, with no gradient."""
        values = f.detach().cpu().to(torch.float64).flatten(1).numpy()
        if len(self.factors) == 1:
            solved = self.factors[0].solve(values.T).T
        else:
            solved = np.stack([factor.solve(b) for factor, b in zip(self.factors, values, strict=True)])
        return torch.from_numpy(np.ascontiguousarray(solved)).to(f).reshape(f.shape)


class _Factor:
    """One matrix, factored; where it is singular, with a pin at the first cell, and means taken off on both sides."""

    def __init__(self, A: sp.csr_matrix) -> None:
        from scipy.sparse.linalg import splu

        diagonal, sums = A.diagonal(), A @ np.ones(A.shape[0])
        self.singular = bool((np.abs(sums) <= SINGULAR * diagonal).all())
        A = A.astype(np.float64)
        if self.singular:
            A = A + sp.csr_matrix(([diagonal[0]], ([0], [0])), shape=A.shape)
        self.lu = splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return solutions for right-hand sides in columns: ``A^-1 b``, or the pseudo-inverse's."""
        if not self.singular:
            return self.lu.solve(b)
        u = self.lu.solve(b - b.mean(axis=0))
        return u - u.mean(axis=0)


class _Solve(torch.autograd.Function):
    """The solve is symmetric, so that its gradient is the solve of the gradient."""

    @staticmethod
    def forward(context: Any, f: Tensor, level: SparseLevel) -> Tensor:
        context.level = level
        return level.solve(f)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.level.solve(gradients[0]), None
