"""The state that Krylov recycling carries from one linear system to the next, and how it is chosen."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl

STRATEGIES = ("A", "B")


@dataclass(frozen=True)
class RecycleSpace:
    """Approximate eigenvectors of the last system's smallest eigenvalues; nothing else survives between matrices.

    Parameters
    ----------
    vectors
        ``U``, shape ``(n, k)``; in the coordinates of the preconditioned system for ``gcrodr`` with the preconditioner
        on the right, in those of the solution otherwise.
    images
        ``C``, shape ``(n, k)``, orthonormal: the preconditioned matrix times ``U``. Of use only for another right-hand
        side of the very same system; ``None`` where it was not kept.
    """

    vectors: np.ndarray
    images: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number ``k`` of recycled vectors."""
        return self.vectors.shape[1]


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
