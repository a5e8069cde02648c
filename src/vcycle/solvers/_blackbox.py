"""Compiled black-box multigrid: transfers made from the matrix, Galerkin coarse matrices, in two and three dimensions.

Import this module only where it is used: it loads Numba, and the first import on a machine compiles for some seconds.

Levels are coarsened one axis at a time: every second point stays, and a point between is interpolated from its two
neighbours along the axis by its row of the matrix, summed over the other axes, as Dendy ("Black box multigrid", 1982)
does for points on coarse lines; two or three such steps make one coarsening. Coarse matrices ``P' A P`` couple the
``3^d`` nearest points. Any number of points will do, wherever they lie; a periodic axis must be even to be coarsened.

A level's arrays have a ghost layer and lie flat. ``table`` has one line ``n_0, n_1, n_2, offset, axis, smooth, planes``
per level: ``axis`` is coarsened next, ``smooth`` says whether the level smooths or is a step on the way only, and
``planes`` is ``n_0 + 2``, or 1 in two dimensions, where axis 0 has one point and no ghosts. ``coefs`` (neighbours by
points of all levels) holds the matrices, neighbour ``(a, b, c)`` in row ``9 a + 3 b + c`` with ``a, b, c`` in 0, 1, 2;
what two dimensions have no use for is never touched. ``vectors`` has rows ``U, V, F, D, L, R``: ``D`` is the inverse of
the smoother's diagonal, ``L`` and ``R`` are interpolation weights. ``double`` has rows ``X, B, G, P, Q, T0, T1, T2, C``
of the finest level in double precision: residual ``G``, faces and reaction. ``rows`` are the neighbours on coarse
levels, ``star`` those on the finest. All is in double
precision: rows are summed over the other axes, whose couplings may be many orders larger.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from vcycle.solvers._vectors import INNER, ONE, OPTIONS, TWO, ZERO, invert

ROWS, DOUBLES = 6, 9
U, V, F, D, L, R = range(ROWS)
X, B, G, P, Q, T0 = range(6)
C = 8
CENTRE = np.uint64(13)
_THREE, _NINE, CHUNK = np.uint64(3), np.uint64(9), np.uint64(512)
FIELD_TYPE, TABLE_TYPE, WRAP_TYPE, DENSE_TYPE, ROWS_TYPE = "f8[:,::1]", "u8[:,::1]", "b1[::1]", "f8[:,::1]", "u8[::1]"
LEVELS_TYPE = f"Tuple(({TABLE_TYPE}, {WRAP_TYPE}, {ROWS_TYPE}, {ROWS_TYPE}))"
WORK_TYPE = f"Tuple(({FIELD_TYPE}, {FIELD_TYPE}, {DENSE_TYPE}, {DENSE_TYPE}))"


@njit(f"UniTuple(u8, 3)({TABLE_TYPE}, i8)", **INNER)
def strides(table, level):
    """Return the distance in memory between neighbours along each axis."""
    last = table[level, 2] + TWO
    return (table[level, 1] + TWO) * last, last, ONE


@njit(f"u8({TABLE_TYPE}, i8)", **INNER)
def size_of(table, level):
    """Return the number of points of a level, ghosts included."""
    return table[level, 6] * (table[level, 1] + TWO) * (table[level, 2] + TWO)


@njit(f"UniTuple(u8, 2)({TABLE_TYPE}, i8)", **INNER)
def span(table, level):
    """Return where a level's points begin and end in memory, but for ghosts before the first and after the last."""
    s = strides(table, level)
    margin = (s[0] if table[level, 6] > ONE else ZERO) + s[1] + ONE
    return table[level, 3] + margin, table[level, 3] + size_of(table, level) - margin


@njit(f"u8({TABLE_TYPE}, i8, u8)", **INNER)
def distance(table, level, row):
    """Return the distance in memory to the neighbour of a row of ``coefs``, modulo 2^64."""
    s = strides(table, level)
    return (row // _NINE) * s[0] + (row // _THREE % _THREE) * s[1] + row % _THREE - s[0] - s[1] - ONE


@njit(f"void(f8[::1], u8, {TABLE_TYPE}, i8, {WRAP_TYPE})", **INNER)
def close(u, at, table, level, wrap):
    """Copy the far ends of periodic axes to the ghosts of a level's array, which begins at ``at``."""
    s, size = strides(table, level), size_of(table, level)
    for axis in range(3):
        if wrap[axis]:
            n = table[level, axis]
            for outer in range(ZERO, size, (n + TWO) * s[axis]):
                for k in range(at + outer, at + outer + s[axis]):
                    u[k] = u[k + n * s[axis]]
                    u[k + (n + ONE) * s[axis]] = u[k + s[axis]]


# --- the levels


@njit(f"void({FIELD_TYPE}, {FIELD_TYPE}, {TABLE_TYPE}, i8, {ROWS_TYPE})", **INNER)
def set_diagonal(coefs, vectors, table, level, rows):
    """Set ``D``: half the sum of magnitudes where that is more than the diagonal, so that 2 bounds the spectrum."""
    s, n1, n2, at = strides(table, level), table[level, 1], table[level, 2], table[level, 3]
    lift = ONE if table[level, 6] > ONE else ZERO
    for i in range(table[level, 0]):
        for j in range(ONE, n1 + ONE):
            first = at + (i + lift) * s[0] + j * s[1] + ONE
            for k in range(first, first + n2):
                vectors[D, k] = coefs[CENTRE, k]
            for row in rows:
                for k in range(first, first + n2):
                    vectors[D, k] += abs(coefs[row, k])
            for k in range(first, first + n2):
                vectors[D, k] = 1.0 / max(coefs[CENTRE, k], 0.5 * vectors[D, k])


@njit(f"void({FIELD_TYPE}, {FIELD_TYPE}, {TABLE_TYPE}, i8)", **INNER)
def set_weights(coefs, vectors, table, level):
    """Set ``L`` and ``R``: what a point takes from its neighbours along the axis, rows summed over the other axes."""
    first, last = span(table, level)
    unit = np.uint64(9 if table[level, 4] == ZERO else 3 if table[level, 4] == ONE else 1)
    begin = ZERO if table[level, 6] > ONE else _NINE
    for start in range(first, last, CHUNK):
        end = min(last, start + CHUNK)
        for k in range(start, end):
            vectors[L, k], vectors[R, k], vectors[V, k] = 0.0, 0.0, 0.0
        for row in range(begin, np.uint64(27) - begin):
            side = row // unit % _THREE
            target = L if side == ZERO else V if side == ONE else R
            for k in range(start, end):
                vectors[target, k] += coefs[row, k]
        for k in range(start, end):
            here = vectors[V, k]
            scale = -1.0 / here if here > 0.0 else 0.0
            least = 0.5 if here < 0.0 else 0.0  # rounding: such a row says nothing of this axis
            vectors[L, k] = min(1.0, max(least, scale * vectors[L, k])) if vectors[L, k] != 0.0 else 0.0
            vectors[R, k] = min(1.0, max(least, scale * vectors[R, k])) if vectors[R, k] != 0.0 else 0.0


@njit(f"void({FIELD_TYPE}, {FIELD_TYPE}, UniTuple(u8, 3), UniTuple(u8, 5), u8, u8)", **INNER)
def galerkin_line(coefs, vectors, rows, places, step, count):
    """Set three coefficients of ``count`` coarse points in a row of memory, those to one side across the axis."""
    fine, coarse, stride, across, _ = places
    low, mid, high = rows
    for m in range(count):
        here = fine + step * m
        left, right, target = here - stride, here + stride, coarse + m
        wl, wr = vectors[R, left], vectors[L, right]  # of the rows on both sides, to this point
        ll, lr = vectors[L, left + across], vectors[R, left + across]  # of the columns, to the left and to this point
        rl, rr = vectors[L, right + across], vectors[R, right + across]
        coefs[low, target] = coefs[low, here] * ll + wl * (coefs[low, left] + coefs[mid, left] * ll)
        coefs[high, target] = coefs[high, here] * rr + wr * (coefs[high, right] + coefs[mid, right] * rr)
        coefs[mid, target] = (
            coefs[mid, here]
            + (coefs[low, here] * lr + coefs[high, here] * rl)
            + wr * (coefs[low, right] + coefs[mid, right] * rl)
            + wl * (coefs[high, left] + coefs[mid, left] * lr)
        )


@njit(f"void({FIELD_TYPE}, {FIELD_TYPE}, {TABLE_TYPE}, i8)", **INNER)
def galerkin(coefs, vectors, table, level):
    """Set the matrix ``P' A P`` of the next level."""
    axis = np.int64(table[level, 4])
    solid, s = table[level, 6] > ONE, strides(table, level)
    stride = s[axis]
    unit = np.uint64(9 if axis == 0 else 3 if axis == 1 else 1)
    n, nc, at, below = table[level, axis], table[level + 1, axis], table[level, 3], table[level + 1, 3]
    size = size_of(table, level)
    for mid in range(ZERO if solid else _NINE, np.uint64(27) if solid else np.uint64(18)):
        if mid // unit % _THREE == ONE:
            rows, across = (mid - unit, mid, mid + unit), distance(table, level, mid)
            for line in range(size // ((n + TWO) * stride)):
                fine, coarse = at + line * (n + TWO) * stride, below + line * (nc + TWO) * stride
                if axis == 2:
                    galerkin_line(coefs, vectors, rows, (fine + ONE, coarse + ONE, ONE, across, ZERO), TWO, nc)
                else:
                    for i in range(ONE, nc + ONE):
                        places = (fine + (TWO * i - ONE) * stride, coarse + i * stride, stride, across, ZERO)
                        galerkin_line(coefs, vectors, rows, places, ONE, stride)


@njit(f"void({WORK_TYPE}, {LEVELS_TYPE}, UniTuple(f8[:,:,::1], 4), f8)", **INNER)
def fill(work, levels, matrix, scale):
    """Fill the finest matrix from its faces times ``scale``, in both precisions."""
    coefs, _, double, _ = work
    table, wrap, _, _ = levels
    s, at = strides(table, 0), table[0, 3]
    lift = ONE if table[0, 6] > ONE else ZERO
    n0, n1, n2 = table[0, 0], table[0, 1], table[0, 2]
    for axis in range(3):
        faces = matrix[axis]
        for i in range(np.uint64(faces.shape[0])):
            for j in range(np.uint64(faces.shape[1])):
                first = (i + lift) * s[0] + (j + ONE) * s[1] + ONE
                for k in range(np.uint64(faces.shape[2])):
                    double[T0 + axis, first + k] = scale * faces[i, j, k]
    reaction = matrix[3]
    for i in range(n0):
        for j in range(n1):
            first = (i + lift) * s[0] + (j + ONE) * s[1] + ONE
            for k in range(n2):
                m = first + k
                double[C, m] = scale * reaction[i, j, k] if reaction.shape[0] > 0 else 0.0
                centre = double[C, m]
                for axis in range(0 if lift == ONE else 1, 3):
                    unit = np.uint64(9 if axis == 0 else 3 if axis == 1 else 1)
                    place = i if axis == 0 else j if axis == 1 else k
                    one, two = double[T0 + axis, m], double[T0 + axis, m + s[axis]]
                    centre += one + two
                    alone = not wrap[axis]
                    coefs[CENTRE - unit, at + m] = 0.0 if alone and place == ZERO else -one
                    coefs[CENTRE + unit, at + m] = 0.0 if alone and place + ONE == table[0, axis] else -two
                coefs[CENTRE, at + m] = centre


@njit(f"void({FIELD_TYPE}, {TABLE_TYPE}, {ROWS_TYPE}, {DENSE_TYPE})", **INNER)
def coarsest_matrix(coefs, table, rows, matrix):
    """Set ``matrix`` to the coarsest level's, points in row-major order."""
    last = table.shape[0] - 1
    s, n0, n1, n2, at = strides(table, last), table[last, 0], table[last, 1], table[last, 2], table[last, 3]
    lift = ONE if table[last, 6] > ONE else ZERO
    for k in range(matrix.shape[0]):
        for m in range(matrix.shape[0]):
            matrix[k, m] = 0.0
    here = 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                m = at + (i + lift) * s[0] + (j + ONE) * s[1] + k + ONE
                matrix[here, here] += coefs[CENTRE, m]
                for row in rows:
                    if coefs[row, m] != 0.0:
                        a = (i + n0 + row // _NINE - ONE) % n0
                        b = (j + n1 + row // _THREE % _THREE - ONE) % n1
                        c = (k + n2 + row % _THREE - ONE) % n2
                        matrix[here, np.int64((a * n1 + b) * n2 + c)] += coefs[row, m]
                here += 1


@njit(f"void({WORK_TYPE}, {LEVELS_TYPE}, UniTuple(f8[:,:,::1], 4), f8, b1)", **OPTIONS)
def build(work, levels, matrix, scale, singular):
    """Fill all levels from the finest faces times ``scale``, and the coarsest matrix's inverse."""
    coefs, vectors, _, inverse = work
    table, wrap, rows, star = levels
    fill(work, levels, matrix, scale)
    last = table.shape[0] - 1
    for level in range(last + 1):
        neighbours = star if level == 0 else rows
        set_diagonal(coefs, vectors, table, level, neighbours)
        for row in neighbours:
            close(coefs[row], table[level, 3], table, level, wrap)
        close(coefs[CENTRE], table[level, 3], table, level, wrap)
        if level < last:
            set_weights(coefs, vectors, table, level)
            close(vectors[L], table[level, 3], table, level, wrap)
            close(vectors[R], table[level, 3], table, level, wrap)
            galerkin(coefs, vectors, table, level)
    coarsest_matrix(coefs, table, rows, inverse)
    invert(inverse, singular)
