"""How near a recycled space is to the invariant space that it stands for: the quantity of the theory, measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from vcycle import _check


def subspace_distance(Q: np.ndarray, C: np.ndarray) -> float:
    """Return ``delta = |(I - P_C) P_Q|_2``: the sine of the largest angle between a vector of Q and the space C.

    One-sided: zero where C contains Q, whatever else it contains; one where some vector of Q is orthogonal to C, as
    always where C has fewer dimensions.

    Parameters
    ----------
    Q, C
        Vectors that span the two spaces, shapes ``(n, q)`` and ``(n, c)``, real or complex; they need not be
        orthonormal or independent.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a value is not finite.

    References
    ----------
    Parks, de Sturler, Mackey, Johnson and Maiti, SIAM J. Sci. Comput. 28 (2006) 1651, section 3; there it bounds the
    convergence of the deflated iteration through ``1 / (1 - delta)``.
    """
    for name, vectors in (("Q", Q), ("C", C)):
        if vectors.ndim != 2 or vectors.shape[0] != Q.shape[0]:
            raise ValueError(f"`{name}` must have shape ({Q.shape[0]}, vectors). Got {vectors.shape}.")
        if not np.isfinite(vectors).all():
            raise ValueError(f"`{name}` must be finite. Got NaN or infinity.")
    q, c = _orthonormal(Q), _orthonormal(C)
    if q.shape[1] == 0:
        return 0.0
    for _ in range(2):  # the difference itself, not 1 - cos^2, so that small angles keep their digits
        q = q - c @ (c.conj().T @ q)
    return min(1.0, float(np.linalg.norm(q, 2)))


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=0)
    scaled = vectors[:, lengths > 0] / lengths[lengths > 0]
    if scaled.shape[1] == 0:
        return scaled
    Q, R, _ = sl.qr(scaled, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(R))
    return Q[:, : int((diagonal > 1e-12 * diagonal[0]).sum())]


def smallest_invariant_space(A: sp.spmatrix, size: int, *, preconditioner: Any = None) -> np.ndarray:
    """Return a basis of the invariant space of the eigenvalues of smallest modulus, shape ``(n, size)``.

    A complex pair of a real matrix gives its real and imaginary part; the second of a pair that would exceed ``size``
    is left out.

    Parameters
    ----------
    A
        Square sparse matrix.
    size
        Number of eigenvalues, below ``n - 1``.
    preconditioner
        A matrix ``M^-1`` as a function of a vector; then the eigenvalues are those of ``A M^-1``, and the matrix is
        formed densely: for a few thousand unknowns at most.
    """
    _check.integer("size", size, 1)
    if preconditioner is not None:
        dense = np.stack([A @ preconditioner(column) for column in np.eye(A.shape[0])], axis=1)
        values, vectors = np.linalg.eig(dense)
    else:
        start = np.random.default_rng(0).standard_normal(A.shape[0])
        values, vectors = spl.eigs(sp.csc_matrix(A), k=size, sigma=0.0, v0=start, tol=1e-10)
    vectors = vectors[:, np.argsort(np.abs(values), kind="stable")[:size]]
    if np.iscomplexobj(sp.csc_matrix(A).data):
        return vectors
    parts = np.hstack([vectors.real, vectors.imag])
    Q, R, _ = sl.qr(parts, mode="economic", pivoting=True)
    independent = np.abs(np.diag(R)) > 1e-8 * np.abs(R[0, 0])
    return Q[:, independent][:, :size]


def recycled_distances(matrices: Sequence[sp.spmatrix], spaces: Sequence[np.ndarray], *, size: int = 3) -> list[float]:
    """Return delta over a sequence: of each matrix' smallest invariant space from the space that its solve began with.

    Parameters
    ----------
    matrices
        The matrices in the order of solution.
    spaces
        For every matrix the recycled vectors ``U`` that came from the one before, shape ``(n, k)``, in the coordinates
        of the solution.
    size
        Dimension of the invariant space; small, since delta is one as soon as a single vector is missing.

    Notes
    -----
    The theory measures the distance from ``C = A U``. Here ``C`` is formed with the new matrix, as the solve does.
    """
    if len(matrices) != len(spaces):
        raise ValueError(f"`spaces` must have {len(matrices)} entries, one per matrix. Got {len(spaces)}.")
    return [subspace_distance(smallest_invariant_space(A, size), A @ U) for A, U in zip(matrices, spaces, strict=True)]
