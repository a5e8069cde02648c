"""Conjugate gradients and restarted GMRES for any matrix or function, with a preconditioner; true residuals."""

import numpy as np
import scipy.sparse as sp

from vcycle import _check
from vcycle.solvers.arnoldi import Apply, Counted, KrylovResult, arnoldi, identity

SAFETY = 0.95
"""Aim a little below the tolerance: the residual recomputed elsewhere rounds differently."""
MAX_STEPS = 10_000


def cg(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    preconditioner: Apply = identity,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> KrylovResult:
    """Solve ``A x = b`` by preconditioned conjugate gradients.

    Parameters
    ----------
    operator
        ``A``, symmetric positive (semi-)definite: a matrix, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``; in the range of ``A`` where ``A`` is singular.
    preconditioner
        A function that applies an approximate inverse, symmetric positive definite; default none.
    rtol
        Stop when the true ``|b - A x| <= rtol |b|``, dimensionless.
    max_steps
        Largest number of steps.

    Returns
    -------
    KrylovResult
        Never raises on non-convergence: compare ``relative_residual`` with ``rtol``.

    Raises
    ------
    ValueError
        If ``rtol`` or ``max_steps`` is not positive.
    """
    apply, norm = checked(operator, b, rtol, max_steps)
    x, r, p = np.zeros_like(b, dtype=float), b.astype(float), np.zeros_like(b, dtype=float)
    target, steps, rz, replaced = SAFETY * rtol * norm, 0, 1.0, np.inf
    size = norm
    while steps < max_steps and np.isfinite(size):
        if size <= target:
            r = b - apply(x)
            size = float(np.linalg.norm(r))
            if size <= target or not size < 0.5 * replaced:
                break
            replaced, p = size, np.zeros_like(p)
        z = preconditioner(r)
        rz, rz_old = float(r @ z), rz
        p = z + rz / rz_old * p
        Ap = apply(p)
        energy = float(p @ Ap)
        if not (energy > 0 and rz > 0):
            break
        x += rz / energy * p
        r = r - rz / energy * Ap
        size = float(np.linalg.norm(r))
        steps += 1
    return finished(apply, x, b, steps)


def gmres(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    preconditioner: Apply = identity,
    restart: int = 40,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> KrylovResult:
    """Solve ``A x = b`` by right-preconditioned GMRES, restarted.

    Parameters
    ----------
    operator
        ``A``, any square matrix, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``.
    preconditioner
        A function that applies an approximate inverse; default none. On the right, so that residuals are true ones.
    restart
        Largest dimension of a Krylov space.
    rtol
        Stop when the true ``|b - A x| <= rtol |b|``, dimensionless.
    max_steps
        Largest number of Arnoldi steps.

    Returns
    -------
    KrylovResult
        Never raises on non-convergence: compare ``relative_residual`` with ``rtol``.

    Raises
    ------
    ValueError
        If ``rtol``, ``max_steps`` or ``restart`` is not positive.

    References
    ----------
    Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986) 856. doi:10.1137/0907058
    """
    _check.integer("restart", restart, 1)
    apply, norm = checked(operator, b, rtol, max_steps)
    dtype = np.result_type(b, np.float64)
    x, r = np.zeros(b.shape, dtype), b.astype(dtype)
    target, steps, size, stalled = SAFETY * rtol * norm, 0, norm, 0
    while steps < max_steps and size > target and stalled < MAX_STALLED:
        space = arnoldi(
            lambda v: apply(preconditioner(v)),
            r,
            steps=min(restart, max_steps - steps),
            tolerance=target,
        )
        steps += space.steps
        if not np.isfinite(space.hessenberg).all():
            break
        y = np.linalg.lstsq(space.hessenberg, np.eye(space.steps + 1)[0] * size, rcond=None)[0]
        x = x + preconditioner(space.basis[:, :-1] @ y)
        r = b - apply(x)
        size, before = float(np.linalg.norm(r)), size
        stalled = stalled + 1 if size > STALL * before else 0
    return finished(apply, x, b, steps)


STALL, MAX_STALLED = 1 - 1e-6, 3
"""Give up after three cycles in a row that each take off less than a millionth of the residual."""


def jacobi(diagonal: np.ndarray) -> Apply:
    """Return the preconditioner that divides by the diagonal ``(n,)``; entries of zero divide by one."""
    inverse = 1.0 / np.where(diagonal == 0, 1.0, diagonal)
    return lambda r: inverse * r


def checked(
    operator: "Apply | sp.spmatrix | np.ndarray", b: np.ndarray, rtol: float, max_steps: int
) -> tuple[Counted, float]:
    """Return the counting operator and ``|b|``, or raise for a wrong argument."""
    _check.positive("rtol", rtol)
    _check.integer("max_steps", max_steps, 1)
    if b.ndim != 1:
        raise ValueError(f"`b` must have shape (n,). Got {b.shape}.")
    return Counted(operator), float(np.linalg.norm(b))


def finished(apply: Counted, x: np.ndarray, b: np.ndarray, steps: int) -> KrylovResult:
    """Return the result with its true residual; ``|A x|`` where ``b`` is zero."""
    norm = np.linalg.norm(b)
    residual = float(np.linalg.norm(b - apply.product(x)) / (norm if norm > 0 else 1.0))
    return KrylovResult(x, residual, steps, apply.calls)
