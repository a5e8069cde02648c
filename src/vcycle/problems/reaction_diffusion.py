"""Steady reaction and diffusion: Darcy's equation with a random zero-order term."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems.coefficients import Coefficient, Lognormal, describe_coefficient, read_coefficient
from vcycle.problems.finite_volumes import not_negative_field, positive_field, read_boundary
from vcycle.problems.given import Given, Values, load_symmetries
from vcycle.problems.problem import FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems


class ReactionDiffusion(Problem):
    """``-div(a grad u) + c u = f`` with a random reaction rate ``c >= 0``; all quantities dimensionless.

    Discretised as :class:`~vcycle.problems.Darcy`, the zero-order term by the midpoint rule: second order in L2 at cell
    centres for smooth coefficients. The matrix is symmetric positive definite on every boundary, as the reaction fixes
    the constant where no face does.

    Parameters
    ----------
    grid
        A cell grid with 1 to 3 axes.
    boundary
        Kinds of the faces, as for :class:`~vcycle.problems.Darcy`.
    reaction
        The family that ``c`` is drawn from: a name, an object or a description, as for the coefficient of
        :class:`~vcycle.problems.Darcy`. The default is of the size of the first eigenvalues of the Laplacian on the
        unit box, so that reaction and diffusion both shape the solution.
    coefficient
        The family that ``a`` is drawn from, independently; ``None`` is the constant 1, and then ``a`` is no input.
    source, boundary_values
        ``f``, and solution or flux ``a du/dn`` by face, as for :class:`~vcycle.problems.Darcy`.

    Attributes
    ----------
    symmetries
        As for :class:`~vcycle.problems.Darcy`.

    Raises
    ------
    ValueError
        If the grid, the boundary, a family, its parameters or a shape is not usable.
    """

    name: ClassVar[str] = "reaction-diffusion"
    order: ClassVar[int] = 2
    inputs: ClassVar[tuple[FieldInfo, ...]] = (FieldInfo("reaction"),)
    outputs: tuple[FieldInfo, ...] = (FieldInfo("solution"),)

    def __init__(
        self,
        grid: Grid,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        *,
        reaction: "Coefficient | str | Mapping[str, Any]" = Lognormal(median=30.0),  # noqa: B008 - immutable
        coefficient: "Coefficient | str | Mapping[str, Any] | None" = None,
        source: Values = 1.0,
        boundary_values: Mapping[str, Values] | None = None,
    ) -> None:
        self.grid, self.boundary = grid, read_boundary(grid, boundary)
        self.reaction = read_coefficient(reaction)
        self.coefficient = None if coefficient is None else read_coefficient(coefficient)
        for family in (self.reaction, self.coefficient):
            if family is not None:
                family.check(grid)
        self._given = Given.read(grid, self.boundary, source=source, boundary_values=boundary_values)
        self.symmetries = load_symmetries(grid, self.boundary, self._given.load)

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The reaction rate, and the diffusion coefficient where it is random."""
        return self.inputs if self.coefficient is None else (*self.inputs, FieldInfo("coefficient"))

    @property
    def singular(self) -> bool:
        """Constants are never in the kernel: there is a zero-order term."""
        return False

    @property
    def zero_on_walls(self) -> bool:
        """Whether the solution vanishes on all Dirichlet faces: no values but zero are given there."""
        return self._given.is_zero_on_walls(self.boundary)

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the reaction rate, and the coefficient where it is random, of one sample."""
        for_reaction, for_coefficient = generator.spawn(2)  # independent streams: neither depends on the other's draws
        draw = {"reaction": self.reaction.draw(self.grid, for_reaction)}
        if self.coefficient is not None:
            draw["coefficient"] = self.coefficient.draw(self.grid, for_coefficient)
        return draw

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, one matrix per sample, symmetric positive definite.

        Raises
        ------
        ValueError
            If the reaction rate is negative somewhere, or zero everywhere where no face fixes the solution; if the
            coefficient is not positive; or if a shape is wrong.
        """
        fields = self.named(inputs)
        reaction = not_negative_field("reaction", fields["reaction"]).squeeze(1)
        if not self.boundary.fixes_constant and not bool((reaction.detach().flatten(1) > 0).any(1).all()):
            raise ValueError(
                "`reaction` must be positive somewhere where no face fixes the solution. Got zero everywhere."
            )
        if self.coefficient is None:
            operator = laplacian(self.grid, self.boundary)
            faces = tuple(face.expand(len(reaction), *face.shape[1:]) for face in operator.faces)
            operator = replace(operator, faces=faces)
        else:
            a = positive_field("coefficient", fields["coefficient"]).squeeze(1)
            operator = laplacian(self.grid, self.boundary, coefficient=a)
        rhs = self._given.load(operator)
        return LinearSystems(replace(operator, reaction=reaction * self.grid.cell_volume), rhs, positive_definite=True)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "reaction": describe_coefficient(self.reaction),
            "coefficient": None if self.coefficient is None else describe_coefficient(self.coefficient),
            **self._given.config(),
        }

    def _arguments_on(self, grid: Grid) -> dict[str, Any]:
        return super()._arguments_on(grid) | self._given.on_grid(grid).config()
