"""PETSc as a peer, through a Python that has it; see ``petsc_worker.py``."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from measuring import Method, Solve
from peers import Assembled

WORKER = Path(__file__).with_name("petsc_worker.py")
SOLVERS = {"PETSc CG + GAMG": ("gamg", True), "PETSc GMRES + ILU(0)": ("ilu", False)}


def methods(given: Assembled, python: str) -> list[Method]:
    """Return PETSc's methods for these systems; ``python`` is the command of a Python with petsc4py."""
    definite = given.systems.positive_definite
    chosen = {name: solver for name, (solver, needs_definite) in SOLVERS.items() if definite or not needs_definite}
    return [_method(name, solver, given, python) for name, solver in chosen.items()]


def _method(name: str, solver: str, given: Assembled, python: str) -> Method:
    spent = [0.0]
    kind = "definite" if given.systems.positive_definite and solver == "gamg" else "general"

    def start() -> Solve:
        ask = _worker([*shlex.split(python), str(WORKER), solver, kind], given)

        def solve(indices: Sequence[int], rtol: float) -> list[np.ndarray]:
            answers = [ask(index, rtol) for index in indices]
            spent[0] += sum(seconds for seconds, _ in answers)
            return [solution for _, solution in answers]

        return solve

    return Method(name, start, clock=lambda: spent[0])


def _worker(command: list[str], given: Assembled) -> Callable[[int, float], tuple[float, np.ndarray]]:
    first = given.rows[0]
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        data = np.stack([A.data for A in given.rows])
        np.savez(file, indptr=first.indptr, indices=first.indices, data=data, rhs=np.stack(given.rhs))
        file.flush()
        process = subprocess.Popen([*command, file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def ask(index: int, rtol: float) -> tuple[float, np.ndarray]:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("PETSc's process has no pipes.")
            process.stdin.write(f"{index} {rtol}\n".encode())
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("PETSc's process ended.")
            return float(line), np.frombuffer(process.stdout.read(8 * len(given.rhs[0])))

        ask(0, 0.5)  # the archive is read and the libraries are loaded
    return ask
