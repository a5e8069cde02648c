"""The levels of the compiled 3-D multigrid, each built from the next finer one; see ``_kernels3``.

Import this module only where it is used: it loads Numba.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from vcycle.solvers._vectors import INNER, ONCE, ONE, TWO, clear, copy_line, factor_for, in_series, largest_of

ROWS = 10
U, V, F, TX, TY, TZ, A, D, P, Q = (np.uint64(row) for row in range(ROWS))
W_TYPE, TABLE_TYPE, SIGNS_TYPE, WRAP_TYPE = "f4[::1]", "u8[:,::1]", "f4[::1]", "b1[::1]"
DENSE_TYPE, CUBE_TYPE = "f8[:,::1]", "f8[:,:,::1]"
WORK_TYPE = f"Tuple(({W_TYPE}, f8[::1], {W_TYPE}, {DENSE_TYPE}))"
LEVELS_TYPE = f"Tuple(({TABLE_TYPE}, {SIGNS_TYPE}, {WRAP_TYPE}))"
ANSWERS_TYPE = "Tuple((f8[:,:,:,::1], f8[:,:,:,::1], i8[::1]))"
FACES_TYPE = "UniTuple(f8[:,:,:,::1], 4)"


@njit(f"void({W_TYPE}, u8, u8, u8, u8, u8, {SIGNS_TYPE}, {WRAP_TYPE})", **INNER)
def set_sides(w, u, ny, nz, lo, hi, signs, wrap):
    """Fill the ghosts around planes ``lo`` to ``hi - 1``: wrapped, or the edge times the face's sign (0 for zero)."""
    width = nz + TWO
    for i in range(lo, hi):
        plane = u + i * (ny + TWO) * width
        for j in range(ONE, ny + ONE):
            first = plane + j * width
            last = first + nz + ONE
            if wrap[2]:
                w[first], w[last] = w[last - ONE], w[first + ONE]
            else:
                w[first], w[last] = signs[4] * w[first + ONE], signs[5] * w[last - ONE]
        end = plane + (ny + ONE) * width
        copy_line(w, end - width if wrap[1] else plane + width, plane, width, np.float32(1.0) if wrap[1] else signs[2])
        copy_line(w, plane + width if wrap[1] else end - width, end, width, np.float32(1.0) if wrap[1] else signs[3])


@njit(f"void({W_TYPE}, u8, u8, u8, u8, {SIGNS_TYPE}, {WRAP_TYPE})", **INNER)
def set_ghosts(w, u, nx, ny, nz, signs, wrap):
    """Fill the ghost layer of the array at ``u``."""
    stride = (ny + TWO) * (nz + TWO)
    set_sides(w, u, ny, nz, ONE, nx + ONE, signs, wrap)
    end = u + (nx + ONE) * stride
    copy_line(w, end - stride if wrap[0] else u + stride, u, stride, np.float32(1.0) if wrap[0] else signs[0])
    copy_line(w, u + stride if wrap[0] else end - stride, end, stride, np.float32(1.0) if wrap[0] else signs[1])


@njit(f"void({W_TYPE}, u8, u8, UniTuple(u8, 2), UniTuple(u8, 3), UniTuple(u8, 3), u8, b1, {W_TYPE})", **INNER)
def coarsen_across(w, fine, coarse, sizes, steps, coarse_steps, nz, wrap, line):
    """Fill the faces across an axis that is not the last: in series along it, two by two lines added.

    ``sizes`` are the coarse numbers of cells along that axis and the other one, ``steps`` the strides of the two on the
    fine and on the coarse level.
    """
    half, last = np.float32(0.5), TWO * sizes[0]
    for i in range(ONE, sizes[0] + TWO):
        low, high = half, half
        below, above = TWO * i - TWO, TWO * i
        if i == ONE:
            below, low = (last, half) if wrap else (above, np.float32(0.0))
        if i == sizes[0] + ONE:
            above, high = (TWO, half) if wrap else (below, np.float32(0.0))
        for j in range(ONE, sizes[1] + ONE):
            side = fine + (TWO * j - ONE) * steps[1]
            under, face, over = side + below * steps[0], side + (TWO * i - ONE) * steps[0], side + above * steps[0]
            for k in range(nz + nz + TWO):
                line[k] = in_series(w[under + k], w[face + k], w[over + k], low, high)
            under, face, over = under + steps[1], face + steps[1], over + steps[1]
            for k in range(nz + nz + TWO):
                line[k] += in_series(w[under + k], w[face + k], w[over + k], low, high)
            target = coarse + i * coarse_steps[0] + j * coarse_steps[1] + ONE
            for k in range(nz):
                w[target + k] = line[k + k + ONE] + line[k + k + TWO]


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, {WRAP_TYPE})", **INNER)
def coarsen_z(w, table, level, wrap):
    """Fill ``TZ`` from the next finer level."""
    total, half, none = np.uint64(w.size // ROWS), np.float32(0.5), np.float32(0.0)
    nx, ny, nz, at = table[level]
    width = table[level - 1, 2] + TWO
    stride, last = (table[level - 1, 1] + TWO) * width, TWO * nz
    outer, inner, share = (last, TWO, half) if wrap[2] else (TWO, last, none)
    for i in range(ONE, nx + ONE):
        for j in range(ONE, ny + ONE):
            first = TZ * total + table[level - 1, 3] + (TWO * i - ONE) * stride + (TWO * j - ONE) * width
            target = TZ * total + at + (i * (ny + TWO) + j) * (nz + TWO) + ONE
            for k in range(nz + ONE):
                w[target + k] = none
            for side in range(np.uint64(4)):
                one = first + side // TWO * stride + side % TWO * width
                for k in range(ONE, nz):
                    m = one + k + k
                    w[target + k] += in_series(w[m], w[m + ONE], w[m + TWO], half, half)
                w[target] += in_series(w[one + outer], w[one + ONE], w[one + TWO], share, half)
                w[target + nz] += in_series(w[one + last], w[one + last + ONE], w[one + inner], half, share)


@njit(**ONCE)
def coarsen_reaction(w, table, level):
    """Fill ``F``, which holds the reaction while levels are built, from the next finer level."""
    total, width = np.uint64(w.size // ROWS), table[level - 1, 2] + TWO
    stride = (table[level - 1, 1] + TWO) * width
    nx, ny, nz, at = table[level]
    for i in range(ONE, nx + ONE):
        for j in range(ONE, ny + ONE):
            fine = F * total + table[level - 1, 3] + (TWO * i - ONE) * stride + (TWO * j - ONE) * width + ONE
            coarse = F * total + at + (i * (ny + TWO) + j) * (nz + TWO) + ONE
            for k in range(nz):
                value = np.float32(0.0)
                for side in range(np.uint64(4)):
                    m = fine + side // TWO * stride + side % TWO * width + k + k
                    value += w[m] + w[m + ONE]
                w[coarse + k] = value


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8)", **INNER)
def set_diagonal(w, table, level):
    """Set ``A`` and ``D`` from the faces and the reaction in ``F``; ghosts of ``D`` stay zero."""
    total, width = np.uint64(w.size // ROWS), table[level, 2] + TWO
    stride = (table[level, 1] + TWO) * width
    for i in range(ONE, table[level, 0] + ONE):
        for j in range(ONE, table[level, 1] + ONE):
            at = table[level, 3] + i * stride + j * width + ONE
            tx, ty, tz, a, c = TX * total + at, TY * total + at, TZ * total + at, A * total + at, F * total + at
            for k in range(table[level, 2]):
                w[a + k] = (w[tx + k] + w[tx + stride + k] + w[ty + k] + w[ty + width + k]) + (
                    w[tz + k] + w[tz + ONE + k] + w[c + k]
                )
            for k in range(table[level, 2]):
                w[D * total + at + k] = np.float32(1.0) / w[a + k]


@njit(f"void({CUBE_TYPE}, {W_TYPE}, u8, u8, u8, f8)", **INNER)
def copy_inside(values, w, first, stride, width, scale):
    """Write ``scale * values`` to ``w`` from ``first`` on, behind the ghosts."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            at = first + np.uint64(i + 1) * stride + np.uint64(j + 1) * width + ONE
            for k in range(np.uint64(values.shape[2])):
                w[at + k] = scale * values[i, j, k]


@njit(**ONCE)
def build(w, table, matrix, wrap, line):
    """Fill all levels from the finest faces times a factor, which is returned."""
    faces_x, faces_y, faces_z, reaction = matrix
    total, width = np.uint64(w.size // ROWS), table[0, 2] + TWO
    stride, middle = (table[0, 1] + TWO) * width, faces_z.shape[0] // 2
    largest = max(largest_of(faces_x[middle]), largest_of(faces_y[middle]), largest_of(faces_z[middle]))
    scale = factor_for(largest)
    copy_inside(faces_x, w, TX * total, stride, width, scale)
    copy_inside(faces_y, w, TY * total, stride, width, scale)
    copy_inside(faces_z, w, TZ * total, stride, width, scale)
    clear(w, F * total, total)
    if reaction.shape[0] > 0:
        copy_inside(reaction, w, F * total, stride, width, scale)
    set_diagonal(w, table, 0)
    for level in range(1, table.shape[0]):
        nx, ny, nz, at = table[level]
        fine, wide = table[level - 1, 3], table[level - 1, 2] + TWO
        deep = (table[level - 1, 1] + TWO) * wide
        slab = (ny + TWO) * (nz + TWO)
        steps, swapped = (deep, wide, slab), (wide, deep, nz + TWO)
        coarsen_across(w, TX * total + fine, TX * total + at, (nx, ny), steps, (slab, nz + TWO, ONE), nz, wrap[0], line)
        coarsen_across(
            w, TY * total + fine, TY * total + at, (ny, nx), swapped, (nz + TWO, slab, ONE), nz, wrap[1], line
        )
        coarsen_z(w, table, level, wrap)
        if reaction.shape[0] > 0:
            coarsen_reaction(w, table, level)
        set_diagonal(w, table, level)
    clear(w, F * total, total)
    return scale


@njit(f"void({DENSE_TYPE}, i8, i8, f8)", **INNER)
def couple(matrix, here, there, transmissibility):
    """Subtract a transmissibility from the two entries of a pair of cells."""
    matrix[here, there] -= transmissibility
    matrix[there, here] -= transmissibility


@njit(**ONCE)
def coarsest_matrix(w, table, wrap, matrix):
    """Set ``matrix`` to the coarsest level's, cells in row-major order."""
    total, last = np.uint64(w.size // ROWS), table.shape[0] - 1
    nx, ny, nz = np.int64(table[last, 0]), np.int64(table[last, 1]), np.int64(table[last, 2])
    for k in range(matrix.shape[0]):
        for m in range(matrix.shape[0]):
            matrix[k, m] = 0.0
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                here = (i * ny + j) * nz + k
                at = table[last, 3] + np.uint64(((i + 1) * (ny + 2) + j + 1) * (nz + 2) + k + 1)
                matrix[here, here] += w[A * total + at]
                if i > 0 or wrap[0]:
                    couple(matrix, here, ((i - 1) % nx * ny + j) * nz + k, w[TX * total + at])
                if j > 0 or wrap[1]:
                    couple(matrix, here, (i * ny + (j - 1) % ny) * nz + k, w[TY * total + at])
                if k > 0 or wrap[2]:
                    couple(matrix, here, (i * ny + j) * nz + (k - 1) % nz, w[TZ * total + at])
