"""Other people's solvers, each as its documentation shows it, for the benchmark of data generation.

A peer is a function of the systems, assembled and in whatever format it likes best, that does what serves all of them
and returns a function: of a system's number and a tolerance, to a solution. Packages that are not installed raise
ModuleNotFoundError when a peer starts.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from vcycle.solvers.pattern import Pattern
from vcycle.solvers.systems import LinearSystems

Solve = Callable[[int, float], np.ndarray]
MAX_STEPS = 5000


@dataclass
class Assembled:
    """Systems as peers get them, ready: assembly, conversion and renumbering are free.

    Parameters
    ----------
    systems
        What is assembled.
    """

    systems: LinearSystems
    rows: list[sp.csr_matrix] = field(init=False)
    columns: list[sp.csc_matrix] = field(init=False)
    rhs: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        pairs = [self.systems.to_csr(index) for index in range(len(self.systems))]
        self.rows, self.rhs = [A for A, _ in pairs], [b for _, b in pairs]
        for A in self.rows:
            A.sort_indices()
        self.columns = [A.tocsc() for A in self.rows]

    @property
    def definite(self) -> bool:
        """Whether matrices are symmetric positive definite."""
        return self.systems.positive_definite

    @functools.cached_property
    def dissected(self) -> tuple[Pattern, list[sp.csc_matrix]]:
        """The matrices in METIS' order."""
        from vcycle.solvers.pardiso import dissection

        grid, boundary = self.systems.operator.grid, self.systems.operator.boundary
        pattern = Pattern(grid, boundary, order=dissection(Pattern(grid, boundary)))
        return pattern, [pattern.scatter(self.systems.operator.entries(i)) for i in range(len(self.systems))]


def spsolve(given: Assembled) -> Solve:
    """SciPy's default: SuperLU with COLAMD."""
    return lambda index, _: sla.spsolve(given.columns[index], given.rhs[index])


def splu_mmd(given: Assembled) -> Solve:
    """SuperLU as its manual advises for symmetric patterns."""
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0 if given.definite else 0.1}

    def solve(index: int, _: float) -> np.ndarray:
        return sla.splu(given.columns[index], options={"SymmetricMode": True}, **options).solve(given.rhs[index])

    return solve


def cholmod(given: Assembled) -> Solve:
    """CHOLMOD, analysed once."""
    from sksparse.cholmod import analyze

    factor = analyze(given.columns[0])

    def solve(index: int, _: float) -> np.ndarray:
        factor.cholesky_inplace(given.columns[index])
        return factor(given.rhs[index])

    return solve


def pardiso(given: Assembled) -> Solve:
    """MKL Pardiso, analysed once."""
    from vcycle.solvers.pardiso import Pardiso

    pattern, matrices = given.dissected
    kind = {"symmetric": given.systems.symmetric, "positive_definite": given.definite}
    handle, order = Pardiso(pattern, dtype=matrices[0].dtype, **kind), pattern.order

    def solve(index: int, _: float) -> np.ndarray:
        handle.factor(matrices[index])
        solution = np.empty(pattern.size)
        solution[order] = handle.solve(given.rhs[index][order])
        return solution

    return solve


def ruge_stuben(given: Assembled) -> Solve:
    """Classical algebraic multigrid of PyAMG; a hierarchy per matrix."""
    import pyamg

    accelerator = "cg" if given.definite else "bicgstab"

    def solve(index: int, rtol: float) -> np.ndarray:
        levels = pyamg.ruge_stuben_solver(given.rows[index])
        return levels.solve(given.rhs[index], tol=rtol, accel=accelerator, maxiter=MAX_STEPS)

    return solve


def smoothed_aggregation(given: Assembled) -> Solve:
    """Smoothed aggregation of PyAMG; a hierarchy per matrix."""
    import pyamg

    symmetry, accelerator = ("hermitian", "cg") if given.definite else ("nonsymmetric", "bicgstab")

    def solve(index: int, rtol: float) -> np.ndarray:
        levels = pyamg.smoothed_aggregation_solver(given.rows[index], symmetry=symmetry)
        return levels.solve(given.rhs[index], tol=rtol, accel=accelerator, maxiter=MAX_STEPS)

    return solve


def cg_jacobi(given: Assembled) -> Solve:
    """SciPy's conjugate gradients, diagonal preconditioner."""

    def solve(index: int, rtol: float) -> np.ndarray:
        A = given.rows[index]
        preconditioner = sp.diags_array(1 / A.diagonal())
        return sla.cg(A, given.rhs[index], rtol=rtol, M=preconditioner, maxiter=MAX_STEPS)[0]

    return solve


def cg_ic0(given: Assembled) -> Solve:
    """SciPy's conjugate gradients, incomplete Cholesky without fill of ilupp."""
    import ilupp

    def solve(index: int, rtol: float) -> np.ndarray:
        A = given.rows[index]
        return sla.cg(A, given.rhs[index], rtol=rtol, M=ilupp.IChol0Preconditioner(A), maxiter=MAX_STEPS)[0]

    return solve


def gmres_spilu(given: Assembled) -> Solve:
    """SciPy's GMRES with its incomplete LU, both by default."""

    def solve(index: int, rtol: float) -> np.ndarray:
        A = given.rows[index]
        factors = sla.spilu(given.columns[index])
        preconditioner = sla.LinearOperator(A.shape, factors.solve)
        return sla.gmres(A, given.rhs[index], rtol=rtol, M=preconditioner, maxiter=MAX_STEPS)[0]

    return solve


def gmres_ilu0(given: Assembled) -> Solve:
    """SciPy's GMRES with incomplete LU without fill of ilupp."""
    import ilupp

    def solve(index: int, rtol: float) -> np.ndarray:
        A = given.rows[index]
        return sla.gmres(A, given.rhs[index], rtol=rtol, M=ilupp.ILU0Preconditioner(A), maxiter=MAX_STEPS)[0]

    return solve


def gcrotmk(given: Assembled) -> Solve:
    """SciPy's GCROT(m, k) with incomplete LU without fill of ilupp; its space goes from one system to the next."""
    import ilupp

    recycled: list = []

    def solve(index: int, rtol: float) -> np.ndarray:
        A = given.rows[index]
        recycled[:] = [(None, u) for _, u in recycled]  # images under the last matrix are of no use
        arguments = {"M": ilupp.ILU0Preconditioner(A), "CU": recycled, "m": 20, "k": 20, "maxiter": MAX_STEPS}
        return sla.gcrotmk(A, given.rhs[index], rtol=rtol, **arguments)[0]

    return solve


DIRECT = {
    "SciPy spsolve": spsolve,
    "SciPy splu, MMD": splu_mmd,
    "MKL Pardiso, shared analysis": pardiso,
}
GENERAL = DIRECT | {
    "SciPy GMRES + spilu": gmres_spilu,
    "SciPy GMRES + ilupp ILU(0)": gmres_ilu0,
    "SciPy gcrotmk + ilupp ILU(0), recycled": gcrotmk,
}
DEFINITE = GENERAL | {
    "CHOLMOD, shared analysis": cholmod,
    "PyAMG Ruge-Stuben + CG": ruge_stuben,
    "PyAMG smoothed aggregation + CG": smoothed_aggregation,
    "SciPy CG + Jacobi": cg_jacobi,
    "SciPy CG + ilupp IC(0)": cg_ic0,
}
NONSYMMETRIC = GENERAL | {
    "PyAMG Ruge-Stuben + BiCGStab": ruge_stuben,
    "PyAMG smoothed aggregation + BiCGStab": smoothed_aggregation,
}


def applicable(systems: LinearSystems) -> dict[str, Callable[[Assembled], Solve]]:
    """Return the peers, by name, for systems of this kind."""
    if systems.positive_definite:
        return DEFINITE
    return GENERAL if systems.symmetric else NONSYMMETRIC
