"""The cycle of compiled black-box multigrid, and conjugate gradients around it; words as in ``_blackbox``.

Import this module only where it is used: it loads Numba, and the first import on a machine compiles for some seconds.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

from vcycle.solvers._blackbox import (
    CENTRE,
    CHUNK,
    DENSE_TYPE,
    FIELD_TYPE,
    LEVELS_TYPE,
    ROWS_TYPE,
    T0,
    TABLE_TYPE,
    WORK_TYPE,
    WRAP_TYPE,
    B,
    C,
    D,
    F,
    G,
    L,
    P,
    Q,
    R,
    U,
    V,
    X,
    close,
    distance,
    size_of,
    span,
    strides,
)
from vcycle.solvers._vectors import FIRST, INNER, ONE, OPTIONS, SECOND, THIRD, TWO, ZERO


@njit(f"void({FIELD_TYPE}, {FIELD_TYPE}, {TABLE_TYPE}, i8, {ROWS_TYPE}, i8, i8, f8)", **INNER)
def smooth(coefs, vectors, table, level, rows, old, new, weight):
    """Set ``new = old + weight * D (F - A old)``; with ``weight`` 0 the residual ``F - A old``."""
    first, last = span(table, level)
    for start in range(first, last, CHUNK):
        end = min(last, start + CHUNK)
        for k in range(start, end):
            vectors[new, k] = vectors[F, k] - coefs[CENTRE, k] * vectors[old, k]
        for row in rows:
            shift = distance(table, level, row)
            for k in range(start, end):
                vectors[new, k] -= coefs[row, k] * vectors[old, k + shift]
        if weight > 0.0:
            for k in range(start, end):
                vectors[new, k] = vectors[old, k] + weight * vectors[D, k] * vectors[new, k]


@njit(f"void({FIELD_TYPE}, {TABLE_TYPE}, i8, i8)", **INNER)
def restrict(vectors, table, level, source):
    """Set the next level's ``F`` to ``P'`` times a row of this one; ghosts of periodic axes must be wrapped."""
    axis = np.int64(table[level, 4])
    stride = strides(table, level)[axis]
    n, nc = table[level, axis], table[level + 1, axis]
    for line in range(size_of(table, level) // ((n + TWO) * stride)):
        fine = table[level, 3] + line * (n + TWO) * stride
        coarse = table[level + 1, 3] + line * (nc + TWO) * stride
        for i in range(ONE, nc + ONE):
            here, target = fine + (TWO * i - ONE) * stride, coarse + i * stride
            for k in range(stride):
                m = here + k
                vectors[F, target + k] = (
                    vectors[source, m]
                    + vectors[R, m - stride] * vectors[source, m - stride]
                    + vectors[L, m + stride] * vectors[source, m + stride]
                )


@njit(f"void({FIELD_TYPE}, {TABLE_TYPE}, i8, i8)", **INNER)
def correct(vectors, table, level, target):
    """Add ``P`` times the next level's ``U`` to a row of this one; ghosts of periodic axes must be wrapped."""
    axis = np.int64(table[level, 4])
    stride = strides(table, level)[axis]
    n, nc = table[level, axis], table[level + 1, axis]
    for line in range(size_of(table, level) // ((n + TWO) * stride)):
        fine = table[level, 3] + line * (n + TWO) * stride
        coarse = table[level + 1, 3] + line * (nc + TWO) * stride
        for i in range(ONE, nc + ONE):
            here, source = fine + (TWO * i - ONE) * stride, coarse + i * stride
            for k in range(stride):
                m = here + k
                vectors[target, m] += vectors[U, source + k]
                if TWO * i <= n:
                    m += stride
                    vectors[target, m] += (
                        vectors[L, m] * vectors[U, source + k] + vectors[R, m] * vectors[U, source + stride + k]
                    )


@njit(f"void({WORK_TYPE}, {LEVELS_TYPE}, i8)", **INNER)
def descend(work, levels, level):
    """Smooth from zero, on a level that does, and restrict the residual; others hand ``F`` down."""
    coefs, vectors, _, _ = work
    table, wrap, rows, star = levels
    at, near, source = table[level, 3], star if level == 0 else rows, F
    if table[level, 5]:
        for k in range(at, at + size_of(table, level)):
            vectors[V, k] = FIRST * vectors[D, k] * vectors[F, k]
        close(vectors[V], at, table, level, wrap)
        smooth(coefs, vectors, table, level, near, V, U, SECOND)
        close(vectors[U], at, table, level, wrap)
        smooth(coefs, vectors, table, level, near, U, V, THIRD)
        close(vectors[V], at, table, level, wrap)
        smooth(coefs, vectors, table, level, near, V, U, 0.0)
        source = U
    close(vectors[source], at, table, level, wrap)
    restrict(vectors, table, level, source)


@njit(f"void({WORK_TYPE}, {LEVELS_TYPE}, i8)", **INNER)
def ascend(work, levels, level):
    """Correct from the next level, and smooth on a level that does."""
    coefs, vectors, _, _ = work
    table, wrap, rows, star = levels
    at, near = table[level, 3], star if level == 0 else rows
    close(vectors[U], table[level + 1, 3], table, level + 1, wrap)
    if table[level, 5]:
        correct(vectors, table, level, V)
        close(vectors[V], at, table, level, wrap)
        smooth(coefs, vectors, table, level, near, V, U, FIRST)
        close(vectors[U], at, table, level, wrap)
        smooth(coefs, vectors, table, level, near, U, V, SECOND)
        close(vectors[V], at, table, level, wrap)
        smooth(coefs, vectors, table, level, near, V, U, THIRD)
    else:
        for k in range(at, at + size_of(table, level)):
            vectors[U, k] = 0.0
        correct(vectors, table, level, U)


@njit(f"void({FIELD_TYPE}, {TABLE_TYPE}, {DENSE_TYPE})", **INNER)
def solve_coarsest(vectors, table, inverse):
    """Set ``U = inverse F`` on the coarsest level, points in row-major order."""
    last = table.shape[0] - 1
    s, n0, n1, n2, at = strides(table, last), table[last, 0], table[last, 1], table[last, 2], table[last, 3]
    lift, here = ONE if table[last, 6] > ONE else ZERO, 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                value, other = 0.0, 0
                for a in range(n0):
                    for b in range(n1):
                        first = at + (a + lift) * s[0] + (b + ONE) * s[1] + ONE
                        for m in range(first, first + n2):
                            value += inverse[here, other] * vectors[F, m]
                            other += 1
                vectors[U, at + (i + lift) * s[0] + (j + ONE) * s[1] + k + ONE] = value
                here += 1


@njit(f"void({WORK_TYPE}, {LEVELS_TYPE})", **OPTIONS)
def vcycle(work, levels):
    """Set ``U`` of the finest level to ``B F``: degree-3 smoothing down and up, ``inverse`` on the coarsest level."""
    last = levels[0].shape[0] - 1
    for level in range(last):
        descend(work, levels, level)
    solve_coarsest(work[1], levels[0], work[3])
    for level in range(last - 1, -1, -1):
        ascend(work, levels, level)


# --- conjugate gradients


@njit(f"f8({DENSE_TYPE}, {FIELD_TYPE}, {TABLE_TYPE}, {WRAP_TYPE}, i8)", **INNER)
def product(double, vectors, table, wrap, row):
    """Set ``Q = A`` times a row of ``double``, whose ghosts are wrapped first, and return the energy of that row."""
    close(double[row], ZERO, table, 0, wrap)
    first, last = span(table, 0)
    at, s, energy = table[0, 3], strides(table, 0), 0.0
    for start in range(first - at, last - at, CHUNK):
        end = min(last - at, start + CHUNK)
        for k in range(start, end):
            double[Q, k] = double[C, k] * double[row, k]
        for axis in range(1 if table[0, 6] == ONE else 0, 3):
            step, faces = s[axis], T0 + axis
            for k in range(start, end):
                here = double[row, k]
                double[Q, k] += double[faces, k] * (here - double[row, k - step]) + double[faces, k + step] * (
                    here - double[row, k + step]
                )
        for k in range(start, end):
            double[Q, k] = double[Q, k] if vectors[D, at + k] != 0.0 else 0.0
        for k in range(start, end):
            energy += double[row, k] * double[Q, k]
    return energy


@njit(f"f8({DENSE_TYPE}, {FIELD_TYPE}, u8)", **INNER)
def load(double, vectors, at):
    """Copy the residual to ``F`` and return its norm."""
    total = 0.0
    for k in range(double.shape[1]):
        total += double[G, k] ** 2
        vectors[F, at + np.uint64(k)] = double[G, k]
    return math.sqrt(total)


@njit(f"f8({DENSE_TYPE}, {FIELD_TYPE}, u8, f8)", **INNER)
def turn(double, vectors, at, energy):
    """Set ``P = U + beta P`` with ``beta = -U' Q / energy``, conjugate to the old ``P``; return ``U' G``."""
    zr, zq = 0.0, 0.0
    for k in range(double.shape[1]):
        z = np.float64(vectors[U, at + np.uint64(k)])
        zr += z * double[G, k]
        zq += z * double[Q, k]
    for k in range(double.shape[1]):
        double[P, k] = vectors[U, at + np.uint64(k)] - zq / energy * double[P, k]
    return zr


@njit(f"i8({WORK_TYPE}, {LEVELS_TYPE}, f8, i8)", **OPTIONS)
def conjugate_gradients(work, levels, tolerance, max_steps):
    """Solve ``A X = B`` from zero to ``|B - A X| <= tolerance``, and return the number of V-cycles.

    Directions are made conjugate by ``z' A p`` itself. Where the recurrence claims convergence the true residual
    replaces it; the iteration ends unless that still helps.
    """
    _, vectors, double, _ = work
    table, wrap, _, _ = levels
    at, size = table[0, 3], double.shape[1]
    for k in range(size):
        double[X, k], double[P, k], double[Q, k], double[G, k] = 0.0, 0.0, 0.0, double[B, k]
    energy, replaced = np.inf, np.inf
    for steps in range(max_steps + 1):
        norm = load(double, vectors, at)
        if norm <= tolerance:
            product(double, vectors, table, wrap, X)
            for k in range(size):
                double[G, k] = double[B, k] - double[Q, k]
            product(double, vectors, table, wrap, P)  # `Q` again: the directions go on
            norm = load(double, vectors, at)
            if norm <= tolerance or not norm < 0.5 * replaced:
                return steps
            replaced = norm
        if steps == max_steps or not math.isfinite(norm):
            return steps
        vcycle(work, levels)
        zr = turn(double, vectors, at, energy)
        energy = product(double, vectors, table, wrap, P)
        if not (energy > 0.0 and zr > 0.0):
            return steps
        pg = 0.0  # not `zr`: the residual need not be orthogonal to the last direction where it was replaced
        for k in range(size):
            pg += double[P, k] * double[G, k]
        for k in range(size):
            double[X, k] += pg / energy * double[P, k]
            double[G, k] -= pg / energy * double[Q, k]
    return max_steps
