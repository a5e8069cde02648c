"""The Arnoldi process with a running least-squares residual: what GMRES and GCRO-DR share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

Apply = Callable[[np.ndarray], np.ndarray]

SIDES = ("right", "left", "flexible")
"""Where a preconditioner stands; flexible is on the right and may be another one in every step."""
LOSS = 0.5**0.5
"""Orthogonalise once more where the first pass leaves less than this of a vector: what the basis lacks in orthogonality
may grow by the inverse with every vector, so that 0.1 would lose all digits on hard matrices."""


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
    """``A`` as a function that counts its calls; matrices are wrapped.

    ``dtype`` is that of the matrix, float64 for a function: then the right-hand side decides.
    """

    def __init__(self, operator: "Apply | sp.spmatrix | np.ndarray") -> None:
        self.product: Apply = operator if callable(operator) else _matrix_product(operator)
        self.dtype = np.result_type(getattr(operator, "dtype", np.float64), np.float64)
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
class Sided:
    """A matrix and its preconditioner: what the Krylov space is built from, on either side.

    On the left the space minimises ``|M^-1 (b - A x)|``, otherwise the residual itself.
    """

    apply: Counted
    preconditioner: Apply
    side: str

    @property
    def flexible(self) -> Apply | None:
        """The preconditioner where its answers must be kept."""
        return self.preconditioner if self.side == "flexible" else None

    def product(self, v: np.ndarray) -> np.ndarray:
        """Return the product that extends the space."""
        if self.side == "left":
            return self.preconditioner(self.apply(v))
        return self.apply(self.preconditioner(v) if self.side == "right" else v)

    def minimised(self, r: np.ndarray) -> np.ndarray:
        """Return what is minimised, for the true residual ``r``."""
        return self.preconditioner(r) if self.side == "left" else r

    def correction(self, t: np.ndarray) -> np.ndarray:
        """Return the change of ``x`` that a combination ``t`` of the search vectors stands for."""
        return self.preconditioner(t) if self.side == "right" else t


@dataclass(frozen=True)
class ArnoldiSpace:
    """``A Z_j = C B + V_{j+1} H`` with orthonormal ``C`` and ``V``; vectors are rows, one after the other in memory.

    Parameters
    ----------
    vectors
        Those of ``C``, then those of ``V_{j+1}``, shape ``(k + j + 1, n)``; the last is zero where the space is
        invariant.
    searched
        ``Z_j``, shape ``(j, n)``: ``V_j`` itself unless the preconditioner is flexible.
    hessenberg
        ``H``, shape ``(j + 1, j)``.
    coupling
        ``B = C' A Z_j``, shape ``(k, j)``; ``k`` is 0 without a deflated space.
    """

    vectors: np.ndarray
    searched: np.ndarray
    hessenberg: np.ndarray
    coupling: np.ndarray

    @property
    def basis(self) -> np.ndarray:
        """``V_{j+1}`` as columns, shape ``(n, j + 1)``."""
        return self.vectors[len(self.coupling) :].T

    @property
    def steps(self) -> int:
        """Number ``j`` of products with ``A``."""
        return self.hessenberg.shape[1]


def arnoldi(
    apply: Apply,
    r: np.ndarray,
    *,
    steps: int,
    tolerance: float,
    deflated: np.ndarray | None = None,
    flexible: Apply | None = None,
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
    flexible
        A preconditioner whose answers ``Z`` are kept, because it changes from step to step; ``apply`` is then ``A``.

    Notes
    -----
    Classical Gram-Schmidt in two products with the whole basis, and a second pass where the first cancelled much of a
    vector (Daniel, Gragg, Kaufman and Stewart, Math. Comp. 30 (1976) 772).
    """
    dtype = np.result_type(r, np.float64)
    k = 0 if deflated is None else deflated.shape[1]
    basis = np.empty((k + steps + 1, len(r)), dtype)
    if deflated is not None:
        basis[:k] = deflated.T
    searched = basis[k:] if flexible is None else np.empty((steps, len(r)), dtype)
    columns = np.zeros((k + steps + 1, steps), dtype)
    norm = float(np.linalg.norm(r))
    basis[k] = r / norm
    progress = _LeastSquares(norm, steps, dtype)
    used = 0
    for j in range(steps):
        if flexible is not None:
            searched[j] = flexible(basis[k + j])
        w = np.array(apply(searched[j]), dtype)  # a copy, as the operator may return what it was given
        column, beyond, invariant = _orthogonalise(basis[: k + j + 1], w)
        used = j + 1
        columns[: k + used, j] = column
        basis[k + used] = 0.0 if invariant else w / beyond
        columns[k + used, j] = 0.0 if invariant else beyond
        if progress.add(columns[k : k + used + 1, j]) <= tolerance or invariant:
            break
    return ArnoldiSpace(basis[: k + used + 1], searched[:used], columns[k : k + used + 1, :used], columns[:k, :used])


def _orthogonalise(basis: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Take the part in the basis off ``w``, in place; return it, the norm of the rest, and whether that is nothing."""
    conjugate = basis.conj() if np.iscomplexobj(basis) else basis
    size = before = float(np.linalg.norm(w))
    column = np.zeros(len(basis), basis.dtype)
    for _ in range(2):
        inside = conjugate @ w
        w -= inside @ basis
        column += inside
        beyond = float(np.linalg.norm(w))
        if beyond > LOSS * before:
            break
        before = beyond
    return column, beyond, not beyond > 1e-14 * size  # nothing, too, where a product is not finite


class _LeastSquares:
    """The residual of ``min |norm e1 - H y|`` as columns of ``H`` arrive, by Givens rotations."""

    def __init__(self, norm: float, steps: int, dtype: Any) -> None:
        self.rotations = np.eye(steps + 1, dtype=dtype)
        self.residual, self.columns = float(norm), 0

    def add(self, column: np.ndarray) -> float:
        """Take one more column, shape ``(j + 2,)`` for the ``j``-th, and return the residual."""
        j = self.columns
        rotations = self.rotations[: j + 2, : j + 2]
        above, below = (rotations[j:] @ column).tolist()
        length = np.hypot(abs(above), abs(below))
        if length > 0:
            c, s = above / length, below / length
            upper, lower = rotations[j].copy(), rotations[j + 1].copy()
            rotations[j] = np.conj(c) * upper + np.conj(s) * lower
            rotations[j + 1] = c * lower - s * upper
            self.residual *= abs(s)
        self.columns += 1
        return self.residual
