"""Preconditioners by name: functions that apply an approximate inverse of one matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import lu_factor, lu_solve

from vcycle import _check
from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.multigrid.stencil import Stencil
from vcycle.solvers.arnoldi import Apply, identity
from vcycle.solvers.systems import LinearSystems

BLOCK = 64
"""Unknowns per block of block Jacobi, which inverts blocks densely."""
SUBDOMAIN, OVERLAP = 1024, 2
"""Unknowns per subdomain of additive Schwarz before it grows, and by how many layers of neighbours it grows."""
FIRST_SHIFT = 1e-3
"""The share of the diagonal that IC(0) adds first where the plain factor does not exist; doubled until it does."""


def preconditioner(name: str, A: sp.spmatrix) -> Apply:
    """Return the preconditioner of that name for a matrix.

    Parameters
    ----------
    name
        One of :data:`PRECONDITIONERS`. All but ``"ilu0"`` are Hermitian positive definite where ``A`` is, as conjugate
        gradients require; so is ``"ilu0"`` up to rounding, and equal to ``"ic0"`` at twice the memory.
    A
        Square sparse matrix, real or complex, finite.

    Returns
    -------
    Callable
        Maps a residual ``(n,)`` to an approximation of ``A^-1 r``, in a new array.

    Raises
    ------
    ValueError
        If the name is unknown, ``A`` is not square, a diagonal entry that is needed is missing, or ``"ic0"`` is asked
        of a matrix with a diagonal that is not positive.
    """
    build = PRECONDITIONERS[_check.choice("preconditioner", name, PRECONDITIONERS)]
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"`A` must be square. Got {A.shape}.")
    return build(_canonical(A))


def _canonical(A: Any) -> sp.csr_matrix:
    """Return a CSR matrix with sorted, unique columns, float64 or complex128, 32-bit indices; ``A`` is left alone."""
    rows = sp.csr_matrix(A)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    dtype = np.complex128 if np.iscomplexobj(rows.data) else np.float64
    indptr, indices = (np.ascontiguousarray(part, np.int32) for part in (rows.indptr, rows.indices))
    return sp.csr_matrix((np.ascontiguousarray(rows.data, dtype), indices, indptr), shape=rows.shape)


def jacobi(diagonal: np.ndarray) -> Apply:
    """Return the preconditioner that divides by the diagonal ``(n,)``; entries of zero divide by one."""
    inverse = 1.0 / np.where(diagonal == 0, 1.0, diagonal)
    return lambda r: inverse * r


def block_jacobi(A: sp.csr_matrix, *, size: int = BLOCK) -> Apply:
    """Return the inverses of the diagonal blocks of ``size`` consecutive unknowns, dense."""
    _check.integer("size", size, 1)
    n = A.shape[0]
    blocks = -(-n // size)
    dense = np.zeros((blocks, size, size), A.dtype)
    rows = np.repeat(np.arange(n), np.diff(A.indptr))
    inside = rows // size == A.indices // size
    rows, columns = rows[inside], A.indices[inside]
    dense[rows // size, rows % size, columns % size] = A.data[inside]
    beyond = np.arange(n, blocks * size)
    dense[beyond // size, beyond % size, beyond % size] = 1.0
    inverses = np.linalg.inv(dense)

    def apply(r: np.ndarray) -> np.ndarray:
        padded = np.zeros(blocks * size, np.result_type(r, dense))
        padded[:n] = r
        return (inverses @ padded.reshape(blocks, size, 1)).reshape(-1)[:n]

    return apply


class _Triangles:
    """``z = U^-1 L^-1 r`` on the pattern of a matrix: what ILU(0) and SSOR have in common."""

    def __init__(self, A: sp.csr_matrix) -> None:
        from vcycle.solvers import _ilu

        self._kernels = _ilu
        self.indptr, self.indices, self.data = A.indptr, A.indices, A.data.copy()
        self.middle = _ilu.diagonal_places(self.indptr, self.indices)
        if len(self.middle) and self.middle.min() < 0:
            raise ValueError(f"`A` must store its diagonal. Got none in row {int(self.middle.argmin())}.")

    def __call__(self, r: np.ndarray) -> np.ndarray:
        """Return ``U^-1 L^-1 r``."""
        return _by_parts(self._apply, r, complex_matrix=np.iscomplexobj(self.data))

    def _apply(self, r: np.ndarray) -> np.ndarray:
        z = np.empty_like(r)
        self._kernels.solve_lu(self.indptr, self.indices, self.middle, self.data, self.inverse, r, z)
        return z

    def finish(self) -> "_Triangles":
        """Invert the diagonal of ``U``."""
        self.inverse = 1.0 / self.data[self.middle]
        return self


def _by_parts(apply: Apply, r: np.ndarray, *, complex_matrix: bool) -> np.ndarray:
    """Apply a kernel of one type to a vector of either: a real matrix acts on real and imaginary part apart."""
    if complex_matrix:
        return apply(np.ascontiguousarray(r, np.complex128))
    if np.iscomplexobj(r):
        return apply(np.ascontiguousarray(r.real, np.float64)) + 1j * apply(np.ascontiguousarray(r.imag, np.float64))
    return apply(np.ascontiguousarray(r, np.float64))


def ilu0(A: sp.csr_matrix) -> Apply:
    """Return the incomplete factorisation ``L U`` without fill; pivots near zero are replaced by small ones.

    References
    ----------
    Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, SIAM 2003, algorithm 10.4.
    """
    factors = _Triangles(A)
    factors._kernels.ilu0(factors.indptr, factors.indices, factors.middle, factors.data)
    return factors.finish()


def ssor(A: sp.csr_matrix, *, weight: float = 1.0) -> Apply:
    """Return symmetric successive over-relaxation, one forward and one backward sweep.

    ``M = (D/w + L) (D/w)^-1 (D/w + U) / (2 - w)`` with the weight ``w`` in (0, 2); Hermitian positive definite where
    ``A`` is. One, the default, is symmetric Gauss-Seidel.
    """
    if not 0 < weight < 2:
        raise ValueError(f"`weight` must lie between 0 and 2. Got {weight}.")
    factors = _Triangles(A)
    diagonal = factors.data[factors.middle]
    scaled = np.where(diagonal == 0, 1.0, diagonal) / weight
    below = factors.indices < np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    factors.data[below] /= scaled[factors.indices[below]]  # (L + D) D^-1 has a diagonal of ones
    factors.data[factors.middle] = scaled
    factors.data[~below] /= 2.0 - weight
    return factors.finish()


class _Cholesky:
    """``z = L'^-1 L^-1 r`` with the incomplete factor ``L``."""

    def __init__(self, A: sp.csr_matrix) -> None:
        from vcycle.solvers import _ilu

        self._kernels = _ilu
        lower = sp.csr_matrix(sp.tril(A, format="csr"))
        lower.sort_indices()
        self.indptr, self.indices = lower.indptr.astype(np.int32), lower.indices.astype(np.int32)
        last = self.indptr[1:] - 1
        n = A.shape[0]
        stored = (np.diff(self.indptr) > 0) & (self.indices[np.maximum(last, 0)] == np.arange(n))
        diagonal = lower.diagonal()
        if not (stored.all() and (diagonal.real > 0).all()):
            raise ValueError("`A` must have a positive diagonal for 'ic0'. Use 'ilu0' for other matrices.")
        self.factor, self.shift, failed = np.empty_like(lower.data), 0.0, 0
        while failed >= 0:
            failed = _ilu.ic0(self.indptr, self.indices, lower.data, self.factor, self.shift)
            if failed >= 0:
                self.shift = max(FIRST_SHIFT, 2.0 * self.shift)
        self.inverse = 1.0 / np.ascontiguousarray(self.factor[last].real)

    def __call__(self, r: np.ndarray) -> np.ndarray:
        """Return ``L'^-1 L^-1 r``."""
        return _by_parts(self._apply, r, complex_matrix=np.iscomplexobj(self.factor))

    def _apply(self, r: np.ndarray) -> np.ndarray:
        z = np.empty_like(r)
        self._kernels.solve_cholesky(self.indptr, self.indices, self.factor, self.inverse, r, z)
        return z


def ic0(A: sp.csr_matrix) -> Apply:
    """Return the incomplete Cholesky factorisation ``L L'`` without fill, of a Hermitian positive definite matrix.

    Where it does not exist, a multiple of the diagonal is added: 1e-3, then twice as much until it does (Manteuffel,
    Math. Comp. 34 (1980) 473). Only the lower triangle of ``A`` is read.
    """
    return _Cholesky(A)


def schwarz(A: sp.csr_matrix, *, size: int = SUBDOMAIN, overlap: int = OVERLAP) -> Apply:
    """Return one-level additive Schwarz: overlapping subdomains, each solved exactly, the answers added.

    The unknowns are cut by recursive bisection along the graph's breadth-first order into subdomains of at most
    ``size``, and each subdomain takes in ``overlap`` layers of neighbours. Hermitian positive definite where ``A`` is.

    References
    ----------
    Toselli and Widlund, Domain Decomposition Methods, Springer 2005, section 1.3.
    """
    _check.integer("size", size, 1)
    _check.integer("overlap", overlap, 0)
    graph = _graph(A)
    parts = [_grown(graph, part, overlap) for part in _bisected(graph, size)]
    solvers = [_exact(A[part][:, part]) for part in parts]

    def apply(r: np.ndarray) -> np.ndarray:
        z = np.zeros(len(r), np.result_type(r, A.dtype))
        for part, solve in zip(parts, solvers, strict=True):
            z[part] += solve(r[part])
        return z

    return apply


def _graph(A: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(A.nnz), A.indices, A.indptr), shape=A.shape)


def _exact(block: sp.csr_matrix) -> Apply:
    if block.shape[0] <= BLOCK:
        factors = lu_factor(block.toarray())
        return lambda r: lu_solve(factors, r)
    from scipy.sparse.linalg import splu

    factor = splu(block.tocsc(), permc_spec="MMD_AT_PLUS_A")
    return lambda r: _by_parts(factor.solve, r, complex_matrix=np.iscomplexobj(block.data))


def _bisected(graph: sp.csr_matrix, size: int) -> list[np.ndarray]:
    """Return disjoint index sets of at most ``size`` that cover all unknowns, each cut in half breadth-first."""
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    parts, done = [np.arange(graph.shape[0])], []
    while parts:
        part = parts.pop()
        if len(part) <= size:
            done.append(part)
            continue
        inside = graph[part][:, part]
        count, labels = connected_components(inside, directed=True, connection="weak")
        order: np.ndarray = np.argsort(labels, kind="stable")
        if count == 1:
            far = breadth_first_order(inside, 0, directed=False, return_predecessors=False)[-1]
            order = breadth_first_order(inside, far, directed=False, return_predecessors=False)
        parts += [part[order[len(order) // 2 :]], part[order[: len(order) // 2]]]
    return done


def _grown(graph: sp.csr_matrix, part: np.ndarray, layers: int) -> np.ndarray:
    member = np.zeros(graph.shape[0], bool)
    member[part] = True
    for _ in range(layers):
        member[graph[np.flatnonzero(member)].indices] = True
    return np.flatnonzero(member)


def multigrid(operator: FaceFluxes) -> Apply:
    """Return one symmetric V-cycle of compiled black-box multigrid, for the one matrix of an operator on a grid.

    Parameters
    ----------
    operator
        Symmetric positive definite, batch 1, float64; it may stand in for another matrix, as a Laplacian does for
        Helmholtz' equation. Complex vectors take two cycles.

    Raises
    ------
    ValueError
        If the operator has more than one matrix.
    """
    from vcycle.solvers.blackbox import Workspace

    if operator.batch != 1:
        raise ValueError(f"`operator` must have one matrix. Got {operator.batch}.")
    nothing = torch.zeros((1, *operator.grid.shape), dtype=torch.float64)
    singular = operator.reaction is None and not _fixed(operator)
    workspace = Workspace(LinearSystems(operator, nothing, positive_definite=True, singular=singular))
    workspace.build(0)
    return lambda r: _by_parts(workspace.cycle, r, complex_matrix=False)


def definite_part(operator: FaceFluxes | Stencil) -> FaceFluxes:
    """Return a symmetric positive definite operator near one that is not.

    Of a nonsymmetric one it is the symmetric part, diffusion without transport. Of an indefinite one the diffusion
    alone, or, where no wall fixes a constant, with the zero-order term's absolute value.
    """
    if isinstance(operator, Stencil):
        return operator.symmetric_part()
    if operator.reaction is None or _fixed(operator):
        return FaceFluxes(operator.grid, operator.boundary, operator.faces)
    return FaceFluxes(operator.grid, operator.boundary, operator.faces, operator.reaction.abs())


def _fixed(operator: FaceFluxes) -> bool:
    return any(kind == "dirichlet" for pair in operator.boundary.kinds for kind in pair)


def _none(A: sp.csr_matrix) -> Apply:
    return identity


def _jacobi(A: sp.csr_matrix) -> Apply:
    return jacobi(A.diagonal())


PRECONDITIONERS: dict[str, Callable[[Any], Apply]] = {
    "none": _none,
    "jacobi": _jacobi,
    "block-jacobi": block_jacobi,
    "sor": ssor,
    "ilu0": ilu0,
    "ic0": ic0,
    "schwarz": schwarz,
}
"""Every preconditioner that is made from a sparse matrix alone, by its name."""
