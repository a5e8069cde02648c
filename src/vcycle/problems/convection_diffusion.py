"""Steady convection and diffusion: a scalar carried by a random incompressible flow."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.fields import Basis, GaussianField
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.multigrid.stencil import Stencil
from vcycle.problems.coefficients import Coefficient, describe_coefficient, read_coefficient
from vcycle.problems.finite_volumes import face_area, outer_faces, positive_field, read_boundary
from vcycle.problems.given import Given, Values
from vcycle.problems.problem import FieldInfo, Fields, Problem
from vcycle.solvers.systems import LinearSystems

FLOWS = ("recirculating", "uniform")


class ConvectionDiffusion(Problem):
    """``-div(a grad u) + b . grad u = f`` with a random velocity ``b``, div b = 0; all quantities dimensionless.

    Cell-centred finite volumes: diffusion as in :class:`~vcycle.problems.Darcy`, and per cell the sum over faces of
    ``b . n area (u_face - u_cell)``, the face's value the mean of its two cells', or what the wall says. Second order
    in L2 for smooth velocities and coefficients. Constants are solutions without a source, exactly. The velocity on a
    face is the mean of its two cells'; drawn velocities are free of divergence in this discrete sense too, so that
    nothing is lost on the way.

    Central differences oscillate where the cell Peclet number ``|b| h / a`` exceeds 2. Such samples are refused; up to
    there the matrix is an M-matrix and the discrete solution keeps the maximum principle.

    Parameters
    ----------
    grid
        A cell grid with 1 to 3 axes.
    boundary
        Kinds of the faces, as for :class:`~vcycle.problems.Darcy`; one face at least is Dirichlet.
    flow
        ``"recirculating"``: the curl of a Gaussian stream function (2-D) or vector potential (3-D), tangential to all
        walls. ``"uniform"``: one velocity everywhere, uniform in the ball of admissible ones; it crosses the walls.
        Default recirculating where there are two or three axes.
    peclet
        Largest ``|b| L``, L the longest side of the box, dimensionless: the Peclet number where ``a = 1``. In a
        recirculating flow the largest speed of every sample, in a uniform one the radius of the ball.
    alpha, tau
        Smoothness (dimensionless, more than half the number of axes) and inverse correlation length (1 / length) of the
        stream function or vector potential.
    coefficient
        The family that ``a`` is drawn from, as for :class:`~vcycle.problems.Darcy`; ``None`` is the constant 1, and
        then ``a`` is no input.
    source, boundary_values
        ``f``, and solution or flux ``a du/dn`` by face, as for :class:`~vcycle.problems.Darcy`.

    Attributes
    ----------
    symmetries
        None: a flip also changes the sign of a velocity component.

    Raises
    ------
    ValueError
        If the grid, the boundary, a family, its parameters or a shape is not usable, or the cells are too large for
        ``peclet`` where ``a = 1``.

    References
    ----------
    Roos, Stynes and Tobiska, Robust numerical methods for singularly perturbed differential equations, 2008, part I,
    for the cell Peclet number and the M-matrix.
    """

    name: ClassVar[str] = "convection-diffusion"
    order: ClassVar[int] = 2
    inputs: ClassVar[tuple[FieldInfo, ...]] = ()
    outputs: tuple[FieldInfo, ...] = (FieldInfo("solution"),)

    def __init__(
        self,
        grid: Grid,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        *,
        flow: str | None = None,
        peclet: float = 20.0,
        alpha: float = 3.0,
        tau: float = 3.0,
        coefficient: "Coefficient | str | Mapping[str, Any] | None" = None,
        source: Values = 1.0,
        boundary_values: Mapping[str, Values] | None = None,
    ) -> None:
        self.grid, self.boundary = grid, read_boundary(grid, boundary)
        if not self.boundary.fixes_constant:
            raise ValueError(f"`boundary` must have a Dirichlet face. Got {self.boundary}.")
        usual = "uniform" if grid.num_axes == 1 else "recirculating"
        self.flow = usual if flow is None else _check.choice("flow", flow, FLOWS)
        if self.flow == "recirculating" and grid.num_axes == 1:
            raise ValueError("`flow` must be 'uniform' on one axis, where nothing turns round. Got 'recirculating'.")
        self.peclet = _check.positive("peclet", peclet)
        self.coefficient = None if coefficient is None else read_coefficient(coefficient)
        if self.coefficient is not None:
            self.coefficient.check(grid)
        elif self.peclet / max(grid.extent) * max(grid.spacing) > 2:
            raise ValueError(_too_coarse(self.peclet / max(grid.extent) * max(grid.spacing)))
        self._alpha, self._tau = _check.positive("alpha", alpha), _check.positive("tau", tau)
        self._potentials = _potentials(grid, alpha=alpha, tau=tau)
        self._given = Given.read(grid, self.boundary, source=source, boundary_values=boundary_values)

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The components of the velocity, and the diffusion coefficient where it is random."""
        velocity = tuple(FieldInfo(f"velocity_{name}") for name in self.grid.axis_names)
        return velocity if self.coefficient is None else (*velocity, FieldInfo("coefficient"))

    @property
    def zero_on_walls(self) -> bool:
        """Whether the solution vanishes on all Dirichlet faces: no values but zero are given there."""
        return self._given.is_zero_on_walls(self.boundary)

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the velocity, and the coefficient where it is random, of one sample."""
        for_velocity, for_coefficient = generator.spawn(2)  # independent streams: neither depends on the other's draws
        fastest = self.peclet / max(self.grid.extent)
        if self.flow == "uniform":
            direction = _in_ball(for_velocity, self.grid.num_axes)
            velocity = [np.full(self.grid.shape, fastest * component) for component in direction]
        else:
            streams = for_velocity.spawn(len(self._potentials))
            drawn = {c: field.sample(s) for (c, field), s in zip(self._potentials.items(), streams, strict=True)}
            velocity = curl(self.grid, drawn)
            speed = np.sqrt(sum(component**2 for component in velocity)).max()
            velocity = [component * (fastest / speed) for component in velocity]
        draw = {f"velocity_{name}": values for name, values in zip(self.grid.axis_names, velocity, strict=True)}
        if self.coefficient is not None:
            draw["coefficient"] = self.coefficient.draw(self.grid, for_coefficient)
        return draw

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Return the linear systems, one matrix per sample, not symmetric.

        Raises
        ------
        ValueError
            If the coefficient is not positive and finite everywhere, a cell Peclet number exceeds 2, or a shape is
            wrong.
        """
        fields = self.named(inputs)
        a = None
        if self.coefficient is not None:
            a = positive_field("coefficient", fields["coefficient"]).squeeze(1)
        diffusion = laplacian(self.grid, self.boundary, coefficient=a)
        velocity = [fields[f"velocity_{name}"].squeeze(1) for name in self.grid.axis_names]
        through = face_fluxes(self.grid, self.boundary, velocity, walls_closed=self.flow == "recirculating")
        _require_resolved(diffusion, through)
        rhs = self._given.load(diffusion)
        rhs = rhs + self._carried_in(through, torch.ones_like(rhs) if a is None else a)
        return LinearSystems(with_transport(diffusion, through), rhs, positive_definite=False)

    def _carried_in(self, through: tuple[Tensor, ...], a: Tensor) -> Tensor:
        """Return what values on faces add to the right-hand side: ``-b . n area (u_wall - u_cell)``, its known part."""
        result = torch.zeros(len(through[0]), *self.grid.shape, dtype=torch.float64)
        kinds = outer_faces(self.boundary)
        for face, values in self._given.face_values.items():
            axis = self.grid.axis_names.index(face[0])
            cell, wall, inward = (0, 0, 1) if face.endswith("low") else (-1, -1, -1)
            flux = inward * through[axis].select(axis + 1, wall)
            if kinds[face] == "neumann":  # the wall's value is du/dn away from the cell's
                values = values * 0.5 * self.grid.spacing[axis] / a.select(axis + 1, cell)
            result.select(axis + 1, cell).add_(flux * values)
        return result

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "flow": self.flow,
            "peclet": self.peclet,
            "alpha": self._alpha,
            "tau": self._tau,
            "coefficient": None if self.coefficient is None else describe_coefficient(self.coefficient),
            **self._given.config(),
        }

    def _arguments_on(self, grid: Grid) -> dict[str, Any]:
        return super()._arguments_on(grid) | self._given.on_grid(grid).config()


def face_fluxes(
    grid: Grid, boundary: Boundary, velocity: Sequence[Tensor], *, walls_closed: bool
) -> tuple[Tensor, ...]:
    """Return ``b . e area`` on all faces, e along the axis, from the components of b at cell centres.

    Parameters
    ----------
    grid, boundary
        The cells, and which axes are periodic.
    velocity
        Per axis ``(batch, *shape)``, float64.
    walls_closed
        Whether nothing crosses the walls; otherwise the velocity on a wall is that of the cell beside it.

    Returns
    -------
    tuple
        Per axis ``(batch, *shape)`` with one more entry along that axis, as in :class:`FaceFluxes`.
    """
    fluxes = []
    for axis, component in enumerate(velocity):
        dim, size = axis + 1, grid.shape[axis]
        first, last = component.narrow(dim, 0, 1), component.narrow(dim, size - 1, 1)
        inner = 0.5 * (component.narrow(dim, 0, size - 1) + component.narrow(dim, 1, size - 1))
        if boundary.periodic[axis]:
            first = last = 0.5 * (first + last)
        elif walls_closed:
            first, last = torch.zeros_like(first), torch.zeros_like(last)
        area = face_area(grid, f"{AXIS_NAMES[axis]}_low")
        fluxes.append(torch.cat([first, inner, last], dim) * area)
    return tuple(fluxes)


def with_transport(diffusion: FaceFluxes, through: Sequence[Tensor]) -> Stencil:
    """Return the operator with ``sum over faces of flux (u_face - u_cell)``, fluxes outward, added: ``b . grad u``.

    Parameters
    ----------
    diffusion
        The symmetric part.
    through
        The volume per time through each face, as :func:`face_fluxes` gives it.
    """
    boundary, centre, lowers, uppers = diffusion.boundary, diffusion.diagonal(), [], []
    for axis, (face, flux) in enumerate(zip(diffusion.faces, through, strict=True)):
        dim, size = axis + 1, diffusion.grid.shape[axis]
        weight = torch.full((size + 1,), 0.5, dtype=torch.float64)  # of the wall's or the neighbour's value on a face
        inside = torch.ones(size + 1, dtype=torch.float64)
        for end, kind in zip((0, size), boundary.kinds[axis], strict=True):
            if kind != "periodic":
                weight[end], inside[end] = float(kind == "dirichlet"), 0.0
        along = (size + 1,) + (1,) * (diffusion.grid.num_axes - axis - 1)
        weight, inside = weight.reshape(along), inside.reshape(along)
        carried = weight * flux
        lower, upper = inside * (-face - carried), inside * (-face + carried)
        centre = centre + carried.narrow(dim, 0, size) - carried.narrow(dim, 1, size)
        lowers.append(lower.narrow(dim, 0, size))
        uppers.append(upper.narrow(dim, 1, size))
    return Stencil(diffusion.grid, boundary, centre, tuple(lowers), tuple(uppers))


def curl(grid: Grid, potential: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """Return the curl by central differences at cell centres, per axis of the grid, of the grid's shape.

    Parameters
    ----------
    grid
        Cells, 2-D or 3-D.
    potential
        Each component by its axis, 0 to 2; 2-D flows have the component 2, the stream function. On walls, a component
        vanishes where it is tangential, so that the curl is tangential.
    """
    velocity = [np.zeros(grid.shape) for _ in range(grid.num_axes)]
    for component, values in potential.items():
        first, second = (component + 1) % 3, (component + 2) % 3
        if first < grid.num_axes:
            velocity[first] += _difference(grid, values, second)
        if second < grid.num_axes:
            velocity[second] -= _difference(grid, values, first)
    return velocity


def _difference(grid: Grid, values: np.ndarray, axis: int) -> np.ndarray:
    """Return the central difference along an axis of what vanishes on the axis' walls."""
    before, after = -values.take([0], axis), -values.take([-1], axis)
    if grid.periodic[axis]:
        before, after = -after, -before
    extended, size = np.concatenate([before, values, after], axis), values.shape[axis]
    above, below = extended.take(range(2, size + 2), axis), extended.take(range(size), axis)
    return (above - below) / (2 * grid.spacing[axis])


def _potentials(grid: Grid, *, alpha: float, tau: float) -> dict[int, GaussianField]:
    """Return the random field of each component of the potential by its axis."""
    components = {1: (), 2: (2,), 3: (0, 1, 2)}[grid.num_axes]
    fields = {}
    for component in components:
        basis: tuple[Basis, ...] = tuple(
            "periodic" if periodic else "neumann" if axis == component else "dirichlet"
            for axis, periodic in enumerate(grid.periodic)
        )
        fields[component] = GaussianField(grid, alpha=alpha, tau=tau, basis=basis)
    return fields


def _in_ball(generator: np.random.Generator, num_axes: int) -> np.ndarray:
    """Draw a point uniform in the unit ball."""
    direction = generator.standard_normal(num_axes)
    return direction / math.sqrt((direction**2).sum()) * generator.random() ** (1 / num_axes)


def _require_resolved(diffusion: FaceFluxes, through: Sequence[Tensor]) -> None:
    """Raise a ValueError where a face carries more than central differences can: off-diagonals must not be positive."""
    worst = 0.0
    for axis, (face, flux) in enumerate(zip(diffusion.faces, through, strict=True)):
        ratio = flux.detach().abs() / face.detach()  # infinite on Neumann faces
        along = ratio.movedim(axis + 1, 0)
        low, high = diffusion.boundary.kinds[axis]
        walls = [end for end, kind in ((along[0], low), (along[-1], high)) if kind == "dirichlet"]
        inner = along if low == "periodic" else along[1:-1]
        # a wall is half as far away as a neighbour, so that its transmissibility is twice as large
        worst = max(worst, float(inner.max()), *(2 * float(end.max()) for end in walls))
    if not worst <= 2 * (1 + 1e-12):
        raise ValueError(_too_coarse(worst))


def _too_coarse(number: float) -> str:
    return (
        f"`grid` must have cells with |b| h / a at most 2 for central differences; take {number / 2:.3g} "
        "times as many per axis, or a smaller `peclet`. "
        f"Got {number:.4g}."
    )
