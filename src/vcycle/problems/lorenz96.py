"""Lorenz 96 with two time scales: slow variables that are resolved, fast ones that a closure stands for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vcycle import _check

Tendency = Callable[[Tensor], Tensor]


def rk4_step(tendency: Tendency, state: Tensor, dt: float) -> Tensor:
    """Advance ``state`` by one step of the classical Runge-Kutta method, order 4; differentiable."""
    a = tendency(state)
    b = tendency(state + dt / 2 * a)
    c = tendency(state + dt / 2 * b)
    d = tendency(state + dt * c)
    return state + dt / 6 * (a + 2 * (b + c) + d)


def integrate(tendency: Tendency, state: Tensor, dt: float, steps: int, every: int = 1) -> Tensor:
    """Return the states after every ``every`` of ``steps`` steps, the first one included.

    Parameters
    ----------
    tendency
        The state's derivative in time.
    state
        ``(batch, ...)``.
    dt
        Step, in the unit of time.
    steps, every
        Numbers of steps.

    Returns
    -------
    Tensor
        ``(batch, 1 + steps // every, ...)``.
    """
    stored = [state]
    for number in range(1, _check.integer("steps", steps, 0) + 1):
        state = rk4_step(tendency, state, dt)
        if number % every == 0:
            stored.append(state)
    return torch.stack(stored, 1)


@dataclass(frozen=True)
class Lorenz96:
    r"""Slow variables on a ring, each driving and driven by fast ones on a ring of their own.

    .. math::
        \dot X_k &= X_{k-1} (X_{k+1} - X_{k-2}) - X_k + F - \frac{h c}{b} \sum_j Y_{j,k} \\
        \dot Y_j &= c b\, Y_{j+1} (Y_{j-1} - Y_{j+2}) - c\, Y_j + \frac{h c}{b} X_{k(j)}

    The fast ring runs through all slow variables in turn: ``Y_j`` belongs to ``k(j) = j // num_fast``.

    Parameters
    ----------
    num_slow
        Number of slow variables, 4 or more.
    num_fast
        Fast variables per slow one.
    forcing
        F, dimensionless as all else.
    coupling
        h.
    amplitude
        b: fast variables are that much smaller.
    speed
        c: fast variables are that much faster.

    Raises
    ------
    ValueError
        If a number is too small.

    References
    ----------
    Lorenz, "Predictability: A problem partly solved", ECMWF Seminar on Predictability (1996), eqs. (2)-(3).
    """

    num_slow: int = 8
    num_fast: int = 8
    forcing: float = 20.0
    coupling: float = 1.0
    amplitude: float = 10.0
    speed: float = 10.0

    def __post_init__(self) -> None:
        _check.integer("num_slow", self.num_slow, 4)
        _check.integer("num_fast", self.num_fast, 1)
        for name in ("amplitude", "speed"):
            _check.positive(name, getattr(self, name))

    def tendency(self, state: Tensor) -> Tensor:
        """Return the derivative of the whole state ``(.., num_slow + num_slow * num_fast)``, slow variables first."""
        x, y = self.split(state)
        c, rate = self.speed, self.coupling * self.speed / self.amplitude
        fast = c * self.amplitude * y.roll(-1, -1) * (y.roll(1, -1) - y.roll(-2, -1)) - c * y
        fast = fast + rate * x.repeat_interleave(self.num_fast, -1)
        return torch.cat([self.resolved(x) + self.subgrid(state), fast], -1)

    def resolved(self, x: Tensor) -> Tensor:
        """Return what the slow variables ``(.., num_slow)`` do to each other: their derivative without fast ones."""
        return x.roll(1, -1) * (x.roll(-1, -1) - x.roll(2, -1)) - x + self.forcing

    def subgrid(self, state: Tensor) -> Tensor:
        """Return what the fast variables do to the slow ones, which is what a closure has to guess."""
        _, y = self.split(state)
        return -self.coupling * self.speed / self.amplitude * y.unflatten(-1, (self.num_slow, self.num_fast)).sum(-1)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slow and the fast part of a state.

        Raises
        ------
        ValueError
            If the state's last axis has another length.
        """
        length = self.num_slow * (1 + self.num_fast)
        expected = (*(None,) * (state.ndim - 1), length)
        _check.shape("state", state.shape, expected, "num_slow slow variables, then all fast ones")
        return state[..., : self.num_slow], state[..., self.num_slow :]

    def sample(self, num: int, seed: int, *, spin_up: float = 3.0, dt: float = 2e-3) -> Tensor:
        """Return states on the attractor, ``(num, num_slow * (1 + num_fast))``, float64, from random ones run on.

        Parameters
        ----------
        num
            Number of states.
        seed
            Of the random starts.
        spin_up
            Time that they are run for.
        dt
            Step.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(num, self.num_slow * (1 + self.num_fast), dtype=torch.float64, generator=generator)
        scale = torch.ones(noise.shape[-1], dtype=torch.float64)
        scale[: self.num_slow], scale[self.num_slow :] = self.forcing / 4, 0.1
        return integrate(self.tendency, noise * scale, dt, round(spin_up / dt), round(spin_up / dt))[:, -1]
