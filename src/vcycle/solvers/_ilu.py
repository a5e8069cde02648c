"""Compiled incomplete factorisations and triangular solves on CSR matrices with sorted columns, real and complex.

Import this module only where it is used: it loads Numba, and the first import on a machine compiles for some seconds.

A factorisation ``L U`` is held as PETSc and others hold it: one CSR matrix with the strictly lower part of ``L``, whose
diagonal is one, and above it ``U``; ``inverse`` is one over the diagonal of ``U``. ``middle[i]`` is where in ``data``
the diagonal of row i stands.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import numpy as np
from numba import njit

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_INDEX = "i4[::1], i4[::1]"
TINY = 1e-12


@njit(f"i8[::1]({_INDEX})", **OPTIONS)
def diagonal_places(indptr, indices):
    """Return where the diagonal entries stand; -1 in a row that has none."""
    places = np.full(len(indptr) - 1, -1, np.int64)
    for i in range(len(places)):
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] == i:
                places[i] = p
    return places


@njit([f"i8({_INDEX}, i8[::1], {t}[::1])" for t in ("f8", "c16")], **OPTIONS)
def ilu0(indptr, indices, middle, data):
    """Factor in place, row by row, dropping what falls outside the pattern; return how many pivots were replaced.

    A pivot below 1e-12 of the largest entry of its row is replaced by that size.
    """
    n, replaced = len(indptr) - 1, 0
    place = np.full(n, -1, np.int64)
    for i in range(n):
        largest = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            place[indices[p]] = p
            largest = max(largest, abs(data[p]))
        for p in range(indptr[i], middle[i]):
            j = indices[p]
            factor = data[p] / data[middle[j]]
            data[p] = factor
            for q in range(middle[j] + 1, indptr[j + 1]):
                here = place[indices[q]]
                if here >= 0:
                    data[here] -= factor * data[q]
        if not abs(data[middle[i]]) > TINY * largest:
            data[middle[i]] = TINY * largest if largest > 0.0 else 1.0
            replaced += 1
        for p in range(indptr[i], indptr[i + 1]):
            place[indices[p]] = -1
    return replaced


@njit([f"void({_INDEX}, i8[::1], {t}[::1], {t}[::1], {t}[::1], {t}[::1])" for t in ("f8", "c16")], **OPTIONS)
def solve_lu(indptr, indices, middle, data, inverse, r, z):
    """Set ``z = U^-1 L^-1 r``."""
    n = len(r)
    for i in range(n):
        total = r[i]
        for p in range(indptr[i], middle[i]):
            total -= data[p] * z[indices[p]]
        z[i] = total
    for i in range(n - 1, -1, -1):
        total = z[i]
        for p in range(middle[i] + 1, indptr[i + 1]):
            total -= data[p] * z[indices[p]]
        z[i] = total * inverse[i]


@njit([f"i8({_INDEX}, {t}[::1], {t}[::1], f8)" for t in ("f8", "c16")], **OPTIONS)
def ic0(indptr, indices, data, factor, shift):
    """Factor the lower triangle ``A + shift diag(A)`` into ``L L'`` on its own pattern; rows end with the diagonal.

    Returns the first row whose pivot is not positive, or -1 where the factorisation exists.
    """
    for i in range(len(indptr) - 1):
        end = indptr[i + 1] - 1
        pivot = data[end].real * (1.0 + shift)
        for p in range(indptr[i], end):
            j = indices[p]
            last = indptr[j + 1] - 1
            total = data[p]
            a, b = indptr[i], indptr[j]
            while a < p and b < last:
                if indices[a] == indices[b]:
                    total -= factor[a] * np.conj(factor[b])
                    a += 1
                    b += 1
                elif indices[a] < indices[b]:
                    a += 1
                else:
                    b += 1
            factor[p] = total / factor[last]
            pivot -= (factor[p] * np.conj(factor[p])).real
        if not pivot > TINY * data[end].real:
            return i
        factor[end] = np.sqrt(pivot)
    return -1


@njit([f"void({_INDEX}, {t}[::1], f8[::1], {t}[::1], {t}[::1])" for t in ("f8", "c16")], **OPTIONS)
def solve_cholesky(indptr, indices, factor, inverse, r, z):
    """Set ``z = L'^-1 L^-1 r``; ``inverse`` is one over the diagonal of ``L``."""
    n = len(r)
    for i in range(n):
        total = r[i]
        for p in range(indptr[i], indptr[i + 1] - 1):
            total -= factor[p] * z[indices[p]]
        z[i] = total * inverse[i]
    for i in range(n - 1, -1, -1):
        value = z[i] * inverse[i]
        z[i] = value
        for p in range(indptr[i], indptr[i + 1] - 1):
            z[indices[p]] -= np.conj(factor[p]) * value
