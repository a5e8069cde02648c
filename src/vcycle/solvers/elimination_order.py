"""Orders in which sparse elimination on a grid causes little fill."""

import math

import numpy as np

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.solvers.pattern import Pattern

DISSECTED_POINTS = 2**15
"""From this size on grids are dissected. Below, minimum degree leaves less fill and costs little itself."""
SMALLEST_PART = 8

SYMMETRIC_PATTERN = {"SymmetricMode": True}
"""SuperLU's word for a pattern that equals its transpose."""


def fill_reducing_order(grid: Grid, boundary: Boundary) -> np.ndarray:
    """Return an order with little fill, shape ``(n,)``: unknown ``order[j]`` is eliminated ``j``-th."""
    if grid.num_points >= DISSECTED_POINTS:
        return nested_dissection(grid.shape, boundary.periodic)
    return _minimum_degree(grid, boundary)


def nested_dissection(shape: tuple[int, ...], periodic: tuple[bool, ...]) -> np.ndarray:
    """Return the order that eliminates two halves of the box before the plane between them, halves likewise.

    Parameters
    ----------
    shape
        Points per axis.
    periodic
        Per axis; a periodic one is cut open first.

    References
    ----------
    George, SIAM J. Numer. Anal. 10 (1973) 345. doi:10.1137/0710032
    """
    inner, parts = np.arange(math.prod(shape)).reshape(shape), []
    for axis, wraps in enumerate(periodic):
        if wraps and inner.shape[axis] > 1:
            plane, inner = np.split(inner, [1], axis=axis)
            parts.append(plane.ravel())
    blocks = [inner]
    while blocks:  # collects what comes last first
        block = blocks.pop()
        if block.size <= SMALLEST_PART:
            parts.append(block.ravel())
            continue
        axis = int(np.argmax(block.shape))
        middle = block.shape[axis] // 2
        low, plane, high = np.split(block, [middle, middle + 1], axis=axis)
        parts.append(plane.ravel())
        blocks += [low, high]
    return np.concatenate(parts[::-1])


def _minimum_degree(grid: Grid, boundary: Boundary) -> np.ndarray:
    """Return SuperLU's minimum-degree order."""
    from scipy.sparse.linalg import splu

    pattern = Pattern(grid, boundary)
    size = pattern.size
    values = np.full(len(pattern.slot), -1.0)
    values[:size] = 4.0 * size  # any dominant diagonal will do: the order depends on the pattern only
    factor = splu(pattern.scatter(values), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=SYMMETRIC_PATTERN)
    return np.argsort(factor.perm_c)
