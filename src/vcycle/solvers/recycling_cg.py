"""Recycling conjugate gradients: CG that deflates approximate eigenvectors learnt from earlier systems."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
from scipy.linalg import get_blas_funcs

from vcycle import _check
from vcycle.solvers.arnoldi import Apply, Counted, KrylovResult, identity
from vcycle.solvers.krylov import MAX_STEPS, SAFETY, checked, finished, started
from vcycle.solvers.recycle import RecycleSpace


def recycling_cg(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    space: RecycleSpace | None = None,
    preconditioner: Apply = identity,
    recycle_size: int = 20,
    window: int = 40,
    renew: bool = True,
    start: np.ndarray | None = None,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> tuple[KrylovResult, RecycleSpace | None]:
    """Solve ``A x = b`` by conjugate gradients, deflated by a subspace from an earlier system.

    Parameters
    ----------
    operator
        ``A``, Hermitian positive definite: a matrix, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``.
    space
        Space kept from the previous solve; ``None`` is plain CG that learns a space.
    preconditioner
        A function that applies an approximate inverse of *this* ``A``, Hermitian positive definite; default none.
    recycle_size
        ``k``, vectors kept: approximate eigenvectors of ``M^-1 A`` with the smallest eigenvalues.
    window
        Search directions that are gathered before they and the vectors kept are reduced to ``k`` again; a solve that
        needs fewer has a space good enough, which stays as it is. Takes memory for three vectors per direction.
    renew
        Whether to learn from this solve; otherwise ``space`` is handed back as it was, and each step is cheaper.
    start
        The first ``x``, shape ``(n,)``; default zero.
    rtol
        Stop when the true ``|b - A x| <= rtol |b|``, dimensionless.
    max_steps
        Largest number of steps; adapting a space to ``A`` takes ``k`` products more.

    Returns
    -------
    KrylovResult
        Never raises on non-convergence: compare ``relative_residual`` with ``rtol``.
    RecycleSpace or None
        The space for the next system; ``None`` if there is none yet.

    Raises
    ------
    ValueError
        If ``rtol``, ``max_steps``, ``recycle_size`` or ``window`` is not positive, or ``space`` or ``start`` has
        another number of rows than ``b``.

    Notes
    -----
    Directions are kept A-orthogonal to the space ``W``: ``p = z - W (W' A W)^-1 (A W)' z + beta p`` (Saad et al.,
    algorithm 3.5), with ``W (W' A W)^-1 W' r`` added: zero but for rounding, which would grow without it where
    eigenvalues are very small (A-DEF2 of Tang, Nabben, Vuik and Erlangga, J. Sci. Comput. 39 (2009) 340). Differs from
    the first paper in: (1) the vectors kept are harmonic Ritz vectors of ``M^-1 A``
    over *all* directions, window by window, from ``F y = theta G y`` with ``F = (A Z)' M^-1 A Z`` and ``G = Z' A Z``
    computed as they are, not from the recurrence's coefficients; (2) the residual is replaced by the true one, and
    projected again, before the solve ends.

    References
    ----------
    Saad, Yeung, Erhel and Guyomarc'h, SIAM J. Sci. Comput. 21 (2000) 1909. doi:10.1137/S1064829598339761. Recycling
    over sequences: Kilmer and de Sturler, SIAM J. Sci. Comput. 27 (2006) 2140. doi:10.1137/040612774
    """
    _check.integer("recycle_size", recycle_size, 1)
    _check.integer("window", window, 1)
    apply, norm = checked(operator, b, rtol, max_steps)
    if space is not None and space.vectors.shape[0] != len(b):
        raise ValueError(f"`space` must have {len(b)} rows, one per unknown. Got {space.vectors.shape[0]}.")
    if norm == 0 or not np.isfinite(norm):
        return finished(apply, np.zeros_like(b, dtype=np.result_type(b, np.float64)), b, 0), space
    x, r = started(apply, b, start)
    deflated = _Deflated.adapted(space, apply, x.dtype)
    learner = _Learner(deflated, preconditioner, recycle_size, window) if renew else None
    steps = _iterate(apply, b, x, r, preconditioner, deflated, learner, SAFETY * rtol * norm, max_steps)
    kept = space if learner is None else learner.space(space)
    return finished(apply, x, b, steps), kept


@dataclass
class _Deflated:
    """Rows ``W`` with ``W' A W = I``, their images ``A W``, and ``M^-1 A W`` where it is known."""

    vectors: np.ndarray
    images: np.ndarray
    preconditioned: np.ndarray | None = None

    @classmethod
    def adapted(cls, space: RecycleSpace | None, apply: Counted, dtype: np.dtype) -> "_Deflated | None":
        """Return a space of another matrix made A-orthonormal; dependent vectors are dropped."""
        if space is None:
            return None
        vectors = np.ascontiguousarray(space.vectors.T).astype(np.result_type(dtype, space.vectors))
        images = np.stack([apply(w) for w in vectors])
        energies = vectors.conj() @ images.T
        if not np.isfinite(energies).all():
            return None
        values, Q = sl.eigh(0.5 * (energies + energies.conj().T))
        good = values > 1e-12 * values[-1]
        if not good.any():
            return None
        weights = (Q[:, good] / np.sqrt(values[good])).T
        return cls(weights @ vectors, weights @ images)

    def project(self, x: np.ndarray, r: np.ndarray) -> None:
        """Take the best ``x`` in the space, in the energy norm, and its residual, in place."""
        weights = self.vectors.conj() @ r
        x += weights @ self.vectors
        r -= weights @ self.images

    def conjugated(self, z: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Return ``z`` made A-orthogonal to the space, plus the correction for what rounding left of ``r`` in it."""
        return z + (self.vectors.conj() @ r - self.images.conj() @ z) @ self.vectors


class _Learner:
    """Keeps the harmonic Ritz vectors of smallest value among the old space and the directions of this solve."""

    def __init__(self, deflated: _Deflated | None, preconditioner: Apply, size: int, window: int) -> None:
        self.kept, self.preconditioner, self.size, self.window = deflated, preconditioner, size, window
        self.learnt = deflated is None
        self.gathered: np.ndarray | None = None
        self.count = 0

    def add(self, p: np.ndarray, Ap: np.ndarray, MAp: np.ndarray, energy: float) -> None:
        """Take a direction, scaled to unit energy, with its image and its preconditioned image."""
        scale = 1.0 / np.sqrt(energy)
        if self.gathered is None:
            self.gathered = np.empty((3, self.window, len(p)), p.dtype)
        for rows, vector in zip(self.gathered, (p, Ap, MAp), strict=True):
            np.multiply(vector, scale, out=rows[self.count])
        self.count += 1
        if self.count == self.window:
            self.reduce()

    def reduce(self) -> None:
        """Reduce what was gathered to ``size`` vectors."""
        if self.gathered is None or self.count == 0:
            return
        stacks, self.learnt = [rows[: self.count] for rows in self.gathered], True
        if self.kept is not None:
            images, preconditioned = self.kept.images, self.kept.preconditioned
            if preconditioned is None:
                preconditioned = np.stack([self.preconditioner(w) for w in images])
            old = (self.kept.vectors, images, preconditioned)
            stacks = [np.concatenate(pair) for pair in zip(old, stacks, strict=True)]
        self.count = 0
        Z, AZ, MAZ = stacks
        G, F = Z.conj() @ AZ.T, AZ.conj() @ MAZ.T
        weights = _smallest(0.5 * (F + F.conj().T), 0.5 * (G + G.conj().T), self.size)
        if weights is not None:
            self.kept = _Deflated(*(weights.T @ stack for stack in stacks))

    def space(self, before: RecycleSpace | None) -> RecycleSpace | None:
        """Return the space for the next system: the old one where the solve ended within one window."""
        if self.learnt:
            self.reduce()
        return before if self.kept is None or not self.learnt else RecycleSpace(self.kept.vectors.T)


def _smallest(F: np.ndarray, G: np.ndarray, size: int) -> np.ndarray | None:
    """Return the vectors of the smallest ``theta`` in ``F y = theta G y``, shape ``(m, size)``, with ``y' G y = 1``."""
    if not (np.isfinite(F).all() and np.isfinite(G).all()):
        return None
    energies, Q = sl.eigh(G)
    good = energies > 1e-10 * energies[-1]
    scaled = Q[:, good] / np.sqrt(energies[good])
    reduced = scaled.conj().T @ F @ scaled
    values, Y = sl.eigh(0.5 * (reduced + reduced.conj().T))
    positive = np.flatnonzero(values > 0)[:size]
    return scaled @ Y[:, positive] if len(positive) else None


def _iterate(
    apply: Counted,
    b: np.ndarray,
    x: np.ndarray,
    r: np.ndarray,
    preconditioner: Apply,
    deflated: _Deflated | None,
    learner: _Learner | None,
    target: float,
    max_steps: int,
) -> int:
    """Improve ``x`` in place until its true residual meets the target; return the number of steps."""
    axpy = get_blas_funcs("axpy", (x,))
    if deflated is not None:
        deflated.project(x, r)
    p, steps, rz, replaced, last = np.zeros_like(x), 0, 1.0, np.inf, None
    size = float(np.linalg.norm(r))
    while steps < max_steps and np.isfinite(size):
        if size <= target:
            r = b - apply(x)
            if deflated is not None:
                deflated.project(x, r)
            size = float(np.linalg.norm(r))
            if size <= target or not size < 0.5 * replaced:
                break
            replaced, last = size, None
            p = np.zeros_like(p)
        z = preconditioner(r)
        if learner is not None and last is not None:
            learner.add(last.p, last.Ap, (last.z - z) / last.alpha, last.energy)
        direction = z if deflated is None else deflated.conjugated(z, r)
        rz, rz_old = float(np.vdot(direction, r).real), rz
        p = direction + (rz / rz_old) * p
        Ap = apply(p)
        energy = float(np.vdot(p, Ap).real)
        if not (energy > 0 and rz > 0):
            break
        alpha = rz / energy
        axpy(p, x, a=alpha)
        r = r - alpha * Ap
        size = float(np.linalg.norm(r))
        last = _Step(p, Ap, z, alpha, energy)
        steps += 1
    return steps


@dataclass(frozen=True)
class _Step:
    """What the learner needs of a step, once the next preconditioned residual is there."""

    p: np.ndarray
    Ap: np.ndarray
    z: np.ndarray
    alpha: float
    energy: float
