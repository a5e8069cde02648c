"""First weights of MgNO that are a classical solver's: cycles begin as multigrid for the problem's own stencil."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vcycle import _check
from vcycle.models.initial import scale_weights
from vcycle.models.mgno import MgNO
from vcycle.multigrid.layer import MultigridLayer
from vcycle.multigrid.transfers import linear_weight

if TYPE_CHECKING:
    from vcycle.problems.problem import Problem

DAMPING = 0.8
"""Of the Jacobi smoothing, the usual choice for Poisson (dimensionless)."""
SAMPLES = 8
"""Number of samples that the problem's stencil is averaged over."""


def solver_start(model: MgNO, problem: "Problem", *, seed: int = 0) -> MgNO:
    """Return a copy of ``model`` whose cycles start as classical multigrid for the problem's mean stencil.

    Each channel of a hidden right-hand side has one channel of the solution; those of the first layer, whose
    right-hand sides are the inputs, are random multiples of the inputs' solutions. With ``residual_restriction`` a
    layer is then the cycle with damped Jacobi smoothing; in the published form, where raw right-hand sides are
    restricted, ``Pi`` starts from zero and the layer is the additive preconditioner of Bramble, Pasciak and Xu. Layers
    are scaled, and ``B`` and the head drawn, as by ``init="scaled"``.

    Parameters
    ----------
    model
        The architecture; its weights are not used.
    problem
        A problem with linear systems on a grid with as many axes.
    seed
        Of the random weights.

    Raises
    ------
    TypeError
        If the model is not an MgNO or the problem has no linear systems.
    ValueError
        If the number of axes differs.

    References
    ----------
    Bramble, Pasciak, Xu, "Parallel multilevel preconditioners", Math. Comp. 55 (1990), eq. (1.3).
    """
    _check.instance("model", model, MgNO, "an MgNO")
    if problem.grid.num_axes != model.num_axes:
        raise ValueError(f"`problem` must have {model.num_axes} axes, as the model has. Got {problem.grid.num_axes}.")
    couplings, reaction = mean_stencil(problem)
    started = deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU, where weights are drawn
        scale_weights(
            [layer for layer in started.W if isinstance(layer, MultigridLayer)],
            list(started.B),
            started.head,
            fill=lambda layer: _fill(layer, couplings, reaction),
        )
    return started


def mean_stencil(problem: "Problem") -> tuple[list[float], float]:
    """Return the problem's mean coupling per axis and zero-order term, such that the couplings add up to one.

    They are read off by applying the operator to squares of the indices, away from the walls.

    Raises
    ------
    TypeError
        If the problem has no linear systems.
    """
    systems = getattr(problem, "systems", None)
    if systems is None:
        raise TypeError(f"`problem` must have linear systems. Got {type(problem).__name__}, which steps in time.")
    operator = systems(problem.sample(0, range(SAMPLES))).operator
    shape = problem.grid.shape
    inside = (slice(None), *(slice(1, -1) for _ in shape))

    def mean(values: Tensor) -> float:
        applied = operator.apply(values.expand(operator.batch, *shape).to(operator.parts[0].dtype))
        return applied[inside].real.mean().item()

    one = torch.ones(shape, dtype=torch.float64)
    reaction = mean(one)
    couplings = []
    for axis, size in enumerate(shape):
        index = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        square = one * (index**2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        couplings.append((reaction * square[inside[1:]].mean().item() - mean(square)) / 2)
    total = sum(couplings)
    return [coupling / total for coupling in couplings], reaction / total


def _fill(layer: MultigridLayer, couplings: list[float], reaction: float) -> None:
    axes = len(couplings)
    start: Tensor | None = None
    level: Any
    for index, level in enumerate(layer.levels):
        u_channels, f_channels = level.pre[0].S.weight.shape[:2]
        spread = _channels(u_channels, f_channels, start)
        start = spread if start is None else start
        gather = torch.linalg.pinv(spread)
        # the zero-order term grows like the cells; where it would outweigh the couplings the smoother could not follow
        term = max(reaction * 4.0**index, -1.0)
        diagonal = 2.0 + term
        # in physical units: then right-hand sides keep their size, and a step of training moves all levels alike
        square = 4.0**index  # of the spacing, in fine ones
        laplace = _stencil(couplings, diagonal) / square
        point = _stencil([0.0] * axes, DAMPING / diagonal) * square
        for step in (*level.pre, *level.post):
            step.S.weight.copy_(_product(spread, point))
            if step.A is not None:
                step.A.weight.copy_(_product(gather, laplace))
        if level.A is not None:
            level.A.weight.copy_(_product(gather, laplace))
        if level.P is None:
            continue
        _fill_transfers(level, spread, start)


def _fill_transfers(level: Any, spread: Tensor, start: Tensor) -> None:
    R, P = level.R.weight, level.P.weight
    axes = R.ndim - 2
    average = linear_weight(axes, "cell" if R.shape[-1] == 4 else "vertex")[0, 0]
    R.copy_(_product(torch.eye(R.shape[0], R.shape[1]), average / average.sum()))
    coarse = _channels(P.shape[0], R.shape[0], start)
    interpolate = linear_weight(axes, "cell" if P.shape[-1] == 4 else "vertex")[0, 0]
    P.copy_(_product((spread @ torch.eye(R.shape[1], R.shape[0]) @ torch.linalg.pinv(coarse)).T, interpolate))
    if level.Pi is not None:
        level.Pi.weight.zero_()


def _channels(u_channels: int, f_channels: int, start: Tensor | None) -> Tensor:
    """Return which channels of u carry which right-hand sides, ``(u, f)``: one each, or random multiples of few."""
    if u_channels == f_channels:
        return torch.eye(u_channels)
    if start is not None and start.shape == (u_channels, f_channels):
        return start
    return torch.randn(u_channels, f_channels)


def _stencil(couplings: list[float], diagonal: float) -> Tensor:
    axes = len(couplings)
    stencil = torch.zeros((3,) * axes, dtype=torch.float64)
    stencil[(1,) * axes] = diagonal
    for axis, coupling in enumerate(couplings):
        for place in (0, 2):
            stencil[tuple(place if a == axis else 1 for a in range(axes))] = -coupling
    return stencil


def _product(channels: Tensor, stencil: Tensor) -> Tensor:
    """Return the kernel ``channels (x) stencil``."""
    return channels.reshape(*channels.shape, *(1,) * stencil.ndim) * stencil
