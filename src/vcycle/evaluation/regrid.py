"""The same problem with the same inputs on a grid twice or half as fine."""

import torch
from torch import Tensor

from vcycle.problems.problem import Fields, Problem


def refined(problem: Problem, inputs: Fields) -> tuple[Problem, Fields]:
    """Return the problem on the grid twice as fine, inputs constant in each old cell."""
    return problem.on_grid(problem.grid.refined()), {name: _repeated(values) for name, values in inputs.items()}


def coarsened(problem: Problem, inputs: Fields) -> tuple[Problem, Fields]:
    """Return the problem on the grid half as fine, inputs averaged over each new cell.

    Raises
    ------
    ValueError
        If the grid cannot be coarsened.
    """
    return problem.on_grid(problem.grid.coarsened()), {name: averaged(values) for name, values in inputs.items()}


def averaged(values: Tensor) -> Tensor:
    """Return the means over pairs of cells along every axis of ``(sample, component, *space)``."""
    for dim in range(2, values.ndim):
        values = values.unflatten(dim, (-1, 2)).mean(dim + 1)
    return values


def _repeated(values: Tensor) -> Tensor:
    for dim in range(2, values.ndim):
        values = values.repeat_interleave(2, dim)
    return values


def interpolated(values: Tensor, problem: Problem) -> Tensor:
    """Interpolate cell values of the unknown linearly to a grid twice as fine.

    Beyond a wall lies the odd reflection where the unknown vanishes on it, and elsewhere the continuation of the last
    two cells, which is second order whatever the wall holds.

    Parameters
    ----------
    values
        ``(sample, component, *space)``.
    problem
        What the unknown solves; its boundary kinds count, not its grid.

    Returns
    -------
    Tensor
        ``(sample, component, *space)`` with twice as many cells per axis.
    """
    for axis, pair in enumerate(problem.boundary.kinds):
        dim = axis + 2
        size = values.shape[dim]
        first, last = values.narrow(dim, 0, 1), values.narrow(dim, size - 1, 1)
        if pair[0] == "periodic":
            below, above = last, first
        else:
            odd = [problem.zero_on_walls and kind == "dirichlet" for kind in pair]
            below = -first if odd[0] else 2 * first - values.narrow(dim, 1, 1)
            above = -last if odd[1] else 2 * last - values.narrow(dim, size - 2, 1)
        extended = torch.cat([below, values, above], dim)
        low = 0.75 * values + 0.25 * extended.narrow(dim, 0, size)
        high = 0.75 * values + 0.25 * extended.narrow(dim, 2, size)
        values = torch.stack([low, high], dim + 1).flatten(dim, dim + 1)
    return values
