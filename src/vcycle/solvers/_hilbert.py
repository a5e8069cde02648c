"""Compiled positions on the Hilbert curve.

Import this module only where it is used: it loads Numba.
"""
# ruff: noqa: ANN001, ANN202 - the types stand in the signatures that Numba gets
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit


@njit("void(i8[::1], i8)", nogil=True, cache=True)
def untangle(x, bits):
    """Undo the reflections and rotations of the curve, from the coarsest bit on, in place (Skilling's algorithm)."""
    bit = np.int64(1) << (bits - 1)
    while bit > 1:
        below = bit - 1
        for a in range(len(x)):
            if x[a] & bit:
                x[0] ^= below
            else:
                swap = (x[0] ^ x[a]) & below
                x[0] ^= swap
                x[a] ^= swap
        bit >>= 1


@njit("void(i8[::1], i8)", nogil=True, cache=True)
def gray(x, bits):
    """Replace the bits, read across the axes, by the number whose Gray code they are, in place."""
    for a in range(1, len(x)):
        x[a] ^= x[a - 1]
    flip = np.int64(0)
    bit = np.int64(1) << (bits - 1)
    while bit > 1:
        if x[len(x) - 1] & bit:
            flip ^= bit - 1
        bit >>= 1
    for a in range(len(x)):
        x[a] ^= flip


@njit("i8[::1](i8[:,::1], i8)", nogil=True, cache=True)
def positions(points, bits):
    """Return the position of every row, whose entries have so many bits; axes times bits must be below 63."""
    num, axes = points.shape
    result = np.zeros(num, np.int64)
    for row in range(num):
        x = points[row].copy()
        untangle(x, bits)
        gray(x, bits)
        position = np.int64(0)
        for b in range(bits - 1, -1, -1):
            for a in range(axes):
                position = (position << 1) | ((x[a] >> b) & 1)
        result[row] = position
    return result
