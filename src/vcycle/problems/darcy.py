"""Darcy flow: steady diffusion through a random medium."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.problems.coefficients import Coefficient, Inclusions, TwoPhase, describe_coefficient, read_coefficient
from vcycle.problems.finite_volumes import (
    box_symmetries,
    load,
    outer_faces,
    positive_field,
    read_boundary,
    resampled,
    transformed,
    without_mean,
)
from vcycle.problems.problem import FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems

Values = float | Sequence[Any] | Tensor
"""A constant, or values as an array or (nested) list."""


class Darcy(Problem):
    """``-div(a grad u) = f`` with a random coefficient ``a``; all quantities dimensionless.

    Cell-centred finite volumes: fluxes through faces with harmonic means of the two cells' coefficients, Dirichlet
    values at half a cell's distance, the source integrated over cells by the midpoint rule. Second order in L2 against
    the exact solution at cell centres for smooth coefficients; no order is claimed for coefficients that jump.

    Where no face fixes the solution (all Neumann or periodic) the source and the boundary fluxes must have zero sum up
    to discretisation error; the rest of the discrete mean is subtracted, and solutions have zero mean.

    Parameters
    ----------
    grid
        A cell grid with 1 to 3 axes.
    boundary
        ``"dirichlet"``, ``"neumann"``, or a mix: one word or one ``(low, high)`` pair per axis. Periodic axes are those
        of the grid.
    coefficient
        The family that ``a`` is drawn from: ``"two-phase"``, ``"lognormal"``, ``"trigonometric"``, ``"inclusions"``, an
        object of :mod:`vcycle.problems.coefficients` with parameters of your own, or its description as a mapping.
    values
        The two values of a two-valued family, ``(high, low)`` or ``(inside, outside)``; ``None`` keeps the family's.
    source
        ``f``: a constant, or values at the cell centres, of the grid's shape.
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
        self.grid, self.boundary = grid, read_boundary(grid, boundary)
        self.coefficient = _with_values(read_coefficient(coefficient), values)
        self.coefficient.check(grid)
        self._source = _constant_field("source", source, grid.shape)
        self._face_values = {}
        boundary_values = {} if boundary_values is None else boundary_values
        _check.instance("boundary_values", boundary_values, Mapping, "a mapping from faces to values")
        for face, value in boundary_values.items():
            _check.choice("boundary_values", face, outer_faces(self.boundary))
            shape = FieldInfo(face, face=face).space_shape(grid)
            self._face_values[face] = _constant_field(f"boundary_values[{face!r}]", value, shape)
        self.symmetries = self._find_symmetries()  # builds a right-hand side, so it raises where no solution exists

    @property
    def zero_on_walls(self) -> bool:
        """Whether the solution vanishes on all Dirichlet faces: no values but zero are given there."""
        kinds = outer_faces(self.boundary)
        given = (values for face, values in self._face_values.items() if kinds[face] == "dirichlet")
        return not any(bool(values.any()) for values in given)

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
        rhs, mean = self._load(operator)
        return LinearSystems(operator, rhs, positive_definite=True, singular=self.singular, removed_mean=mean)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "coefficient": describe_coefficient(self.coefficient),
            "source": _plain(self._source),
            "boundary_values": {face: _plain(values) for face, values in self._face_values.items()},
        }

    def _arguments_on(self, grid: Grid) -> dict[str, Any]:
        source = self._source
        if self.singular:  # what is subtracted here stays subtracted: a finer grid would tolerate less of it
            mean = self._load(laplacian(self.grid, self.boundary))[1]
            source = source if mean is None else source - mean.reshape(1, *(1,) * grid.num_axes)
        by_face = {
            face: resampled(f"boundary_values[{face!r}]", values, FieldInfo(face, face=face).space_shape(grid))
            for face, values in self._face_values.items()
        }
        arrays = {
            "source": _plain(resampled("source", source, grid.shape)),
            "boundary_values": {face: _plain(values) for face, values in by_face.items()},
        }
        return super()._arguments_on(grid) | arrays

    def _load(self, operator: FaceFluxes) -> tuple[Tensor, Tensor | None]:
        rhs = load(operator, self._source, face_values=self._face_values)
        return without_mean(rhs, self.grid) if self.singular else (rhs, None)

    def _find_symmetries(self) -> tuple[str, ...]:
        # The right-hand side is a part without the coefficient plus a part linear in it: two constants show both.
        ones = torch.ones(1, *self.grid.shape, dtype=torch.float64)
        loads = [self._load(laplacian(self.grid, self.boundary, coefficient=a * ones))[0] for a in (1.0, 2.0)]
        scale = max(float(values.abs().max()) for values in loads)
        return tuple(
            symmetry
            for symmetry in box_symmetries(self.grid, self.boundary)
            if all(torch.allclose(transformed(symmetry, b), b, rtol=0.0, atol=1e-12 * scale) for b in loads)
        )


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


def _constant_field(name: str, value: Values, shape: tuple[int, ...]) -> Tensor:
    """Return a number as a tensor that broadcasts, or an array as float64 ``(1, *shape)``."""
    tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"`{name}` must be finite. Got NaN or infinity.")
    if tensor.ndim == 0:
        return tensor.reshape(1, *(1,) * len(shape))
    _check.shape(name, tensor.shape, shape, "one value per point")
    return tensor.unsqueeze(0)


def _plain(values: Tensor) -> Any:
    """Return a constant as a number and an array as nested lists."""
    return values.item() if values.numel() == 1 else values[0].tolist()
