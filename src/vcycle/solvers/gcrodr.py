"""GCRO-DR: GMRES that deflates, and carries to the next system, a space of harmonic Ritz vectors."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp

from vcycle import _check
from vcycle.solvers.arnoldi import Apply, ArnoldiSpace, Counted, KrylovResult, arnoldi, identity
from vcycle.solvers.krylov import MAX_STALLED, MAX_STEPS, SAFETY, STALL, checked, finished
from vcycle.solvers.recycle import RecycleSpace


def gcrodr(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    space: RecycleSpace | None = None,
    preconditioner: Apply = identity,
    basis_size: int = 40,
    recycle_size: int = 20,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> tuple[KrylovResult, RecycleSpace | None]:
    """Solve ``A x = b`` with GMRES that reuses a subspace from an earlier system.

    Parameters
    ----------
    operator
        ``A``, any square matrix, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``.
    space
        Space kept from the previous solve; ``None`` starts cold.
    preconditioner
        A function that applies an approximate inverse of *this* ``A``; default none. On the right, so that
        residuals are true ones.
    basis_size
        ``m``, largest dimension of recycled and new vectors together in one cycle.
    recycle_size
        ``k``, vectors kept from cycle to cycle; one more where that keeps a complex pair together.
    rtol
        Stop when the true ``|b - A x| <= rtol |b|``, dimensionless.
    max_steps
        Largest number of Arnoldi steps; refreshing a recycled space takes ``k`` products more.

    Returns
    -------
    KrylovResult
        Solution, residual and counts. Never raises on non-convergence: compare ``relative_residual`` with ``rtol``.
    RecycleSpace or None
        The space for the next system; ``None`` if there is none yet, as after ``b = 0``.

    Raises
    ------
    ValueError
        If ``rtol``, ``max_steps`` or ``recycle_size`` is not positive, ``basis_size`` is not above ``recycle_size`` by
        at least 2, or ``space`` has another number of rows than ``b`` or leaves no room for new vectors.

    Notes
    -----
    Differs from the paper in: (1) right preconditioning, ``U`` in preconditioned coordinates, for true residuals; (2)
    every cycle ends with a true residual; (3) the generalised eigenproblem is solved through the QR factors of its
    matrix, not through its normal equations; (4) a cycle stops early at the tolerance.

    References
    ----------
    Parks, de Sturler, Mackey, Johnson and Maiti, SIAM J. Sci. Comput. 28 (2006) 1651. doi:10.1137/040607277
    """
    _check.integer("recycle_size", recycle_size, 1)
    _check.integer("basis_size", basis_size, recycle_size + 2)
    apply, norm = checked(operator, b, rtol, max_steps)
    if space is not None and space.vectors.shape[0] != len(b):
        raise ValueError(f"`space` must have {len(b)} rows, one per unknown. Got {space.vectors.shape[0]}.")
    if space is not None and space.size >= basis_size:
        raise ValueError(f"`space` must have fewer vectors than `basis_size`, {basis_size}. Got {space.size}.")
    if norm == 0 or not np.isfinite(norm):
        return finished(apply, np.zeros_like(b, dtype=np.result_type(b, np.float64)), b, 0), space
    solve = _Solve(apply, b, preconditioner, basis_size, recycle_size)
    if space is not None:
        solve.project(space.vectors)
    target, stalled = SAFETY * rtol * norm, 0
    while solve.steps < max_steps and solve.size > target and stalled < MAX_STALLED:
        before = solve.size
        if not solve.cycle(target, max_steps - solve.steps):
            break
        stalled = stalled + 1 if solve.size > STALL * before else 0
    kept = space if solve.U.shape[1] == 0 else RecycleSpace(solve.U)
    return finished(apply, solve.x, b, solve.steps), kept


@dataclass
class _Solve:
    """The iteration: ``x``, its residual ``r``, and the pair ``A M^-1 U = C`` with orthonormal ``C``."""

    apply: Counted
    b: np.ndarray
    preconditioner: Apply
    basis_size: int
    recycle_size: int

    def __post_init__(self) -> None:
        dtype = np.result_type(self.b, np.float64)
        self.x, self.r = np.zeros(self.b.shape, dtype), self.b.astype(dtype)
        self.U = self.C = np.zeros((len(self.b), 0), dtype)
        self.size, self.steps = float(np.linalg.norm(self.r)), 0

    def product(self, v: np.ndarray) -> np.ndarray:
        """Return ``A M^-1 v``."""
        return self.apply(self.preconditioner(v))

    def project(self, U: np.ndarray) -> None:
        """Adapt a space from another matrix, and take the best solution in it: ``x = U C' r``."""
        images = np.stack([self.product(u) for u in U.T], axis=1)
        if not np.isfinite(images).all():
            return
        Q, R, pivots = sl.qr(images, mode="economic", pivoting=True)
        diagonal = np.abs(np.diag(R))
        rank = int((diagonal > 1e-12 * diagonal[0]).sum())
        self.C = Q[:, :rank]
        self.U = sl.solve_triangular(R[:rank, :rank], U[:, pivots[:rank]].T, trans="T").T
        self._advance(self.U @ (self.C.conj().T @ self.r))

    def cycle(self, target: float, allowed: int) -> bool:
        """Extend the space, minimise the residual over it, and renew ``U``; return whether that was possible."""
        k = self.C.shape[1]
        r = self.r - self.C @ (self.C.conj().T @ self.r)
        if not np.linalg.norm(r) > 1e-14 * self.size:
            return False
        steps = min(self.basis_size - k, allowed)
        krylov = arnoldi(self.product, r, steps=steps, tolerance=target, deflated=self.C)
        self.steps += krylov.steps
        scale = 1.0 / np.linalg.norm(self.U, axis=0)
        G = _gram(scale, krylov)
        if not np.isfinite(G).all():
            return False
        V, W = np.hstack([self.U * scale, krylov.basis[:, :-1]]), np.hstack([self.C, krylov.basis])
        y = np.linalg.lstsq(G, W.conj().T @ self.r, rcond=None)[0]
        self._advance(V @ y)
        self._renew(G, V, W)
        return True

    def _advance(self, t: np.ndarray) -> None:
        self.x = self.x + self.preconditioner(t)
        self.r = self.b - self.apply(self.x)
        self.size = float(np.linalg.norm(self.r))

    def _renew(self, G: np.ndarray, V: np.ndarray, W: np.ndarray) -> None:
        """Keep the harmonic Ritz vectors of smallest modulus: ``C = W Q``, ``U = V P R^-1`` with ``Q R = G P``."""
        P = harmonic_ritz_space(G, W.conj().T @ V, self.recycle_size)
        if P is None:
            return
        Q, R = np.linalg.qr(G @ P)
        self.C, self.U = W @ Q, sl.solve_triangular(R, (V @ P).T, trans="T").T


def _gram(scale: np.ndarray, krylov: ArnoldiSpace) -> np.ndarray:
    """Return ``G`` with ``A M^-1 [U D, V] = [C, V+] G``."""
    k, (rows, columns) = len(scale), krylov.hessenberg.shape
    G = np.zeros((k + rows, k + columns), krylov.hessenberg.dtype)
    G[:k, :k], G[:k, k:], G[k:, k:] = np.diag(scale), krylov.coupling, krylov.hessenberg
    return G


def harmonic_ritz_space(G: np.ndarray, WV: np.ndarray, size: int) -> np.ndarray | None:
    """Return a basis of the harmonic Ritz vectors of smallest modulus.

    Solves ``G' G z = theta G' (W' V) z``. With ``G = Q R`` the values ``1 / theta`` are the eigenvalues of
    ``Q' (W' V) R^-1``, with vectors ``R z``: an ordinary problem, and the largest are wanted.

    Parameters
    ----------
    G
        ``A V = W G``, shape ``(m + 1, m)``.
    WV
        ``W' V``, shape ``(m + 1, m)``.
    size
        Number of vectors wanted; for real matrices a complex pair gives its real and imaginary part, and one vector
        more is returned rather than half a pair.

    Returns
    -------
    numpy.ndarray or None
        Shape ``(m, size)`` or ``(m, size + 1)``, real where ``G`` is, fewer columns if ``m`` is smaller; ``None`` where
        ``G`` is numerically of lower rank, as after a breakdown.
    """
    Q, R = np.linalg.qr(G)
    diagonal = np.abs(np.diag(R))
    if not diagonal.min() > 1e-12 * diagonal.max():
        return None
    values, vectors = np.linalg.eig(sl.solve_triangular(R, (Q.conj().T @ WV).T, trans="T").T)
    order = np.argsort(-np.abs(values), kind="stable")
    chosen = vectors[:, order[:size]] if np.iscomplexobj(G) else _real_span(values, vectors, order, size)
    return sl.solve_triangular(R, chosen)


def _real_span(values: np.ndarray, vectors: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """Return real vectors that span the first eigenvectors, both parts of each complex pair."""
    columns: list[np.ndarray] = []
    for index in order:
        if len(columns) >= size:
            break
        if values[index].imag == 0:
            columns.append(vectors[:, index].real)
        elif values[index].imag > 0:  # its conjugate has the same modulus and adds nothing
            columns += [vectors[:, index].real, vectors[:, index].imag]
    return np.stack(columns, axis=1)
