"""MKL Pardiso through ctypes: a sparse direct solver, one thread per handle, whose analysis serves many matrices."""

import ctypes
import functools
import importlib.metadata
import threading
import weakref
from ctypes.util import find_library

import numpy as np
import scipy.sparse as sp

from vcycle.solvers.pattern import Pattern

MISSING = 'method "pardiso" needs Intel MKL. Install it with: pip install "vcycle[direct]".'

_ANALYSE, _FACTOR, _SOLVE, _RELEASE = 11, 22, 33, -1
_OWN_ORDER, _GIVEN_ORDER = 2, 1
_ZERO_PIVOT = -4
_TRANSPOSED = {"N": 2, "T": 0}
"""Compressed columns are the compressed rows of the transposed matrix: to solve with the matrix is to transpose."""


class Pardiso:
    """The analysis of one sparsity pattern, and room for the factor of one matrix at a time.

    Threads that factor matrices take an object each; any number may solve with one. Its memory goes with the object.

    Parameters
    ----------
    pattern
        The structure, already in an order with little fill.
    symmetric
        Whether matrices equal their transpose, without conjugation: half of the work and memory.
    positive_definite
        Whether they are symmetric positive definite, so that no pivots are looked for.
    dtype
        Of the entries, float64 or complex128.

    Raises
    ------
    ModuleNotFoundError
        If MKL is not installed.

    References
    ----------
    Schenk and Gärtner, Future Generation Computer Systems 20 (2004) 475. doi:10.1016/j.future.2003.07.011
    """

    def __init__(self, pattern: Pattern, *, symmetric: bool, positive_definite: bool, dtype: np.dtype) -> None:
        kinds = (2 if positive_definite else -2, 6) if symmetric else (11, 13)
        self.symmetric, self.dtype = symmetric, np.dtype(dtype)
        columns = np.repeat(np.arange(pattern.size), np.diff(pattern.indptr))
        # Rows from the diagonal on of a symmetric matrix are what is stored in its columns from the diagonal on.
        self._kept = pattern.indices >= columns if symmetric else np.ones(len(columns), bool)
        counts = np.bincount(columns[self._kept], minlength=pattern.size)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        indices, order = pattern.indices[self._kept], np.arange(pattern.size, dtype=np.int32)
        self._call = _Handle(kinds[self.dtype.kind == "c"], starts, indices, order, choice=_GIVEN_ORDER)
        self._values = np.ones(len(indices), self.dtype)
        self._call(_ANALYSE, self._values)
        weakref.finalize(self, self._call, _RELEASE, self._values)

    def factor(self, matrix: sp.csc_matrix) -> "Pardiso | None":
        """Take the place of the factor of ``matrix``, or return ``None`` where a pivot is zero.

        The factor before it is gone: this object solves with the latest one.
        """
        self._values = np.ascontiguousarray(matrix.data[self._kept], self.dtype)
        return self if self._call(_FACTOR, self._values) != _ZERO_PIVOT else None

    def solve(self, rhs: np.ndarray, trans: str = "N") -> np.ndarray:
        """Return solutions for right-hand sides ``(n,)`` or ``(n, k)``; ``trans`` is that of SciPy's SuperLU.

        ``"N"`` solves with the matrix, ``"T"`` with its transpose, ``"H"`` with its conjugate transpose.
        """
        conjugate = trans == "H"
        flag = _TRANSPOSED["T" if conjugate else trans]
        b = np.asfortranarray(np.conj(rhs) if conjugate else rhs, self.dtype)
        x = np.empty_like(b)  # keeps the order of columns
        self._call(_SOLVE, self._values, rhs=b, out=x, transposed=0 if self.symmetric else flag)
        return np.conj(x) if conjugate else x


def dissection(pattern: Pattern) -> np.ndarray:
    """Return METIS' nested dissection of a pattern in row-major order: unknown ``order[j]`` is eliminated ``j``-th."""
    columns = np.repeat(np.arange(pattern.size), np.diff(pattern.indptr))
    kept = pattern.indices >= columns
    starts = np.concatenate([[0], np.cumsum(np.bincount(columns[kept], minlength=pattern.size))]).astype(np.int32)
    order, values = np.zeros(pattern.size, np.int32), np.ones(int(kept.sum()))
    call = _Handle(-2, starts, pattern.indices[kept], order, choice=_OWN_ORDER)
    call(_ANALYSE, values)
    call(_RELEASE, values)
    return order.astype(np.int64)


def is_available() -> bool:
    """Whether MKL is installed."""
    try:
        _library()
    except ModuleNotFoundError:
        return False
    return True


class _Handle:
    """The arguments that all calls of one handle share. Names and numbers are those of the MKL reference."""

    def __init__(self, kind: int, starts: np.ndarray, indices: np.ndarray, order: np.ndarray, *, choice: int) -> None:
        self.library, self.kind = _library(), kind
        self.starts, self.indices, self.order = starts, indices, order
        self.memory, self.options = np.zeros(64, np.int64), np.zeros(64, np.int32)
        self.lock = threading.Lock()
        chosen = {
            0: 1,  # options are given
            1: 2,  # METIS, where the order is its own
            4: choice,
            9: 8 if kind in (-2, 6) else 13,  # pivots below 10^-this of the norm are perturbed
            20: 1,  # symmetric indefinite matrices: 1x1 and 2x2 pivots
            34: 1,  # indices from zero
        }
        for place, value in chosen.items():
            self.options[place] = value

    def __call__(
        self,
        phase: int,
        values: np.ndarray,
        *,
        rhs: np.ndarray | None = None,
        out: np.ndarray | None = None,
        transposed: int = 0,
    ) -> int:
        """Run one phase on one thread; return 0, or -4 for a pivot of zero."""
        columns = 1 if rhs is None or rhs.ndim == 1 else rhs.shape[1]
        numbers = (1, 1, self.kind, phase, len(self.starts) - 1)
        error = ctypes.c_int32(0)
        with self.lock:
            self.options[11] = transposed
            before = self.library.MKL_Set_Num_Threads_Local(1)
            self.library.pardiso(
                _pointer(self.memory),
                *map(_number, numbers),
                *map(_pointer, (values, self.starts, self.indices, self.order)),
                _number(columns),
                _pointer(self.options),
                _number(0),
                *map(_pointer, (rhs, out)),
                ctypes.byref(error),
            )
            self.library.MKL_Set_Num_Threads_Local(before)
        if error.value == -2:
            raise MemoryError("Pardiso has not enough memory for the factors. Use method='multigrid' or 'gmres'.")
        if error.value not in (0, _ZERO_PIVOT):
            raise RuntimeError(f"Pardiso ended with error {error.value} in phase {phase}.")
        return error.value


def _pointer(values: np.ndarray | None) -> ctypes.c_void_p | None:
    return None if values is None else ctypes.c_void_p(values.ctypes.data)


def _number(value: int) -> "ctypes._Pointer[ctypes.c_int32]":
    return ctypes.pointer(ctypes.c_int32(value))


@functools.cache
def _library() -> ctypes.CDLL:
    """Load MKL's single dynamic library, of the package ``mkl`` or of the system."""
    for path in _candidates():
        try:
            return ctypes.CDLL(path)
        except OSError:  # of another platform, or gone
            continue
    raise ModuleNotFoundError(MISSING)


def _candidates() -> list[str]:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    named = [str(file.locate()) for file in files if file.name.startswith(("libmkl_rt", "mkl_rt"))]
    system = find_library("mkl_rt")
    return [path for path in named if ".lib" not in path] + ([system] if system else [])
