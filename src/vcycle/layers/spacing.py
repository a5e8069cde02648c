"""Cycles at the spacing they were trained at: classical transfers to that grid and back, around any linear map."""

import math
from collections.abc import Callable, Sequence

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
    fine = tuple(
        2 * n - 1 if padding.offset == 0.0 and rules[1] != "wrap" else 2 * n
        for n, rules in zip(shape, padding.rules, strict=True)
    )
    return _averaged(at_spacing(function, _interpolated(u, padding, fine), padding, steps + 1), padding, shape)


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
