"""GCRO-DR: GMRES that deflates, and carries to the next system, a space of harmonic Ritz vectors."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp

from vcycle import _check
from vcycle.solvers.arnoldi import SIDES, Apply, ArnoldiSpace, KrylovResult, Sided, arnoldi, identity
from vcycle.solvers.krylov import MAX_STALLED, MAX_STEPS, SAFETY, STALL, checked, finished, started
from vcycle.solvers.recycle import STRATEGIES, RecycleSpace, harmonic_ritz_space


def gcrodr(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    space: RecycleSpace | None = None,
    same_matrix: bool = False,
    preconditioner: Apply = identity,
    side: str = "right",
    strategy: str = "A",
    basis_size: int = 40,
    recycle_size: int = 20,
    start: np.ndarray | None = None,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> tuple[KrylovResult, RecycleSpace | None]:
    """Solve ``A x = b`` with GMRES that reuses a subspace from an earlier system.

    Parameters
    ----------
    operator
        ``A``, any square matrix, real or complex, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``.
    space
        Space kept from the previous solve, with the same side; ``None`` starts cold.
    same_matrix
        The space comes from this very matrix and preconditioner, so that its images hold and no product is spent on
        refreshing them.
    preconditioner
        A function that applies an approximate inverse of *this* ``A``; default none.
    side
        ``"right"``; ``"left"``, where the space minimises the preconditioned residual; or ``"flexible"``, on the right
        for a preconditioner that changes from step to step.
    strategy
        Which vectors are kept, those of smallest ``|theta|`` of a problem with ``A V = W G``, ``V = [U D, V_j]``,
        ``W = [C, V_(j+1)]``. ``"A"``, the paper's: ``G' G z = theta G' W' V z`` with the columns of ``U D`` of unit
        length; harmonic Ritz vectors of the preconditioned matrix (of ``A`` itself where flexible). ``"B"``:
        ``W' V`` is replaced by the first columns of the identity, as if ``U`` were ``C``, and ``D`` is the identity;
        that spares ``k`` inner products per vector, and is exact in the first cycle only.
    basis_size
        ``m``, largest dimension of recycled and new vectors together in one cycle.
    recycle_size
        ``k``, vectors kept from cycle to cycle; one more where that keeps a complex pair together.
    start
        The first ``x``, shape ``(n,)``; default zero.
    rtol
        Stop when the true ``|b - A x| <= rtol |b|``, dimensionless; the side does not matter.
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
        at least 2, a word is unknown, ``space`` has another number of rows than ``b`` or leaves no room for new
        vectors, or ``same_matrix`` is asked of a space without images.

    Notes
    -----
    Differs from the paper in: (1) preconditioning on either side, with a stop on the true residual on both; (2) every
    cycle ends with a true residual; (3) the generalised eigenproblem is solved through the QR factors of its matrix,
    not through its normal equations; (4) a cycle stops early at the tolerance; (5) a recycled space that
    needed one cycle only is not renewed, as in the HPDDM library. Strategy B is HPDDM's, too.

    References
    ----------
    Parks, de Sturler, Mackey, Johnson and Maiti, SIAM J. Sci. Comput. 28 (2006) 1651. doi:10.1137/040607277. Flexible:
    Carvalho, Gratton, Lago and Vasseur, SIAM J. Matrix Anal. Appl. 32 (2011) 1212. doi:10.1137/10082364X
    """
    _check.integer("recycle_size", recycle_size, 1)
    _check.integer("basis_size", basis_size, recycle_size + 2)
    _check.choice("side", side, SIDES)
    _check.choice("strategy", strategy, STRATEGIES)
    apply, norm = checked(operator, b, rtol, max_steps)
    _check_space(space, len(b), basis_size, same_matrix=same_matrix)
    if norm == 0 or not np.isfinite(norm):
        return finished(apply, np.zeros_like(b, dtype=np.result_type(b, np.float64)), b, 0), space
    x, r = started(apply, b, start)
    solve = _Solve(Sided(apply, preconditioner, side), b, x, r, strategy, basis_size, recycle_size)
    target, stalled = SAFETY * rtol * norm, 0
    if space is not None and solve.size > target:
        solve.project(space, same_matrix=same_matrix)
    while solve.steps < max_steps and solve.size > target and stalled < MAX_STALLED:
        before = solve.size
        if not solve.cycle(target, max_steps - solve.steps):
            break
        stalled = stalled + 1 if solve.size > STALL * before else 0
    kept = space if len(solve.U) == 0 else RecycleSpace(solve.U.T, solve.C.T)
    return finished(apply, solve.x, b, solve.steps), kept


def _check_space(space: RecycleSpace | None, rows: int, basis_size: int, *, same_matrix: bool) -> None:
    if space is None:
        return
    if space.vectors.shape[0] != rows:
        raise ValueError(f"`space` must have {rows} rows, one per unknown. Got {space.vectors.shape[0]}.")
    if space.size >= basis_size:
        raise ValueError(f"`space` must have fewer vectors than `basis_size`, {basis_size}. Got {space.size}.")
    if same_matrix and space.images is None:
        raise ValueError("`same_matrix` must be False for a space without images. Got True.")


@dataclass
class _Solve:
    """The iteration: ``x``, its residual ``r``, and the rows ``U``, ``C`` with ``product(U) = C``, orthonormal.

    ``s`` is the residual that the space minimises, the preconditioned one on the left.
    """

    sided: Sided
    b: np.ndarray
    x: np.ndarray
    r: np.ndarray
    strategy: str
    basis_size: int
    recycle_size: int

    def __post_init__(self) -> None:
        self.U = self.C = np.zeros((0, len(self.b)), self.x.dtype)
        self.steps = 0
        self._measure()

    def _measure(self) -> None:
        self.s = self.sided.minimised(self.r)
        self.size = float(np.linalg.norm(self.r))

    def project(self, space: RecycleSpace, *, same_matrix: bool) -> None:
        """Adapt a space from another matrix, and take the best solution in it: ``x = U C' s``."""
        if same_matrix and space.images is not None:
            self.U, self.C = np.ascontiguousarray(space.vectors.T), np.ascontiguousarray(space.images.T)
        else:
            images = np.stack([self.sided.product(u) for u in np.ascontiguousarray(space.vectors.T)])
            if not np.isfinite(images).all():
                return
            self.C, self.U = _orthonormalised(images, np.ascontiguousarray(space.vectors.T))
        self._advance((self.C.conj() @ self.s) @ self.U)

    def cycle(self, target: float, allowed: int) -> bool:
        """Extend the space, minimise the residual over it, and renew ``U``; return whether that was possible.

        A space from another system that lets the solve end in its first cycle is good enough and stays as it is.
        """
        k, inner = len(self.C), float(np.linalg.norm(self.s))
        s = self.s - (self.C.conj() @ self.s) @ self.C
        if not (np.isfinite(inner) and np.linalg.norm(s) > 1e-14 * inner):
            return False
        krylov = arnoldi(
            self.sided.product,
            s,
            steps=min(self.basis_size - k, allowed),
            tolerance=inner * target / self.size,
            deflated=self.C.T,
            flexible=self.sided.flexible,
        )
        self.steps += krylov.steps
        scale = 1.0 / np.linalg.norm(self.U, axis=1) if self.strategy == "A" else np.ones(k)
        G = _gram(scale, krylov)
        if not np.isfinite(G).all():
            return False
        U = scale[:, None] * self.U
        y = np.linalg.lstsq(G, krylov.vectors.conj() @ self.s, rcond=None)[0]
        self._advance(y[:k] @ U + y[k:] @ krylov.searched)
        if self.size > target or self.steps > krylov.steps or k == 0:
            self._renew(G, U, krylov)
        return True

    def _advance(self, t: np.ndarray) -> None:
        self.x = self.x + self.sided.correction(t)
        self.r = self.b - self.sided.apply(self.x)
        self._measure()

    def _renew(self, G: np.ndarray, U: np.ndarray, krylov: ArnoldiSpace) -> None:
        """Keep the harmonic Ritz vectors of smallest modulus: ``C = W Q``, ``U = V P R^-1`` with ``Q R = G P``."""
        P = harmonic_ritz_space(G, self._products(U, krylov), self.recycle_size)
        if P is None:
            return
        Q, R = np.linalg.qr(G @ P)
        weights = sl.solve_triangular(R, P.T, trans="T")
        k = len(U)
        self.C = Q.T @ krylov.vectors
        self.U = weights[:, :k] @ U + weights[:, k:] @ krylov.searched

    def _products(self, U: np.ndarray, krylov: ArnoldiSpace) -> np.ndarray:
        """Return ``W' V``, or what strategy B takes for it; the new vectors' part of it is known unless flexible."""
        k = len(U)
        WV = np.eye(len(krylov.vectors), k + krylov.steps, dtype=krylov.vectors.dtype)
        if self.strategy == "A":
            WV[:, :k] = krylov.vectors.conj() @ U.T
            if self.sided.flexible is not None:
                WV[:, k:] = krylov.vectors.conj() @ krylov.searched.T
        return WV


def _orthonormalised(images: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal images, as rows, and the vectors that they are images of; dependent ones are dropped."""
    C, U = images, vectors
    try:  # Cholesky's QR, twice for orthogonality to rounding: products of matrices, faster than Householder's
        for _ in range(2):
            lengths = np.maximum(np.linalg.norm(C, axis=1)[:, None], np.finfo(float).tiny)
            C, U = C / lengths, U / lengths
            L = np.linalg.cholesky(C.conj() @ C.T)
            if not np.diag(L).real.min() > CHOLESKY_LIMIT:
                raise np.linalg.LinAlgError
            inverse = sl.solve_triangular(L, np.eye(len(L)), lower=True).conj()
            C, U = inverse @ C, inverse @ U
    except np.linalg.LinAlgError:
        Q, R, pivots = sl.qr(images.T, mode="economic", pivoting=True)
        diagonal = np.abs(np.diag(R))
        rank = int((diagonal > 1e-12 * diagonal[0]).sum())
        C = np.ascontiguousarray(Q[:, :rank].T)
        U = sl.solve_triangular(R[:rank, :rank], vectors[pivots[:rank]], trans="T")
    return C, U


CHOLESKY_LIMIT = 1e-6
"""Least part of a vector beyond those before it for which Cholesky's QR, which squares it, keeps enough digits."""


def _gram(scale: np.ndarray, krylov: ArnoldiSpace) -> np.ndarray:
    """Return ``G`` with ``A M^-1 [U D, V] = [C, V+] G``."""
    k, (rows, columns) = len(scale), krylov.hessenberg.shape
    G = np.zeros((k + rows, k + columns), krylov.hessenberg.dtype)
    G[:k, :k], G[:k, k:], G[k:, k:] = np.diag(scale), krylov.coupling, krylov.hessenberg
    return G
