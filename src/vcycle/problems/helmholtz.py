"""Helmholtz' equation: time-harmonic waves in a box filled with a random medium."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.errors import SolveError
from vcycle.fields import GaussianField
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems.cosine_waves import CosineWaves, load_on_face, resampled_cosines, solve_waves
from vcycle.problems.finite_volumes import box_symmetries, face_area, outer_faces, positive_field, read_boundary
from vcycle.problems.given import Given, Values, load_symmetries
from vcycle.problems.problem import (
    ITERATIONS,
    RESIDUAL,
    TRANSPOSITIONS,
    FieldInfo,
    Fields,
    Problem,
    Produced,
    as_output,
)
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.result import SequenceResult
from vcycle.solvers.systems import LinearSystems

SLOWEST = 0.25
"""Smallest wave speed that is drawn: slower values of a draw are raised to it."""

SPEEDS = ("gaussian", "tanh")
WAVE_KINDS = ("dirichlet", "neumann", "absorbing", "periodic")
DISCRETISATIONS = ("finite-volumes", "cosines")

RESOLUTION_TOLERANCE = 0.02
CHECKED_POINTS = 2**18
"""Points of the finer grid whose samples are solved at a time: what the check holds in memory."""


class Helmholtz(Problem):
    """``-Laplace u - (k0 / c)^2 u = f`` with a random wave speed ``c``, relative to a reference speed: dimensionless.

    The wave speed is ``1 + variation * g / std(g)`` with a Gaussian field g, at least :data:`SLOWEST`. The source is a
    Gaussian blob of unit integral. The matrix is symmetric and indefinite as soon as ``k0`` exceeds the first
    resonance: ``auto`` takes the direct solver.

    On absorbing faces ``du/dn = i k u`` with ``k = k0 / c`` of the cell beside the face: waves that meet the face at a
    right angle leave the box, with time factor ``exp(-i omega t)``. Solutions are then complex, with real and imaginary
    part as components.

    Cell-centred finite volumes: the faces of :class:`~vcycle.problems.Darcy` with ``a = 1``, the zero-order term ``-(k0
    / c)^2`` times the cell's volume, on absorbing faces the mean of the cell and its mirror cell for u. Second order in
    L2 at cell centres from about ``k0^2 h <= 2`` on, with absorbing faces where the normal slope of ``c`` vanishes on
    them, as it does for drawn speeds.

    Between Neumann walls at ``k0 = 50`` finite volumes on 400 x 400 cells are still off by 3 to 195 %, as measured
    against 800 x 800: the errors of resonant frequencies count. ``discretisation="cosines"`` takes the sum of the first
    cosines through the values in cells instead, its Laplacian exact: 2 % at 40 cells and 0.6 % at 80 for a constant
    medium. Solved by GMRES, in about ten steps for media close to constant. Where fluxes are given, errors fall like
    ``h^1.5`` in L2; else as fast as the solution and the medium are smooth.

    A coarser grid, or a sample close to a resonance, may be far off. Therefore samples are rejected that change too
    much on a grid twice as fine, with the same speed and source, constant in each cell. Measured on the unit square
    with all else as by default, of 200 samples: 79 % are rejected at 24 cells per side, 15 % at 32, 1 % at 48, none at
    64; at 32, of 50 with a random source 34 % and of 200 with absorbing faces none; at 48, of 40 with Neumann faces
    22 %. On the unit interval 23 % at 32 cells, none at 64. At wave number 12 and variation 0.05, 3 % of 30 at 64. The
    check costs a direct solution on the finer grid, measured as 3 to 7 times the sample's own in 2-D.

    Parameters
    ----------
    grid
        A cell grid with 1 to 3 axes.
    boundary
        Kinds of the faces: ``"dirichlet"``, ``"neumann"``, ``"absorbing"``, or a mix, as for
        :class:`~vcycle.problems.Darcy`.
    wave_number
        ``k0``, in 1 / length. The default lies in the gap between the resonances ``5 pi^2`` and ``8 pi^2`` of the unit
        square, with three modes below it: indefinite, and resonant samples, which no surrogate can learn, stay rare.
    speed
        ``"gaussian"``, as above, or ``"tanh"``: ``1 + variation * tanh(a)`` with a of covariance ``(-Laplace +
        tau^2)^(-alpha)``, no constant mode. With boundary ``"neumann"``, wave number 50 = 1000 / 20 and variation 1 /
        20 these are the media ``c = 20 + tanh(a)`` at the angular frequency 1000 of the MgNO paper.
    variation
        Standard deviation of the wave speed over the box, dimensionless. The larger, the more samples are resonant; at
        ``k0 = 12``, with eight modes below, 0.05 keeps them rare.
    alpha, tau
        Smoothness (dimensionless, more than half the number of axes) and inverse correlation length (1 / length) of g.
    modes
        Keep this many modes of g, those of the lowest frequencies; ``None`` keeps all that the grid holds. The MgNO
        paper has 100.
    source
        Centre of the blob as fractions of the box, one per axis; ``"random"`` draws it uniformly and makes the source
        an input field of its own; ``"none"`` leaves it out, where faces excite the wave.
    source_width
        Standard deviation of the blob, in the unit of length; the default spans 1.6 cells at 32 cells per unit.
    boundary_values
        Real values of u on Dirichlet faces and of ``du/dn`` on Neumann faces, as for :class:`~vcycle.problems.Darcy`;
        or, on two axes, ``{"value": 1.0, "between": (0.35, 0.65)}``: a value on a part of the face, given in fractions
        of it, and zero elsewhere. Cells that are covered in part get their share.
    discretisation
        ``"finite-volumes"``, or ``"cosines"`` between Neumann walls.
    resolution_tolerance
        Largest relative L2 difference to the solution on the grid twice as fine, averaged over its cells, of a sample
        that is kept; dimensionless. ``None`` keeps all. ``"auto"`` is 0.02 on one and two axes, and ``None`` on three,
        where the check would cost more than the data.

    Attributes
    ----------
    symmetries
        Those of the box that leave a fixed source and the boundary values where they are.
    outputs
        ``solution``, of two components where a face absorbs.

    Raises
    ------
    ValueError
        If the grid, the boundary, a shape or a number is not usable.

    References
    ----------
    He, Liu and Xu, MgNO, ICLR 2024 (arXiv:2310.19809), the Helmholtz benchmark.
    Engquist and Majda, Math. Comp. 31 (1977) 629, for the absorbing condition.
    """

    name: ClassVar[str] = "helmholtz"
    order: ClassVar[int] = 2
    inputs: ClassVar[tuple[FieldInfo, ...]] = (FieldInfo("wave_speed"),)
    outputs: tuple[FieldInfo, ...] = (FieldInfo("solution"),)

    def __init__(  # noqa: PLR0913  # the medium's, the source's and the faces' numbers, all with defaults
        self,
        grid: Grid,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        *,
        wave_number: float = 7.75,
        speed: str = "gaussian",
        variation: float = 0.15,
        alpha: float = 2.0,
        tau: float = 3.0,
        modes: int | None = None,
        source: "Sequence[float] | str | None" = None,
        source_width: float = 0.05,
        boundary_values: "Mapping[str, Values | Mapping[str, Any]] | None" = None,
        discretisation: str = "finite-volumes",
        resolution_tolerance: "float | str | None" = "auto",
    ) -> None:
        self.grid, self.boundary = grid, read_boundary(grid, boundary, kinds=WAVE_KINDS)
        self.wave_number = _check.positive("wave_number", wave_number)
        self.speed = _check.choice("speed", speed, SPEEDS)
        self.variation = _check.positive("variation", variation)
        self.source_width = _check.positive("source_width", source_width)
        self.source = _read_source(source, grid)
        self.resolution_tolerance = _read_tolerance(resolution_tolerance, grid)
        self.can_reject = self.resolution_tolerance is not None
        self._field = GaussianField.natural(grid, alpha=alpha, tau=tau)
        self.modes = None if modes is None else _check.integer("modes", modes, 1)
        self.discretisation = _check.choice("discretisation", discretisation, DISCRETISATIONS)
        kinds = {kind for pair in self.boundary.kinds for kind in pair}
        if self.discretisation == "cosines" and kinds != {"neumann"}:
            raise ValueError(
                f"`boundary` must be 'neumann' for a discretisation by cosines. Got {str(self.boundary)!r}."
            )
        self._absorbing = [face for face, kind in outer_faces(self.boundary).items() if kind == "absorbing"]
        if self._absorbing:
            self.outputs = (FieldInfo("solution", components=2),)
        closed = _closed(self.boundary)
        self._given = Given.read(grid, closed, source=0.0, boundary_values=_with_strips(grid, closed, boundary_values))
        given = [*self._given.face_values]
        if not set(given).isdisjoint(self._absorbing):
            raise ValueError(f"`boundary_values` must be on Dirichlet or Neumann faces. Got {given}.")
        self._laplacian = replace(laplacian(grid, closed), boundary=self.boundary)
        kept = load_symmetries(grid, closed, self._given.load)
        self.symmetries = tuple(
            symmetry
            for symmetry in box_symmetries(grid, self.boundary)
            if symmetry in kept and (isinstance(self.source, str) or _keeps(symmetry, self.source))
        )

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The wave speed, and the source where it is random."""
        return (*self.inputs, FieldInfo("source")) if self.source == "random" else self.inputs

    @property
    def singular(self) -> bool:
        """Constants are never in the kernel: there is a zero-order term."""
        return False

    @property
    def zero_on_walls(self) -> bool:
        """Whether the solution vanishes on all Dirichlet faces: no values but zero are given there."""
        return self._given.is_zero_on_walls(self.boundary)

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the wave speed, and the source where it is random, of one sample."""
        # Independent streams: g's coarse coefficients stay a prefix of its fine ones, whatever the source consumes. The
        # speeds of two grids differ a little more: each divides by the deviation of g on its own points.
        for_speed, for_source = generator.spawn(2)
        g = self._field.values(_lowest(self._field, self._field.coefficients(for_speed), self.modes))
        if self.speed == "gaussian":
            deviation = self.variation * g / g.std()
        else:
            deviation = self.variation * np.tanh(g * self._field.tau ** (self.grid.num_axes / 2 - self._field.alpha))
        draw = {"wave_speed": np.maximum(1 + deviation, SLOWEST)}
        if self.source == "random":
            draw["source"] = self._blob(for_source.random(self.grid.num_axes))
        return draw

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, one matrix per sample, symmetric and in general indefinite.

        They are complex, and not Hermitian, where a face absorbs.

        Raises
        ------
        ValueError
            If the wave speed is not positive and finite everywhere, or a shape is wrong.
        """
        fields = self.named(inputs)
        wave_number = self.wave_number / positive_field("wave_speed", fields["wave_speed"]).squeeze(1)
        if self.discretisation == "cosines":
            waves = CosineWaves(self.grid, self._reaction(wave_number))
            rhs = self._with_source(self._cosine_load(), fields)
            return LinearSystems(waves, rhs.expand_as(wave_number), positive_definite=False)  # type: ignore[arg-type]  # only this family solves it
        faces = tuple(face.expand(len(wave_number), *face.shape[1:]) for face in self._laplacian.faces)
        operator = replace(self._laplacian, faces=faces, reaction=self._reaction(wave_number))
        rhs = self._with_source(self._given.load(self._laplacian), fields)
        return LinearSystems(operator, rhs.expand_as(wave_number), positive_definite=False)

    def _with_source(self, rhs: Tensor, fields: Fields) -> Tensor:
        if self.source == "random":
            return rhs + fields["source"].squeeze(1) * self.grid.cell_volume
        if isinstance(self.source, str):
            return rhs
        return rhs + torch.from_numpy(self._blob(self.source)) * self.grid.cell_volume

    def _cosine_load(self) -> Tensor:
        """Return what the faces bring, ``(1, *space)``."""
        total = torch.zeros(1, *self.grid.shape, dtype=torch.float64)
        for face, values in self._given.face_values.items():
            total = total + load_on_face(self.grid, face, values)
        return total

    def solve(
        self,
        inputs: "Fields | Tensor",
        *,
        rtol: float = 1e-8,
        method: str = "auto",
        order: str = "auto",
        factors: DirectFactors | None = None,
    ) -> SequenceResult:
        """Solve as every problem does; cosines know ``"auto"`` and ``"gmres"``, and pass no gradients on."""
        if self.discretisation != "cosines":
            return super().solve(inputs, rtol=rtol, method=method, order=order, factors=factors)
        _check.choice("method", method, ("auto", "gmres"))
        systems = self.systems(inputs)
        return solve_waves(systems, systems.operator, rtol=_check.positive("rtol", rtol))  # type: ignore[arg-type]  # as systems() made it

    def produce(
        self,
        inputs: "Fields | Tensor",
        *,
        rtol: float = 1e-8,
        method: str = "auto",
        factors: DirectFactors | None = None,
    ) -> Produced:
        """Solve for data, as every problem does; cosines know the methods ``"auto"`` and ``"gmres"``."""
        if self.discretisation != "cosines":
            return super().produce(inputs, rtol=rtol, method=method, factors=factors)
        result = self.solve(inputs, rtol=rtol, method=method)
        quality = {RESIDUAL.name: result.relative_residuals, ITERATIONS.name: result.iterations}
        failures = dict(zip(result.failed, result.reasons(), strict=True))
        return Produced({self.output_names[0]: as_output(result.solutions)}, quality, result.seconds, failures)

    def _reaction(self, wave_number: Tensor) -> Tensor:
        """Return ``-k^2`` times volume, and for absorbing faces the flux that leaves per value of the cell.

        With the mirror value v beyond the face, ``(v - u) / h = i k (v + u) / 2``: the flux is ``i k u / (1 - i k h /
        2)``.
        """
        reaction = -(wave_number**2) * self.grid.cell_volume
        if not self._absorbing:
            return reaction
        reaction = reaction.to(torch.complex128)
        for face in self._absorbing:
            axis = self.grid.axis_names.index(face[0])
            cell = 0 if face.endswith("low") else self.grid.shape[axis] - 1
            ik = 1j * wave_number.select(axis + 1, cell)
            outward = ik / (1 - 0.5 * self.grid.spacing[axis] * ik) * face_area(self.grid, face)
            reaction.select(axis + 1, cell).sub_(outward)
        return reaction

    def rejects(self, inputs: Fields, outputs: Fields) -> Tensor | None:
        """Say which samples change more than :attr:`resolution_tolerance` on a grid twice as fine, ``(sample,)``.

        Raises
        ------
        SolveError
            If these are more than half of 16 or more samples: then the grid does not resolve the wave.
        """
        if self.resolution_tolerance is None:
            return None
        fields, coarse = self.named(inputs), outputs[self.output_names[0]]
        fine, factors, changes = self.on_grid(self.grid.refined()), None, []
        some = max(1, CHECKED_POINTS // fine.grid.num_points)
        for start in range(0, len(coarse), some):
            rows = slice(start, start + some)
            chosen = {name: values[rows] for name, values in fields.items()}
            if self.discretisation == "cosines":
                result = fine.solve({k: resampled_cosines(v, self.grid, fine.grid) for k, v in chosen.items()})
                restricted = resampled_cosines(as_output(result.solutions), fine.grid, self.grid)
            else:
                split = {name: _split(values) for name, values in chosen.items()}
                result = fine.solve(split, method="direct", order="given", factors=factors)
                factors = result.factors
                restricted = _merged(as_output(result.solutions), self.grid.num_axes)
            change = (coarse[rows] - restricted).flatten(1).norm(dim=1)
            changes.append(change / restricted.flatten(1).norm(dim=1))
        rejected = ~(torch.cat(changes) <= self.resolution_tolerance)  # NaN is rejected too
        if len(rejected) >= 16 and int(rejected.sum()) * 2 > len(rejected):
            raise SolveError(
                f"the grid does not resolve the wave: {int(rejected.sum())} of {len(rejected)} samples change by more "
                f"than {self.resolution_tolerance:g} on a grid twice as fine. Take more cells per axis, a smaller "
                "`wave_number` or `variation`, or `resolution_tolerance=None` to keep all."
            )
        return rejected

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "wave_number": self.wave_number,
            "speed": self.speed,
            "variation": self.variation,
            "alpha": self._field.alpha,
            "tau": self._field.tau,
            "modes": self.modes,
            "source": self.source if isinstance(self.source, str) else list(self.source),
            "source_width": self.source_width,
            "boundary_values": self._given.config()["boundary_values"],
            "discretisation": self.discretisation,
            "resolution_tolerance": self.resolution_tolerance,
        }

    def _arguments_on(self, grid: Grid) -> dict[str, Any]:
        values = self._given.on_grid(grid).config()["boundary_values"]
        return super()._arguments_on(grid) | {"boundary_values": values}

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
        return _check.choice("source", source, ("random", "none"))
    centre = tuple(float(c) for c in source)
    if len(centre) != grid.num_axes or not all(0 <= c <= 1 for c in centre):
        raise ValueError(
            f"`source` must be 'random', 'none' or {grid.num_axes} fractions of the box from 0 to 1. Got {source!r}."
        )
    return centre


def _read_tolerance(tolerance: "float | str | None", grid: Grid) -> float | None:
    if isinstance(tolerance, str):
        _check.choice("resolution_tolerance", tolerance, ("auto",))
        return RESOLUTION_TOLERANCE if grid.num_axes < 3 else None
    return None if tolerance is None else _check.positive("resolution_tolerance", tolerance)


def _lowest(field: GaussianField, coefficients: np.ndarray, modes: int | None) -> np.ndarray:
    """Return coefficients with zeros for all but the first modes that vary, by their frequency."""
    if modes is None:
        return coefficients
    rank = np.empty(coefficients.size, np.intp)
    rank[np.argsort(field.eigenvalues.ravel(), kind="stable")] = np.arange(coefficients.size)
    return np.where(rank.reshape(coefficients.shape) <= modes, coefficients, 0.0)  # rank 0 is the constant


def _with_strips(grid: Grid, boundary: Boundary, given: "Mapping[str, Any] | None") -> "Mapping[str, Values] | None":
    """Return boundary values with those on parts of faces, on two axes, as one value per cell."""
    if not isinstance(given, Mapping):
        return given
    values = dict(given)
    for face in [face for face, value in given.items() if isinstance(value, Mapping)]:
        _check.choice("boundary_values", face, outer_faces(boundary))
        name = f"boundary_values[{face!r}]"
        _check.keys(name, given[face], ("value", "between"), required=("value", "between"))
        start, end = (float(share) for share in given[face]["between"])
        if grid.num_axes != 2 or not 0 <= start < end <= 1:
            raise ValueError(
                f"`{name}` must lie between two increasing fractions of a face, on two axes. Got {given[face]}."
            )
        n = grid.shape[1 - grid.axis_names.index(face[0])]
        cells = np.arange(n)
        covered = np.minimum(cells + 1, end * n) - np.maximum(cells, start * n)
        values[face] = torch.from_numpy(float(given[face]["value"]) * np.clip(covered, 0.0, 1.0))
    return values


def _closed(boundary: Boundary) -> Boundary:
    """Return the boundary with Neumann faces in place of absorbing ones, whose flux is part of the reaction."""
    kinds = tuple(tuple("neumann" if kind == "absorbing" else kind for kind in pair) for pair in boundary.kinds)
    return Boundary(kinds)  # type: ignore[arg-type]


def _split(values: Tensor) -> Tensor:
    """Return fields ``(sample, 1, *space)`` that are constant in cells on cells of half the size."""
    for dim in range(2, values.ndim):
        values = values.repeat_interleave(2, dim)
    return values


def _merged(values: Tensor, num_axes: int) -> Tensor:
    """Return means over cells of twice the size."""
    for dim in range(values.ndim - num_axes, values.ndim):
        values = values.unflatten(dim, (-1, 2)).mean(dim + 1)
    return values


def _keeps(symmetry: str, centre: tuple[float, ...]) -> bool:
    """Whether a symmetry of the box leaves a point, in fractions of the box, where it is."""
    if symmetry in TRANSPOSITIONS:
        first, second = TRANSPOSITIONS[symmetry]
        return centre[first] == centre[second]
    return centre[AXIS_NAMES.index(symmetry[-1])] == 0.5
