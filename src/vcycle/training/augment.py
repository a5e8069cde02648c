"""More data for nothing: maps of the grid onto itself under which input and output of a problem transform alike.

Flips and transpositions are exact. The half-open flips are not quite maps of the grid onto itself: the points of one
row come from beyond the last, where nothing is known, and are filled in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.problems.problem import TRANSPOSITIONS, FieldInfo

FLIPS = {f"flip_{name}": axis for axis, name in enumerate(AXIS_NAMES)}
HALF_OPEN_FLIPS = {f"half_open_{name}": axis for name, axis in FLIPS.items()}
"""Reflections of grids that begin on the boundary and stop one point short of the far one: point i goes to n - i. The
far boundary point is missing. An input takes its neighbour's value there, an output that of the near boundary point."""
OPPOSITE = {"low": "high", "high": "low"}


class GridMap(NamedTuple):
    """One symmetry for some fields: how space changes, and from which channel each channel of the image comes."""

    name: str
    channels: tuple[int, ...]
    is_output: bool = False

    def apply(self, fields: Tensor) -> Tensor:
        """Return the transformed ``(batch, channel, *space)``; values on a face move with the face."""
        if self.channels != tuple(range(len(self.channels))):
            fields = fields[:, list(self.channels)]
        if self.name in FLIPS:
            return fields.flip(FLIPS[self.name] + 2)
        if self.name in HALF_OPEN_FLIPS:
            dim = HALF_OPEN_FLIPS[self.name] + 2
            size = fields.shape[dim]
            beyond = fields.narrow(dim, 0 if self.is_output else size - 1, 1)
            return torch.cat([beyond, fields.narrow(dim, 1, size - 1).flip(dim)], dim)
        first, second = TRANSPOSITIONS[self.name]
        return fields.transpose(first + 2, second + 2)


class Augmentation:
    """Symmetries that are applied to random halves of the samples of a batch.

    Parameters
    ----------
    names
        Of :data:`FLIPS`, :data:`TRANSPOSITIONS` and :data:`HALF_OPEN_FLIPS`; all their products occur.
    grid, boundary
        What they must map onto itself.
    input_fields, output_fields
        In the order of the channels.

    Raises
    ------
    ValueError
        If a name is unknown, or the grid, the boundary kinds or the fields on faces are not symmetric.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        grid: Grid,
        boundary: Boundary,
        input_fields: Sequence[FieldInfo],
        output_fields: Sequence[FieldInfo],
    ) -> None:
        for name in names:
            _check.choice("augment", name, (*TRANSPOSITIONS, *FLIPS, *HALF_OPEN_FLIPS))
            _check_symmetric(name, grid, boundary)
        self.input_maps = tuple(GridMap(name, _channel_order(name, input_fields)) for name in names)
        self.output_maps = tuple(GridMap(name, _channel_order(name, output_fields), is_output=True) for name in names)

    def __len__(self) -> int:
        return len(self.input_maps)

    def __call__(self, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the samples that ``chosen`` names.

        Parameters
        ----------
        inputs, outputs
            ``(batch, channel, *space)``.
        chosen
            Which symmetries act on which sample, bool ``(batch, len(self))``.

        Returns
        -------
        tuple of Tensor
            Inputs and outputs, of the same shapes.
        """
        for column, (on_inputs, on_outputs) in enumerate(zip(self.input_maps, self.output_maps, strict=True)):
            mask = chosen[:, column].reshape(-1, *[1] * (inputs.ndim - 1))
            inputs = torch.where(mask, on_inputs.apply(inputs), inputs)
            outputs = torch.where(mask, on_outputs.apply(outputs), outputs)
        return inputs, outputs


def _check_symmetric(name: str, grid: Grid, boundary: Boundary) -> None:
    flips = FLIPS | HALF_OPEN_FLIPS
    axes = (flips[name],) if name in flips else TRANSPOSITIONS[name]
    if max(axes) >= grid.num_axes:
        raise ValueError(f"`augment` must fit {grid.num_axes} axes. Got {name!r}.")
    if name in HALF_OPEN_FLIPS and grid.centring != "vertex":
        raise ValueError(f"`augment` must fit the grid; {name!r} is for vertices. Got {grid.centring} centring.")
    if name in flips:
        low, high = boundary.kinds[axes[0]]
        if low != high:
            raise ValueError(f"`augment` must map the boundary onto itself; {name!r} swaps {low} and {high}.")
        return
    first, second = ((grid.shape[axis], grid.extent[axis], boundary.kinds[axis]) for axis in axes)
    if first != second:
        raise ValueError(
            f"`augment` must map the grid and boundary onto themselves; {name!r} swaps {first} and {second}."
        )


def _channel_order(name: str, fields: Sequence[FieldInfo]) -> tuple[int, ...]:
    """Return for each input channel of the image the channel it comes from (each map is its own inverse)."""
    starts, total = [], 0
    for info in fields:
        starts.append(total)
        total += info.num_channels
    order: list[int] = []
    for info in fields:
        source = info if info.face is None else _at_face(_moved_face(info.face, name), info, fields)
        start = starts[fields.index(source)]
        order += range(start, start + info.num_channels)
    return tuple(order)


def _at_face(face: str, like: FieldInfo, fields: Sequence[FieldInfo]) -> FieldInfo:
    matches = [info for info in fields if info.face == face and info.num_channels == like.num_channels]
    if len(matches) != 1:
        raise ValueError(f"`augment` needs one field on face {face} as the image of {like.name!r}. Got {len(matches)}.")
    return matches[0]


def _moved_face(face: str, name: str) -> str:
    axis_name, side = face.split("_")
    axis = AXIS_NAMES.index(axis_name)
    flips = FLIPS | HALF_OPEN_FLIPS
    if name in flips:
        return f"{axis_name}_{OPPOSITE[side]}" if flips[name] == axis else face
    first, second = TRANSPOSITIONS[name]
    return f"{AXIS_NAMES[{first: second, second: first}.get(axis, axis)]}_{side}"
