"""The Korteweg-de Vries equation: waves that steepen, disperse, and pass through each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import (
    ENERGY_DRIFT,
    MASS_DRIFT,
    Evolution,
    crossing_rates,
    initial_field,
    require_axes,
    steepening_term,
)
from vcycle.problems.problem import Fields, QualityInfo
from vcycle.solvers.etdrk4 import Term

HAMILTONIAN_DRIFT = QualityInfo(
    "hamiltonian_drift",
    about="largest change of the mean of dispersion u_x^2 / 2 - steepening u^3 / 6, over the initial mean of "
    "dispersion u_x^2 / 2 + steepening |u|^3 / 6",
)


class KortewegDeVries(Evolution):
    """``u_t + steepening u u_x + dispersion u_xxx = 0`` on a periodic interval; all quantities dimensionless.

    Mean, mean square and Hamiltonian are conserved, and how far they drift is recorded. The step error of rough initial
    states falls more slowly than the fourth power of the step, because their fast waves are not resolved in time.

    Parameters
    ----------
    grid
        A periodic vertex grid with 1 axis; the defaults suit an extent of 32.
    steepening, dispersion
        The two coefficients, in 1 / time per unit of u / length, and length^3 / time. 6 and 1 are the equation of
        solitons ``2 b^2 sech(b (x - 4 b^2 t))^2``; 1 and 0.022^2 on an extent of 2 are Zabusky's and Kruskal's.
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

    References
    ----------
    Zabusky, Kruskal, Phys. Rev. Lett. 15 (1965) 240, equation (1); Kassam, Trefethen, SIAM J. Sci. Comput. 26 (2005)
    1214, section 4.
    """

    name: ClassVar[str] = "korteweg-de-vries"
    usual_grid: ClassVar[Mapping[str, Any]] = {"extent": 32.0, "centring": "vertex", "periodic": True}
    courant: ClassVar[float] = 2.0
    checks: ClassVar[tuple[QualityInfo, ...]] = (MASS_DRIFT, ENERGY_DRIFT, HAMILTONIAN_DRIFT)

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (1.0, 2.0),
        steepening: float = 6.0,
        dispersion: float = 1.0,
        alpha: float = 6.0,
        tau: float = 1.0,
        scale: float = 1.0,
        refine: int = 1,
    ) -> None:
        require_axes(grid, 1)
        self._set_up(grid, times, field=initial_field(grid, alpha=alpha, tau=tau), scale=scale, refine=refine)
        self.steepening = _check.positive("steepening", steepening)
        self.dispersion = _check.positive("dispersion", dispersion)

    def equation(self) -> dict[str, Any]:
        """Return the two coefficients."""
        return {"steepening": self.steepening, "dispersion": self.dispersion}

    def linear(self) -> Tensor:
        """Return ``i dispersion k^3``."""
        k = self.space.wave_numbers[0]
        return torch.complex(torch.zeros_like(k), self.dispersion * k**3)

    def nonlinear(self) -> Term:
        """Return ``-steepening (u^2 / 2)_x``."""
        return steepening_term(self.space, self.steepening)

    def rates(self, initial: Tensor) -> Tensor:
        """Return the largest speed over the shortest wave length, times 2 pi."""
        return self.steepening * crossing_rates(self.space, initial.abs().flatten(2).amax(2))

    def measure(self, initial: Tensor, states: Tensor) -> Fields:
        """Return mass, energy and Hamiltonian drift."""
        before, size = self._hamiltonian(initial)
        changes = [(self._hamiltonian(state)[0] - before).abs() / size for state in states.unbind(1)]
        drift = torch.stack(changes).amax(0)
        return super().measure(initial, states) | {HAMILTONIAN_DRIFT.name: drift}

    def _hamiltonian(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Hamiltonian, and the sum of the magnitudes of its parts."""
        bend = self.dispersion / 2 * self.space.mean_square(modes * self.space.derivatives[0])
        cubes = self.steepening / 6 * self.space.product_values(modes) ** 3
        steep = torch.stack([row.mean() for row in cubes])
        magnitude = torch.stack([row.abs().mean() for row in cubes])
        return bend - steep, (bend + magnitude).clamp_min(math.ulp(0.0))
