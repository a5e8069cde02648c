"""Poisson's equation with random sources and random boundary values: one matrix, many right-hand sides."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.fields import GaussianField
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import control_volumes, laplacian
from vcycle.problems.finite_volumes import (
    areas_on_face,
    box_symmetries,
    face_area,
    load,
    outer_faces,
    read_boundary,
    without_mean,
)
from vcycle.problems.problem import FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems


class Poisson(Problem):
    """``-Laplace u = f`` with ``u = g`` on Dirichlet and ``du/dn = g`` on Neumann faces; all quantities dimensionless.

    The source ``f`` and the boundary data ``g`` are random. The source is a Gaussian field; the values on Dirichlet
    faces are the trace of one smooth Gaussian field in the box, so that they agree where two faces meet, and the fluxes
    on Neumann faces (n points outward) are the trace of another. Where no face fixes the solution, the source's mean is
    moved at sampling so that source and fluxes have zero sum, and solutions have zero mean.

    Inputs are ``source`` and, per face that is not periodic, ``value_<face>`` or ``flux_<face>`` on that face alone;
    with ``boundary_scale=0`` faces hold zero, and ``source`` is the only input.

    Discretised as :class:`~vcycle.problems.Darcy` with ``a = 1``: second order in L2 at the points.

    Parameters
    ----------
    grid
        Cells or vertices, 1 to 3 axes.
    boundary
        Kinds of the faces, as for :class:`~vcycle.problems.Darcy`.
    alpha, tau
        Smoothness (dimensionless, more than half the number of axes) and inverse correlation length (1 / length) of the
        source. The boundary data have the same ``tau`` and are smoother by one: ``alpha + 1``.
    source_scale
        Factor of the source. The default lets source and boundary values move the solution by about as much, on the
        unit square with the default ``alpha`` and ``tau``.
    boundary_scale
        Factor of the boundary data; 0 for none.

    Attributes
    ----------
    symmetries
        Those of the box and its boundary kinds; boundary data move with their faces.

    Raises
    ------
    ValueError
        If the grid, the boundary or a number is not usable.
    """

    name: ClassVar[str] = "poisson"
    order: ClassVar[int] = 2
    inputs: ClassVar[tuple[FieldInfo, ...]] = (FieldInfo("source"),)
    outputs: tuple[FieldInfo, ...] = (FieldInfo("solution"),)

    def __init__(
        self,
        grid: Grid,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        *,
        alpha: float = 2.0,
        tau: float = 3.0,
        source_scale: float = 100.0,
        boundary_scale: float = 1.0,
    ) -> None:
        self.grid, self.boundary = grid, read_boundary(grid, boundary, vertices=True)
        self.source_scale = _check.positive("source_scale", source_scale)
        self.boundary_scale = _check.not_negative("boundary_scale", boundary_scale)
        self._source_field = GaussianField.natural(grid, alpha=alpha, tau=tau)
        self._boundary_field = GaussianField.natural(grid, alpha=alpha + 1, tau=tau, mean_mode=True)
        kinds = outer_faces(self.boundary) if self.boundary_scale else {}
        words = {face: "value" if kind == "dirichlet" else "flux" for face, kind in kinds.items()}
        self._face_fields = {face: FieldInfo(f"{word}_{face}", face=face) for face, word in words.items()}
        self._operator = laplacian(grid, self.boundary)
        self.symmetries = box_symmetries(grid, self.boundary)

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The source and one field per outer face that is not periodic, unless they hold zero."""
        return (*self.inputs, *self._face_fields.values())

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, which share one matrix, symmetric positive (semi-)definite.

        Raises
        ------
        ValueError
            If a shape is wrong, or source and fluxes have no zero sum where no face fixes the solution.
        """
        fields = self.named(inputs)
        face_values = {face: fields[info.name].squeeze(1) for face, info in self._face_fields.items()}
        rhs = load(self._operator, fields["source"].squeeze(1), face_values=face_values)
        rhs, mean = without_mean(rhs, self.grid) if self.singular else (rhs, None)
        return LinearSystems(self._operator, rhs, positive_definite=True, singular=self.singular, removed_mean=mean)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "alpha": self._source_field.alpha,
            "tau": self._source_field.tau,
            "source_scale": self.source_scale,
            "boundary_scale": self.boundary_scale,
        }

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the source and the boundary data of one sample."""
        # Independent streams: each field's coarse draw stays a prefix of its fine one, whatever the others consume.
        for_source, for_values, for_fluxes = generator.spawn(3)
        streams = {"value": for_values, "flux": for_fluxes}
        words = {face: info.name.split("_")[0] for face, info in self._face_fields.items()}
        traced = {word: self._boundary_field.coefficients(streams[word]) for word in sorted(set(words.values()))}
        draw = {"source": self.source_scale * self._source_field.sample(for_source)}
        for face, info in self._face_fields.items():
            draw[info.name] = self.boundary_scale * self._boundary_field.trace(traced[words[face]], face)
        if self.singular:
            draw["source"] = self._balanced(draw)
        return draw

    def _balanced(self, draw: dict[str, np.ndarray]) -> np.ndarray:
        """Return the source moved so that source and fluxes have zero sum."""
        if self.grid.centring == "cell":
            inflow = sum(draw[info.name].sum() * face_area(self.grid, face) for face, info in self._face_fields.items())
            volume = self.grid.cell_volume * self.grid.num_points
            return draw["source"] - draw["source"].mean() - inflow / volume
        volumes = control_volumes(self.grid).numpy()
        areas = {face: areas_on_face(self.grid, face).numpy() for face in self._face_fields}
        inflow = sum((draw[info.name] * areas[face]).sum() for face, info in self._face_fields.items())
        return draw["source"] - ((draw["source"] * volumes).sum() + inflow) / volumes.sum()
