"""The Kuramoto-Sivashinsky equation: chaos in one dimension."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import (
    MASS_DRIFT,
    Evolution,
    crossing_rates,
    initial_field,
    require_axes,
    steepening_term,
)
from vcycle.problems.problem import QualityInfo
from vcycle.solvers.etdrk4 import Term


class KuramotoSivashinsky(Evolution):
    """``u_t + u u_x + u_xx + hyperviscosity u_xxxx = 0`` on a periodic interval; all quantities dimensionless.

    Long waves grow, short waves decay, and the flux passes energy from one to the other. Chaotic for extents of about
    22 and more: errors grow by a factor of ten in about 50 units of time at 22, faster in longer intervals, so that
    very late states have no small step error. The mean is conserved.

    Parameters
    ----------
    grid
        A periodic vertex grid with 1 axis; the defaults suit an extent of 22 to 100.
    hyperviscosity
        In length^4 / time, where u_xx has the coefficient 1 length^2 / time.
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
    Kassam, Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214, section 4 (extent 32 pi, T = 150); Cvitanovic, Davidchack,
    Siminos, SIAM J. Appl. Dyn. Syst. 9 (2010) 1, for the extent 22.
    """

    name: ClassVar[str] = "kuramoto-sivashinsky"
    usual_grid: ClassVar[Mapping[str, Any]] = {"extent": 22.0, "centring": "vertex", "periodic": True}
    courant: ClassVar[float] = 2.0
    checks: ClassVar[tuple[QualityInfo, ...]] = (MASS_DRIFT,)

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (5.0, 10.0, 15.0, 20.0),
        hyperviscosity: float = 1.0,
        alpha: float = 4.0,
        tau: float = 1.0,
        scale: float = 1.0,
        refine: int = 1,
    ) -> None:
        require_axes(grid, 1)
        self._set_up(grid, times, field=initial_field(grid, alpha=alpha, tau=tau), scale=scale, refine=refine)
        self.hyperviscosity = _check.positive("hyperviscosity", hyperviscosity)

    def equation(self) -> dict[str, Any]:
        """Return the hyperviscosity."""
        return {"hyperviscosity": self.hyperviscosity}

    def linear(self) -> Tensor:
        """Return ``k^2 - hyperviscosity k^4``."""
        k = self.space.wave_numbers[0]
        return k**2 - self.hyperviscosity * k**4

    def nonlinear(self) -> Term:
        """Return ``-(u^2 / 2)_x``."""
        return steepening_term(self.space)

    def rates(self, initial: Tensor) -> Tensor:
        """Return the largest speed, or that of the attractor, over the shortest wave length, times 2 pi."""
        return crossing_rates(self.space, initial.abs().flatten(2).amax(2).clamp_min(3.0))
