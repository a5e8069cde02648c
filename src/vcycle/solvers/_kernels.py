"""Compiled 2-D multigrid: the levels, the V(1,1) cycle in float32, and conjugate gradients around it.

Import this module only where it is used: it loads Numba, and the first import on a machine compiles for some seconds.

The layout is that of :mod:`vcycle.solvers._vectors`. A level of ``nx`` by ``ny`` cells takes ``(nx + 2) * (ny + 2)``
entries of each row: cells 1 to n, and a ghost layer. ``TX[i, j]`` is the transmissibility below cell ``i``, ``A`` the
diagonal and ``D`` its inverse; ``P`` and ``Q`` are the direction and its product with the matrix. ``table`` has one
line ``nx, ny, offset`` per level. ``signs`` (x low, x high, y low, y high) is -1 where ghosts reflect oddly and +1
where evenly; ``wrap`` says per axis whether it is periodic.

The stages of a smoothing follow each other line by line, each one line behind the last, so that a level goes through
the cache once on the way down and once on the way up. A periodic axis needs both ends at once: there a stage is done
as a whole.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

from vcycle.solvers._levels import (
    ANSWERS_TYPE,
    FACES_TYPE,
    LEVELS_TYPE,
    ROWS,
    SIGNS_TYPE,
    TABLE_TYPE,
    TX,
    TY,
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


@njit(**ONCE)
def field(w, table, row, level):
    """Return one array of one level, ghosts included."""
    nx, ny, at = table[level]
    first = row * np.uint64(w.size // ROWS) + at
    return w[first : first + (nx + TWO) * (ny + TWO)].reshape((np.int64(nx + TWO), np.int64(ny + TWO)))


@njit(f"void({W_TYPE}, u8, u8, u8, u8, f4, f4, b1)", **INNER)
def set_sides(w, u, stride, lo, hi, low, high, wrap):
    """Fill the ghosts at both ends of lines ``lo`` to ``hi - 1``: wrapped, or the edge times a sign (0 for zero)."""
    for i in range(lo, hi):
        first = u + i * stride
        last = first + stride - ONE
        if wrap:
            w[first], w[last] = w[last - ONE], w[first + ONE]
        else:
            w[first], w[last] = low * w[first + ONE], high * w[last - ONE]


@njit(f"void({W_TYPE}, u8, u8, u8, {SIGNS_TYPE}, {WRAP_TYPE})", **INNER)
def set_ghosts(w, u, nx, stride, signs, wrap):
    """Fill the ghost layer of the array at ``u``."""
    set_sides(w, u, stride, ONE, nx + ONE, signs[2], signs[3], wrap[1])
    end = u + (nx + ONE) * stride
    copy_line(w, end - stride if wrap[0] else u + stride, u, stride, np.float32(1.0) if wrap[0] else signs[0])
    copy_line(w, u + stride if wrap[0] else end - stride, end, stride, np.float32(1.0) if wrap[0] else signs[1])


@njit(f"void({W_TYPE}, u8, u8, u8, {WRAP_TYPE})", **INNER)
def close(w, u, nx, stride, wrap):
    """Wrap the ghosts of periodic axes; others stay zero."""
    if wrap[1]:
        set_sides(w, u, stride, ONE, nx + ONE, np.float32(0.0), np.float32(0.0), True)
    if wrap[0]:
        end = u + (nx + ONE) * stride
        copy_line(w, end - stride, u, stride, np.float32(1.0))
        copy_line(w, u + stride, end, stride, np.float32(1.0))


@njit(f"void({W_TYPE}, u8, u8, u8, u8, u8, u8, f4)", **INNER)
def jacobi(w, at, stride, lo, hi, old, new, weight):
    """Set ``new = old + weight * D (F - A old)`` on lines ``lo`` to ``hi - 1``."""
    total, at, count = np.uint64(w.size // ROWS), at + lo * stride, (hi - lo) * stride
    f, tx, ty, d = F * total + at, TX * total + at, TY * total + at, D * total + at
    u, v = old * total + at, new * total + at
    keep, below, above, behind = np.float32(1.0) - weight, u - stride, u + stride, tx + stride
    left, right, beside = u - ONE, u + ONE, ty + ONE
    for k in range(count):
        inflow = (
            w[tx + k] * w[below + k]
            + w[behind + k] * w[above + k]
            + w[ty + k] * w[left + k]
            + w[beside + k] * w[right + k]
        )
        w[v + k] = keep * w[u + k] + weight * w[d + k] * (w[f + k] + inflow)


@njit(f"void({W_TYPE}, u8, u8, u8, u8, u8, u8)", **INNER)
def residual(w, at, stride, lo, hi, old, new):
    """Set ``new = F - A old`` on lines ``lo`` to ``hi - 1``."""
    total, at, count = np.uint64(w.size // ROWS), at + lo * stride, (hi - lo) * stride
    f, tx, ty, a = F * total + at, TX * total + at, TY * total + at, A * total + at
    u, r = old * total + at, new * total + at
    below, above, behind = u - stride, u + stride, tx + stride
    left, right, beside = u - ONE, u + ONE, ty + ONE
    for k in range(count):
        inflow = (
            w[tx + k] * w[below + k]
            + w[behind + k] * w[above + k]
            + w[ty + k] * w[left + k]
            + w[beside + k] * w[right + k]
        )
        w[r + k] = w[f + k] + inflow - w[a + k] * w[u + k]


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, u8, u8, {W_TYPE})", **INNER)
def restrict(w, table, level, lo, hi, line):
    """Restrict ``U`` to the coarse lines ``lo`` to ``hi - 1`` of ``F``: the transpose of bilinear interpolation."""
    total, at, stride = np.uint64(w.size // ROWS), table[level, 2], table[level, 1] + TWO
    below, ny = table[level + 1, 2], table[level + 1, 1]
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(lo, hi):
        r0 = U * total + at + (TWO * i - TWO) * stride
        r1, r2, r3 = r0 + stride, r0 + stride + stride, r0 + stride + stride + stride
        for j in range(stride):
            line[j] = far * (w[r0 + j] + w[r3 + j]) + near * (w[r1 + j] + w[r2 + j])
        f = F * total + below + i * (ny + TWO) + ONE
        for j in range(ny):
            k = j + j
            w[f + j] = far * (line[k] + line[k + ONE + TWO]) + near * (line[k + ONE] + line[k + TWO])


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, u8, u8, {W_TYPE})", **INNER)
def correct(w, table, level, lo, hi, line):
    """Add the bilinear interpolation of the coarse ``U`` to the lines ``lo`` to ``hi - 1`` of ``V``."""
    total, at, stride = np.uint64(w.size // ROWS), table[level, 2], table[level, 1] + TWO
    ny = table[level + 1, 1]
    width, coarse = ny + TWO, U * total + table[level + 1, 2]
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(lo, hi):
        above = coarse + (i + ONE) // TWO * width
        beyond = above - width if i % TWO == ONE else above + width
        for j in range(width):
            line[j] = near * w[above + j] + far * w[beyond + j]
        v = V * total + at + i * stride + ONE
        for j in range(ny):
            k = j + j
            w[v + k] += near * line[j + ONE] + far * line[j]
            w[v + k + ONE] += near * line[j + ONE] + far * line[j + TWO]


@njit(f"void({W_TYPE}, {TABLE_TYPE}, i8, {SIGNS_TYPE}, {WRAP_TYPE}, {W_TYPE})", **INNER)
def descend(w, table, level, signs, wrap, line):
    """Smooth twice more after the first step in ``V`` (back to ``V``), and start the next level from the residual."""
    nx, ny, at = table[level]
    total, stride, around = np.uint64(w.size // ROWS), ny + TWO, wrap[0] or wrap[1]
    u, v, pace = U * total + at, V * total + at, nx if around else max(ONE, BLOCK // stride)
    clear(w, u, stride)
    clear(w, u + (nx + ONE) * stride, stride)
    close(w, v, nx, stride, wrap)
    first, second, third, fourth = ZERO, ZERO, ZERO, ZERO
    while third < nx:
        todo = min(nx, first + pace)
        jacobi(w, at, stride, first + ONE, todo + ONE, V, U, SECOND)
        first = todo
        if around:
            close(w, u, nx, stride, wrap)
        todo = behind(second, first, nx)
        jacobi(w, at, stride, second + ONE, todo + ONE, U, V, THIRD)
        second = todo
        if around:
            close(w, v, nx, stride, wrap)
        todo = behind(third, second, nx)
        residual(w, at, stride, third + ONE, todo + ONE, V, U)
        if around:
            set_ghosts(w, u, nx, stride, signs, wrap)
        else:
            set_sides(w, u, stride, third + ONE, todo + ONE, signs[2], signs[3], False)
            if third == ZERO and todo > ZERO:
                copy_line(w, u + stride, u, stride, signs[0])
            if todo == nx:
                copy_line(w, u + nx * stride, u + (nx + ONE) * stride, stride, signs[1])
        third = todo
        todo = behind(fourth + fourth, third, nx) // TWO
        restrict(w, table, level, fourth + ONE, todo + ONE, line)
        fourth = todo
    below, size = table[level + 1, 2], (table[level + 1, 0] + TWO) * (table[level + 1, 1] + TWO)
    start(w, F * total + below, D * total + below, V * total + below, size)


@njit(f"UniTuple(f8, 2)({W_TYPE}, {TABLE_TYPE}, i8, {SIGNS_TYPE}, {WRAP_TYPE}, {W_TYPE})", **INNER)
def ascend(w, table, level, signs, wrap, line):
    """Correct ``V`` and smooth it to ``U``; on the finest level return ``U' F`` and ``U' Q``."""
    nx, ny, at = table[level]
    total, stride, around = np.uint64(w.size // ROWS), ny + TWO, wrap[0] or wrap[1]
    u, v, pace = U * total + at, V * total + at, nx if around else max(ONE, BLOCK // stride)
    set_ghosts(w, U * total + table[level + 1, 2], table[level + 1, 0], table[level + 1, 1] + TWO, signs, wrap)
    clear(w, u, stride)
    clear(w, u + (nx + ONE) * stride, stride)
    zero, first, second, third = ZERO, ZERO, ZERO, ZERO
    uf, uq = 0.0, 0.0
    while third < nx:
        todo = min(nx, zero + pace)
        correct(w, table, level, zero + ONE, todo + ONE, line)
        zero = todo
        if around:
            close(w, v, nx, stride, wrap)
        todo = behind(first, zero, nx)
        jacobi(w, at, stride, first + ONE, todo + ONE, V, U, FIRST)
        first = todo
        if around:
            close(w, u, nx, stride, wrap)
        todo = behind(second, first, nx)
        jacobi(w, at, stride, second + ONE, todo + ONE, U, V, SECOND)
        second = todo
        if around:
            close(w, v, nx, stride, wrap)
        todo = behind(third, second, nx)
        jacobi(w, at, stride, third + ONE, todo + ONE, V, U, THIRD)
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
    nx, ny, at = table[last]
    u, f = U * total + at, F * total + at
    for i in range(nx):
        for j in range(ny):
            value, m = 0.0, ZERO
            for k in range(ONE, nx + ONE):
                for n in range(f + k * (ny + TWO) + ONE, f + k * (ny + TWO) + ONE + ny):
                    value += inverse[i * ny + j, m] * w[n]
                    m += ONE
            w[u + (i + ONE) * (ny + TWO) + j + ONE] = value


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
        total, count = np.uint64(w.size // ROWS), (table[0, 0] + TWO) * (table[0, 1] + TWO)
        products = dot(w, U * total, F * total, count), dot(w, U * total, Q * total, count)
    return products


# --- conjugate gradients


@njit(f"void({W_TYPE}, u8, u8, u8)", **INNER)
def apply(w, stride, lo, hi):
    """Set ``Q = A P`` on lines ``lo`` to ``hi - 1`` but for the reaction, from differences: they round less."""
    total, at, count = np.uint64(w.size // ROWS), lo * stride, (hi - lo) * stride
    tx, ty, p, q = TX * total + at, TY * total + at, P * total + at, Q * total + at
    below, above, behind = p - stride, p + stride, tx + stride
    left, right, beside = p - ONE, p + ONE, ty + ONE
    for k in range(count):
        here = w[p + k]
        w[q + k] = (w[tx + k] * (here - w[below + k]) + w[behind + k] * (here - w[above + k])) + (
            w[ty + k] * (here - w[left + k]) + w[beside + k] * (here - w[right + k])
        )


@njit(**ONCE)
def next_product(w, nx, stride, beta, reaction, scale, wrap):
    """Set ``P = U + beta P`` and ``Q = A P``; return ``P' A P`` and ``P' F``."""
    total, around, energy = np.uint64(w.size // ROWS), wrap[0] or wrap[1], 0.0
    z, p, q, pace = U * total, P * total, Q * total, nx if around else max(ONE, BLOCK // stride)
    first, second, pf = ZERO, ZERO, 0.0
    while second < nx:
        todo = min(nx, first + pace)
        done, size = (first + ONE) * stride, (todo - first) * stride
        turn(w, z + done, p + done, size, beta)
        first = todo
        if around:
            close(w, p, nx, stride, wrap)
        todo = behind(second, first, nx)
        apply(w, stride, second + ONE, todo + ONE)
        if reaction.shape[0] > 0:
            for i in range(second, todo):
                at = (i + ONE) * stride + ONE
                for j in range(stride - TWO):
                    w[q + at + j] += scale * reaction[i, j] * w[p + at + j]
        set_sides(w, q, stride, second + ONE, todo + ONE, np.float32(0.0), np.float32(0.0), False)
        done, size = (second + ONE) * stride, (todo - second) * stride
        energy += dot(w, p + done, q + done, size)
        pf += dot(w, p + done, F * total + done, size)
        second = todo
    return energy, pf


@njit(**ONCE)
def true_residual(w, x, b, matrix, scale_b, scale):
    """Set ``F`` to ``scale_b * b - scale * A x``, computed in double, and return its norm; ``x`` has wrapped ghosts."""
    faces_x, faces_y, reaction = matrix
    nx, ny = b.shape
    total, stride, result = np.uint64(w.size // ROWS), np.uint64(ny + 2), 0.0
    for i in range(nx):
        at = np.uint64(i + 1) * stride + ONE
        f, below, above, left, right = F * total + at, at - stride, at + stride, at - ONE, at + ONE
        if reaction.shape[0] == 0:
            for j in range(np.uint64(ny)):
                here = x[at + j]
                outflow = (faces_x[i, j] * (here - x[below + j]) + faces_x[i + 1, j] * (here - x[above + j])) + (
                    faces_y[i, j] * (here - x[left + j]) + faces_y[i, j + ONE] * (here - x[right + j])
                )
                r = scale_b * b[i, j] - scale * outflow
                result += r * r
                w[f + j] = r
        else:
            for j in range(np.uint64(ny)):
                here = x[at + j]
                outflow = (faces_x[i, j] * (here - x[below + j]) + faces_x[i + 1, j] * (here - x[above + j])) + (
                    faces_y[i, j] * (here - x[left + j]) + faces_y[i, j + ONE] * (here - x[right + j])
                )
                r = scale_b * b[i, j] - scale * (outflow + reaction[i, j] * here)
                result += r * r
                w[f + j] = r
    return math.sqrt(result)


@njit(**ONCE)
def conjugate_gradients(arrays, levels, b, matrix, scale_b, scale, tolerance, max_steps):
    """Solve ``scale A x = scale_b b``, a vector of norm 1, to this residual, and return the number of V-cycles.

    The iteration runs in single precision, but for ``x``. Where its residual has fallen far, or claims convergence, the
    true one replaces it, and the directions go on: they are made conjugate by ``z' A p`` itself. It ends where the true
    residual is small enough, or replacing it no longer helps.
    """
    w, x, line, inverse = arrays
    table, signs, wrap = levels
    total, nx, stride = np.uint64(w.size // ROWS), table[0, 0], table[0, 1] + TWO
    count = (nx + TWO) * stride
    for k in range(count):
        x[k] = 0.0
    clear(w, P * total, count)
    clear(w, Q * total, count)
    copy_inside(b, w, F * total, stride, scale_b)
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
        energy, pf = next_product(w, nx, stride, -zq / energy, matrix[2], scale, wrap)
        if not (energy > 0.0 and zr > 0.0):
            return steps
        norm = math.sqrt(advance(w, x, P * total, Q * total, F * total, D * total, V * total, count, pf / energy))
    return max_steps


@njit(
    f"void({WORK_TYPE}, {LEVELS_TYPE}, {FACES_TYPE}, {ANSWERS_TYPE}, UniTuple(i8, 3), b1, UniTuple(f8, 2))", **OPTIONS
)
def solve(arrays, levels, matrices, answers, bounds, singular, limits):
    """Solve the systems ``first`` to ``last - 1`` in at most so many steps, the three numbers in ``bounds``.

    ``answers`` are right-hand sides, solutions and numbers of steps. ``limits`` are the tolerance and the factor by
    which neighbouring faces may differ: a system with larger jumps along more than a quarter of a line is left alone,
    with the number of steps -1.
    """
    first, last, max_steps = bounds
    tolerance, limit = limits
    rhs, solutions, steps = answers
    w, x, line, inverse = arrays
    faces_x, faces_y, reaction = matrices
    nx, ny = rhs.shape[1], rhs.shape[2]
    stride, scale, rough = np.uint64(ny + 2), 1.0, False
    matrix = (faces_x[0], faces_y[0], reaction[0])
    for index in range(first, last):
        if faces_x.shape[0] > 1 or index == first:
            own = index if faces_x.shape[0] > 1 else 0
            matrix = (faces_x[own], faces_y[own], reaction[min(own, reaction.shape[0] - 1)])
            rough = jumps(matrix[0], False, limit) + jumps(matrix[1], True, limit) > max(nx, ny) // 4
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
                total += take_line(x, np.uint64(i + 1) * stride + ONE, solutions[index, i], norm * scale)
            if singular:
                subtract(solutions[index].reshape(rhs[index].size), total / rhs[index].size)
