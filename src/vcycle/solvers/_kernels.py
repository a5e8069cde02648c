"""Compiled 2-D multigrid: the levels, the V(1,1) cycle in float32, and conjugate gradients in float64 around it.

Import this module only where it is used: it loads Numba, and the first import on a machine compiles for some seconds.

One float32 array ``work`` of shape ``(6, total)`` holds all levels. Rows are ``U, V, F, TX, TY, D``; a level of ``nx``
by ``ny`` cells takes ``(nx + 2) * (ny + 2)`` entries of each row from its offset on: cells 1 to n, and a ghost layer.
``TX[i, j]`` is the transmissibility below cell ``i``, ``D`` the inverse diagonal. ``table`` has one line ``nx, ny,
offset`` per level. ``signs`` (x low, x high, y low, y high) is -1 where ghosts reflect oddly and +1 where evenly;
``wrap`` says per axis whether it is periodic.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from vcycle.solvers import _vectors
from vcycle.solvers._vectors import OPTIONS, WEIGHTS, in_series

U, V, F, TX, TY, D = range(6)
_WORK, _TABLE, _FIELD, _DOUBLE, _WRAP, _SIGNS = "f4[:,::1]", "i8[:,::1]", "f4[:,::1]", "f8[:,::1]", "b1[::1]", "f4[::1]"


@njit(f"f4[:,::1]({_WORK}, {_TABLE}, i8, i8)", **OPTIONS)
def field(work, table, row, level):
    """Return one array of one level, ghosts included."""
    nx, ny, offset = table[level]
    return work[row, offset : offset + (nx + 2) * (ny + 2)].reshape((nx + 2, ny + 2))


@njit(f"void({_FIELD}, {_SIGNS}, {_WRAP})", **OPTIONS)
def set_ghosts(u, signs, wrap):
    """Fill the ghost layer: wrapped on periodic axes, else the edge times the face's sign (0 for a plain zero)."""
    nx, ny = u.shape[0] - 2, u.shape[1] - 2
    for i in range(1, nx + 1):
        u[i, 0] = u[i, ny] if wrap[1] else signs[2] * u[i, 1]
        u[i, ny + 1] = u[i, 1] if wrap[1] else signs[3] * u[i, ny]
    for j in range(ny + 2):
        u[0, j] = u[nx, j] if wrap[0] else signs[0] * u[1, j]
        u[nx + 1, j] = u[1, j] if wrap[0] else signs[1] * u[nx, j]


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, f4)", **OPTIONS)
def jacobi(u, new, f, tx, ty, d, weight):
    """Set ``new = u + weight * D^-1 (f - A u)``."""
    keep = np.float32(1.0) - weight
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            inflow = (
                tx[i, j] * u[i - 1, j]
                + tx[i + 1, j] * u[i + 1, j]
                + ty[i, j] * u[i, j - 1]
                + ty[i, j + 1] * u[i, j + 1]
            )
            new[i, j] = keep * u[i, j] + weight * d[i, j] * (f[i, j] + inflow)


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD})", **OPTIONS)
def residual(u, r, f, tx, ty, d):
    """Set ``r = f - A u``."""
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            inflow = (
                tx[i, j] * u[i - 1, j]
                + tx[i + 1, j] * u[i + 1, j]
                + ty[i, j] * u[i, j - 1]
                + ty[i, j + 1] * u[i, j + 1]
            )
            r[i, j] = f[i, j] + inflow - u[i, j] / d[i, j]


@njit(f"void({_FIELD}, {_FIELD}, f4[::1])", **OPTIONS)
def restrict(r, coarse, row):
    """Set ``coarse`` to the transpose of bilinear interpolation of ``r``; ``row`` is scratch for one line of ``r``."""
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(1, coarse.shape[0] - 1):
        for j in range(r.shape[1]):
            row[j] = far * (r[2 * i - 2, j] + r[2 * i + 1, j]) + near * (r[2 * i - 1, j] + r[2 * i, j])
        for j in range(1, coarse.shape[1] - 1):
            coarse[i, j] = far * (row[2 * j - 2] + row[2 * j + 1]) + near * (row[2 * j - 1] + row[2 * j])


@njit(f"void({_FIELD}, {_FIELD}, f4[::1])", **OPTIONS)
def correct(u, coarse, row):
    """Add the bilinear interpolation of ``coarse`` to ``u``; ``row`` is scratch for one line of ``coarse``."""
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(1, u.shape[0] - 1):
        above = (i + 1) // 2
        beyond = above - 1 if i % 2 == 1 else above + 1
        for j in range(coarse.shape[1]):
            row[j] = near * coarse[above, j] + far * coarse[beyond, j]
        for j in range(1, coarse.shape[1] - 1):
            u[i, 2 * j - 1] += near * row[j] + far * row[j - 1]
            u[i, 2 * j] += near * row[j] + far * row[j + 1]


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD})", **OPTIONS)
def solve_coarsest(u, f, inverse):
    """Set ``u = inverse f``, cells in row-major order."""
    ny = u.shape[1] - 2
    for k in range(inverse.shape[0]):
        total = np.float32(0.0)
        for m in range(inverse.shape[1]):
            total += inverse[k, m] * f[1 + m // ny, 1 + m % ny]
        u[1 + k // ny, 1 + k % ny] = total


@njit(f"void({_WORK}, {_TABLE}, {_FIELD}, {_SIGNS}, {_WRAP}, f4[::1])", **OPTIONS)
def vcycle(work, table, inverse, signs, wrap, row):
    """Set ``U`` of the finest level to ``B F``: degree-3 smoothing down and up, ``inverse`` on the coarsest level."""
    none = np.zeros(4, np.float32)
    first, second, third = np.float32(WEIGHTS[0]), np.float32(WEIGHTS[1]), np.float32(WEIGHTS[2])
    last = table.shape[0] - 1
    for level in range(last):
        u, v, f = field(work, table, U, level), field(work, table, V, level), field(work, table, F, level)
        tx, ty, d = field(work, table, TX, level), field(work, table, TY, level), field(work, table, D, level)
        for i in range(1, v.shape[0] - 1):
            for j in range(1, v.shape[1] - 1):
                v[i, j] = first * d[i, j] * f[i, j]
        set_ghosts(v, none, wrap)
        jacobi(v, u, f, tx, ty, d, second)
        set_ghosts(u, none, wrap)
        jacobi(u, v, f, tx, ty, d, third)
        set_ghosts(v, none, wrap)
        residual(v, u, f, tx, ty, d)
        set_ghosts(u, signs, wrap)
        restrict(u, field(work, table, F, level + 1), row)
    solve_coarsest(field(work, table, U, last), field(work, table, F, last), inverse)
    for level in range(last - 1, -1, -1):
        u, v, f = field(work, table, U, level), field(work, table, V, level), field(work, table, F, level)
        tx, ty, d = field(work, table, TX, level), field(work, table, TY, level), field(work, table, D, level)
        coarse = field(work, table, U, level + 1)
        set_ghosts(coarse, signs, wrap)
        correct(v, coarse, row)
        set_ghosts(v, none, wrap)
        jacobi(v, u, f, tx, ty, d, first)
        set_ghosts(u, none, wrap)
        jacobi(u, v, f, tx, ty, d, second)
        set_ghosts(v, none, wrap)
        jacobi(v, u, f, tx, ty, d, third)


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD}, {_FIELD})", **OPTIONS)
def set_inverse_diagonal(tx, ty, c, d):
    """Set ``D`` from faces and reaction."""
    for i in range(1, d.shape[0] - 1):
        for j in range(1, d.shape[1] - 1):
            d[i, j] = np.float32(1.0) / (tx[i, j] + tx[i + 1, j] + ty[i, j] + ty[i, j + 1] + c[i, j])


@njit(f"void({_WORK}, {_TABLE}, i8, {_WRAP})", **OPTIONS)
def coarsen(work, table, level, wrap):
    """Fill a level from the next finer one: series along the axis, parallel lines added."""
    fx, fy, fc = field(work, table, TX, level - 1), field(work, table, TY, level - 1), field(work, table, F, level - 1)
    tx, ty, c = field(work, table, TX, level), field(work, table, TY, level), field(work, table, F, level)
    tx[:], ty[:], c[:] = 0.0, 0.0, 0.0
    nx, ny = table[level, 0], table[level, 1]
    nothing = np.float32(np.inf)  # a half inner face beyond a wall resists nothing
    for i in range(1, nx + 2):
        below, above = 2 * i - 2, 2 * i
        below, above = (2 * nx if wrap[0] and i == 1 else below), (2 if wrap[0] and i == nx + 1 else above)
        for j in range(1, ny + 1):
            for line in range(2 * j - 1, 2 * j + 1):
                under = fx[below, line] if below > 0 else nothing
                over = fx[above, line] if above <= 2 * nx else nothing
                tx[i, j] += in_series(under, fx[2 * i - 1, line], over)
    for i in range(1, nx + 1):
        for j in range(1, ny + 2):
            below, above = 2 * j - 2, 2 * j
            below, above = (2 * ny if wrap[1] and j == 1 else below), (2 if wrap[1] and j == ny + 1 else above)
            for line in range(2 * i - 1, 2 * i + 1):
                under = fy[line, below] if below > 0 else nothing
                over = fy[line, above] if above <= 2 * ny else nothing
                ty[i, j] += in_series(under, fy[line, 2 * j - 1], over)
    for i in range(1, nx + 1):
        for j in range(1, ny + 1):
            c[i, j] = fc[2 * i - 1, 2 * j - 1] + fc[2 * i, 2 * j - 1] + fc[2 * i - 1, 2 * j] + fc[2 * i, 2 * j]
    set_inverse_diagonal(tx, ty, c, field(work, table, D, level))


@njit(f"void({_DOUBLE}, {_FIELD}, f8)", **OPTIONS)
def copy_inside(values, padded, scale):
    """Write ``scale * values`` behind the low ghosts of ``padded``, and zero elsewhere."""
    padded[:] = np.float32(0.0)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            padded[i + 1, j + 1] = scale * values[i, j]


@njit(f"void({_WORK}, {_TABLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, f8, {_WRAP})", **OPTIONS)
def build(work, table, faces_x, faces_y, reaction, scale, wrap):
    """Fill ``TX``, ``TY`` and ``D`` from the finest faces times ``scale``; ``F`` holds the reaction meanwhile."""
    tx, ty, c = field(work, table, TX, 0), field(work, table, TY, 0), field(work, table, F, 0)
    copy_inside(faces_x, tx, scale)
    copy_inside(faces_y, ty, scale)
    copy_inside(reaction, c, scale)
    set_inverse_diagonal(tx, ty, c, field(work, table, D, 0))
    for level in range(1, table.shape[0]):
        coarsen(work, table, level, wrap)


@njit(f"void({_WORK}, {_TABLE}, {_WRAP}, {_DOUBLE})", **OPTIONS)
def coarsest_matrix(work, table, wrap, matrix):
    """Add the coarsest level's matrix to ``matrix``, cells in row-major order."""
    last = table.shape[0] - 1
    tx, ty, d = field(work, table, TX, last), field(work, table, TY, last), field(work, table, D, last)
    nx, ny = table[last, 0], table[last, 1]
    for i in range(nx):
        for j in range(ny):
            here = i * ny + j
            matrix[here, here] += 1.0 / d[i + 1, j + 1]
            if i > 0 or wrap[0]:
                there = ((i - 1) % nx) * ny + j
                matrix[here, there] -= tx[i + 1, j + 1]
                matrix[there, here] -= tx[i + 1, j + 1]
            if j > 0 or wrap[1]:
                there = i * ny + (j - 1) % ny
                matrix[here, there] -= ty[i + 1, j + 1]
                matrix[there, here] -= ty[i + 1, j + 1]


@njit(f"void({_DOUBLE}, {_WRAP})", **OPTIONS)
def wrap_or_clear(p, wrap):
    """Fill the ghosts that the operator sees: wrapped on periodic axes, else zero."""
    nx, ny = p.shape[0] - 2, p.shape[1] - 2
    for i in range(1, nx + 1):
        p[i, 0], p[i, ny + 1] = (p[i, ny], p[i, 1]) if wrap[1] else (0.0, 0.0)
    for j in range(1, ny + 1):
        p[0, j], p[nx + 1, j] = (p[nx, j], p[1, j]) if wrap[0] else (0.0, 0.0)


@njit(f"f8({_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_WRAP})", **OPTIONS)
def product(p, q, faces_x, faces_y, reaction, wrap):
    """Set ``q = A p`` inside and return ``p' A p``; ``p`` and ``q`` have a ghost layer, the others none."""
    wrap_or_clear(p, wrap)
    energy = 0.0
    nx, ny = p.shape[0] - 2, p.shape[1] - 2
    for i in range(nx):
        for j in range(ny):
            here = p[i + 1, j + 1]
            out = faces_x[i, j] * (here - p[i, j + 1]) + faces_x[i + 1, j] * (here - p[i + 2, j + 1])
            out += faces_y[i, j] * (here - p[i + 1, j]) + faces_y[i, j + 1] * (here - p[i + 1, j + 2])
            q[i + 1, j + 1] = out
        if reaction.shape[0] > 0:
            for j in range(ny):
                q[i + 1, j + 1] += reaction[i, j] * p[i + 1, j + 1]
        for j in range(ny):
            energy += p[i + 1, j + 1] * q[i + 1, j + 1]
    return energy


@njit(
    f"i8({_WORK}, f8[:,::1], {_TABLE}, {_FIELD}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_SIGNS}, {_WRAP}, f8, i8)", **OPTIONS
)
def conjugate_gradients(work, vectors, table, inverse, faces_x, faces_y, reaction, signs, wrap, tolerance, max_steps):
    """Solve ``A x = b`` from zero and return the number of V-cycles; see :func:`_vectors.conjugate_gradients`."""
    shape = (table[0, 0] + 2, table[0, 1] + 2)
    f, z = work[F, : vectors.shape[1]], work[U, : vectors.shape[1]]
    cycle = (work, table, inverse, signs, wrap, np.empty(shape[1], np.float32))
    matrix = (faces_x, faces_y, reaction, wrap)
    return _vectors.conjugate_gradients(vcycle, cycle, product, matrix, f, z, vectors, shape, tolerance, max_steps)
