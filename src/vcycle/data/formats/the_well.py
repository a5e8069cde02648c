"""The Well's HDF5 files.

Ohana et al., The Well, NeurIPS 2024 Datasets and Benchmarks (arXiv:2412.00568); specification ``docs/data_format.md``
of version 1.2 of the package ``the_well``. Beside what it asks for we write attributes that its readers pass over:
``units`` of a field, and ``kinds`` of the boundary, for which it has the words periodic, wall and open only.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vcycle.boundary import Boundary
from vcycle.data.dataset import Dataset
from vcycle.data.formats.common import Field, assemble, forecast, grid_of, refuse, shown
from vcycle.data.formats.hdf5 import import_h5py, reading, writing
from vcycle.errors import DataError
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.problems.problem import FieldInfo

BC_TYPES = {"periodic": "PERIODIC", "dirichlet": "WALL", "neumann": "WALL", "robin": "WALL", "absorbing": "OPEN"}
KINDS = {"PERIODIC": "periodic", "WALL": "dirichlet", "OPEN": "absorbing"}


def read_the_well(path: str | Path, *, boundary: "str | Sequence[Any] | None" = None) -> Dataset:
    """Read a file; float32 and float64 are kept, names and units too.

    Fields that do not vary in time become inputs, those that do outputs; where all do, the first snapshot of each is an
    input, ``<name>_initial``, and the outputs are the snapshots that follow. A single snapshot at time 0 has no time
    axis. Vectors and tensors become components, row by row. Scalars that do not vary in time become parameters. A field
    that does not vary along an axis is repeated, unless its name ends in that of a face, such as ``_x_low``. Files are
    read as a whole.

    Parameters
    ----------
    path
        The file.
    boundary
        What the outputs do at the outer faces. Default what the file says: walls are read as ``"dirichlet"``, open
        faces as ``"absorbing"``.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another layout, or its grid is not cartesian and evenly spaced.
    ImportError
        If h5py is missing.
    """
    path = Path(path)
    with reading(path) as file:
        if "t0_fields" not in file or "dimensions" not in file:
            raise DataError(f"{path} is none of The Well's files: it has no t0_fields. Give its --source-format.")
        try:
            return _read(file, boundary)
        except (LookupError, ValueError, TypeError, AttributeError, OSError) as error:
            raise refuse(path, "The Well's data", error) from error


def write_the_well(dataset: Dataset, path: str | Path) -> None:
    """Write a file: inputs as fields that do not vary in time, outputs as fields that do, at time 0 if there is one.

    Values keep their stored type; coordinates and times are float32, as the specification has them. A field of several
    components is written as one scalar field each, ``<name>_0``, ...; in data of unknown origin one of as many as there
    are axes is a vector, and one of their square a tensor. Scalars are kept; the problem, the seed, sample numbers and
    residuals have no place in the layout and are lost.

    Raises
    ------
    DataError
        If the file cannot be written.
    ImportError
        If h5py is missing.
    """
    h5py = import_h5py()
    text, grid = h5py.string_dtype(), dataset.grid
    times = next((info.times for info in dataset.output_fields if info.times is not None), (0.0,))
    with writing(path) as file:
        problem = dataset.schema.problem
        file.attrs["dataset_name"] = problem["name"] if problem else "vcycle"
        file.attrs["grid_type"] = "cartesian"
        file.attrs["n_spatial_dims"] = grid.num_axes
        file.attrs["n_trajectories"] = len(dataset)
        file.attrs["simulation_parameters"] = np.array([], text)
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = np.array(grid.axis_names, text)
        for name, values in zip(("time", *grid.axis_names), (np.array(times), *grid.coordinates()), strict=True):
            _put(dimensions, name, values.astype(np.float32), sample=False, time=name == "time")
        _write_boundary(file.create_group("boundary_conditions"), dataset)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = np.array(dataset.parameter_names, text)
        for name in dataset.parameter_names:
            _put(scalars, name, dataset.array(f"parameter_{name}"), sample=True, time=False)
        names: dict[int, list[str]] = {0: [], 1: [], 2: []}
        for order in names:
            file.create_group(f"t{order}_fields")
        sides = [(info, False) for info in dataset.input_fields] + [(info, True) for info in dataset.output_fields]
        for info, is_output in sides:
            varies = is_output or info.times is not None
            values = shown(dataset, info)
            if varies and info.times is None:
                values = values[:, np.newaxis]
            for name, order, part in _tensors(dataset, info, values, 2 if varies else 1):
                stored = _put(file[f"t{order}_fields"], name, part, sample=True, time=varies)
                stored.attrs["dim_varying"] = [info.face is None or axis != info.face[0] for axis in grid.axis_names]
                stored.attrs["units"] = info.unit
                if order == 2:
                    stored.attrs["symmetric"] = stored.attrs["antisymmetric"] = False
                names[order].append(name)
        for order, found in names.items():
            file[f"t{order}_fields"].attrs["field_names"] = np.array(found, text)


def _put(group: Any, name: str, values: np.ndarray, *, sample: bool, time: bool) -> Any:
    stored = group.create_dataset(name, data=values)
    stored.attrs["sample_varying"], stored.attrs["time_varying"] = sample, time
    return stored


def _tensors(dataset: Dataset, info: FieldInfo, values: np.ndarray, axis: int) -> list[tuple[str, int, np.ndarray]]:
    """Return name, order and values, components last, of the fields of the file that hold one of ours."""
    num_axes = dataset.grid.num_axes
    if info.components == 1:
        return [(info.name, 0, values.squeeze(axis))]
    if dataset.schema.problem is None and num_axes > 1 and info.components in (num_axes, num_axes**2):
        last, order = np.moveaxis(values, axis, -1), 1 if info.components == num_axes else 2
        return [(info.name, order, last.reshape(*last.shape[:-1], *(num_axes,) * order))]
    return [(f"{info.name}_{number}", 0, values.take(number, axis)) for number in range(info.components)]


def _write_boundary(group: Any, dataset: Dataset) -> None:
    """Write one condition per axis and type, with the ends of the axis where it holds."""
    group.attrs["kinds"] = json.dumps(dataset.boundary.to_list())
    text = import_h5py().string_dtype()
    for axis, pair, num in zip(dataset.grid.axis_names, dataset.boundary.kinds, dataset.grid.shape, strict=True):
        for bc_type in dict.fromkeys(BC_TYPES[kind] for kind in pair):
            condition = group.create_group(f"{axis}_{bc_type.lower()}")
            condition.attrs["associated_dims"] = np.array([axis], text)
            condition.attrs["associated_fields"] = np.array([], text)
            condition.attrs["bc_type"] = bc_type
            condition.attrs["sample_varying"] = condition.attrs["time_varying"] = False
            mask = np.zeros(num, bool)
            mask[[0, -1]] = [BC_TYPES[kind] == bc_type for kind in pair]
            condition["mask"] = mask


# -------------------------------------------------------------------------------------------------------------- reading


def _read(file: Any, boundary: "str | Sequence[Any] | None") -> Dataset:
    if file.attrs["grid_type"] != "cartesian":
        raise ValueError(f"its grid is {file.attrs['grid_type']}, not cartesian")
    dimensions, num = file["dimensions"], int(file.attrs["n_trajectories"])
    axes = [np.asarray(dimensions[_word(name)]) for name in dimensions.attrs["spatial_dims"]]
    kinds = Boundary.of(_kinds(file, len(axes)) if boundary is None else boundary, len(axes))
    grid = grid_of(axes, periodic=kinds.periodic)
    if dimensions["time"].attrs["sample_varying"]:
        raise ValueError("its times differ between trajectories")
    times = np.asarray(dimensions["time"], np.float64)
    constant, varying = list[Field](), list[Field]()
    for order in range(3):
        group = file[f"t{order}_fields"]
        for name in map(_word, group.attrs["field_names"]):
            field = _field(group[name], name, grid, order=order, num=num)
            (varying if group[name].attrs["time_varying"] else constant).append(field)
    if len(times) == 1 and times[0] == 0:
        varying = [Field(field.info, field.values[:, 0]) for field in varying]
    elif constant:
        moments = tuple(map(float, times))
        varying = [Field(replace(field.info, times=moments), field.values) for field in varying]
    else:
        pairs = [forecast(field.info.name, field.values, times) for field in varying]
        constant, varying = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return assemble(grid, kinds, constant, varying, parameters=_scalars(file["scalars"], num), origin="the-well")


def _field(stored: Any, name: str, grid: Grid, *, order: int, num: int) -> Field:
    """Return a field ``(sample, [time,] component, *space)``."""
    values, attributes = np.asarray(stored), stored.attrs
    if not attributes["sample_varying"]:
        values = np.broadcast_to(values, (num, *values.shape))
    lead = 2 if attributes["time_varying"] else 1
    fixed = [axis for axis, varies in zip(grid.axis_names, attributes["dim_varying"], strict=True) if not varies]
    face = next((f"{axis}_{end}" for axis in fixed for end in ("low", "high") if name.endswith(f"{axis}_{end}")), None)
    for axis in fixed:
        if face is None or axis != face[0]:
            place = lead + AXIS_NAMES.index(axis)
            values = np.repeat(np.expand_dims(values, place), grid.shape[AXIS_NAMES.index(axis)], place)
    components = grid.num_axes**order
    values = values.reshape(*values.shape[: values.ndim - order], components)
    unit = str(attributes.get("units", "1"))
    return Field(FieldInfo(name, unit=unit, components=components, face=face), np.moveaxis(values, -1, lead))


def _scalars(group: Any, num: int) -> dict[str, np.ndarray]:
    found = {}
    for name in map(_word, group.attrs["field_names"]):
        if not group[name].attrs["time_varying"]:
            values = np.asarray(group[name], np.float64)
            found[name] = values.reshape(num) if group[name].attrs["sample_varying"] else np.full(num, values.item())
    return found


def _kinds(file: Any, num_axes: int) -> list[list[str]]:
    """Return a kind per face: those that we wrote, or what the file's words mean; open where nothing is said."""
    group = file["boundary_conditions"]
    if "kinds" in group.attrs:
        return json.loads(group.attrs["kinds"])
    names = [_word(name) for name in file["dimensions"].attrs["spatial_dims"]]
    kinds = [["absorbing", "absorbing"] for _ in range(num_axes)]
    for condition in group.values():
        kind = KINDS[str(condition.attrs["bc_type"]).upper()]
        for dim in np.atleast_1d(condition.attrs["associated_dims"]):
            pair, mask = kinds[names.index(_word(dim))], np.asarray(condition["mask"])
            if kind == "periodic":
                pair[:] = [kind, kind]
            elif mask.ndim == 1:
                pair[:] = [kind if there else old for old, there in zip(pair, (mask[0], mask[-1]), strict=True)]
    return kinds


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
