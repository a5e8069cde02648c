"""Burgers' equation: waves that steepen until viscosity holds them."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.evolution import MASS_DRIFT, Evolution, crossing_rates, initial_field, steepening_term
from vcycle.problems.problem import QualityInfo
from vcycle.solvers.etdrk4 import Term


class Burgers(Evolution):
    """``u_t + (u . grad) u = viscosity Laplace(u)`` on a periodic box; all quantities dimensionless.

    The state has one component per axis. With one axis the nonlinear term is ``(u^2 / 2)_x``, and the mean is kept.
    The grid must resolve shocks of width ``viscosity / |u|``; the recorded ``tail`` shows whether it does.

    Parameters
    ----------
    grid
        A periodic vertex grid with 1 to 3 axes.
    viscosity
        In length^2 / time.
    times
        Of the stored solution, increasing, after 0.
    alpha, tau, scale
        The initial state is ``scale`` times a periodic Gaussian field of zero mean with covariance
        ``tau^(2 alpha - d) (-Laplace + tau^2)^(-alpha)`` on d axes: size, smoothness (dimensionless, more than d / 2)
        and inverse correlation length (1 / length).
    refine
        Solve with the modes of a grid this many times as fine; input and output stay on ``grid``.
        The defaults are the FNO papers' N(0, 625 (-Laplace + 25)^-2) with one axis.

    Raises
    ------
    ValueError
        If the grid is not a periodic vertex grid, or a number is out of range.

    References
    ----------
    Li et al., Fourier neural operator, ICLR 2021 (arXiv:2010.08895), section 5.1: viscosity 0.1, T = 1.
    """

    name: ClassVar[str] = "burgers"
    courant: ClassVar[float] = 16.0

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (1.0,),
        viscosity: float = 0.1,
        alpha: float = 2.0,
        tau: float = 5.0,
        scale: float = math.sqrt(5.0),
        refine: int = 1,
    ) -> None:
        field = initial_field(grid, alpha=alpha, tau=tau)
        self._set_up(grid, times, field=field, scale=scale, refine=refine, components=grid.num_axes)
        self.viscosity = _check.positive("viscosity", viscosity)
        self.checks: tuple[QualityInfo, ...] = (MASS_DRIFT,) if grid.num_axes == 1 else ()  # type: ignore[misc]

    def equation(self) -> dict[str, Any]:
        """Return the viscosity."""
        return {"viscosity": self.viscosity}

    def linear(self) -> Tensor:
        """Return ``-viscosity |k|^2``."""
        return self.viscosity * self.space.laplacian

    def nonlinear(self) -> Term:
        """Return ``-(u . grad) u`` as ``-grad(|u|^2 / 2) - sum over i of u_i (d_i u_j - d_j u_i)``."""
        space, num = self.space, self.grid.num_axes
        if num == 1:
            return steepening_term(space)
        gradient = torch.stack([symbol.expand(space.shape) for symbol in space.derivatives])
        pairs = list(combinations(range(num), 2))
        first, second = ([pair[end] for pair in pairs] for end in (0, 1))

        def transport(modes: Tensor) -> Tensor:
            curls = gradient[first] * modes[:, second] - gradient[second] * modes[:, first]
            values = space.product_values(torch.cat([modes, curls], 1))
            u, turns = values[:, :num].unbind(1), dict(zip(pairs, values[:, num:].unbind(1), strict=True))
            forces = [0.5 * _total([speed * speed for speed in u])]
            for j in range(num):
                turned = [u[i] * turn for (i, k), turn in turns.items() if k == j]
                turned += [-(u[k] * turn) for (i, k), turn in turns.items() if i == j]
                forces.append(_total(turned))
            pressure, *rest = space.product_modes(torch.stack(forces, 1)).split([1, num], 1)
            return -(gradient * pressure) - rest[0]

        return transport

    def rates(self, initial: Tensor) -> Tensor:
        """Return the largest speed over the shortest wave length, times 2 pi."""
        return crossing_rates(self.space, initial.abs().flatten(2).amax(2))


def _total(terms: list[Tensor]) -> Tensor:
    """Add one after another: a reduction might order its terms by the size of the batch."""
    return sum(terms[1:], terms[0])
