"""The Allen-Cahn equation: two phases separate, and their interfaces shrink."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import Evolution, initial_field
from vcycle.problems.finite_volumes import box_symmetries
from vcycle.problems.problem import Fields, QualityInfo
from vcycle.solvers.etdrk4 import Term

ENERGY_RISE = QualityInfo(
    "energy_rise",
    about="largest increase of the free energy, the mean of width^2 |grad u|^2 / 2 + (1 - u^2)^2 / 4, from one stored "
    "time (or the start) to the next; negative where it always falls",
)


class AllenCahn(Evolution):
    """``u_t = width^2 Laplace(u) + u - u^3`` on a periodic box; all quantities dimensionless.

    The state goes to 1 and -1, with interfaces ``tanh(x / (sqrt(2) width))`` between them, which the grid must resolve.
    The free energy never increases; by how much it does is recorded.

    Parameters
    ----------
    grid
        A periodic vertex grid with 1 to 3 axes.
    width
        Of interfaces, in the unit of length.
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
    Allen, Cahn, Acta Metall. 27 (1979) 1085; Kassam, Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214, section 4.
    """

    name: ClassVar[str] = "allen-cahn"
    degree: ClassVar[int] = 3
    courant: ClassVar[float] = 0.4
    checks: ClassVar[tuple[QualityInfo, ...]] = (ENERGY_RISE,)

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0),
        width: float = 0.03,
        alpha: float = 2.5,
        tau: float = 7.0,
        scale: float = 1.0,
        refine: int = 1,
    ) -> None:
        self._set_up(grid, times, field=initial_field(grid, alpha=alpha, tau=tau), scale=scale, refine=refine)
        self.width = _check.positive("width", width)
        self.symmetries = box_symmetries(grid, self.boundary)

    def equation(self) -> dict[str, Any]:
        """Return the width of interfaces."""
        return {"width": self.width}

    def linear(self) -> Tensor:
        """Return ``-width^2 |k|^2``; the growth of u is left to N, so that no mode grows by itself."""
        return self.width**2 * self.space.laplacian

    def nonlinear(self) -> Term:
        """Return ``u - u^3``."""
        space = self.space

        def reaction(modes: Tensor) -> Tensor:
            values = space.product_values(modes)
            return modes - space.product_modes(values * values * values)

        return reaction

    def rates(self, initial: Tensor) -> Tensor:
        """Return the largest slope of ``u - u^3``, of the initial state or of the two phases."""
        return 3 * initial.abs().flatten(1).amax(1).clamp_min(1.0) ** 2 - 1

    def measure(self, initial: Tensor, states: Tensor) -> Fields:
        """Return the largest rise of the free energy."""
        energies = [self.free_energy(state) for state in (initial, *states.unbind(1))]
        return {ENERGY_RISE.name: torch.stack([after - before for before, after in pairwise(energies)]).amax(0)}

    def free_energy(self, modes: Tensor) -> Tensor:
        """Return the mean of ``width^2 |grad u|^2 / 2 + (1 - u^2)^2 / 4`` of amplitudes, ``(sample,)``."""
        bent = sum(self.space.mean_square(modes * symbol) for symbol in self.space.derivatives)
        wells = (1 - self.space.product_values(modes) ** 2) ** 2
        return self.width**2 / 2 * bent + torch.stack([row.mean() for row in wells]) / 4
