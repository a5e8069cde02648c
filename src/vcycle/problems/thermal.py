"""Heat in a block with a slot: one matrix, and boundary values of two kinds that vary."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.fields import GaussianField
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.problems.finite_volumes import box_symmetries, load
from vcycle.problems.problem import TRANSPOSITIONS, FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems

Slot = Sequence[Sequence[float]]

HOTTEST, STRONGEST = 100.0, 100.0
"""Upper ends of the ranges of the temperature, in K, and of the heat that leaves, in W / m^2."""


class Thermal(Problem):
    """``Laplace u = 0`` around a slot: temperature in K, length in m, conductivity 1 W / (m K).

    One side of the block is held at a temperature ``T ~ U(0, 100)`` K, through another a heat flux ``a du/dn ~ U(-100,
    0)`` W / m^2 enters (n points outward: heat leaves), and all other walls, those of the slot too, are insulated. The
    matrix is the same for all samples: ``method="direct"`` factors it once. With boundary data that are constant along
    their sides every solution is ``T u1 + q u2``, with two functions that do not depend on the sample.

    Cell-centred finite volumes; the slot consists of cells. Second order in L2 where the solution is smooth. The slot's
    re-entrant corners, at which it is not, limit the order to 4/3 (two thirds in the energy norm), the least for
    corners of 270 degrees.

    In the slot there is no solution: the cells of :attr:`mask` are coupled to none, and hold zero.

    Parameters
    ----------
    grid
        A cell grid with 2 or 3 axes, whose cells' faces lie on the walls of the slot; :attr:`usual_grid` has the box of
        the paper. The paper's slot takes a multiple of 20 cells along x and of 4 along y.
    heated
        The face that is held at a temperature.
    cooled
        The face that heat leaves through.
    slot
        Its lower and upper end per axis, as fractions of the box; ``()`` for a block without one.
    variation
        0 for a temperature and a flux that are constant along their sides. Otherwise they are ``1 + variation tanh(g)``
        times that, with a smooth Gaussian field g of unit variance, independent for the two; less than 1.

    Attributes
    ----------
    mask
        True in the cells of the slot, of the grid's shape.
    symmetries
        Those of the box that leave the slot and both sides where they are.

    Raises
    ------
    ValueError
        If the grid, the slot or an argument is not usable.

    References
    ----------
    Wang et al., Accelerating data generation for neural operators via Krylov subspace recycling, ICLR 2024
    (arXiv:2401.09516), the thermal problem.
    Strang and Fix, An analysis of the finite element method, 1973, chapter 8, for the order at corners.
    """

    name: ClassVar[str] = "thermal"
    order: ClassVar[int] = 2
    corner_order: ClassVar[float] = 4 / 3
    """Order in L2 with the slot's corners."""
    inputs: ClassVar[tuple[FieldInfo, ...]] = ()
    outputs: tuple[FieldInfo, ...] = (FieldInfo("temperature", unit="K"),)
    usual_grid: ClassVar[dict[str, Any]] = {"extent": (1.0, 1.6)}

    def __init__(
        self,
        grid: Grid,
        *,
        heated: str = "x_low",
        cooled: str = "x_high",
        slot: Slot | None = None,
        variation: float = 0.0,
    ) -> None:
        self.grid = _checked_grid(grid)
        faces = [f"{name}_{end}" for name in grid.axis_names for end in ("low", "high")]
        self.heated, self.cooled = _check.choice("heated", heated, faces), _check.choice("cooled", cooled, faces)
        if heated == cooled:
            raise ValueError(f"`cooled` must be another face than `heated`. Got {cooled!r} for both.")
        self.variation = _check.not_negative("variation", variation)
        if self.variation >= 1:
            raise ValueError(f"`variation` must be less than 1. Got {variation}.")
        self.slot = _read_slot(slot, grid)
        self.boundary = _boundary(grid, heated)
        self.mask = _mask(grid, self.slot)
        self.symmetries = self._find_symmetries()
        self._operator = _around(laplacian(grid, self.boundary), torch.from_numpy(self.mask))
        self._on_face = {
            heated: FieldInfo(f"temperature_{heated}", unit="K", face=heated),
            cooled: FieldInfo(f"flux_{cooled}", unit="W / m^2", face=cooled),
        }
        self._field = GaussianField.natural(grid, alpha=3.0, tau=3.0)

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The temperature of the heated and the flux through the cooled side."""
        return tuple(self._on_face.values())

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the temperature and the flux of one sample."""
        # Independent streams: each profile's coarse draw stays a prefix of its fine one.
        for_numbers, *for_profiles = generator.spawn(3)
        temperature, flux = for_numbers.random(2) * (HOTTEST, -STRONGEST)
        numbers = {self.heated: temperature, self.cooled: flux}
        return {
            info.name: numbers[face] * self._profile(face, stream)
            for (face, info), stream in zip(self._on_face.items(), for_profiles, strict=True)
        }

    def _profile(self, face: str, generator: np.random.Generator) -> np.ndarray:
        if self.variation == 0:
            return np.ones(self._on_face[face].space_shape(self.grid))
        g = self._field.trace(self._field.coefficients(generator), face)
        deviation = math.sqrt(self._field.variances.sum() / math.prod(self.grid.extent))
        return 1 + self.variation * np.tanh(g / deviation)

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, which share one symmetric positive definite matrix.

        Raises
        ------
        ValueError
            If a shape is wrong.
        """
        fields = self.named(inputs)
        face_values = {face: fields[info.name].squeeze(1) for face, info in self._on_face.items()}
        rhs = load(self._operator, torch.zeros(1, *self.grid.shape, dtype=torch.float64), face_values=face_values)
        return LinearSystems(self._operator, rhs, positive_definite=True)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "heated": self.heated,
            "cooled": self.cooled,
            "slot": [list(pair) for pair in self.slot],
            "variation": self.variation,
        }

    def _find_symmetries(self) -> tuple[str, ...]:
        sides = {self.heated[0], self.cooled[0]}
        return tuple(s for s in box_symmetries(self.grid, self.boundary) if self._keeps(s, sides))

    def _keeps(self, symmetry: str, sides: set[str]) -> bool:
        """Whether a symmetry of the box leaves the slot and the axes of both sides as they are."""
        names = self.grid.axis_names
        if symmetry in TRANSPOSITIONS:
            first, second = TRANSPOSITIONS[symmetry]
            touched, there = {names[first], names[second]}, self.mask.swapaxes(first, second)
        else:
            touched, there = {symmetry[-1]}, np.flip(self.mask, names.index(symmetry[-1]))
        return sides.isdisjoint(touched) and np.array_equal(there, self.mask)


def _checked_grid(grid: Grid) -> Grid:
    if grid.centring != "cell" or any(grid.periodic) or grid.num_axes == 1:
        got = f"{grid.num_axes} axes, {grid.centring} centring, periodic {grid.periodic}"
        raise ValueError(f"`grid` must have cell centring and 2 or 3 axes, none of them periodic. Got {got}.")
    return grid


def _boundary(grid: Grid, heated: str) -> Boundary:
    ends = [[f"{name}_low", f"{name}_high"] for name in grid.axis_names]
    return Boundary.on(grid, [["dirichlet" if face == heated else "neumann" for face in pair] for pair in ends])


def _read_slot(slot: Slot | None, grid: Grid) -> tuple[tuple[float, float], ...]:
    if slot is None:
        return ((0.45, 0.55), (0.25, 0.75), (0.25, 0.75))[: grid.num_axes]
    try:
        pairs = tuple((float(low), float(high)) for low, high in slot)
    except (TypeError, ValueError):
        pairs = ((0.0, 0.0),)
    if pairs and (len(pairs) != grid.num_axes or not all(0 < low < high < 1 for low, high in pairs)):
        raise ValueError(
            f"`slot` must be empty or {grid.num_axes} pairs of increasing fractions between 0 and 1. Got {slot!r}."
        )
    return pairs


def _mask(grid: Grid, slot: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Return which cells lie in the slot.

    Raises
    ------
    ValueError
        If a wall of the slot is no face of cells.
    """
    inside = np.full(grid.shape, bool(slot))
    for axis, pair in enumerate(slot):
        size = grid.shape[axis]
        ends = [end * size for end in pair]
        if any(abs(end - round(end)) > 1e-9 * size for end in ends):
            raise ValueError(
                f"`grid` must have cell faces on the walls of the slot, {pair[0]:g} and {pair[1]:g} of axis "
                f"{grid.axis_names[axis]}{_fitting(pair)}. Got {size} cells."
            )
        numbers = np.arange(size).reshape((size,) + (1,) * (grid.num_axes - axis - 1))
        inside &= (numbers >= round(ends[0])) & (numbers < round(ends[1]))
    return inside


def _fitting(pair: tuple[float, float]) -> str:
    """Return the words that say which numbers of cells fit, up to a hundred cells."""
    for size in range(1, 101):
        if all(abs(end * size - round(end * size)) <= 1e-9 * size for end in pair):
            return f": a multiple of {size}"
    return ""


def _around(operator: FaceFluxes, mask: Tensor) -> FaceFluxes:
    """Return the operator with no flux through the walls of masked cells, whose rows are a multiple of the identity."""
    size_of_diagonal = operator.diagonal().amax()
    faces = []
    for axis, face in enumerate(operator.faces):
        wall = torch.zeros_like(mask.narrow(axis, 0, 1))
        touches = torch.cat([wall, mask], axis) | torch.cat([mask, wall], axis)
        faces.append(torch.where(touches, 0.0, face))
    reaction = torch.where(mask, size_of_diagonal, 0.0).unsqueeze(0)
    return replace(operator, faces=tuple(faces), reaction=reaction)
