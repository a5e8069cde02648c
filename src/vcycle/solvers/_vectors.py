"""What the compiled kernels of every dimension share: flat vectors, and conjugate gradients over them.

Import this module only where it is used: it loads Numba.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import math
from typing import Any

import numpy as np
from numba import njit

from vcycle.multigrid.classical import chebyshev_weights

WEIGHTS = chebyshev_weights(3)

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}


@njit("f4(f4, f4, f4)", **OPTIONS)
def in_series(below, face, above):
    """Return the transmissibility of half an inner face, a face, and half an inner face."""
    one, half = np.float32(1.0), np.float32(0.5)
    return one / (half / below + one / face + half / above)


@njit("f8(f8[::1], f4[::1])", **OPTIONS)
def load(r, f):
    """Copy ``r`` to float32 and return its norm."""
    total = 0.0
    for i in range(len(r)):
        total += r[i] * r[i]
        f[i] = r[i]
    return math.sqrt(total)


@njit("void(f8[::1], f8[::1], f8[::1], f8[::1], f8)", **OPTIONS)
def step(x, r, p, q, alpha):
    """Add ``alpha p`` to ``x`` and subtract ``alpha q`` from ``r``."""
    for i in range(len(x)):
        x[i] += alpha * p[i]
        r[i] -= alpha * q[i]


@njit("UniTuple(f8, 2)(f4[::1], f8[::1], f8[::1])", **OPTIONS)
def inner_products(z, r, q):
    """Return ``z' r`` and ``z' q``."""
    zr, zq = 0.0, 0.0
    for i in range(len(z)):
        zr += z[i] * r[i]
        zq += z[i] * q[i]
    return zr, zq


@njit("void(f4[::1], f8[::1], f8)", **OPTIONS)
def turn(z, p, beta):
    """Set ``p = z + beta p``."""
    for i in range(len(p)):
        p[i] = z[i] + beta * p[i]


# Inlined, as Numba does not cache what passes functions on. Caches look at the caller's file only: touch `_kernels` and
# `_kernels3` after a change here.
@njit(**{**OPTIONS, "cache": False, "inline": "always"})
def conjugate_gradients(vcycle, cycle, product, matrix, f, z, vectors, shape, tolerance, max_steps):
    """Solve ``A x = b`` to ``|b - A x| <= tolerance`` and return the number of V-cycles.

    ``vcycle(*cycle)`` sets ``z = B f``; ``product(p, q, *matrix)`` sets ``q = A p`` on arrays of this shape and returns
    ``p' A p``. ``vectors`` holds ``x, b, r, p, q``, ghosts included; those of ``b`` are zero. Directions are made
    conjugate by the Polak-Ribiere formula, which allows for the rounding of the float32 cycle. Where the recurrence
    claims convergence the true residual replaces it; the iteration goes on unless that no longer helps.
    """
    x, b, r, p, q = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    x[:], p[:], q[:] = 0.0, 0.0, 0.0
    r[:] = b
    zr_old, alpha, replaced = 1.0, 0.0, np.inf
    for steps in range(max_steps + 1):
        norm = load(r, f)
        if norm <= tolerance:
            product(x.reshape(shape), q.reshape(shape), *matrix)
            r[:] = b - q
            norm = load(r, f)
            if norm <= tolerance or not norm < 0.5 * replaced:
                return steps
            replaced, alpha = norm, 0.0
            p[:], q[:] = 0.0, 0.0
        if steps == max_steps or not math.isfinite(norm):
            return steps
        vcycle(*cycle)
        zr, zq = inner_products(z, r, q)
        turn(z, p, -alpha * zq / zr_old)
        energy = product(p.reshape(shape), q.reshape(shape), *matrix)
        if not (energy > 0.0 and zr > 0.0):
            return steps
        alpha, zr_old = zr / energy, zr
        step(x, r, p, q, alpha)
    return max_steps
