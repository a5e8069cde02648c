"""Advection with a constant velocity: every state keeps its shape and moves."""

import math
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import ENERGY_DRIFT, MASS_DRIFT, Evolution, initial_field
from vcycle.problems.problem import QualityInfo


class Advection(Evolution):
    """``u_t + velocity . grad(u) = 0`` on a periodic box; all quantities dimensionless.

    Every mode turns by its own phase, so the solution is exact up to rounding at any time.

    Parameters
    ----------
    grid
        A periodic vertex grid with 1 to 3 axes.
    velocity
        One value, or one per axis, in length / time; may be negative.
    times
        Of the stored solution, increasing, after 0.
    alpha, tau, scale
        The initial state is ``scale`` times a periodic Gaussian field of zero mean with covariance
        ``tau^(2 alpha - d) (-Laplace + tau^2)^(-alpha)`` on d axes: size, smoothness (dimensionless, more than d / 2)
        and inverse correlation length (1 / length).
    refine
        Solve with the modes of a grid this many times as fine; input and output stay on ``grid``.

    Raises
    ------
    ValueError
        If the grid is not a periodic vertex grid, or a number is out of range.
    """

    name: ClassVar[str] = "advection"
    checks: ClassVar[tuple[QualityInfo, ...]] = (MASS_DRIFT, ENERGY_DRIFT)

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        velocity: float | Sequence[float] = 0.4,
        alpha: float = 2.5,
        tau: float = 5.0,
        scale: float = 1.0,
        refine: int = 1,
    ) -> None:
        self._set_up(grid, times, field=initial_field(grid, alpha=alpha, tau=tau), scale=scale, refine=refine)
        self.velocity = tuple(_speed(v) for v in _check.per_axis("velocity", velocity, grid.num_axes))

    def equation(self) -> dict[str, Any]:
        """Return the velocity."""
        return {"velocity": list(self.velocity)}

    def linear(self) -> Tensor:
        """Return ``-i velocity . k``."""
        phases = [-speed * k for speed, k in zip(self.velocity, self.space.derivatives, strict=True)]
        return sum(phases, torch.zeros(self.space.shape, dtype=torch.complex128))


def _speed(value: float) -> float:
    _check.instance("velocity", value, numbers.Real, "a number or one per axis")
    if not math.isfinite(value):
        raise ValueError(f"`velocity` must be finite. Got {value}.")
    return float(value)
