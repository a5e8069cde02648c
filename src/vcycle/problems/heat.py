"""The heat equation, the one evolution that is exact in every digit."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import MASS_DRIFT, Evolution, initial_field
from vcycle.problems.finite_volumes import box_symmetries
from vcycle.problems.problem import QualityInfo


class Heat(Evolution):
    """``u_t = diffusivity Laplace(u)`` on a periodic box; all quantities dimensionless.

    Every mode decays by its own exponential, so the solution is exact up to rounding at any time.

    Parameters
    ----------
    grid
        A periodic vertex grid with 1 to 3 axes.
    diffusivity
        In length^2 / time.
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

    name: ClassVar[str] = "heat"
    checks: ClassVar[tuple[QualityInfo, ...]] = (MASS_DRIFT,)

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        diffusivity: float = 0.01,
        alpha: float = 2.5,
        tau: float = 5.0,
        scale: float = 1.0,
        refine: int = 1,
    ) -> None:
        self._set_up(grid, times, field=initial_field(grid, alpha=alpha, tau=tau), scale=scale, refine=refine)
        self.diffusivity = _check.positive("diffusivity", diffusivity)
        self.symmetries = box_symmetries(grid, self.boundary)

    def equation(self) -> dict[str, Any]:
        """Return the diffusivity."""
        return {"diffusivity": self.diffusivity}

    def linear(self) -> Tensor:
        """Return ``-diffusivity |k|^2``."""
        return self.diffusivity * self.space.laplacian
