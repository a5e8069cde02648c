"""The levels of the compiled 2-D multigrid, each built from the next finer one; see :mod:`vcycle.solvers._kernels`.

Import this module only where it is used: it loads Numba.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from vcycle.solvers._vectors import INNER, ONCE, ONE, TWO, clear, factor_for, in_series, largest_of

ROWS = 9
U, V, F, TX, TY, A, D, P, Q = (np.uint64(row) for row in range(ROWS))
W_TYPE, TABLE_TYPE, SIGNS_TYPE, WRAP_TYPE, DENSE_TYPE = "f4[::1]", "u8[:,::1]", "f4[::1]", "b1[::1]", "f8[:,::1]"
SYSTEM_TYPE = f"UniTuple({DENSE_TYPE}, 3)"
WORK_TYPE = f"Tuple(({W_TYPE}, f8[::1], {W_TYPE}, {DENSE_TYPE}))"
LEVELS_TYPE = f"Tuple(({TABLE_TYPE}, {SIGNS_TYPE}, {WRAP_TYPE}))"
FACES_TYPE = "UniTuple(f8[:,:,::1], 3)"
ANSWERS_TYPE = "Tuple((f8[:,:,::1], f8[:,:,::1], i8[::1]))"


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, {WRAP_TYPE}, {W_TYPE})", **INNER)
def coarsen_x(w, table, level, wrap, line):
    """Fill ``TX`` from the next finer level: in series along x, two lines added across."""
    total, half = np.uint64(w.size // ROWS), np.float32(0.5)
    nx, ny, at = table[level]
    stride = table[level - 1, 1] + TWO
    fine, coarse = TX * total + table[level - 1, 2], TX * total + at
    last = TWO * nx
    for i in range(ONE, nx + TWO):
        low, high = half, half
        below, above = TWO * i - TWO, TWO * i
        if i == ONE:
            below, low = (last, half) if wrap[0] else (above, np.float32(0.0))
        if i == nx + ONE:
            above, high = (TWO, half) if wrap[0] else (below, np.float32(0.0))
        under, face, over = fine + below * stride, fine + (TWO * i - ONE) * stride, fine + above * stride
        for j in range(stride):
            line[j] = in_series(w[under + j], w[face + j], w[over + j], low, high)
        target = coarse + i * (ny + TWO) + ONE
        for j in range(ny):
            w[target + j] = line[j + j + ONE] + line[j + j + TWO]


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, {WRAP_TYPE})", **INNER)
def coarsen_y(w, table, level, wrap):
    """Fill ``TY`` from the next finer level."""
    total, half, none = np.uint64(w.size // ROWS), np.float32(0.5), np.float32(0.0)
    nx, ny, at = table[level]
    stride, width = table[level - 1, 1] + TWO, ny + TWO
    fine, coarse = TY * total + table[level - 1, 2], TY * total + at
    last = TWO * ny
    for i in range(ONE, nx + ONE):
        one = fine + (TWO * i - ONE) * stride
        two, target = one + stride, coarse + i * width + ONE
        for j in range(ONE, ny):
            k = j + j
            w[target + j] = in_series(w[one + k], w[one + k + ONE], w[one + k + TWO], half, half) + in_series(
                w[two + k], w[two + k + ONE], w[two + k + TWO], half, half
            )
        outer = last if wrap[1] else TWO
        inner = TWO if wrap[1] else last
        share = half if wrap[1] else none
        w[target] = in_series(w[one + outer], w[one + ONE], w[one + TWO], share, half) + in_series(
            w[two + outer], w[two + ONE], w[two + TWO], share, half
        )
        w[target + ny] = in_series(w[one + last], w[one + last + ONE], w[one + inner], half, share) + in_series(
            w[two + last], w[two + last + ONE], w[two + inner], half, share
        )


@njit(**ONCE)
def coarsen_reaction(w, table, level):
    """Fill ``F``, which holds the reaction while levels are built, from the next finer level."""
    total, stride = np.uint64(w.size // ROWS), table[level - 1, 1] + TWO
    nx, ny, at = table[level]
    for i in range(ONE, nx + ONE):
        fine = F * total + table[level - 1, 2] + (TWO * i - ONE) * stride + ONE
        coarse = F * total + at + i * (ny + TWO) + ONE
        for j in range(ny):
            k = fine + j + j
            w[coarse + j] = (w[k] + w[k + ONE]) + (w[k + stride] + w[k + stride + ONE])


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8)", **INNER)
def set_diagonal(w, table, level):
    """Set ``A`` and ``D`` from the faces and the reaction in ``F``; ghosts of ``D`` stay zero."""
    total, stride = np.uint64(w.size // ROWS), table[level, 1] + TWO
    for i in range(ONE, table[level, 0] + ONE):
        at = table[level, 2] + i * stride + ONE
        tx, ty, a, d, c = TX * total + at, TY * total + at, A * total + at, D * total + at, F * total + at
        for j in range(table[level, 1]):
            w[a + j] = w[tx + j] + w[tx + stride + j] + w[ty + j] + w[ty + j + ONE] + w[c + j]
        for j in range(table[level, 1]):
            w[d + j] = np.float32(1.0) / w[a + j]


@njit(f"void(f8[:,::1], {W_TYPE}, u8, u8, f8)", **INNER)
def copy_inside(values, w, first, stride, scale):
    """Write ``scale * values`` to ``w`` from ``first`` on, behind the ghosts."""
    for i in range(values.shape[0]):
        at = first + np.uint64(i + 1) * stride + ONE
        for j in range(np.uint64(values.shape[1])):
            w[at + j] = scale * values[i, j]


@njit(**ONCE)
def build(w, table, matrix, wrap, line):
    """Fill all levels from the finest faces times a factor, which is returned."""
    faces_x, faces_y, reaction = matrix
    total, stride, scale = (
        np.uint64(w.size // ROWS),
        table[0, 1] + TWO,
        factor_for(max(largest_of(faces_x), largest_of(faces_y))),
    )
    copy_inside(faces_x, w, TX * total, stride, scale)
    copy_inside(faces_y, w, TY * total, stride, scale)
    clear(w, F * total, total)
    if reaction.shape[0] > 0:
        copy_inside(reaction, w, F * total, stride, scale)
    set_diagonal(w, table, 0)
    for level in range(1, table.shape[0]):
        coarsen_x(w, table, level, wrap, line)
        coarsen_y(w, table, level, wrap)
        if reaction.shape[0] > 0:
            coarsen_reaction(w, table, level)
        set_diagonal(w, table, level)
    clear(w, F * total, total)
    return scale


@njit(**ONCE)
def coarsest_matrix(w, table, wrap, matrix):
    """Set ``matrix`` to the coarsest level's, cells in row-major order."""
    total, last = np.uint64(w.size // ROWS), table.shape[0] - 1
    nx, ny = np.int64(table[last, 0]), np.int64(table[last, 1])
    for k in range(nx * ny):
        for m in range(nx * ny):
            matrix[k, m] = 0.0
    for i in range(nx):
        for j in range(ny):
            here, at = i * ny + j, table[last, 2] + np.uint64((i + 1) * (ny + 2) + j + 1)
            matrix[here, here] += w[A * total + at]
            if i > 0 or wrap[0]:
                below = (i - 1) % nx * ny + j
                matrix[here, below] -= w[TX * total + at]
                matrix[below, here] -= w[TX * total + at]
            if j > 0 or wrap[1]:
                left = i * ny + (j - 1) % ny
                matrix[here, left] -= w[TY * total + at]
                matrix[left, here] -= w[TY * total + at]
