"""What the layouts share: a dataset from named arrays, a grid from coordinates, and what a layout cannot hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcycle.boundary import Boundary
from vcycle.data.dataset import Dataset
from vcycle.data.schema import SAMPLE_ID, STORED_DTYPES, Schema, versions
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo

EVEN = 1e-4
"""Largest difference between spacings of one axis, relative to their mean, that single precision explains."""


@dataclass(frozen=True)
class Field:
    """A field and its values, ``(sample, component, *space)`` or ``(sample, time, component, *space)``."""

    info: FieldInfo
    values: np.ndarray


def assemble(
    grid: Grid,
    boundary: "Boundary | str | Sequence[Any]",
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    *,
    parameters: Mapping[str, np.ndarray] | None = None,
    origin: str,
) -> Dataset:
    """Return the dataset of fields that were read from a file of the layout ``origin``; float32 and float64 are kept.

    Raises
    ------
    ValueError
        If shapes, names or times do not fit each other.
    """
    parameters = {} if parameters is None else parameters
    named = [("input", field) for field in inputs] + [("output", field) for field in outputs]
    arrays = {f"{role}_{field.info.name}": _stored(field.values) for role, field in named}
    arrays |= {f"parameter_{name}": values.astype(np.float64) for name, values in parameters.items()}
    schema = Schema(
        grid,
        Boundary.on(grid, boundary),
        tuple(field.info for field in inputs),
        tuple(field.info for field in outputs),
        tuple(parameters),
        call={"function": "convert", "format": origin},
        versions=versions(),
    )
    specs = (*schema.field_specs(dtypes={name: str(values.dtype) for name, values in arrays.items()}), SAMPLE_ID)
    num = len(named[0][1].values)
    for spec in specs[:-1]:
        if arrays[spec.name].shape != (num, *spec.shape):
            raise ValueError(f"{spec.name} has shape {arrays[spec.name].shape}, not {(num, *spec.shape)}")
    return Dataset(schema, {**arrays, SAMPLE_ID.name: np.arange(num)}, specs=specs)


def _stored(values: np.ndarray) -> np.ndarray:
    native = values.dtype.newbyteorder("=")
    return np.ascontiguousarray(values, native if str(native) in STORED_DTYPES else np.float64)


def forecast(name: str, values: np.ndarray, times: np.ndarray) -> tuple[Field, Field]:
    """Return what a trajectory ``(sample, time, component, *space)`` is to learn from: its start, and what follows.

    Raises
    ------
    ValueError
        If there is nothing after the first time.
    """
    if values.shape[1] < 2 or len(times) < values.shape[1]:
        raise ValueError(f"{name} has {values.shape[1]} snapshots for {len(times)} times; two are needed")
    kept = tuple(float(time) for time in times[1 : values.shape[1]])
    components = values.shape[2]
    start = Field(FieldInfo(f"{name}_initial", components=components), values[:, 0])
    return start, Field(FieldInfo(name, components=components, times=kept), values[:, 1:])


def is_forecast(dataset: Dataset) -> bool:
    """Whether a dataset is one trajectory: one field at the start, and the same field at later times."""
    if len(dataset.input_fields) != 1 or len(dataset.output_fields) != 1:
        return False
    start, after = dataset.input_fields[0], dataset.output_fields[0]
    fits = (start.components, start.face, start.times) == (after.components, after.face, None)
    return fits and after.times is not None and after.times[0] > 0


def shown(dataset: Dataset, info: FieldInfo) -> np.ndarray:
    """Return one field of a dataset's window as it is stored, at the times that the window shows."""
    fields = (*dataset.schema.inputs, *dataset.schema.outputs)
    times = next(stored.times for stored in fields if stored.name == info.name)
    values = dataset.stored(info.name)
    if info.times is None or times is None or info.times == times:
        return values
    return values[:, [times.index(time) for time in info.times]]


def trajectory(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``(sample, time, component, *space)`` and times from 0 on of a dataset that is one trajectory."""
    start, after = dataset.input_fields[0], dataset.output_fields[0]
    first = shown(dataset, start)[:, np.newaxis]
    return np.concatenate([first, shown(dataset, after)], axis=1), np.array([0.0, *(after.times or ())])


def grid_of(
    coordinates: Sequence[np.ndarray], *, periodic: Sequence[bool] | bool = False, centring: str | None = None
) -> Grid:
    """Return the grid with points at these coordinates, up to its origin, which is not kept.

    Parameters
    ----------
    coordinates
        One increasing array per axis, evenly spaced up to single precision.
    periodic
        Whether each axis closes on itself.
    centring
        ``None``: vertices where all axes start at 0, otherwise cells.

    Raises
    ------
    ValueError
        If an axis has fewer than two points or is not evenly spaced.
    """
    flags = [periodic] * len(coordinates) if isinstance(periodic, bool) else list(periodic)
    for number, values in enumerate(coordinates):
        steps = np.diff(values.astype(np.float64)) if values.ndim == 1 else np.zeros(0)
        if len(steps) == 0 or not steps.min() > 0 or np.ptp(steps) > EVEN * steps.mean():
            raise ValueError(f"axis {number} of the grid is not evenly spaced: only such grids are read")
    if centring is None:
        centring = "vertex" if all(values[0] == 0 for values in coordinates) else "cell"
    shape = tuple(len(values) for values in coordinates)
    extents = []
    for values, closed in zip(coordinates, flags, strict=True):
        intervals = len(values) - (centring == "vertex" and not closed)
        step = (float(values[-1]) - float(values[0])) / (len(values) - 1)
        extents.append(_shortest(step * intervals, intervals, values, 0.5 if centring == "cell" else 0.0))
    return Grid(shape, tuple(extents), centring, tuple(flags))  # type: ignore[arg-type]


def _shortest(extent: float, intervals: int, values: np.ndarray, offset: float) -> float:
    """Return the extent with the fewest digits whose points are the file's, to the last bit; or what comes nearest."""
    for digits in range(1, 18):
        candidate = float(f"{extent:.{digits}g}")
        points = (np.arange(len(values)) + offset) * (candidate / intervals)
        if np.array_equal(points.astype(values.dtype), values):
            return candidate
    return float(f"{extent:.6g}") if values.dtype == np.float32 else extent


def refuse(path: Path, layout: str, error: Exception) -> DataError:
    """Return the error that says why a file is none of a layout's."""
    reason = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{path} cannot be read as {layout} ({reason}). Convert it, or use Dataset.from_arrays.")


def require_on_grid(fields: Sequence[FieldInfo], layout: str) -> None:
    """Raise unless no field lives on a face.

    Raises
    ------
    ValueError
        If one does.
    """
    for info in fields:
        if info.face is not None:
            raise ValueError(f"`dataset` must have no field on a face for {layout}. Got {info.name}.")
