"""What the compiled kernels of every dimension share: options, and the single-precision vectors of one level.

Import this module only where it is used: it loads Numba.

All arrays lie in one flat float32 array ``w``: ``total`` entries for every row (``U``, ``V``, ...), and within a row
one level after the other, each with a ghost layer. A loop runs over whole lines, ghosts between them included, so that
it is one long loop on small levels too. Ghosts cost nothing and stay zero: the inverse diagonal is zero there.
Offsets are unsigned, which spares the test for negative indices that would keep loops scalar.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import math
from typing import Any

import numpy as np
from numba import njit

from vcycle.multigrid.classical import chebyshev_weights

WEIGHTS = np.array(chebyshev_weights(3), dtype=np.float32)
FIRST, SECOND, THIRD = WEIGHTS

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
INNER: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For what other kernels call and Python does not: a third less to compile."""
ONCE: dict[str, Any] = {**OPTIONS, "inline": "always"}
"""For what is called in one place: compiled there, and by itself only if Python calls it.

Caches look at the caller's file only: touch ``_kernels`` and ``_kernels3`` after a change to what they inline.
"""
ZERO, ONE, TWO = np.uint64(0), np.uint64(1), np.uint64(2)
BLOCK = np.uint64(1024)
"""About how many cells one stage of a pipeline takes at a time: what it touches stays in the nearest cache."""
PIECE = np.uint64(2048)
"""Entries of a vector that are summed in single precision; the sums of pieces are added in double."""
REPLACE = 1e-4
"""The recurrence's residual is replaced by the true one where it fell by this factor since that was last done."""


@njit("f8(f4[::1], u8, u8, u8)", **INNER)
def dot(w, x, y, count):
    """Return the inner product of the vectors at offsets ``x`` and ``y``."""
    result = 0.0
    for start in range(ZERO, count, PIECE):
        end, total = min(count, start + PIECE), np.float32(0.0)
        for k in range(start, end):
            total += w[x + k] * w[y + k]
        result += total
    return result


@njit("void(f4[::1], u8, u8, u8, f4)", **INNER)
def turn(w, z, p, count, beta):
    """Set ``p = z + beta p``."""
    for k in range(count):
        w[p + k] = w[z + k] + beta * w[p + k]


@njit("void(f4[::1], u8, u8, u8, u8)", **INNER)
def start(w, f, d, v, count):
    """Set ``v`` to the first Jacobi step from zero."""
    for k in range(count):
        w[v + k] = FIRST * w[d + k] * w[f + k]


@njit("f8(f4[::1], f8[::1], u8, u8, u8, u8, u8, u8, f8)", **INNER)
def advance(w, x, p, q, r, d, v, count, alpha):
    """Add ``alpha p`` to ``x``, subtract ``alpha q`` from ``r``, start smoothing in ``v``; return ``r' r``."""
    single, total = np.float32(alpha), 0.0
    for first in range(ZERO, count, PIECE):
        size = min(count, first + PIECE) - first
        for k in range(first, first + size):
            x[k] += alpha * w[p + k]
        for k in range(first, first + size):
            w[r + k] -= single * w[q + k]
        total += dot(w, r + first, r + first, size)
        start(w, r + first, d + first, v + first, size)
    return total


@njit("void(f4[::1], u8, u8)", **INNER)
def clear(w, x, count):
    """Set a vector to zero."""
    for k in range(count):
        w[x + k] = np.float32(0.0)


@njit("void(f8[:,::1], f8)", **INNER)
def add(matrix, shift):
    """Add a number to all entries."""
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            matrix[i, j] += shift


@njit("void(f8[:,::1], b1)", **OPTIONS)
def invert(matrix, singular):
    """Replace a symmetric positive definite matrix by its inverse; the pseudo-inverse where constants are its kernel.

    Adding ``s`` to all entries adds ``s n`` to the eigenvalue of the constants only; that is taken off the inverse
    again. Elimination without pivots, in place.
    """
    size, shift = matrix.shape[0], 0.0
    if singular:
        for k in range(size):
            shift += matrix[k, k] / size**2
        add(matrix, shift)
    for k in range(size):
        pivot = 1.0 / matrix[k, k]
        for i in range(size):
            if i != k:
                factor = matrix[i, k] * pivot
                matrix[i, k] = 0.0
                for j in range(size):
                    matrix[i, j] -= factor * matrix[k, j]
                matrix[i, k] = -factor
        for j in range(size):
            matrix[k, j] *= pivot
        matrix[k, k] = pivot
    if singular:
        add(matrix, -1.0 / (shift * size**2))


@njit("void(f4[::1], u8, u8, u8, f4)", **INNER)
def copy_line(w, source, target, count, sign):
    """Write a multiple of one line over another."""
    for k in range(count):
        w[target + k] = sign * w[source + k]


@njit("u8(u8, u8, u8)", **INNER)
def behind(done, before, last):
    """Return how far a stage may go that needs one line more of the stage before."""
    return last if before == last else max(done, max(before, ONE) - ONE)


@njit("f4(f4, f4, f4, f4, f4)", **INNER)
def in_series(under, face, over, low, high):
    """Return the transmissibility of a face in series with parts ``low`` and ``high`` of its two inner neighbours."""
    return under * face * over / (low * face * over + under * over + high * face * under + np.float32(1e-37))


@njit("f8(f8[:,::1])", **INNER)
def largest_of(values):
    """Return the largest magnitude in the middle lines, which stands for all of them."""
    middle, centre, largest = values.shape[0] // 2, values.shape[1] // 2, 0.0
    for j in range(values.shape[1]):
        largest = max(largest, abs(values[middle, j]))
    for i in range(values.shape[0]):
        largest = max(largest, abs(values[i, centre]))
    return largest


@njit("f8(f8)", **INNER)
def factor_for(largest):
    """Return a factor that brings faces of this size near 1: float32 holds them then, whatever their unit."""
    return 1.0 / largest if largest > 0.0 and math.isfinite(largest) else 1.0


@njit("i8(f8[:,::1], b1, f8)", **INNER)
def jumps(faces, along_rows, limit):
    """Count the pairs of inner faces, neighbours along their axis, that differ by more than a factor.

    The axis is the first one, or the second where ``along_rows``.
    """
    count, n, m = 0, faces.shape[0], faces.shape[1]
    if along_rows:
        for i in range(n):
            for j in range(1, m - 2):
                count += (faces[i, j] > limit * faces[i, j + 1]) | (faces[i, j + 1] > limit * faces[i, j])
    else:
        for i in range(1, n - 2):
            for j in range(m):
                count += (faces[i, j] > limit * faces[i + 1, j]) | (faces[i + 1, j] > limit * faces[i, j])
    return count


@njit("f8(f8[::1])", **INNER)
def norm_of(b):
    """Return the Euclidean norm of a right-hand side."""
    total = 0.0
    for k in range(b.size):
        total += b[k] * b[k]
    return math.sqrt(total)


@njit("f8(f8[::1], u8, f8[::1], f8)", **INNER)
def take_line(x, first, out, factor):
    """Write ``factor`` times the part of ``x`` from ``first`` on, and return its sum."""
    total = 0.0
    for k in range(np.uint64(out.size)):
        out[k] = factor * x[first + k]
        total += out[k]
    return total


@njit("void(f8[::1], f8)", **INNER)
def subtract(values, mean):
    """Subtract a number from all values."""
    for k in range(values.size):
        values[k] -= mean
