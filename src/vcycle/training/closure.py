"""Closures of coarse dynamics: networks that stand for what is not resolved, fitted beside the solver or inside it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vcycle import _check
from vcycle.data import Dataset
from vcycle.grid import Grid
from vcycle.problems.lorenz96 import integrate
from vcycle.training.config import FitConfig
from vcycle.training.fit import fit

Resolved = Callable[[Tensor], Tensor]
AS_THEY_ARE: dict[str, Any] = {"input_normaliser": "none", "output_normaliser": "none"}
"""How a solver takes states, and so its closure."""


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


class Unrolled(nn.Module):
    """A solver as a network: from the coarse state ``(batch, 1, variable)`` to the next ``(batch, step, variable)``.

    Parameters
    ----------
    dynamics
        What is stepped.
    steps
        Number of steps.
    """

    def __init__(self, dynamics: ClosedDynamics, steps: int) -> None:
        super().__init__()
        self.dynamics, self.steps = dynamics, _check.integer("steps", steps, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states after each step, as channels."""
        return self.dynamics(x[:, 0], self.steps)[:, 1:]


def fit_offline(model: ClosedDynamics, states: Tensor, targets: Tensor, **training: Any) -> list[float]:
    """Fit the closure to what the unresolved part really was, never running the solver.

    Parameters
    ----------
    model
        Its closure is trained in place.
    states
        Coarse states, ``(sample, variable)``.
    targets
        The unresolved part of their derivative, of the same shape.
    **training
        Arguments of :func:`vcycle.fit`, which trains: ``epochs``, and what shall not be as usual. Nothing is
        normalised: a solver takes states as they are.

    Returns
    -------
    list of float
        Loss of every epoch, unless told otherwise the mean square error.

    Raises
    ------
    ValueError
        If there is no closure or the shapes differ.
    """
    _check.shape("targets", targets.shape, tuple(states.shape), "as `states`")
    return _fit(_closure(model), states[:, None], targets[:, None], training)


def fit_in_the_loop(model: ClosedDynamics, windows: Tensor, **training: Any) -> list[float]:
    """Fit the closure by what the solver with it makes of the coarse states: gradients pass through its steps.

    Parameters
    ----------
    model
        Its closure is trained in place.
    windows
        Coarse trajectories at the solver's steps, ``(sample, time, variable)``; the first state is the start.
    **training
        As in :func:`fit_offline`.

    Returns
    -------
    list of float
        Loss over the windows in every epoch, unless told otherwise the mean square error.

    Raises
    ------
    ValueError
        If there is no closure or a window has fewer than two times.
    """
    if windows.ndim != 3 or windows.shape[1] < 2:
        raise ValueError(
            f"`windows` must be (sample, time, variable) with two times or more. Got {tuple(windows.shape)}."
        )
    _closure(model)
    return _fit(Unrolled(model, windows.shape[1] - 1), windows[:, :1], windows[:, 1:], training)


def _closure(model: ClosedDynamics) -> nn.Module:
    if model.closure is None:
        raise ValueError("`model` must have a closure to fit. Got None.")
    return model.closure


def _mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


def _fit(network: nn.Module, inputs: Tensor, outputs: Tensor, training: dict[str, Any]) -> list[float]:
    """Train a network in place, on functions around the ring of variables."""
    ring = Grid((inputs.shape[-1],), centring="vertex", periodic=(True,))
    data = Dataset.from_arrays(inputs, outputs, grid=ring, boundary="periodic")
    config = replace(FitConfig.of(training.get("config")), **AS_THEY_ARE)
    usual: dict[str, Any] = {"loss": _mean_square, "progress": False}
    operator = fit(network, data, **usual | training | {"config": config})
    network.load_state_dict(operator.network.state_dict())
    return [row["loss"] for row in operator.history]
