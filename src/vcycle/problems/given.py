"""What is the same for all samples of a family: a source and values on faces, constants or arrays given by the user."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.problems.finite_volumes import box_symmetries, load, outer_faces, resampled, transformed
from vcycle.problems.problem import FieldInfo

Values = float | Sequence[Any] | Tensor
"""A constant, or values as an array or (nested) list."""


@dataclass(frozen=True)
class Given:
    """A source and values on outer faces, one entry long in the sample axis.

    Parameters
    ----------
    source
        ``(1, *space)``, float64, or one value for the whole box.
    face_values
        By the name of the face, ``(1, *face)`` or one value for the whole face.
    """

    source: Tensor
    face_values: Mapping[str, Tensor]

    @classmethod
    def read(
        cls, grid: Grid, boundary: Boundary, *, source: Values, boundary_values: "Mapping[str, Values] | None"
    ) -> "Given":
        """Read a family's arguments ``source`` and ``boundary_values``.

        Raises
        ------
        ValueError
            If a value is not finite, a shape does not fit, or a name is none of the box's outer faces.
        TypeError
            If ``boundary_values`` is no mapping.
        """
        read = constant_field("source", source, grid.shape)
        by_face = {} if boundary_values is None else boundary_values
        _check.instance("boundary_values", by_face, Mapping, "a mapping from faces to values")
        face_values = {}
        for face, values in by_face.items():
            _check.choice("boundary_values", face, outer_faces(boundary))
            shape = FieldInfo(face, face=face).space_shape(grid)
            face_values[face] = constant_field(f"boundary_values[{face!r}]", values, shape)
        return cls(read, face_values)

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that :meth:`read` takes."""
        by_face = {face: _plain(values) for face, values in self.face_values.items()}
        return {"source": _plain(self.source), "boundary_values": by_face}

    def on_grid(self, grid: Grid) -> "Given":
        """Return the same functions, which are constant in each cell, on other cells of the same box.

        Raises
        ------
        ValueError
            If arrays are given and the numbers of cells are no multiples of each other, or values at vertices.
        """
        constant = all(values.numel() == 1 for values in (self.source, *self.face_values.values()))
        if grid.centring == "vertex" and not constant:
            raise ValueError(
                "`source` and `boundary_values` must be constants to go to another vertex grid. Got arrays."
            )
        by_face = {
            face: resampled(f"boundary_values[{face!r}]", values, FieldInfo(face, face=face).space_shape(grid))
            for face, values in self.face_values.items()
        }
        return Given(resampled("source", self.source, grid.shape), by_face)

    def shifted(self, mean: Tensor) -> "Given":
        """Return the source less a constant of shape ``(1,)``."""
        return replace(self, source=self.source - mean.reshape(1, *(1,) * (self.source.ndim - 1)))

    def load(self, operator: FaceFluxes, coefficient: Tensor | None = None) -> Tensor:
        """Return the right-hand side; see :func:`vcycle.problems.finite_volumes.load`."""
        return load(operator, self.source, face_values=self.face_values, coefficient=coefficient)

    def is_zero_on_walls(self, boundary: Boundary) -> bool:
        """Whether no value but zero is given on a Dirichlet face."""
        kinds = outer_faces(boundary)
        on_walls = (values for face, values in self.face_values.items() if kinds[face] == "dirichlet")
        return not any(bool(values.any()) for values in on_walls)


def load_symmetries(grid: Grid, boundary: Boundary, load_of: Callable[[FaceFluxes, Tensor], Tensor]) -> tuple[str, ...]:
    """Return the symmetries of the box that leave a right-hand side as it is, whatever the coefficient.

    The right-hand side is a part without the coefficient plus a part linear in it: two constants show both.
    """
    ones = torch.ones(1, *grid.shape, dtype=torch.float64)
    loads = [load_of(laplacian(grid, boundary, coefficient=a), a) for a in (ones, 2.0 * ones)]
    scale = max(float(values.abs().max()) for values in loads)
    return tuple(
        symmetry
        for symmetry in box_symmetries(grid, boundary)
        if all(torch.allclose(transformed(symmetry, b), b, rtol=0.0, atol=1e-12 * scale) for b in loads)
    )


def constant_field(name: str, value: Values, shape: tuple[int, ...]) -> Tensor:
    """Return a number as a tensor that broadcasts, or an array as float64 ``(1, *shape)``.

    Raises
    ------
    ValueError
        If a value is not finite, or the shape is another.
    TypeError
        If it is neither a number nor an array of numbers.
    """
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError, RuntimeError):  # torch's own words name no argument
        raise TypeError(f"`{name}` must be a number, or an array of one value per point. Got {value!r}.") from None
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"`{name}` must be finite. Got NaN or infinity.")
    if tensor.ndim == 0:
        return tensor.reshape(1, *(1,) * len(shape))
    _check.shape(name, tensor.shape, shape, "one value per point")
    return tensor.unsqueeze(0)


def _plain(values: Tensor) -> Any:
    """Return a constant as a number and an array as nested lists."""
    return values.item() if values.numel() == 1 else values[0].tolist()
