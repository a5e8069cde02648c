"""Compiled 3-D multigrid: the kernels of ``_kernels`` with one more axis; see there for the words and the layout.

Rows of ``work`` are ``U, V, F, TX, TY, TZ, D``; a line of ``table`` is ``nx, ny, nz, offset``; a level takes
``(nx + 2) * (ny + 2) * (nz + 2)`` entries of each row. Compiled apart, so that no one waits for the other dimension.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from vcycle.solvers import _vectors
from vcycle.solvers._vectors import OPTIONS, WEIGHTS, in_series

U, V, F, TX, TY, TZ, D = range(7)
_WORK, _TABLE, _FIELD, _DOUBLE, _WRAP, _SIGNS = (
    "f4[:,::1]",
    "i8[:,::1]",
    "f4[:,:,::1]",
    "f8[:,:,::1]",
    "b1[::1]",
    "f4[::1]",
)


@njit(f"f4[:,:,::1]({_WORK}, {_TABLE}, i8, i8)", **OPTIONS)
def field(work, table, row, level):
    """Return one array of one level, ghosts included."""
    nx, ny, nz, offset = table[level]
    return work[row, offset : offset + (nx + 2) * (ny + 2) * (nz + 2)].reshape((nx + 2, ny + 2, nz + 2))


@njit(f"void({_FIELD}, {_SIGNS}, {_WRAP})", **OPTIONS)
def set_ghosts(u, signs, wrap):
    """Fill the ghost layer: wrapped on periodic axes, else the edge times the face's sign (0 for a plain zero)."""
    nx, ny, nz = u.shape[0] - 2, u.shape[1] - 2, u.shape[2] - 2
    for i in range(1, nx + 1):
        for j in range(1, ny + 1):
            u[i, j, 0] = u[i, j, nz] if wrap[2] else signs[4] * u[i, j, 1]
            u[i, j, nz + 1] = u[i, j, 1] if wrap[2] else signs[5] * u[i, j, nz]
        for k in range(nz + 2):
            u[i, 0, k] = u[i, ny, k] if wrap[1] else signs[2] * u[i, 1, k]
            u[i, ny + 1, k] = u[i, 1, k] if wrap[1] else signs[3] * u[i, ny, k]
    for j in range(ny + 2):
        for k in range(nz + 2):
            u[0, j, k] = u[nx, j, k] if wrap[0] else signs[0] * u[1, j, k]
            u[nx + 1, j, k] = u[1, j, k] if wrap[0] else signs[1] * u[nx, j, k]


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, f4)", **OPTIONS)
def jacobi(u, new, f, tx, ty, tz, d, weight):
    """Set ``new = u + weight * D^-1 (f - A u)``."""
    keep = np.float32(1.0) - weight
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            for k in range(1, u.shape[2] - 1):
                inflow = tx[i, j, k] * u[i - 1, j, k] + tx[i + 1, j, k] * u[i + 1, j, k]
                inflow += ty[i, j, k] * u[i, j - 1, k] + ty[i, j + 1, k] * u[i, j + 1, k]
                inflow += tz[i, j, k] * u[i, j, k - 1] + tz[i, j, k + 1] * u[i, j, k + 1]
                new[i, j, k] = keep * u[i, j, k] + weight * d[i, j, k] * (f[i, j, k] + inflow)


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD})", **OPTIONS)
def residual(u, r, f, tx, ty, tz, d):
    """Set ``r = f - A u``."""
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            for k in range(1, u.shape[2] - 1):
                inflow = tx[i, j, k] * u[i - 1, j, k] + tx[i + 1, j, k] * u[i + 1, j, k]
                inflow += ty[i, j, k] * u[i, j - 1, k] + ty[i, j + 1, k] * u[i, j + 1, k]
                inflow += tz[i, j, k] * u[i, j, k - 1] + tz[i, j, k + 1] * u[i, j, k + 1]
                r[i, j, k] = f[i, j, k] + inflow - u[i, j, k] / d[i, j, k]


@njit(f"void({_FIELD}, {_FIELD}, f4[::1])", **OPTIONS)
def restrict(r, coarse, row):
    """Set ``coarse`` to the transpose of trilinear interpolation of ``r``; ``row`` is scratch for one line of ``r``."""
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(1, coarse.shape[0] - 1):
        for j in range(1, coarse.shape[1] - 1):
            row[: r.shape[2]] = np.float32(0.0)
            for a in range(4):
                along_x = near if a == 1 or a == 2 else far
                plane = r[2 * i - 2 + a]
                for k in range(r.shape[2]):
                    outer, inner = plane[2 * j - 2, k] + plane[2 * j + 1, k], plane[2 * j - 1, k] + plane[2 * j, k]
                    row[k] += along_x * (far * outer + near * inner)
            for k in range(1, coarse.shape[2] - 1):
                coarse[i, j, k] = far * (row[2 * k - 2] + row[2 * k + 1]) + near * (row[2 * k - 1] + row[2 * k])


@njit(f"void({_FIELD}, {_FIELD}, f4[::1])", **OPTIONS)
def correct(u, coarse, row):
    """Add the trilinear interpolation of ``coarse`` to ``u``; ``row`` is scratch for one line of ``coarse``."""
    near, far = np.float32(0.75), np.float32(0.25)
    for i in range(1, u.shape[0] - 1):
        close_x = (i + 1) // 2
        away_x = close_x - 1 if i % 2 == 1 else close_x + 1
        for j in range(1, u.shape[1] - 1):
            close_y = (j + 1) // 2
            away_y = close_y - 1 if j % 2 == 1 else close_y + 1
            for k in range(coarse.shape[2]):
                here = near * coarse[close_x, close_y, k] + far * coarse[away_x, close_y, k]
                there = near * coarse[close_x, away_y, k] + far * coarse[away_x, away_y, k]
                row[k] = near * here + far * there
            for k in range(1, coarse.shape[2] - 1):
                u[i, j, 2 * k - 1] += near * row[k] + far * row[k - 1]
                u[i, j, 2 * k] += near * row[k] + far * row[k + 1]


@njit(f"void({_FIELD}, {_FIELD}, f4[:,::1])", **OPTIONS)
def solve_coarsest(u, f, inverse):
    """Set ``u = inverse f``, cells in row-major order."""
    ny, nz = u.shape[1] - 2, u.shape[2] - 2
    for m in range(inverse.shape[0]):
        total = np.float32(0.0)
        for n in range(inverse.shape[1]):
            total += inverse[m, n] * f[1 + n // (ny * nz), 1 + n // nz % ny, 1 + n % nz]
        u[1 + m // (ny * nz), 1 + m // nz % ny, 1 + m % nz] = total


@njit(f"void({_WORK}, {_TABLE}, f4[:,::1], {_SIGNS}, {_WRAP}, f4[::1])", **OPTIONS)
def vcycle(work, table, inverse, signs, wrap, row):
    """Set ``U`` of the finest level to ``B F``: degree-3 smoothing down and up, ``inverse`` on the coarsest level."""
    none = np.zeros(6, np.float32)
    first, second, third = np.float32(WEIGHTS[0]), np.float32(WEIGHTS[1]), np.float32(WEIGHTS[2])
    last = table.shape[0] - 1
    for level in range(last):
        u, v, f = field(work, table, U, level), field(work, table, V, level), field(work, table, F, level)
        tx, ty, tz = field(work, table, TX, level), field(work, table, TY, level), field(work, table, TZ, level)
        d = field(work, table, D, level)
        u[:] = 0.0
        jacobi(u, v, f, tx, ty, tz, d, first)
        set_ghosts(v, none, wrap)
        jacobi(v, u, f, tx, ty, tz, d, second)
        set_ghosts(u, none, wrap)
        jacobi(u, v, f, tx, ty, tz, d, third)
        set_ghosts(v, none, wrap)
        residual(v, u, f, tx, ty, tz, d)
        set_ghosts(u, signs, wrap)
        restrict(u, field(work, table, F, level + 1), row)
    solve_coarsest(field(work, table, U, last), field(work, table, F, last), inverse)
    for level in range(last - 1, -1, -1):
        u, v, f = field(work, table, U, level), field(work, table, V, level), field(work, table, F, level)
        tx, ty, tz = field(work, table, TX, level), field(work, table, TY, level), field(work, table, TZ, level)
        d, coarse = field(work, table, D, level), field(work, table, U, level + 1)
        set_ghosts(coarse, signs, wrap)
        correct(v, coarse, row)
        set_ghosts(v, none, wrap)
        jacobi(v, u, f, tx, ty, tz, d, first)
        set_ghosts(u, none, wrap)
        jacobi(u, v, f, tx, ty, tz, d, second)
        set_ghosts(v, none, wrap)
        jacobi(v, u, f, tx, ty, tz, d, third)


@njit(f"void({_FIELD}, {_FIELD}, {_FIELD}, {_FIELD}, {_FIELD})", **OPTIONS)
def set_inverse_diagonal(tx, ty, tz, c, d):
    """Set ``D`` from faces and reaction."""
    for i in range(1, d.shape[0] - 1):
        for j in range(1, d.shape[1] - 1):
            for k in range(1, d.shape[2] - 1):
                across = tx[i, j, k] + tx[i + 1, j, k] + ty[i, j, k] + ty[i, j + 1, k] + tz[i, j, k] + tz[i, j, k + 1]
                d[i, j, k] = np.float32(1.0) / (across + c[i, j, k])


@njit("void(f4[:,:,:], f4[:,:,:], b1)", **OPTIONS)
def coarsen_faces(fine, coarse, periodic):
    """Fill the faces across the first axis: in series along it, four parallel lines added; ghosts included."""
    nx = coarse.shape[0] - 2
    nothing = np.float32(np.inf)  # a half inner face beyond a wall resists nothing
    coarse[:] = np.float32(0.0)
    for i in range(1, nx + 2):
        below, above = 2 * i - 2, 2 * i
        below, above = (2 * nx if periodic and i == 1 else below), (2 if periodic and i == nx + 1 else above)
        for j in range(1, fine.shape[1] - 1):
            for k in range(1, fine.shape[2] - 1):
                under = fine[below, j, k] if below > 0 else nothing
                over = fine[above, j, k] if above <= 2 * nx else nothing
                coarse[i, (j + 1) // 2, (k + 1) // 2] += in_series(under, fine[2 * i - 1, j, k], over)


@njit(f"void({_WORK}, {_TABLE}, i8, {_WRAP})", **OPTIONS)
def coarsen(work, table, level, wrap):
    """Fill a level from the next finer one."""
    tx, ty, tz = field(work, table, TX, level), field(work, table, TY, level), field(work, table, TZ, level)
    fx, fy, fz = field(work, table, TX, level - 1), field(work, table, TY, level - 1), field(work, table, TZ, level - 1)
    fc, c = field(work, table, F, level - 1), field(work, table, F, level)
    coarsen_faces(fx, tx, wrap[0])
    coarsen_faces(fy.transpose((1, 0, 2)), ty.transpose((1, 0, 2)), wrap[1])
    coarsen_faces(fz.transpose((2, 0, 1)), tz.transpose((2, 0, 1)), wrap[2])
    c[:] = np.float32(0.0)
    for i in range(1, fc.shape[0] - 1):
        for j in range(1, fc.shape[1] - 1):
            for k in range(1, fc.shape[2] - 1):
                c[(i + 1) // 2, (j + 1) // 2, (k + 1) // 2] += fc[i, j, k]
    set_inverse_diagonal(tx, ty, tz, c, field(work, table, D, level))


@njit(f"void({_DOUBLE}, {_FIELD}, f8)", **OPTIONS)
def copy_inside(values, padded, scale):
    """Write ``scale * values`` behind the low ghosts of ``padded``, and zero elsewhere."""
    padded[:] = np.float32(0.0)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            for k in range(values.shape[2]):
                padded[i + 1, j + 1, k + 1] = scale * values[i, j, k]


@njit(f"void({_WORK}, {_TABLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, f8, {_WRAP})", **OPTIONS)
def build(work, table, faces_x, faces_y, faces_z, reaction, scale, wrap):
    """Fill all faces and ``D`` from the finest faces times ``scale``; ``F`` holds the reaction meanwhile."""
    tx, ty, tz = field(work, table, TX, 0), field(work, table, TY, 0), field(work, table, TZ, 0)
    c = field(work, table, F, 0)
    copy_inside(faces_x, tx, scale)
    copy_inside(faces_y, ty, scale)
    copy_inside(faces_z, tz, scale)
    copy_inside(reaction, c, scale)
    set_inverse_diagonal(tx, ty, tz, c, field(work, table, D, 0))
    for level in range(1, table.shape[0]):
        coarsen(work, table, level, wrap)


@njit("void(f8[:,::1], i8, i8, f8)", **OPTIONS)
def couple(matrix, here, there, transmissibility):
    """Subtract a transmissibility from the two entries of a pair of cells."""
    matrix[here, there] -= transmissibility
    matrix[there, here] -= transmissibility


@njit(f"void({_WORK}, {_TABLE}, {_WRAP}, f8[:,::1])", **OPTIONS)
def coarsest_matrix(work, table, wrap, matrix):
    """Add the coarsest level's matrix to ``matrix``, cells in row-major order."""
    last = table.shape[0] - 1
    tx, ty, tz = field(work, table, TX, last), field(work, table, TY, last), field(work, table, TZ, last)
    d = field(work, table, D, last)
    nx, ny, nz = table[last, 0], table[last, 1], table[last, 2]
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                here = (i * ny + j) * nz + k
                matrix[here, here] += 1.0 / d[i + 1, j + 1, k + 1]
                if i > 0 or wrap[0]:
                    couple(matrix, here, ((i - 1) % nx * ny + j) * nz + k, tx[i + 1, j + 1, k + 1])
                if j > 0 or wrap[1]:
                    couple(matrix, here, (i * ny + (j - 1) % ny) * nz + k, ty[i + 1, j + 1, k + 1])
                if k > 0 or wrap[2]:
                    couple(matrix, here, (i * ny + j) * nz + (k - 1) % nz, tz[i + 1, j + 1, k + 1])


@njit(f"void({_DOUBLE}, {_WRAP})", **OPTIONS)
def wrap_or_clear(p, wrap):
    """Fill the ghosts that the operator sees: wrapped on periodic axes, else zero."""
    nx, ny, nz = p.shape[0] - 2, p.shape[1] - 2, p.shape[2] - 2
    for i in range(1, nx + 1):
        for j in range(1, ny + 1):
            p[i, j, 0], p[i, j, nz + 1] = (p[i, j, nz], p[i, j, 1]) if wrap[2] else (0.0, 0.0)
        for k in range(1, nz + 1):
            p[i, 0, k], p[i, ny + 1, k] = (p[i, ny, k], p[i, 1, k]) if wrap[1] else (0.0, 0.0)
    for j in range(1, ny + 1):
        for k in range(1, nz + 1):
            p[0, j, k], p[nx + 1, j, k] = (p[nx, j, k], p[1, j, k]) if wrap[0] else (0.0, 0.0)


@njit(f"f8({_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_WRAP})", **OPTIONS)
def product(p, q, faces_x, faces_y, faces_z, reaction, wrap):
    """Set ``q = A p`` inside and return ``p' A p``; ``p`` and ``q`` have a ghost layer, the others none."""
    wrap_or_clear(p, wrap)
    energy = 0.0
    nx, ny, nz = p.shape[0] - 2, p.shape[1] - 2, p.shape[2] - 2
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                here = p[i + 1, j + 1, k + 1]
                out = faces_x[i, j, k] * (here - p[i, j + 1, k + 1]) + faces_x[i + 1, j, k] * (
                    here - p[i + 2, j + 1, k + 1]
                )
                out += faces_y[i, j, k] * (here - p[i + 1, j, k + 1]) + faces_y[i, j + 1, k] * (
                    here - p[i + 1, j + 2, k + 1]
                )
                out += faces_z[i, j, k] * (here - p[i + 1, j + 1, k]) + faces_z[i, j, k + 1] * (
                    here - p[i + 1, j + 1, k + 2]
                )
                q[i + 1, j + 1, k + 1] = out
            if reaction.shape[0] > 0:
                for k in range(nz):
                    q[i + 1, j + 1, k + 1] += reaction[i, j, k] * p[i + 1, j + 1, k + 1]
            for k in range(nz):
                energy += p[i + 1, j + 1, k + 1] * q[i + 1, j + 1, k + 1]
    return energy


@njit(
    f"i8({_WORK}, f8[:,::1], {_TABLE}, f4[:,::1], {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_DOUBLE}, {_SIGNS}, {_WRAP},"
    " f8, i8)",
    **OPTIONS,
)
def conjugate_gradients(
    work, vectors, table, inverse, faces_x, faces_y, faces_z, reaction, signs, wrap, tolerance, max_steps
):
    """Solve ``A x = b`` from zero and return the number of V-cycles; see :func:`_vectors.conjugate_gradients`."""
    shape = (table[0, 0] + 2, table[0, 1] + 2, table[0, 2] + 2)
    f, z = work[F, : vectors.shape[1]], work[U, : vectors.shape[1]]
    cycle = (work, table, inverse, signs, wrap, np.empty(shape[2], np.float32))
    matrix = (faces_x, faces_y, faces_z, reaction, wrap)
    return _vectors.conjugate_gradients(vcycle, cycle, product, matrix, f, z, vectors, shape, tolerance, max_steps)
