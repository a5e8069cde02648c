"""Compiled 3-D multigrid: the kernels of ``_kernels`` with one more axis; see there for the words and the layout.

Import this module only where it is used: it loads Numba, and the first import on a machine compiles for some seconds.

``table`` has one line ``nx, ny, nz, offset`` per level, and stages follow each other plane by plane. ``line`` has room
for a plane and a line.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

from vcycle.solvers._levels3 import (
    ANSWERS_TYPE,
    CUBE_TYPE,
    FACES_TYPE,
    LEVELS_TYPE,
    ROWS,
    SIGNS_TYPE,
    TABLE_TYPE,
    TX,
    TY,
    TZ,
    W_TYPE,
    WORK_TYPE,
    WRAP_TYPE,
    A,
    D,
    F,
    P,
    Q,
    U,
    V,
    build,
    coarsest_matrix,
    copy_inside,
    set_ghosts,
    set_sides,
)
from vcycle.solvers._vectors import (
    BLOCK,
    FIRST,
    INNER,
    ONCE,
    ONE,
    OPTIONS,
    REPLACE,
    SECOND,
    THIRD,
    TWO,
    ZERO,
    advance,
    behind,
    clear,
    copy_line,
    dot,
    invert,
    jumps,
    norm_of,
    start,
    subtract,
    take_line,
    turn,
)


@njit(f"void({W_TYPE}, u8, u8, u8, u8, u8, u8, u8, f4)", **INNER)
def jacobi(w, at, stride, width, lo, hi, old, new, weight):
    """Set ``new = old + weight * D (F - A old)`` on planes ``lo`` to ``hi - 1``."""
    total, at, count = np.uint64(w.size // ROWS), at + lo * stride, (hi - lo) * stride
    f, tx, ty, tz, d = F * total + at, TX * total + at, TY * total + at, TZ * total + at, D * total + at
    u, v = old * total + at, new * total + at
    keep, below, above, behind_x = np.float32(1.0) - weight, u - stride, u + stride, tx + stride
    before, after, behind_y = u - width, u + width, ty + width
    left, right, behind_z = u - ONE, u + ONE, tz + ONE
    for k in range(count):
        inflow = (w[tx + k] * w[below + k] + w[behind_x + k] * w[above + k]) + (
            w[ty + k] * w[before + k] + w[behind_y + k] * w[after + k]
        )
        inflow += w[tz + k] * w[left + k] + w[behind_z + k] * w[right + k]
        w[v + k] = keep * w[u + k] + weight * w[d + k] * (w[f + k] + inflow)


@njit(f"void({W_TYPE}, u8, u8, u8, u8, u8, u8, u8)", **INNER)
def residual(w, at, stride, width, lo, hi, old, new):
    """Set ``new = F - A old`` on planes ``lo`` to ``hi - 1``."""
    total, at, count = np.uint64(w.size // ROWS), at + lo * stride, (hi - lo) * stride
    f, tx, ty, tz, a = F * total + at, TX * total + at, TY * total + at, TZ * total + at, A * total + at
    u, r = old * total + at, new * total + at
    below, above, behind_x = u - stride, u + stride, tx + stride
    before, after, behind_y = u - width, u + width, ty + width
    left, right, behind_z = u - ONE, u + ONE, tz + ONE
    for k in range(count):
        inflow = (w[tx + k] * w[below + k] + w[behind_x + k] * w[above + k]) + (
            w[ty + k] * w[before + k] + w[behind_y + k] * w[after + k]
        )
        inflow += w[tz + k] * w[left + k] + w[behind_z + k] * w[right + k]
        w[r + k] = w[f + k] + inflow - w[a + k] * w[u + k]


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, u8, u8, {W_TYPE})", **INNER)
def restrict(w, table, level, lo, hi, line):
    """Restrict ``U`` to the coarse planes ``lo`` to ``hi - 1`` of ``F``: the transpose of trilinear interpolation."""
    total, width = np.uint64(w.size // ROWS), table[level, 2] + TWO
    stride = (table[level, 1] + TWO) * width
    ny, nz = table[level + 1, 1], table[level + 1, 2]
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(lo, hi):
        r0 = U * total + table[level, 3] + (TWO * i - TWO) * stride
        r1, r2, r3 = r0 + stride, r0 + stride + stride, r0 + stride + stride + stride
        for j in range(stride):
            line[j] = far * (w[r0 + j] + w[r3 + j]) + near * (w[r1 + j] + w[r2 + j])
        for j in range(ONE, ny + ONE):
            l0 = (TWO * j - TWO) * width
            l1, l2, l3 = l0 + width, l0 + width + width, l0 + width + width + width
            for k in range(width):
                line[stride + k] = far * (line[l0 + k] + line[l3 + k]) + near * (line[l1 + k] + line[l2 + k])
            f = F * total + table[level + 1, 3] + (i * (ny + TWO) + j) * (nz + TWO) + ONE
            for k in range(nz):
                m = stride + k + k
                w[f + k] = far * (line[m] + line[m + ONE + TWO]) + near * (line[m + ONE] + line[m + TWO])


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, u8, u8, {W_TYPE})", **INNER)
def correct(w, table, level, lo, hi, line):
    """Add the trilinear interpolation of the coarse ``U`` to the planes ``lo`` to ``hi - 1`` of ``V``."""
    total, width = np.uint64(w.size // ROWS), table[level + 1, 2] + TWO
    stride = (table[level + 1, 1] + TWO) * width
    ny, nz, wide = table[level, 1], table[level + 1, 2], table[level, 2] + TWO
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(lo, hi):
        above = U * total + table[level + 1, 3] + (i + ONE) // TWO * stride
        beyond = above - stride if i % TWO == ONE else above + stride
        for j in range(stride):
            line[j] = near * w[above + j] + far * w[beyond + j]
        for j in range(ONE, ny + ONE):
            here = (j + ONE) // TWO * width
            there = here - width if j % TWO == ONE else here + width
            for k in range(width):
                line[stride + k] = near * line[here + k] + far * line[there + k]
            v = V * total + table[level, 3] + (i * (ny + TWO) + j) * wide + ONE
            for k in range(nz):
                m = v + k + k
                w[m] += near * line[stride + k + ONE] + far * line[stride + k]
                w[m + ONE] += near * line[stride + k + ONE] + far * line[stride + k + TWO]


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, {SIGNS_TYPE}, {WRAP_TYPE}, {W_TYPE})", **INNER)
def descend(w, table, level, signs, wrap, line):
    """Smooth twice more after the first step in ``V`` (back to ``V``), and start the next level from the residual."""
    nx, ny, nz, at = table[level]
    total, width, around = np.uint64(w.size // ROWS), nz + TWO, wrap[0] or wrap[1] or wrap[2]
    stride, none = (ny + TWO) * width, np.zeros(6, np.float32)
    u, v, pace = U * total + at, V * total + at, nx if around else max(ONE, BLOCK // stride)
    clear(w, u, stride)
    clear(w, u + (nx + ONE) * stride, stride)
    if around:
        set_ghosts(w, v, nx, ny, nz, none, wrap)
    first, second, third, fourth = ZERO, ZERO, ZERO, ZERO
    while third < nx:
        todo = min(nx, first + pace)
        jacobi(w, at, stride, width, first + ONE, todo + ONE, V, U, SECOND)
        first = todo
        if around:
            set_ghosts(w, u, nx, ny, nz, none, wrap)
        todo = behind(second, first, nx)
        jacobi(w, at, stride, width, second + ONE, todo + ONE, U, V, THIRD)
        second = todo
        if around:
            set_ghosts(w, v, nx, ny, nz, none, wrap)
        todo = behind(third, second, nx)
        residual(w, at, stride, width, third + ONE, todo + ONE, V, U)
        if around:
            set_ghosts(w, u, nx, ny, nz, signs, wrap)
        else:
            set_sides(w, u, ny, nz, third + ONE, todo + ONE, signs, wrap)
            if third == ZERO and todo > ZERO:
                copy_line(w, u + stride, u, stride, signs[0])
            if todo == nx:
                copy_line(w, u + nx * stride, u + (nx + ONE) * stride, stride, signs[1])
        third = todo
        todo = behind(fourth + fourth, third, nx) // TWO
        restrict(w, table, level, fourth + ONE, todo + ONE, line)
        fourth = todo
    below = table[level + 1, 3]
    size = (table[level + 1, 0] + TWO) * (table[level + 1, 1] + TWO) * (table[level + 1, 2] + TWO)
    start(w, F * total + below, D * total + below, V * total + below, size)


@njit(f"UniTuple(f8, 2)({W_TYPE}, {TABLE_TYPE}, i8, {SIGNS_TYPE}, {WRAP_TYPE}, {W_TYPE})", **INNER)
def ascend(w, table, level, signs, wrap, line):
    """Correct ``V`` and smooth it to ``U``; on the finest level return ``U' F`` and ``U' Q``."""
    nx, ny, nz, at = table[level]
    total, width, around = np.uint64(w.size // ROWS), nz + TWO, wrap[0] or wrap[1] or wrap[2]
    stride, none = (ny + TWO) * width, np.zeros(6, np.float32)
    u, v, pace = U * total + at, V * total + at, nx if around else max(ONE, BLOCK // stride)
    coarse = U * total + table[level + 1, 3]
    set_ghosts(w, coarse, table[level + 1, 0], table[level + 1, 1], table[level + 1, 2], signs, wrap)
    clear(w, u, stride)
    clear(w, u + (nx + ONE) * stride, stride)
    zero, first, second, third = ZERO, ZERO, ZERO, ZERO
    uf, uq = 0.0, 0.0
    while third < nx:
        todo = min(nx, zero + pace)
        correct(w, table, level, zero + ONE, todo + ONE, line)
        zero = todo
        if around:
            set_ghosts(w, v, nx, ny, nz, none, wrap)
        todo = behind(first, zero, nx)
        jacobi(w, at, stride, width, first + ONE, todo + ONE, V, U, FIRST)
        first = todo
        if around:
            set_ghosts(w, u, nx, ny, nz, none, wrap)
        todo = behind(second, first, nx)
        jacobi(w, at, stride, width, second + ONE, todo + ONE, U, V, SECOND)
        second = todo
        if around:
            set_ghosts(w, v, nx, ny, nz, none, wrap)
        todo = behind(third, second, nx)
        jacobi(w, at, stride, width, third + ONE, todo + ONE, V, U, THIRD)
        if level == 0:
            done, size = (third + ONE) * stride, (todo - third) * stride
            uf += dot(w, u + done, F * total + done, size)
            uq += dot(w, u + done, Q * total + done, size)
        third = todo
    return uf, uq


@njit(**ONCE)
def solve_coarsest(w, table, inverse):
    """Set ``U = inverse F`` on the coarsest level, cells in row-major order."""
    total, last = np.uint64(w.size // ROWS), table.shape[0] - 1
    nx, ny, nz, at = table[last]
    width, own = nz + TWO, ZERO
    stride = (ny + TWO) * width
    for i in range(ONE, nx + ONE):
        for j in range(ONE, ny + ONE):
            for k in range(ONE, nz + ONE):
                value, other = 0.0, ZERO
                for other_i in range(ONE, nx + ONE):
                    for m in range(ONE, ny + ONE):
                        first = F * total + at + other_i * stride + m * width + ONE
                        for n in range(first, first + nz):
                            value += inverse[own, other] * w[n]
                            other += ONE
                w[U * total + at + i * stride + j * width + k] = value
                own += ONE


@njit(**ONCE)
def vcycle(w, table, inverse, signs, wrap, line):
    """Set ``U`` of the finest level to ``B F``, given the first Jacobi step in ``V``; return ``U' F`` and ``U' Q``."""
    last, products = table.shape[0] - 1, (0.0, 0.0)
    for level in range(last):
        descend(w, table, level, signs, wrap, line)
    solve_coarsest(w, table, inverse)
    for level in range(last - 1, -1, -1):
        products = ascend(w, table, level, signs, wrap, line)
    if last == 0:
        total = np.uint64(w.size // ROWS)
        products = dot(w, U * total, F * total, total), dot(w, U * total, Q * total, total)
    return products


# --- conjugate gradients


@njit(f"void({W_TYPE}, u8, u8, u8, u8)", **INNER)
def apply(w, stride, width, lo, hi):
    """Set ``Q = A P`` on planes ``lo`` to ``hi - 1`` but for the reaction, from differences: they round less."""
    total, at, count = np.uint64(w.size // ROWS), lo * stride, (hi - lo) * stride
    tx, ty, tz, p, q = TX * total + at, TY * total + at, TZ * total + at, P * total + at, Q * total + at
    below, above, behind_x = p - stride, p + stride, tx + stride
    before, after, behind_y = p - width, p + width, ty + width
    left, right, behind_z = p - ONE, p + ONE, tz + ONE
    for k in range(count):
        here = w[p + k]
        outflow = (w[tx + k] * (here - w[below + k]) + w[behind_x + k] * (here - w[above + k])) + (
            w[ty + k] * (here - w[before + k]) + w[behind_y + k] * (here - w[after + k])
        )
        w[q + k] = outflow + (w[tz + k] * (here - w[left + k]) + w[behind_z + k] * (here - w[right + k]))


@njit(**ONCE)
def next_product(w, table, beta, reaction, scale, wrap):
    """Set ``P = U + beta P`` and ``Q = A P``; return ``P' A P`` and ``P' F``."""
    nx, ny, nz = table[0, 0], table[0, 1], table[0, 2]
    width, none, plain = nz + TWO, np.zeros(6, np.float32), np.zeros(3, np.bool_)
    stride, around, energy = (ny + TWO) * width, wrap[0] or wrap[1] or wrap[2], 0.0
    total = np.uint64(w.size // ROWS)
    z, p, q, pace = U * total, P * total, Q * total, nx if around else max(ONE, BLOCK // stride)
    first, second, pf = ZERO, ZERO, 0.0
    while second < nx:
        todo = min(nx, first + pace)
        done, size = (first + ONE) * stride, (todo - first) * stride
        turn(w, z + done, p + done, size, beta)
        first = todo
        if around:
            set_ghosts(w, p, nx, ny, nz, none, wrap)
        todo = behind(second, first, nx)
        apply(w, stride, width, second + ONE, todo + ONE)
        if reaction.shape[0] > 0:
            for i in range(second, todo):
                for j in range(ny):
                    at = (i + ONE) * stride + (j + ONE) * width + ONE
                    for k in range(nz):
                        w[q + at + k] += scale * reaction[i, j, k] * w[p + at + k]
        set_sides(w, q, ny, nz, second + ONE, todo + ONE, none, plain)
        done, size = (second + ONE) * stride, (todo - second) * stride
        energy += dot(w, p + done, q + done, size)
        pf += dot(w, p + done, F * total + done, size)
        second = todo
    return energy, pf


@njit(f"f8({W_TYPE}, f8[::1], {CUBE_TYPE}, UniTuple({CUBE_TYPE}, 4), f8, f8)", **INNER)
def true_residual(w, x, b, matrix, scale_b, scale):
    """Set ``F`` to ``scale_b * b - scale * A x``, computed in double, and return its norm; ``x`` has wrapped ghosts."""
    faces_x, faces_y, faces_z, reaction = matrix
    nx, ny, nz = b.shape
    total, width, result = np.uint64(w.size // ROWS), np.uint64(nz + 2), 0.0
    stride = np.uint64(ny + 2) * width
    for i in range(nx):
        for j in range(ny):
            at = np.uint64(i + 1) * stride + np.uint64(j + 1) * width + ONE
            for k in range(np.uint64(nz)):
                m = at + k
                here = x[m]
                outflow = (
                    faces_x[i, j, k] * (here - x[m - stride]) + faces_x[i + 1, j, k] * (here - x[m + stride])
                ) + (faces_y[i, j, k] * (here - x[m - width]) + faces_y[i, j + 1, k] * (here - x[m + width]))
                outflow += faces_z[i, j, k] * (here - x[m - ONE]) + faces_z[i, j, k + ONE] * (here - x[m + ONE])
                if reaction.shape[0] > 0:
                    outflow += reaction[i, j, k] * here
                r = scale_b * b[i, j, k] - scale * outflow
                result += r * r
                w[F * total + m] = r
    return math.sqrt(result)


@njit(**ONCE)
def conjugate_gradients(arrays, levels, b, matrix, scale_b, scale, tolerance, max_steps):
    """Solve ``scale A x = scale_b b``, a vector of norm 1; see :func:`_kernels.conjugate_gradients`."""
    w, x, line, inverse = arrays
    table, signs, wrap = levels
    total, width = np.uint64(w.size // ROWS), table[0, 2] + TWO
    stride = (table[0, 1] + TWO) * width
    count = (table[0, 0] + TWO) * stride
    for k in range(count):
        x[k] = 0.0
    clear(w, P * total, count)
    clear(w, Q * total, count)
    copy_inside(b, w, F * total, stride, width, scale_b)
    start(w, F * total, D * total, V * total, count)
    norm, replaced, energy = 1.0, 1.0, np.inf
    for steps in range(max_steps + 1):
        if norm <= max(tolerance, REPLACE * replaced):
            claimed, norm = norm, true_residual(w, x, b, matrix, scale_b, scale)
            if norm <= tolerance or not norm < 0.5 * replaced:
                return steps
            start(w, F * total, D * total, V * total, count)
            replaced = norm
            if norm > 2.0 * claimed:
                clear(w, P * total, count)
                clear(w, Q * total, count)
        if steps == max_steps or not math.isfinite(norm):
            return steps
        zr, zq = vcycle(w, table, inverse, signs, wrap, line)
        energy, pf = next_product(w, table, -zq / energy, matrix[3], scale, wrap)
        if not (energy > 0.0 and zr > 0.0):
            return steps
        norm = math.sqrt(advance(w, x, P * total, Q * total, F * total, D * total, V * total, count, pf / energy))
    return max_steps


@njit(f"b1(UniTuple({CUBE_TYPE}, 4), f8)", **INNER)
def is_rough(matrix, limit):
    """Whether faces jump by more than a factor on more than a quarter of a plane."""
    faces_x, faces_y, faces_z, _ = matrix
    nx, ny, nz = faces_y.shape[0], faces_x.shape[1], faces_x.shape[2]
    count = jumps(faces_x.reshape((nx + 1, ny * nz)), False, limit)
    for i in range(nx):
        count += jumps(faces_y[i], False, limit) + jumps(faces_z[i], True, limit)
    return count > max(nx * ny, ny * nz, nx * nz) // 4


@njit(
    f"void({WORK_TYPE}, {LEVELS_TYPE}, {FACES_TYPE}, {ANSWERS_TYPE}, UniTuple(i8, 3), b1, UniTuple(f8, 2))", **OPTIONS
)
def solve(arrays, levels, matrices, answers, bounds, singular, limits):
    """Solve the systems ``first`` to ``last - 1`` in at most so many steps, the three numbers in ``bounds``.

    ``answers`` are right-hand sides, solutions and numbers of steps. ``limits`` are the tolerance and the factor by
    which neighbouring faces may differ: a system with larger jumps on more than a quarter of a plane is left alone,
    with the number of steps -1.
    """
    first, last, max_steps = bounds
    tolerance, limit = limits
    rhs, solutions, steps = answers
    w, x, line, inverse = arrays
    faces_x, faces_y, faces_z, reaction = matrices
    nx, ny, scale, rough = rhs.shape[1], rhs.shape[2], 1.0, False
    width = np.uint64(rhs.shape[3] + 2)
    stride = np.uint64(ny + 2) * width
    matrix = (faces_x[0], faces_y[0], faces_z[0], reaction[0])
    for index in range(first, last):
        if faces_x.shape[0] > 1 or index == first:
            own = index if faces_x.shape[0] > 1 else 0
            matrix = (faces_x[own], faces_y[own], faces_z[own], reaction[min(own, reaction.shape[0] - 1)])
            rough = is_rough(matrix, limit)
            if not rough:
                scale = build(w, levels[0], matrix, levels[2], line)
                coarsest_matrix(w, levels[0], levels[2], inverse)
                invert(inverse, singular)
        if rough:
            steps[index] = -1
            continue
        norm = norm_of(rhs[index].reshape(rhs[index].size))
        if norm > 0.0:
            step = conjugate_gradients(arrays, levels, rhs[index], matrix, 1.0 / norm, scale, tolerance, max_steps)
            steps[index], total = step, 0.0
            for i in range(nx):
                for j in range(ny):
                    at = np.uint64(i + 1) * stride + np.uint64(j + 1) * width + ONE
                    total += take_line(x, at, solutions[index, i, j], norm * scale)
            if singular:
                subtract(solutions[index].reshape(rhs[index].size), total / rhs[index].size)
