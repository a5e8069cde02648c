"""Maps at the spacing they were trained at: single cycles between classical transfers, or networks as a whole."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vcycle.multigrid.padding import Padding
from vcycle.multigrid.transfers import apply_stencil, linear_weight, prolong


def halvings(shape: Sequence[int], native_shape: Sequence[int]) -> int:
    """Return how often a grid has to be halved (doubled where negative) to be nearest to the native one's spacing.

    Both grids cover the same box.
    """
    ratios = [math.log2(n / m) for n, m in zip(shape, native_shape, strict=True)]
    return round(sum(ratios) / len(ratios))


def at_spacing(function: Callable[[Tensor], Tensor], u: Tensor, padding: Padding, steps: int) -> Tensor:
    """Apply ``function`` on the grid that is ``steps`` times coarser, and bring the result back.

    Parameters
    ----------
    function
        Maps ``(batch, channel, *space)`` to functions on the same grid.
    u
        ``(batch, channel, *space)``.
    padding
        Ghost values on the grid of ``u``.
    steps
        How often the grid is halved; a negative number doubles it.

    Returns
    -------
    Tensor
        ``(batch, channel, *space)``: averaged to coarser grids, interpolated linearly to finer ones.
    """
    shape = tuple(u.shape[2:])
    if steps == 0:
        return function(u)
    if steps > 0:
        coarse, size = padding.coarsened(shape)
        result = at_spacing(function, _averaged(u, padding, size), coarse, steps - 1)
        return _interpolated(result, coarse, shape)
    fine = _refined(padding, shape)
    return _averaged(at_spacing(function, _interpolated(u, padding, fine), padding, steps + 1), padding, shape)


def predicted_at_spacing(function: Callable[[Tensor], Tensor], u: Tensor, padding: Padding, steps: int) -> Tensor:
    """Apply a network on the grid that is ``steps`` times coarser, to all samples of ``u`` there, and average.

    A coarse point stands for the fine ones around it, each of which is a legitimate value of a field that is only known
    at points: on cells the two of a pair along every axis, on vertices a vertex (weight 1/2) and its neighbours (1/4).
    The network answers every choice of them, in one batch, and so never sees anything but what it was trained on.

    Parameters
    ----------
    function
        Maps ``(batch, channel, *space)``, inputs such as coefficients, to functions on the same grid.
    u
        ``(batch, channel, *space)``.
    padding
        Of the unknown on the grid of ``u``: where the walls are, and whether it vanishes there.
    steps
        How often the grid is halved; a negative number doubles it.

    Returns
    -------
    Tensor
        ``(batch, channel, *space)``: the mean answer, interpolated by cubics; or, from finer grids, its means over
        cells or its values at vertices.
    """
    shape = tuple(u.shape[2:])
    if steps == 0:
        return function(u)
    axes = range(padding.num_axes)
    if steps > 0:
        coarse, size = _halved(padding, shape)
        choices = list(itertools.product(*(_places(padding, axis, shape[axis], size[axis]) for axis in axes)))
        samplings = torch.cat([_taken(u, choice) for choice in choices])
        answers = predicted_at_spacing(function, samplings, coarse, steps - 1)
        weights = torch.tensor([math.prod(weight for weight, _ in choice) for choice in choices]).to(answers)
        mean = torch.tensordot(weights, answers.unflatten(0, (len(choices), u.shape[0])), 1)
        return _along_axes(mean, [_cubics(padding, axis, shape[axis], size[axis]) for axis in axes])
    fine = _refined(padding, shape)
    inputs = u
    for axis in axes:  # the nearest value; vertices between two take the lower one
        inputs = inputs.index_select(axis + 2, torch.arange(fine[axis], device=u.device) // 2)
    answer = predicted_at_spacing(function, inputs, padding, steps + 1)
    for dim in range(2, answer.ndim):
        if padding.offset:
            answer = answer.unflatten(dim, (-1, 2)).mean(dim + 1)
        else:
            answer = answer.index_select(dim, torch.arange(0, answer.shape[dim], 2, device=answer.device))
    return answer


def _refined(padding: Padding, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the grid with half the spacing."""
    return tuple(
        2 * n - 1 if padding.offset == 0.0 and rules[1] != "wrap" else 2 * n
        for n, rules in zip(shape, padding.rules, strict=True)
    )


def _halved(padding: Padding, shape: Sequence[int]) -> tuple[Padding, tuple[int, ...]]:
    """Return the grid of pairs of cells, or of every second vertex, none of which is beyond the last fine one."""
    size = tuple(n // 2 if padding.offset else (n + 1) // 2 for n in shape)
    distances = []
    for axis, (n, m) in enumerate(zip(shape, size, strict=True)):
        offset = 0.0 if padding.rules[axis][1] == "wrap" else padding.offset  # around an axis it is to the first point
        distances.append((n - 1 + padding.distances[axis] - 2 * (m - 1) - offset) / 2)
    return replace(padding, distances=tuple(distances)), size


def _places(padding: Padding, axis: int, size: int, coarse: int) -> list[tuple[float, Tensor]]:
    """Return the weights and the indices of the fine points that may stand for the coarse ones."""
    first = 2 * torch.arange(coarse)
    offsets = ((0.5, 0), (0.5, 1)) if padding.offset else ((0.25, -1), (0.5, 0), (0.25, 1))
    closed = padding.rules[axis][1] == "wrap"
    return [(w, (first + i) % size if closed else (first + i).clamp(0, size - 1)) for w, i in offsets]


def _taken(u: Tensor, choice: Sequence[tuple[float, Tensor]]) -> Tensor:
    for axis, (_, indices) in enumerate(choice):
        u = u.index_select(axis + 2, indices.to(u.device))
    return u


@lru_cache(maxsize=256)  # of arrays: a tensor that is made while a program is recorded must not be kept
def _cubics(padding: Padding, axis: int, size: int, coarse: int) -> np.ndarray:
    """Return the matrix from values on a coarse axis to the cubics through the four nearest, at the fine points.

    Where the unknown vanishes at a wall between points, the wall is one of the four.
    """
    low, high = padding.rules[axis]
    nodes = [
        (2 * (i + padding.offset), i) for i in range(coarse)
    ]  # in fine spacings from the low wall, and whose value
    last = size - 1 + padding.distances[axis]
    if high == "wrap":
        nodes = [(x + turn * last, i) for turn in (-1, 0, 1) for x, i in nodes]
    if low == "value" and padding.offset:
        nodes.insert(0, (0.0, -1))
    if high == "value" and nodes[-1][0] < last + padding.offset:
        nodes.append((last + padding.offset, -1))
    matrix = np.zeros((size, coarse))
    count = min(4, len(nodes))
    for row in range(size):
        x = row + padding.offset
        starts = range(len(nodes) - count + 1)
        first = min(starts, key=lambda j: max(abs(x - nodes[j][0]), abs(x - nodes[j + count - 1][0])))
        near = nodes[first : first + count]
        for place, owner in near:
            if owner >= 0:
                others = [other for other, _ in near if other != place]
                matrix[row, owner] += math.prod((x - other) / (place - other) for other in others)
    return matrix


def _along_axes(u: Tensor, matrices: Sequence[np.ndarray]) -> Tensor:
    for axis, matrix in enumerate(matrices):
        u = torch.tensordot(u, torch.from_numpy(matrix).to(u), ([axis + 2], [1])).movedim(-1, axis + 2)
    return u


def _averaged(u: Tensor, padding: Padding, shape: tuple[int, ...]) -> Tensor:
    """Return means of pairs of cells, or of vertices and their neighbours, weighted 1/4, 1/2, 1/4."""
    cells = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    one_axis = cells if padding.offset else torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    weight = one_axis
    for _ in range(padding.num_axes - 1):
        weight = weight.unsqueeze(-1) * one_axis
    single = apply_stencil(u.flatten(0, 1).unsqueeze(1), weight[None, None].to(u), padding, stride=2, shape=shape)
    return single.unflatten(0, u.shape[:2]).squeeze(2)


def _interpolated(u: Tensor, padding: Padding, shape: tuple[int, ...]) -> Tensor:
    weight = linear_weight(padding.num_axes, "cell" if padding.offset else "vertex").to(u)
    single = prolong(u.flatten(0, 1).unsqueeze(1), weight, padding, shape)
    return single.unflatten(0, u.shape[:2]).squeeze(2)
