"""Helmholtz' equation: time-harmonic waves in a closed box filled with a random medium."""

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
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems.finite_volumes import box_symmetries, positive_field, read_boundary
from vcycle.problems.problem import TRANSPOSITIONS, FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems

SLOWEST = 0.25
"""Smallest wave speed that is drawn: slower values of a draw are raised to it."""


class Helmholtz(Problem):
    """``-Laplace u - (k0 / c)^2 u = f`` with a random wave speed ``c``, relative to a reference speed: dimensionless.

    The wave speed is ``1 + variation * g / std(g)`` with a Gaussian field g, at least :data:`SLOWEST`. The source is a
    Gaussian blob of unit integral. The matrix is symmetric and indefinite as soon as ``k0`` exceeds the first
    resonance: ``auto`` takes the direct solver.

    Cell-centred finite volumes: the faces of :class:`~vcycle.problems.Darcy` with ``a = 1``, the zero-order term ``-(k0
    / c)^2`` times the cell's volume. Second order in L2 at cell centres from about ``k0^2 h <= 2`` on; a coarser grid,
    or a sample close to a resonance, may be far off.

    Parameters
    ----------
    grid
        A cell grid with 1 to 3 axes.
    boundary
        Kinds of the faces, as for :class:`~vcycle.problems.Darcy`; values and fluxes are zero.
    wave_number
        ``k0``, in 1 / length. The default lies in the gap between the resonances ``5 pi^2`` and ``8 pi^2`` of the unit
        square, with three modes below it: indefinite, and resonant samples, which no surrogate can learn, stay rare.
    variation
        Standard deviation of the wave speed over the box, dimensionless. The larger, the more samples are resonant; at
        ``k0 = 12``, with eight modes below, 0.05 keeps them rare.
    alpha, tau
        Smoothness (dimensionless, more than half the number of axes) and inverse correlation length (1 / length) of g.
    source
        Centre of the blob as fractions of the box, one per axis; ``"random"`` draws it uniformly and makes the source
        an input field of its own.
    source_width
        Standard deviation of the blob, in the unit of length; the default spans 1.6 cells at 32 cells per unit.

    Attributes
    ----------
    symmetries
        Those of the box that leave a fixed source where it is; all of them for a random one.

    Raises
    ------
    ValueError
        If the grid, the boundary or a number is not usable.
    """

    name: ClassVar[str] = "helmholtz"
    order: ClassVar[int] = 2
    inputs: ClassVar[tuple[FieldInfo, ...]] = (FieldInfo("wave_speed"),)
    outputs: tuple[FieldInfo, ...] = (FieldInfo("solution"),)

    def __init__(
        self,
        grid: Grid,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        *,
        wave_number: float = 7.75,
        variation: float = 0.15,
        alpha: float = 2.0,
        tau: float = 3.0,
        source: "Sequence[float] | str | None" = None,
        source_width: float = 0.05,
    ) -> None:
        self.grid, self.boundary = grid, read_boundary(grid, boundary)
        self.wave_number = _check.positive("wave_number", wave_number)
        self.variation = _check.positive("variation", variation)
        self.source_width = _check.positive("source_width", source_width)
        self.source = _read_source(source, grid)
        self._field = GaussianField.natural(grid, alpha=alpha, tau=tau)
        self._laplacian = laplacian(grid, self.boundary)
        self.symmetries = box_symmetries(grid, self.boundary)
        if self.source != "random":
            self.symmetries = tuple(s for s in self.symmetries if _keeps(s, self.source))

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The wave speed, and the source where it is random."""
        return (*self.inputs, FieldInfo("source")) if self.source == "random" else self.inputs

    @property
    def singular(self) -> bool:
        """Constants are never in the kernel: there is a zero-order term."""
        return False

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the wave speed, and the source where it is random, of one sample."""
        # Independent streams: g's coarse coefficients stay a prefix of its fine ones, whatever the source consumes. The
        # speeds of two grids differ a little more: each divides by the deviation of g on its own points.
        for_speed, for_source = generator.spawn(2)
        g = self._field.sample(for_speed)
        draw = {"wave_speed": np.maximum(1 + self.variation * g / g.std(), SLOWEST)}
        if self.source == "random":
            draw["source"] = self._blob(for_source.random(self.grid.num_axes))
        return draw

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, one matrix per sample, symmetric and in general indefinite.

        Raises
        ------
        ValueError
            If the wave speed is not positive and finite everywhere, or a shape is wrong.
        """
        fields = self.named(inputs)
        speed = positive_field("wave_speed", fields["wave_speed"]).squeeze(1)
        reaction = -((self.wave_number / speed) ** 2) * self.grid.cell_volume
        if isinstance(self.source, str):
            source = fields["source"].squeeze(1)
        else:
            source = torch.from_numpy(self._blob(self.source)).expand_as(speed)
        faces = tuple(face.expand(len(speed), *face.shape[1:]) for face in self._laplacian.faces)
        operator = replace(self._laplacian, faces=faces, reaction=reaction)
        return LinearSystems(operator, source * self.grid.cell_volume, positive_definite=False)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "wave_number": self.wave_number,
            "variation": self.variation,
            "alpha": self._field.alpha,
            "tau": self._field.tau,
            "source": self.source if isinstance(self.source, str) else list(self.source),
            "source_width": self.source_width,
        }

    def _blob(self, centre: "Sequence[float] | np.ndarray") -> np.ndarray:
        """Return the Gaussian of unit integral at ``centre``, given in fractions of the box; 1 / length^d."""
        total = np.zeros(self.grid.shape)
        for x, c, length, periodic in zip(self.grid.mesh(), centre, self.grid.extent, self.grid.periodic, strict=True):
            offset = np.abs(x - c * length)
            total += (np.minimum(offset, length - offset) if periodic else offset) ** 2
        variance = self.source_width**2
        return np.exp(-total / (2 * variance)) / (2 * math.pi * variance) ** (self.grid.num_axes / 2)


def _read_source(source: "Sequence[float] | str | None", grid: Grid) -> "tuple[float, ...] | str":
    if source is None:
        return (0.35, 0.6, 0.45)[: grid.num_axes]  # off every symmetry axis, so that all modes are excited
    if isinstance(source, str):
        return _check.choice("source", source, ("random",))
    centre = tuple(float(c) for c in source)
    if len(centre) != grid.num_axes or not all(0 <= c <= 1 for c in centre):
        raise ValueError(
            f"`source` must be 'random' or {grid.num_axes} fractions of the box from 0 to 1. Got {source!r}."
        )
    return centre


def _keeps(symmetry: str, centre: "tuple[float, ...] | str") -> bool:
    """Whether a symmetry of the box leaves a point, in fractions of the box, where it is."""
    if symmetry in TRANSPOSITIONS:
        first, second = TRANSPOSITIONS[symmetry]
        return centre[first] == centre[second]
    return centre[AXIS_NAMES.index(symmetry[-1])] == 0.5
