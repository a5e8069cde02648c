"""Conjugate gradients and restarted GMRES for any matrix or function, with a preconditioner; true residuals."""

import numpy as np
import scipy.sparse as sp
from scipy.linalg import get_blas_funcs

from vcycle import _check
from vcycle.solvers.arnoldi import SIDES, Apply, Counted, KrylovResult, Sided, arnoldi, identity

SAFETY = 0.95
"""Aim a little below the tolerance: the residual recomputed elsewhere rounds differently."""
MAX_STEPS = 10_000
STALL, MAX_STALLED = 1 - 1e-6, 3
"""Give up after three cycles in a row that each take off less than a millionth of the residual."""


def cg(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    preconditioner: Apply = identity,
    start: np.ndarray | None = None,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> KrylovResult:
    """Solve ``A x = b`` by preconditioned conjugate gradients.

    Parameters
    ----------
    operator
        ``A``, Hermitian positive (semi-)definite: a matrix, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``; in the range of ``A`` where ``A`` is singular.
    preconditioner
        A function that applies an approximate inverse, Hermitian positive definite; default none.
    start
        The first ``x``, shape ``(n,)``; default zero.
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
        If ``rtol`` or ``max_steps`` is not positive, or ``start`` has another shape than ``b``.
    """
    apply, norm = checked(operator, b, rtol, max_steps)
    x, r = started(apply, b, start)
    axpy = get_blas_funcs("axpy", (x,))
    p, target, steps, rz, replaced = np.zeros_like(x), SAFETY * rtol * norm, 0, 1.0, np.inf
    size = float(np.linalg.norm(r))
    while steps < max_steps and np.isfinite(size):
        if size <= target:
            r = b - apply(x)
            size = float(np.linalg.norm(r))
            if size <= target or not size < 0.5 * replaced:
                break
            replaced, p = size, np.zeros_like(p)
        z = preconditioner(r)
        rz, rz_old = float(np.vdot(z, r).real), rz
        p *= rz / rz_old
        p += z
        Ap = apply(p)
        energy = float(np.vdot(p, Ap).real)
        if not (energy > 0 and rz > 0):
            break
        axpy(p, x, a=rz / energy)
        r = r - (rz / energy) * Ap
        size = float(np.linalg.norm(r))
        steps += 1
    return finished(apply, x, b, steps)


def gmres(
    operator: "Apply | sp.spmatrix | np.ndarray",
    b: np.ndarray,
    *,
    preconditioner: Apply = identity,
    side: str = "right",
    restart: int = 40,
    start: np.ndarray | None = None,
    rtol: float = 1e-8,
    max_steps: int = MAX_STEPS,
) -> KrylovResult:
    """Solve ``A x = b`` by preconditioned GMRES, restarted.

    Parameters
    ----------
    operator
        ``A``, any square matrix, or a function of a vector ``(n,)``.
    b
        Right-hand side, shape ``(n,)``, in the unit of ``A x``.
    preconditioner
        A function that applies an approximate inverse; default none.
    side
        ``"right"``, ``"left"``, or ``"flexible"`` for a preconditioner that changes from step to step.
    restart
        Largest dimension of a Krylov space.
    start
        The first ``x``, shape ``(n,)``; default zero.
    rtol
        Stop when the true ``|b - A x| <= rtol |b|``, dimensionless; the side does not matter.
    max_steps
        Largest number of Arnoldi steps.

    Returns
    -------
    KrylovResult
        Never raises on non-convergence: compare ``relative_residual`` with ``rtol``.

    Raises
    ------
    ValueError
        If ``rtol``, ``max_steps`` or ``restart`` is not positive, the side is unknown, or ``start`` has another shape
        than ``b``.

    References
    ----------
    Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986) 856. doi:10.1137/0907058. Flexible: Saad, SIAM J. Sci.
    Comput. 14 (1993) 461. doi:10.1137/0914028
    """
    _check.integer("restart", restart, 1)
    _check.choice("side", side, SIDES)
    apply, norm = checked(operator, b, rtol, max_steps)
    sided = Sided(apply, preconditioner, side)
    x, r = started(apply, b, start)
    target, steps, stalled = SAFETY * rtol * norm, 0, 0
    size = float(np.linalg.norm(r))
    while steps < max_steps and size > target and stalled < MAX_STALLED:
        s = sided.minimised(r)
        inner = float(np.linalg.norm(s))
        if not (np.isfinite(inner) and inner > 0):
            break
        space = arnoldi(
            sided.product,
            s,
            steps=min(restart, max_steps - steps),
            tolerance=inner * target / size,
            flexible=sided.flexible,
        )
        steps += space.steps
        if not np.isfinite(space.hessenberg).all():
            break
        y = np.linalg.lstsq(space.hessenberg, np.eye(space.steps + 1)[0] * inner, rcond=None)[0]
        x = x + sided.correction(y @ space.searched)
        r = b - apply(x)
        size, before = float(np.linalg.norm(r)), size
        stalled = stalled + 1 if size > STALL * before else 0
    return finished(apply, x, b, steps)


def checked(
    operator: "Apply | sp.spmatrix | np.ndarray", b: np.ndarray, rtol: float, max_steps: int
) -> tuple[Counted, float]:
    """Return the counting operator and ``|b|``, or raise for a wrong argument."""
    _check.positive("rtol", rtol)
    _check.integer("max_steps", max_steps, 1)
    if b.ndim != 1:
        raise ValueError(f"`b` must have shape (n,). Got {b.shape}.")
    return Counted(operator), float(np.linalg.norm(b))


def started(apply: Counted, b: np.ndarray, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ``x``, a new array, and its residual."""
    dtype = np.result_type(b, apply.dtype)
    if start is None:
        return np.zeros(b.shape, dtype), b.astype(dtype)
    if start.shape != b.shape:
        raise ValueError(f"`start` must have shape {b.shape}, as `b`. Got {start.shape}.")
    x = start.astype(np.result_type(dtype, start))
    return x, (b - apply(x)).astype(x.dtype)


def finished(apply: Counted, x: np.ndarray, b: np.ndarray, steps: int) -> KrylovResult:
    """Return the result with its true residual; ``|A x|`` where ``b`` is zero."""
    norm = np.linalg.norm(b)
    residual = float(np.linalg.norm(b - apply.product(x)) / (norm if norm > 0 else 1.0))
    return KrylovResult(x, residual, steps, apply.calls)
