"""The Arnoldi process with a running least-squares residual: what GMRES and GCRO-DR share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

Apply = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class KrylovResult:
    """Solution of one system.

    Parameters
    ----------
    solution
        ``x``, shape ``(n,)``.
    relative_residual
        True ``|b - A x| / |b|``, dimensionless.
    iterations
        Steps that built a Krylov space, one product with ``A`` each.
    products
        All products with ``A``: iterations, residuals, and the refreshing of a recycled space.
    """

    solution: np.ndarray
    relative_residual: float
    iterations: int
    products: int


class Counted:
    """``A`` as a function that counts its calls; matrices are wrapped."""

    def __init__(self, operator: "Apply | sp.spmatrix | np.ndarray") -> None:
        self.product: Apply = operator if callable(operator) else _matrix_product(operator)
        self.calls = 0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """Return ``A u``."""
        self.calls += 1
        return self.product(u)


def _matrix_product(matrix: Any) -> Apply:
    return lambda u: matrix @ u


def identity(r: np.ndarray) -> np.ndarray:
    """Return ``r``: no preconditioner."""
    return r


@dataclass(frozen=True)
class ArnoldiSpace:
    """``A V_j = C B + V_{j+1} H`` with orthonormal columns ``[C V_{j+1}]``.

    Parameters
    ----------
    basis
        ``V_{j+1}``, shape ``(n, j + 1)``; the last column is zero where the space is invariant.
    hessenberg
        ``H``, shape ``(j + 1, j)``.
    coupling
        ``B = C' A V_j``, shape ``(k, j)``; ``k`` is 0 without a deflated space.
    """

    basis: np.ndarray
    hessenberg: np.ndarray
    coupling: np.ndarray

    @property
    def steps(self) -> int:
        """Number ``j`` of products with ``A``."""
        return self.hessenberg.shape[1]


def arnoldi(
    apply: Apply, r: np.ndarray, *, steps: int, tolerance: float, deflated: np.ndarray | None = None
) -> ArnoldiSpace:
    """Build a Krylov space of ``(I - C C') A`` from ``r`` until the residual of its best solution meets a tolerance.

    Parameters
    ----------
    apply
        The (preconditioned) operator.
    r
        Start, shape ``(n,)``, not zero, orthogonal to ``deflated``.
    steps
        Largest number of products.
    tolerance
        Absolute tolerance for the least-squares residual, in the unit of ``r``.
    deflated
        ``C``, shape ``(n, k)``, orthonormal columns.
    """
    dtype = np.result_type(r, np.float64)
    C = np.zeros((len(r), 0), dtype) if deflated is None else deflated
    V = np.zeros((steps + 1, len(r)), dtype)
    H, B = np.zeros((steps + 1, steps), dtype), np.zeros((C.shape[1], steps), dtype)
    norm = float(np.linalg.norm(r))
    V[0] = r / norm
    progress = _LeastSquares(norm, steps, dtype)
    used = 0
    for j in range(steps):
        w = apply(V[j])
        size = np.linalg.norm(w)
        for _ in range(2):  # the second pass restores orthogonality that rounding lost
            inside = C.conj().T @ w
            w = w - C @ inside
            B[:, j] += inside
            along = V[: j + 1].conj() @ w
            w = w - along @ V[: j + 1]
            H[: j + 1, j] += along
        beyond = np.linalg.norm(w)
        used = j + 1
        invariant = not beyond > 1e-14 * size  # also where a product is not finite
        if not invariant:
            H[j + 1, j] = beyond
            V[j + 1] = w / beyond
        if progress.add(H[: j + 2, j]) <= tolerance or invariant:
            break
    return ArnoldiSpace(V[: used + 1].T, H[: used + 1, :used], B[:, :used])


class _LeastSquares:
    """The residual of ``min |norm e1 - H y|`` as columns of ``H`` arrive, by Givens rotations."""

    def __init__(self, norm: float, steps: int, dtype: Any) -> None:
        self.cosines, self.sines = np.zeros(steps, dtype), np.zeros(steps, dtype)
        self.residual, self.columns = float(norm), 0

    def add(self, column: np.ndarray) -> float:
        """Take one more column, shape ``(j + 2,)`` for the ``j``-th, and return the residual."""
        h, j = column.copy(), self.columns
        for i in range(j):
            c, s = self.cosines[i], self.sines[i]
            h[i], h[i + 1] = c.conj() * h[i] + s.conj() * h[i + 1], -s * h[i] + c * h[i + 1]
        length = np.hypot(abs(h[j]), abs(h[j + 1]))
        if length > 0:
            self.cosines[j], self.sines[j] = h[j] / length, h[j + 1] / length
            self.residual *= abs(self.sines[j])
        self.columns += 1
        return self.residual
