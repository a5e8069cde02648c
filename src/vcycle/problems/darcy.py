"""Darcy flow: steady diffusion through a random medium."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.problems.coefficients import Coefficient, Inclusions, TwoPhase, describe_coefficient, read_coefficient
from vcycle.problems.finite_volumes import positive_field, read_boundary, without_mean
from vcycle.problems.given import Given, Values, load_symmetries
from vcycle.problems.problem import FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems


class Darcy(Problem):
    """``-div(a grad u) = f`` with a random coefficient ``a``; all quantities dimensionless.

    Cell-centred finite volumes: fluxes through faces with harmonic means of the two cells' coefficients, Dirichlet
    values at half a cell's distance, the source integrated over cells by the midpoint rule. Second order in L2 against
    the exact solution at cell centres for smooth coefficients; no order is claimed for coefficients that jump.

    On vertex grids the coefficient is given at vertices, fluxes between two of them have the harmonic mean, control
    volumes end at the walls, and the vertices of Dirichlet walls hold their values: second order in L2 at vertices.

    Where no face fixes the solution (all Neumann or periodic) the source and the boundary fluxes must have zero sum up
    to discretisation error; the rest of the discrete mean is subtracted, and solutions have zero mean.

    Parameters
    ----------
    grid
        Cells or vertices, 1 to 3 axes.
    boundary
        ``"dirichlet"``, ``"neumann"``, or a mix: one word or one ``(low, high)`` pair per axis. Periodic axes are those
        of the grid.
    coefficient
        The family that ``a`` is drawn from: ``"two-phase"``, ``"lognormal"``, ``"trigonometric"``, ``"inclusions"``, an
        object of :mod:`vcycle.problems.coefficients` with parameters of your own, or its description as a mapping.
    values
        The two values of a two-valued family, ``(high, low)`` or ``(inside, outside)``; ``None`` keeps the family's.
    source
        ``f``: a constant, or values at its points, of the grid's shape.
    boundary_values
        By face, ``"x_low"``, ``"x_high"``, ...: the solution on a Dirichlet face, the flux ``a du/dn`` (n points
        outward) on a Neumann face; a constant, or values of the face's shape. Faces that are not named hold zero.

    Attributes
    ----------
    symmetries
        ``"flip_x"``, ... and, between equal sides, ``"transpose"``, ... where they map the problem onto itself: equal
        kinds on the faces that change places, and a source and boundary values that stay the same.

    Raises
    ------
    ValueError
        If the grid, the boundary, the family, its parameters or a shape is not usable, or no solution exists.

    References
    ----------
    Li et al., Fourier neural operator, ICLR 2021 (arXiv:2010.08895), section 5.2, for the two-phase family.
    """

    name: ClassVar[str] = "darcy"
    order: ClassVar[int] = 2
    inputs: ClassVar[tuple[FieldInfo, ...]] = (FieldInfo("coefficient"),)
    outputs: tuple[FieldInfo, ...] = (FieldInfo("solution"),)

    def __init__(
        self,
        grid: Grid,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        *,
        coefficient: "Coefficient | str | Mapping[str, Any]" = "two-phase",
        values: tuple[float, float] | None = None,
        source: Values = 1.0,
        boundary_values: Mapping[str, Values] | None = None,
    ) -> None:
        self.grid, self.boundary = grid, read_boundary(grid, boundary, vertices=True)
        self.coefficient = _with_values(read_coefficient(coefficient), values)
        self.coefficient.check(grid)
        self._given = Given.read(grid, self.boundary, source=source, boundary_values=boundary_values)
        # building a right-hand side raises where no solution exists
        self.symmetries = load_symmetries(grid, self.boundary, lambda *of: self._load(*of)[0])

    @property
    def zero_on_walls(self) -> bool:
        """Whether the solution vanishes on all Dirichlet faces: no values but zero are given there."""
        return self._given.is_zero_on_walls(self.boundary)

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the coefficient of one sample."""
        return {"coefficient": self.coefficient.draw(self.grid, generator)}

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, one matrix per sample, symmetric positive (semi-)definite.

        Raises
        ------
        ValueError
            If the coefficient is not positive and finite everywhere, or has another shape than the grid.
        """
        a = positive_field("coefficient", self.named(inputs)["coefficient"]).squeeze(1)
        operator = laplacian(self.grid, self.boundary, coefficient=a)
        rhs, mean = self._load(operator, a)
        return LinearSystems(operator, rhs, positive_definite=True, singular=self.singular, removed_mean=mean)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "coefficient": describe_coefficient(self.coefficient),
            **self._given.config(),
        }

    def _arguments_on(self, grid: Grid) -> dict[str, Any]:
        given = self._given
        if self.singular:  # what is subtracted here stays subtracted: a finer grid would tolerate less of it
            mean = self._load(laplacian(self.grid, self.boundary))[1]
            given = given if mean is None else given.shifted(mean)
        return super()._arguments_on(grid) | given.on_grid(grid).config()

    def _load(self, operator: FaceFluxes, coefficient: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        rhs = self._given.load(operator, coefficient)
        return without_mean(rhs, self.grid) if self.singular else (rhs, None)


def _with_values(coefficient: Coefficient, values: "Sequence[float] | None") -> Coefficient:
    if values is None:
        return coefficient
    if len(values) != 2:
        raise ValueError(f"`values` must be two numbers. Got {values!r}.")
    if isinstance(coefficient, TwoPhase):
        return replace(coefficient, high=values[0], low=values[1])
    if isinstance(coefficient, Inclusions):
        return replace(coefficient, inside=values[0], outside=values[1])
    raise ValueError(
        f"`values` must be None for the {coefficient.name} family, which is not two-valued. Got {values!r}."
    )
