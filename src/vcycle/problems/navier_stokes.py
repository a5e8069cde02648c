"""Two-dimensional incompressible flow, stirred by a constant force."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import MASS_DRIFT, Evolution, crossing_rates, initial_field, require_axes
from vcycle.problems.problem import QualityInfo
from vcycle.solvers.etdrk4 import Term

EVERY_UNIT_TO_50 = tuple(float(time) for time in range(1, 51))


class NavierStokes(Evolution):
    """``w_t + u . grad(w) = viscosity Laplace(w) + f`` for the vorticity w of a flow u with ``div u = 0``.

    On a torus; all quantities dimensionless. ``u = (psi_y, -psi_x)`` with ``-Laplace(psi) = w``, so mean vorticity and
    mean velocity are zero. The force is ``f = forcing (sin(s) + cos(s))`` with ``s = 2 pi (x / L_x + y / L_y)``.

    The nonlinear term is taken as ``(d_xx - d_yy)(u v) + d_xy (v^2 - u^2)``: four transforms instead of five.

    Small viscosities need fine grids: the recorded ``tail`` shows whether the grid resolves the flow, and ``refine``
    solves on a finer one.

    Parameters
    ----------
    grid
        A periodic vertex grid with 2 axes.
    viscosity
        In length^2 / time; the FNO papers have 1e-3 to T = 50, 1e-4 to T = 30 and 1e-5 to T = 20.
    forcing
        Amplitude, in 1 / time^2; 0 for none.
    times
        Of the stored solution, increasing, after 0.
    alpha, tau, scale
        The initial state is ``scale`` times a periodic Gaussian field of zero mean with covariance
        ``tau^(2 alpha - d) (-Laplace + tau^2)^(-alpha)`` on d axes: size, smoothness (dimensionless, more than d / 2)
        and inverse correlation length (1 / length).
    refine
        Solve with the modes of a grid this many times as fine; input and output stay on ``grid``.
        The defaults are the papers' N(0, 7^(3/2) (-Laplace + 49)^(-5/2)). What the papers' published program draws has
        the variance 2 * 7^3 instead: ``scale = sqrt(2)``.

    Raises
    ------
    ValueError
        If the grid is not a periodic vertex grid, or a number is out of range.

    References
    ----------
    Li et al., Fourier neural operator, ICLR 2021 (arXiv:2010.08895), section 5.3 and appendix A.3.3; Basdevant, J.
    Comput. Phys. 50 (1983) 209, for the nonlinear term.
    """

    name: ClassVar[str] = "navier-stokes"
    courant: ClassVar[float] = 2.0
    checks: ClassVar[tuple[QualityInfo, ...]] = (MASS_DRIFT,)

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = EVERY_UNIT_TO_50,
        viscosity: float = 1e-3,
        forcing: float = 0.1,
        alpha: float = 2.5,
        tau: float = 7.0,
        scale: float = 7.0**-0.75,
        refine: int = 1,
    ) -> None:
        require_axes(grid, 2)
        self._set_up(grid, times, field=initial_field(grid, alpha=alpha, tau=tau), scale=scale, refine=refine)
        self.viscosity = _check.positive("viscosity", viscosity)
        self.forcing = _check.not_negative("forcing", forcing)

    def equation(self) -> dict[str, Any]:
        """Return viscosity and forcing."""
        return {"viscosity": self.viscosity, "forcing": self.forcing}

    def linear(self) -> Tensor:
        """Return ``-viscosity |k|^2``."""
        return self.viscosity * self.space.laplacian

    def nonlinear(self) -> Term:
        """Return ``f - u . grad(w)``."""
        space, to_velocity, force = self.space, self._to_velocity(), self.force()
        kx, ky = space.wave_numbers
        of_product, of_difference = _twice(kx**2 - ky**2), _twice((kx * ky).expand(space.shape))

        def stirring(modes: Tensor) -> Tensor:
            u, v = space.product_values(modes * to_velocity).unbind(1)
            moments = torch.view_as_real(space.product_modes(torch.stack([u * v, v * v - u * u], 1)))
            change = moments[:, :1] * of_product + moments[:, 1:] * of_difference
            return torch.view_as_complex(change) + force

        return stirring

    def force(self) -> Tensor:
        """Return the amplitudes of f, of the modes' shape."""
        (x, y), (length, width) = (torch.from_numpy(c) for c in self.grid.mesh()), self.grid.extent
        angle = 2 * math.pi * (x / length + y / width)
        return self.space.modes(self.forcing * (torch.sin(angle) + torch.cos(angle)))

    def rates(self, initial: Tensor) -> Tensor:
        """Return the largest speed over the shortest wave length, times 2 pi."""
        velocity = self.space.values(self.space.modes(initial) * self._to_velocity())
        return crossing_rates(self.space, velocity.abs().flatten(2).amax(2))

    def _to_velocity(self) -> Tensor:
        """Return the symbols that make u and v from w, ``(2, *modes)``."""
        inverse = -self.space.laplacian
        inverse[0, 0] = 1.0  # the mean of the vorticity makes no flow: its symbols below are 0
        dx, dy = self.space.derivatives
        return torch.stack([dy / inverse, -dx / inverse])


def _twice(symbol: Tensor) -> Tensor:
    """Return a real symbol once for real and once for imaginary parts."""
    return torch.stack([symbol, symbol], -1)
