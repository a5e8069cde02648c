"""The discrete operator that multigrid eats: transmissibilities on faces, nothing assembled.

Finite volumes integrate ``-div(a grad u) + c u = f`` over each cell. Between two cells the flux is ``T (u_i - u_j)``
with the transmissibility ``T = a_face * area / distance``, so that ``u' A u`` is the energy
``integral of a |grad u|^2`` itself, in physical units, and ``b`` is ``f`` times the cell volume.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Grid

CACHED_POINTS = 2**15
"""Points whose faces are computed at a time."""


@dataclass(frozen=True)
class FaceFluxes:
    """A batch of symmetric operators ``A u = sum over faces T (u_i - u_j) + reaction * u`` on a cell grid.

    Parameters
    ----------
    grid, boundary
        The cells, and what happens at the outer faces.
    faces
        Per axis the transmissibilities ``(batch, *shape)`` with one more entry along that axis: entry ``i`` is the face
        below cell ``i``. A Dirichlet face holds ``a * area / (h / 2)``, a Neumann face 0, and on a periodic axis the
        first and the last face are the same. Batch 1 stands for a matrix shared by all systems.
    reaction
        The zero-order term integrated over cells, ``(batch, *shape)``; may be negative, and complex where a wall
        absorbs. ``None`` is zero.
    """

    grid: Grid
    boundary: Boundary
    faces: tuple[Tensor, ...]
    reaction: Tensor | None = None

    @property
    def batch(self) -> int:
        """Number of matrices."""
        return self.faces[0].shape[0]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that the matrices depend on: faces, and the reaction where there is one."""
        return self.faces if self.reaction is None else (*self.faces, self.reaction)

    def with_parts(self, parts: tuple[Tensor, ...]) -> "FaceFluxes":
        """Return the operator with other :attr:`parts`, in the same order."""
        axes = self.grid.num_axes
        return replace(self, faces=parts[:axes], reaction=parts[axes] if len(parts) > axes else None)

    def adjoint(self) -> "FaceFluxes":
        """Return the conjugate transposed matrices: these are symmetric, so that only complex entries change."""
        return self.with_parts(tuple(part.conj().resolve_conj() for part in self.parts))

    def apply(self, u: Tensor) -> Tensor:
        """Return ``A u`` for ``u`` of shape ``(batch, *space)``; differentiable in ``u`` and in the coefficients."""
        result = torch.zeros_like(u) if self.reaction is None else self.reaction * u
        for axis, flux in enumerate(self.fluxes(u)):
            result = result - flux.diff(dim=axis + 1)
        return result

    def fluxes(self, u: Tensor) -> tuple[Tensor, ...]:
        """Return ``T (u_above - u_below)`` on every face, shaped like ``faces``; the value beyond a wall is zero."""
        return tuple(face * self._extended(u, axis).diff(dim=axis + 1) for axis, face in enumerate(self.faces))

    def _extended(self, u: Tensor, axis: int) -> Tensor:
        dim, size = axis + 1, u.shape[axis + 1]
        if self.boundary.periodic[axis]:
            return torch.cat([u.narrow(dim, size - 1, 1), u, u.narrow(dim, 0, 1)], dim)
        wall = torch.zeros_like(u.narrow(dim, 0, 1))
        return torch.cat([wall, u, wall], dim)

    def diagonal(self) -> Tensor:
        """Return the diagonal of the matrices, ``(batch, *space)``."""
        total = torch.zeros_like(self.faces[0].narrow(1, 1, self.grid.shape[0]))
        for axis, face in enumerate(self.faces):
            size = self.grid.shape[axis]
            total = total + face.narrow(axis + 1, 0, size) + face.narrow(axis + 1, 1, size)
        return total if self.reaction is None else total + self.reaction

    def energy(self, u: Tensor) -> Tensor:
        """Return ``u' A u`` per sample, ``(batch,)``: the face sum of ``a |grad u|^2`` (plus the zero-order term)."""
        return (u * self.apply(u)).flatten(1).sum(1)

    def select(self, indices: "slice | list[int] | Tensor") -> "FaceFluxes":
        """Return the operators of some samples; a shared matrix stays shared."""
        return self if self.batch == 1 else self.with_parts(tuple(part[indices] for part in self.parts))

    def coarsened(self) -> "FaceFluxes":
        """Return the operator on the grid with half as many cells per axis, re-discretised from the faces alone.

        From one coarse centre to the next a flux crosses half an inner face, the face between, and half an inner face:
        in series along the axis. The fine faces of one coarse face are parallel and add up; reactions of merged cells
        too. With constant coefficients this is the coarse grid's own operator.

        Raises
        ------
        ValueError
            If the grid cannot be coarsened.
        """
        coarse = self.grid.coarsened()
        faces = []
        for axis, face in enumerate(self.faces):
            series = self._in_series(1.0 / face, axis)  # a Neumann face resists infinitely, before and after
            for other in range(self.grid.num_axes):
                if other != axis:
                    series = _pairs_added(series, other + 1)
            faces.append(series)
        reaction = self.reaction
        if reaction is not None:
            for axis in range(self.grid.num_axes):
                reaction = _pairs_added(reaction, axis + 1)
        return FaceFluxes(coarse, self.boundary, tuple(faces), reaction)

    def _in_series(self, resistance: Tensor, axis: int) -> Tensor:
        """Return ``T`` between coarse centres; every second fine face lies inside a coarse cell."""
        dim, size = axis + 1, self.grid.shape[axis]
        half_inner = 0.5 * resistance.narrow(dim, 1, size - 1)[_every_second(dim)]
        none = torch.zeros_like(half_inner.narrow(dim, 0, 1))
        below, above = torch.cat([none, half_inner], dim), torch.cat([half_inner, none], dim)
        if self.boundary.periodic[axis]:
            last, first = half_inner.narrow(dim, size // 2 - 1, 1), half_inner.narrow(dim, 0, 1)
            below, above = torch.cat([last, half_inner], dim), torch.cat([half_inner, first], dim)
        return 1.0 / (below + resistance[_every_second(dim)] + above)

    def entries(self, index: int = 0) -> np.ndarray:
        """Return what stands at :func:`positions` in matrix ``index``: a shared matrix stands for every index."""
        index = index if self.batch > 1 else 0
        diagonal = self.select(slice(index, index + 1)).diagonal()[0].detach().numpy().ravel()
        pairs = []
        for axis, face in enumerate(self.faces):
            transmissibility = np.moveaxis(face[index].detach().numpy(), axis, 0)
            pairs.append(-transmissibility[1:-1].ravel())
            if self.boundary.periodic[axis]:
                pairs.append(-transmissibility[0].ravel())
        return np.concatenate([diagonal, *pairs, *pairs])

    def to_csr(self, index: int = 0) -> sp.csr_matrix:
        """Return matrix ``index`` (a shared one for every index), points in row-major order."""
        size = self.grid.num_points
        return sp.coo_matrix((self.entries(index), positions(self.grid, self.boundary)), shape=(size, size)).tocsr()


def positions(grid: Grid, boundary: Boundary) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of :meth:`FaceFluxes.entries`: the diagonal, the neighbours, and those transposed.

    A pair may come twice, as on a periodic axis of two cells; its entries add up.
    """
    number = np.arange(grid.num_points).reshape(grid.shape)
    below, above = [], []
    for axis, periodic in enumerate(boundary.periodic):
        cells = np.moveaxis(number, axis, 0)
        below.append(cells[:-1].ravel())
        above.append(cells[1:].ravel())
        if periodic:
            below.append(cells[-1].ravel())
            above.append(cells[0].ravel())
    here = number.ravel()
    return np.concatenate([here, *below, *above]), np.concatenate([here, *above, *below])


def laplacian(grid: Grid, boundary: Boundary, *, coefficient: Tensor | None = None) -> FaceFluxes:
    """Return the faces of ``-div(a grad .)``, harmonic means of the coefficient between two points.

    On cells a Dirichlet face is half a cell away. On vertices the control volume of a point on a wall is cut in half by
    it, and the points of Dirichlet walls are not unknown: their rows are a multiple of the identity, coupled to none,
    and what couples their neighbours to them is part of the neighbours' zero-order term.

    Parameters
    ----------
    grid, boundary
        The points, and the kinds of the outer faces: Dirichlet, Neumann or periodic.
    coefficient
        ``a``, positive, shape ``(batch, *grid.shape)``, float64; ``None`` is 1.

    Raises
    ------
    ValueError
        If a face is neither Dirichlet, Neumann nor periodic.
    """
    a = torch.ones(1, *grid.shape, dtype=torch.float64) if coefficient is None else coefficient
    _check_kinds(boundary)
    if grid.centring == "vertex":
        return _on_vertices(grid, boundary, a)
    if a.requires_grad:
        faces = _faces(grid, boundary, a)
    else:  # some samples at a time, so that what lies between stays in cache
        shapes = [(len(a), *(n + (i == axis) for i, n in enumerate(grid.shape))) for axis in range(grid.num_axes)]
        faces = tuple(a.new_empty(shape) for shape in shapes)
        some = max(1, CACHED_POINTS // grid.num_points)
        for first in range(0, len(a), some):
            _faces(grid, boundary, a[first : first + some], tuple(face[first : first + some] for face in faces))
    return FaceFluxes(grid, boundary, faces)


def _faces(grid: Grid, boundary: Boundary, a: Tensor, out: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
    """Return the transmissibilities, or write them to ``out``: twice the inverse sum of the two cells' resistances."""
    resistance, faces = a.reciprocal(), []
    for axis, (low, high) in enumerate(boundary.kinds):
        dim, size = axis + 1, grid.shape[axis]
        first, last = resistance.narrow(dim, 0, 1), resistance.narrow(dim, size - 1, 1)
        below, above = resistance.narrow(dim, 0, size - 1), resistance.narrow(dim, 1, size - 1)
        walls = [_wall(kind, own, last + first) for kind, own in ((low, first), (high, last))]
        twice_area_over_distance = 2.0 * grid.cell_volume / grid.spacing[axis] ** 2
        if out is None:
            faces.append(twice_area_over_distance / torch.cat([walls[0], below + above, walls[1]], dim))
            continue
        face = out[axis]
        torch.add(below, above, out=face.narrow(dim, 1, size - 1))
        face.narrow(dim, 0, 1).copy_(walls[0])
        face.narrow(dim, size, 1).copy_(walls[1])
        torch.div(twice_area_over_distance, face, out=face)
    return tuple(faces)


def _check_kinds(boundary: Boundary) -> None:
    for kind in (kind for pair in boundary.kinds for kind in pair):
        if kind not in ("dirichlet", "neumann", "periodic"):
            raise ValueError(f"`boundary` must be dirichlet, neumann or periodic for finite volumes. Got {kind!r}.")


def _wall(kind: str, of_the_cell: Tensor, across_the_seam: Tensor) -> Tensor:
    """Return the resistance of a face at the end of an axis: half a cell's, infinite, or across the seam."""
    if kind == "dirichlet":
        return of_the_cell
    return torch.full_like(of_the_cell, torch.inf) if kind == "neumann" else across_the_seam


def control_volumes(grid: Grid) -> Tensor:
    """Return the volume that each point stands for, ``grid.shape``: on vertices, walls cut it in half."""
    volumes = torch.full(grid.shape, grid.cell_volume, dtype=torch.float64)
    for axis in range(grid.num_axes):
        volumes *= _shares(grid, axis)
    return volumes


def on_dirichlet_walls(grid: Grid, boundary: Boundary) -> Tensor:
    """Return which points of a vertex grid lie on a Dirichlet wall, of the grid's shape."""
    fixed = torch.zeros(grid.shape, dtype=torch.bool)
    for axis, (low, high) in enumerate(boundary.kinds):
        for kind, end in ((low, 0), (high, grid.shape[axis] - 1)):
            if kind == "dirichlet":
                fixed.select(axis, end).fill_(value=True)
    return fixed


def _shares(grid: Grid, axis: int) -> Tensor:
    """Return the share of a spacing that each point has along an axis, to be broadcast over the grid."""
    shares = torch.ones(grid.shape[axis], dtype=torch.float64)
    if grid.centring == "vertex" and not grid.periodic[axis]:
        shares[[0, -1]] = 0.5
    return shares.reshape((-1,) + (1,) * (grid.num_axes - axis - 1))


def _on_vertices(grid: Grid, boundary: Boundary, a: Tensor) -> FaceFluxes:
    resistance, fixed = 0.5 / a, on_dirichlet_walls(grid, boundary)
    faces, dropped = [], torch.zeros_like(a)
    for axis, periodic in enumerate(boundary.periodic):
        dim, size = axis + 1, grid.shape[axis]
        first, last = resistance.narrow(dim, 0, 1), resistance.narrow(dim, size - 1, 1)
        inner = 1.0 / (resistance.narrow(dim, 0, size - 1) + resistance.narrow(dim, 1, size - 1))
        wall = 1.0 / (first + last) if periodic else torch.zeros_like(first)
        area_over_distance = control_volumes(grid) / _shares(grid, axis) / grid.spacing[axis] ** 2
        by_area = area_over_distance.narrow(axis, 0, 1)  # the same all along the axis
        face = torch.cat([wall, inner, wall], dim) * by_area
        around = torch.cat([fixed.narrow(axis, size - 1, 1), fixed, fixed.narrow(axis, 0, 1)], axis)
        touches = around.narrow(axis, 0, size + 1) | around.narrow(axis, 1, size + 1)
        lost = torch.where(touches, face, 0.0)
        dropped = dropped + lost.narrow(dim, 0, size) + lost.narrow(dim, 1, size)
        faces.append(torch.where(touches, 0.0, face))
    return FaceFluxes(grid, boundary, tuple(faces), dropped if bool(fixed.any()) else None)


def _every_second(dim: int) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(None, None, 2),)


def _pairs_added(values: Tensor, dim: int) -> Tensor:
    every_second = _every_second(dim)
    return values[every_second] + values.narrow(dim, 1, values.shape[dim] - 1)[every_second]
