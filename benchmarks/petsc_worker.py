"""Solve with PETSc on request, in a Python of its own: Debian's bindings need another NumPy than ours.

Arguments: solver (``gamg`` or ``ilu``), ``definite`` or ``general``, and a NumPy archive with ``indptr``, ``indices``,
``data (num, nonzeros)`` and ``rhs (num, n)``. To a line ``number rtol`` of input the answer is a line with the CPU
seconds, and then the solution's bytes.
"""

import sys
import time

import petsc4py

petsc4py.init(["petsc"])

import numpy as np  # noqa: E402 after PETSc has taken its arguments
from petsc4py import PETSc  # noqa: E402


def solve(solver: str, kind: str, A: "PETSc.Mat", b: np.ndarray, rtol: float) -> np.ndarray:
    """Set up a Krylov method with a preconditioner for one matrix, and solve."""
    method = PETSc.KSP().create()
    method.setOperators(A)
    method.setType("cg" if kind == "definite" else "gmres")
    method.getPC().setType(solver)
    method.setTolerances(rtol=rtol, max_it=5000)
    x = A.createVecRight()
    method.solve(PETSc.Vec().createWithArray(b), x)
    values = x.getArray().copy()
    for thing in (method, x):
        thing.destroy()
    return values


def main() -> None:
    """Answer until the input ends."""
    solver, kind, path = sys.argv[-3:]
    given = np.load(path)
    size, csr = given["rhs"].shape[1], (given["indptr"], given["indices"])
    matrices = [PETSc.Mat().createAIJ((size, size), csr=(*csr, data)) for data in given["data"]]
    for line in sys.stdin:
        number, rtol = line.split()
        started = time.process_time()
        x = solve(solver, kind, matrices[int(number)], given["rhs"][int(number)], float(rtol))
        sys.stdout.buffer.write(f"{time.process_time() - started}\n".encode() + x.tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
