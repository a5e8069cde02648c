"""Which fields, and which of their times, a model sees as inputs and outputs; and how they are stacked to channels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.data.schema import Schema
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo, expand_face

CLOSE = 1e-9
"""Relative distance at which a time that is asked for is one that is stored."""


@dataclass(frozen=True)
class Window:
    """Which fields are the inputs and which the outputs of a model.

    Parameters
    ----------
    inputs, outputs
        Names of fields, in the order of the stacked views; ``None`` takes all input or all output fields. Any field
        may stand on either side: an inverse problem takes ``inputs=("solution",), outputs=("coefficient",)``.
    input_times, output_times
        Which times of the fields with a time axis each side shows, in the unit of time; ``None`` shows all. One step of
        an evolution is ``Window(("solution",), ("solution",), input_times=(0.5,), output_times=(1.0,))``.
    """

    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    input_times: tuple[float, ...] | None = None
    output_times: tuple[float, ...] | None = None

    def fields(self, schema: Schema) -> tuple[tuple[FieldInfo, ...], tuple[FieldInfo, ...]]:
        """Return the fields of both sides, with the times that are shown.

        Raises
        ------
        ValueError
            If a name is none of the fields', or a time none of those stored.
        """
        return (
            _shown("input", self.inputs, self.input_times, schema),
            _shown("output", self.outputs, self.output_times, schema),
        )


def _shown(
    side: str, names: Sequence[str] | None, times: Sequence[float] | None, schema: Schema
) -> tuple[FieldInfo, ...]:
    known = {info.name: info for info in (*schema.inputs, *schema.outputs)}
    usual = schema.inputs if side == "input" else schema.outputs
    fields = usual if names is None else tuple(known[_check.choice("window", name, known)] for name in names)
    if times is None:
        return fields
    if all(info.times is None for info in fields):
        raise ValueError(f"`window.{side}_times` must be None where no {side} has a time axis. Got {tuple(times)}.")
    return tuple(info if info.times is None else replace(info, times=_nearest(side, times, info)) for info in fields)


def _nearest(side: str, times: Sequence[float], info: FieldInfo) -> tuple[float, ...]:
    """Return the stored times that are meant."""
    stored = np.array(info.times)
    places = [int(np.abs(stored - time).argmin()) for time in times]
    for time, place in zip(times, places, strict=True):
        if not abs(stored[place] - time) <= CLOSE * np.abs(stored).max():
            raise ValueError(
                f"`window.{side}_times` must be times of {info.name!r}, "
                f"from {stored[0]:.6g} to {stored[-1]:.6g}. Got {time:.6g}; the nearest is {stored[place]:.6g}."
            )
    return tuple(float(stored[place]) for place in places)


def channels(info: FieldInfo, stored: FieldInfo, grid: Grid, values: Tensor) -> Tensor:
    """Return one field as channels ``(sample, channel, *space)``.

    Parameters
    ----------
    info
        What is shown: some or all of the times, in increasing order.
    stored
        What ``values`` are.
    grid
        The grid that values on a face are repeated on.
    values
        ``(sample, component, *space)``, or ``(sample, time, component, *space)`` with a time axis, whose times become
        channels, all components of a time side by side.
    """
    if info.times is None or stored.times is None:
        return expand_face(info, grid, values)
    if info.times != stored.times:
        values = values[:, torch.tensor([stored.times.index(time) for time in info.times])]
    return expand_face(info, grid, values.flatten(1, 2))
