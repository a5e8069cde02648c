"""Closures of coarse dynamics: networks that stand for what is not resolved, fitted beside the solver or inside it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.problems.lorenz96 import integrate

Resolved = Callable[[Tensor], Tensor]


class ClosedDynamics(nn.Module):
    """Known coarse dynamics plus a network's closure, stepped by a solver that gradients pass through.

    ``X' = N(X) + f_theta(X)``, classical Runge-Kutta.

    Parameters
    ----------
    resolved
        ``N``, the derivative of coarse states ``(batch, variable)`` without what is unresolved.
    closure
        ``f_theta``, an operator on the ring of variables, ``(batch, 1, variable)`` to the same shape; None for none.
    dt
        Step of the coarse solver, in the unit of time.

    References
    ----------
    Lütjens et al., "Multiscale Neural Operator: Learning Fast and Grid-independent PDE Solvers", arXiv:2207.11417; the
    loss through the solver as in Um et al., "Solver-in-the-Loop", NeurIPS 2020, arXiv:2007.00016.
    """

    def __init__(self, resolved: Resolved, closure: nn.Module | None, dt: float) -> None:
        super().__init__()
        self.resolved, self.closure, self.dt = resolved, closure, _check.positive("dt", dt)

    def tendency(self, x: Tensor) -> Tensor:
        """Return the derivative of coarse states ``(batch, variable)``."""
        return self.resolved(x) if self.closure is None else self.resolved(x) + self.closure(x[:, None])[:, 0]

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return the states at ``1 + steps`` times, ``(batch, time, variable)``, from those at the first."""
        return integrate(self.tendency, x, self.dt, steps)


def fit_offline(
    model: ClosedDynamics,
    states: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Fit the closure to what the unresolved part really was, never running the solver.

    Parameters
    ----------
    model
        Its closure is trained in place.
    states
        Coarse states, ``(sample, variable)``.
    targets
        The unresolved part of their derivative, of the same shape.
    steps
        Number of optimiser steps, Adam with one cycle of its rate.
    batch
        Samples per step.
    rate
        Largest learning rate.
    seed
        Of the samples' order.

    Returns
    -------
    list of float
        Mean square error at every step.

    Raises
    ------
    ValueError
        If there is no closure or the shapes differ.
    """
    _check.shape("targets", targets.shape, tuple(states.shape), "as `states`")

    def loss(rows: Tensor) -> Tensor:
        return (_closure(model)(states[rows][:, None])[:, 0] - targets[rows]).square().mean()

    return _minimise(_closure(model), loss, len(states), steps, batch, rate, seed)


def fit_in_the_loop(
    model: ClosedDynamics, windows: Tensor, *, steps: int, batch: int = 32, rate: float = 1e-3, seed: int = 0
) -> list[float]:
    """Fit the closure by what the solver with it makes of the coarse states: gradients pass through its steps.

    Parameters
    ----------
    model
        Its closure is trained in place.
    windows
        Coarse trajectories at the solver's steps, ``(sample, time, variable)``; the first state is the start.
    steps, batch, rate, seed
        As in :func:`fit_offline`.

    Returns
    -------
    list of float
        Mean square error over the windows at every step.

    Raises
    ------
    ValueError
        If there is no closure or a window has fewer than two times.
    """
    if windows.ndim != 3 or windows.shape[1] < 2:
        raise ValueError(
            f"`windows` must be (sample, time, variable) with two times or more. Got {tuple(windows.shape)}."
        )

    def loss(rows: Tensor) -> Tensor:
        path = model(windows[rows, 0], windows.shape[1] - 1)
        return (path[:, 1:] - windows[rows, 1:]).square().mean()

    return _minimise(_closure(model), loss, len(windows), steps, batch, rate, seed)


def _closure(model: ClosedDynamics) -> nn.Module:
    if model.closure is None:
        raise ValueError("`model` must have a closure to fit. Got None.")
    return model.closure


def _minimise(
    network: nn.Module, loss: Callable[[Tensor], Tensor], num: int, steps: int, batch: int, rate: float, seed: int
) -> list[float]:
    _check.integer("steps", steps, 1)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss(torch.randint(0, num, (batch,), generator=generator))
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        history.append(value.item())
    return history
