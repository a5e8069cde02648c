"""What the families of finite volumes share: boundary kinds, the right-hand side with values on faces, and its mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.multigrid.fluxes import FaceFluxes, control_volumes, laplacian, on_dirichlet_walls
from vcycle.problems.problem import TRANSPOSITIONS

FINITE_VOLUME_KINDS = ("dirichlet", "neumann", "periodic")


def read_boundary(
    grid: Grid,
    boundary: "Boundary | str | Sequence[Any]",
    *,
    kinds: Sequence[str] = FINITE_VOLUME_KINDS,
    vertices: bool = False,
) -> Boundary:
    """Return the boundary of a finite-volume problem, each face of one of the kinds that it knows.

    Parameters
    ----------
    grid, boundary
        As the problem gets them.
    kinds
        What a face may be.
    vertices
        Whether the problem exists on vertex grids too.

    Raises
    ------
    ValueError
        If the grid has another centring, or a face is of another kind.
    """
    if grid.centring != "cell" and not vertices:
        raise ValueError(f"`grid` must have cell centring for finite volumes. Got {grid.centring!r}.")
    read = Boundary.on(grid, boundary)
    for pair in read.kinds:
        for kind in pair:
            _check.choice("boundary", kind, kinds)
    return read


def outer_faces(boundary: Boundary) -> dict[str, str]:
    """Return the kind of each face of the box by its name, ``"x_low"``, ``"x_high"``, ...; periodic axes have none."""
    named = zip(AXIS_NAMES, boundary.kinds, strict=False)
    pairs = [(name, pair) for name, pair in named if pair[0] != "periodic"]
    return {f"{name}_{end}": kind for name, pair in pairs for end, kind in zip(("low", "high"), pair, strict=True)}


def face_area(grid: Grid, face: str) -> float:
    """Return the area of one cell's part of a face; 1 on a grid with one axis."""
    return grid.cell_volume / grid.spacing[grid.axis_names.index(face[0])]


def areas_on_face(grid: Grid, face: str) -> Tensor:
    """Return the area that each point of a face stands for, of the face's shape."""
    axis = grid.axis_names.index(face[0])
    volumes = control_volumes(grid).select(axis, 0)
    on_wall = 0.5 if grid.centring == "vertex" else 1.0
    return volumes / (on_wall * grid.spacing[axis])


def box_symmetries(grid: Grid, boundary: Boundary) -> tuple[str, ...]:
    """Return the flips and transpositions that map a grid with these boundary kinds onto itself."""
    kinds = zip(grid.axis_names, boundary.kinds, strict=True)
    found = [f"flip_{name}" for name, (low, high) in kinds if low == high]
    sides = list(zip(grid.shape, grid.extent, boundary.kinds, strict=True))
    pairs = {name: axes for name, axes in TRANSPOSITIONS.items() if max(axes) < grid.num_axes}
    return (*found, *(name for name, (first, second) in pairs.items() if sides[first] == sides[second]))


def transformed(symmetry: str, values: Tensor) -> Tensor:
    """Return ``(batch, *space)`` after one of the :func:`box_symmetries`."""
    if symmetry in TRANSPOSITIONS:
        first, second = TRANSPOSITIONS[symmetry]
        return values.transpose(1 + first, 1 + second)
    return values.flip(1 + AXIS_NAMES.index(symmetry[-1]))


def load(
    operator: FaceFluxes, source: Tensor, *, face_values: Mapping[str, Tensor], coefficient: Tensor | None = None
) -> Tensor:
    """Return the right-hand side: the source and what the outer faces bring, integrated over control volumes.

    Parameters
    ----------
    operator
        The matrices, as :func:`vcycle.multigrid.fluxes.laplacian` gives them.
    source
        ``f`` at the points, ``(num or 1, *space)``, float64, in the unit of ``f``.
    face_values
        By the name of the face, ``(num or 1, *face)``: the unknown on a Dirichlet face, the inward flux ``a du/dn`` (n
        points outward) on a Neumann face. A face that is not named holds zero. Where vertices lie on two Dirichlet
        faces, the face that is named last counts.
    coefficient
        What the operator was made from; only vertex grids ask for it.

    Returns
    -------
    Tensor
        ``(num, *space)`` where num is the largest of the batch sizes; differentiable in everything.

    Raises
    ------
    ValueError
        If a name is none of the box's outer faces.
    """
    grid, kinds = operator.grid, outer_faces(operator.boundary)
    num = max([operator.batch, source.shape[0], *(values.shape[0] for values in face_values.values())])
    if grid.centring == "vertex":
        return _load_on_vertices(operator, source, face_values, coefficient, num)
    result = (source * grid.cell_volume).expand(num, *grid.shape).clone()
    for face, values in face_values.items():
        _check.choice("face_values", face, kinds)
        axis = grid.axis_names.index(face[0])
        cell, wall = (0, 0) if face.endswith("low") else (grid.shape[axis] - 1, grid.shape[axis])
        dirichlet = kinds[face] == "dirichlet"
        weight = operator.faces[axis].select(axis + 1, wall) if dirichlet else face_area(grid, face)
        result.select(axis + 1, cell).add_(weight * values)
    return result


def _load_on_vertices(
    operator: FaceFluxes, source: Tensor, face_values: Mapping[str, Tensor], coefficient: Tensor | None, num: int
) -> Tensor:
    grid, boundary, kinds = operator.grid, operator.boundary, outer_faces(operator.boundary)
    result = (source * control_volumes(grid)).expand(num, *grid.shape).clone()
    known = torch.zeros(num, *grid.shape, dtype=torch.float64)
    for face, values in face_values.items():
        _check.choice("face_values", face, kinds)
        axis = grid.axis_names.index(face[0])
        wall = 0 if face.endswith("low") else grid.shape[axis] - 1
        if kinds[face] == "dirichlet":
            known.select(axis + 1, wall).copy_(values.expand_as(known.select(axis + 1, wall)))
        else:
            result.select(axis + 1, wall).add_(areas_on_face(grid, face) * values)
    if operator.reaction is None:
        return result
    insulated = Boundary(tuple(("periodic",) * 2 if p else ("neumann",) * 2 for p in boundary.periodic))
    coupled = laplacian(grid, insulated, coefficient=coefficient).apply(known)
    return torch.where(on_dirichlet_walls(grid, boundary), operator.reaction * known, result - coupled)


def without_mean(rhs: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return right-hand sides ``(num, *space)`` with their discrete mean subtracted, and that mean.

    Singular systems need the first. The mean is ``(num,)``, per volume: in the unit of the source, not integrated.

    What may be subtracted is discretisation error: a sum of at most ``sum over axes of (h / L)^2`` times the sum of the
    magnitudes, the size of the midpoint rule's error for a smooth right-hand side of exact mean zero.

    Raises
    ------
    ValueError
        If the mean is more than that: without a face that fixes the unknown there is no solution.
    """
    flat = rhs.flatten(1)
    tolerance = sum(1.0 / n**2 for n in grid.shape)
    magnitude = flat.detach().abs().sum(1)
    share = flat.detach().sum(1).abs() / torch.where(magnitude > 0, magnitude, 1.0)
    if not bool((share <= tolerance).all()):
        raise ValueError(
            "`source` and boundary fluxes must have zero sum where no face fixes the solution (all Neumann or "
            "periodic); subtract the mean or set a Dirichlet face. "
            f"Got a sum of {float(share.max()):.3g} of the magnitude, above {tolerance:.3g}."
        )
    along = (-1, *(1,) * grid.num_axes)
    if grid.centring == "vertex":
        volumes = control_volumes(grid)
        mean = flat.sum(1) / volumes.sum()
        return rhs - mean.reshape(along) * volumes, mean
    mean = flat.mean(1)
    return rhs - mean.reshape(along), mean / grid.cell_volume


def positive_field(name: str, values: Tensor) -> Tensor:
    """Return a field of which every value is positive and finite, or raise a ValueError that names one that is not."""
    fits = (values > 0) & torch.isfinite(values)
    if not bool(fits.all()):
        raise ValueError(f"`{name}` must be positive and finite everywhere. Got {float(values[~fits][0]):.6g}.")
    return values


def not_negative_field(name: str, values: Tensor) -> Tensor:
    """Return a field of which no value is negative or infinite, or raise a ValueError that names one that is."""
    fits = (values >= 0) & torch.isfinite(values)
    if not bool(fits.all()):
        raise ValueError(f"`{name}` must not be negative or infinite anywhere. Got {float(values[~fits][0]):.6g}.")
    return values


def resampled(name: str, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return values that are constant in cells, ``(1, *space)``, on other cells of the same box: ``shape`` per axis.

    Repeated along an axis that becomes finer by a whole number, averaged along one that becomes coarser: integrals
    over coarse cells stay what they are. One value for the whole box passes through.

    Raises
    ------
    ValueError
        If numbers of cells are no multiples of each other; ``name`` is the argument's.
    """
    if values.numel() == 1:
        return values
    for dim, size in enumerate(shape, start=1):
        given = values.shape[dim]
        if size % given and given % size:
            raise ValueError(
                f"`{name}` is given on {given} cells, so the grid must have a multiple of that. Got {size}."
            )
        if size > given:
            values = values.repeat_interleave(size // given, dim)
        else:
            values = values.unflatten(dim, (size, given // size)).mean(dim + 1)
    return values
