"""PDEBench's HDF5 files.

Takamoto et al., PDEBench, NeurIPS 2022 Datasets and Benchmarks (arXiv:2210.07182); layouts as its own code reads them
(``pdebench/models/fno/utils.py`` of May 2025):

- steady Darcy: ``nu (sample, x, y)`` and ``tensor (sample, 1, x, y)``;
- scalar equations on one axis: ``tensor (sample, time, x)``;
- flows: ``density``, ``pressure``, ``Vx``, ``Vy``, ``Vz``, each ``(sample, time, *space)``;
- diffusion-reaction, diffusion-sorption and shallow water: per sample a group ``0000``, ``0001``, ... with ``data
  (time, *space, component)`` and ``grid/x``, ``grid/y``, ``grid/t``.

The first three come with ``x-coordinate``, ..., ``t-coordinate`` and constants as attributes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcycle import _check, _progress
from vcycle.data.dataset import Dataset
from vcycle.data.formats.common import (
    Field,
    assemble,
    forecast,
    grid_of,
    is_forecast,
    refuse,
    require_on_grid,
    shown,
    trajectory,
)
from vcycle.data.formats.hdf5 import reading, writing
from vcycle.errors import DataError
from vcycle.grid import AXIS_NAMES
from vcycle.problems.problem import FieldInfo

FLOW = ("density", "pressure", "Vx", "Vy", "Vz")


def read_pdebench(
    path: str | Path, *, boundary: "str | Sequence[Any] | None" = None, centring: str | None = None
) -> Dataset:
    """Read a file of any of the four layouts; float32 and float64 are kept, and so are the file's names.

    Inputs are ``nu`` for Darcy; otherwise the first snapshot of each field, ``<name>_initial``, and the outputs are the
    snapshots that follow. Numbers among the file's attributes become parameters. The origin of the coordinates is not
    kept; where there is one time more than snapshots, the last is left aside.

    Parameters
    ----------
    path
        The file.
    boundary
        What the outputs do at the outer faces, which no file says: default ``"dirichlet"`` for Darcy, otherwise
        ``"periodic"``.
    centring
        ``"cell"`` or ``"vertex"``; default vertices where all axes start at 0, otherwise cells.

    Raises
    ------
    DataError
        If the file is missing, damaged, or of another layout.
    ImportError
        If h5py is missing.
    """
    path = Path(path)
    with reading(path) as file:
        try:
            if "nu" in file and "tensor" in file:
                return _darcy(file, boundary or "dirichlet", centring)
            names = [name for name in ("tensor", *FLOW) if name in file]
            if names:
                return _flow(file, names, boundary or "periodic", centring)
            if any(hasattr(file[key], "keys") and "data" in file[key] for key in file):
                return _groups(file, boundary or "periodic", centring)
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise refuse(path, "PDEBench data", error) from error
        there = ", ".join(list(file)[:5]) or "nothing"
    raise DataError(f"{path} is no PDEBench file: it holds {there}. Give its layout with --source-format.")


def write_pdebench(dataset: Dataset, path: str | Path) -> None:
    """Write the layout that fits.

    Darcy's for one field in and one out without a time axis, ``tensor`` for a scalar trajectory on one axis, groups of
    samples for other trajectories: one field at the start as input, the same at later times as output. Values keep
    their stored type, scalars that are the same for all samples become attributes. Boundary, units, names of fields,
    and scalars that differ have no place in the layout and are lost.

    Raises
    ------
    ValueError
        If the dataset is none of these.
    DataError
        If the file cannot be written.
    ImportError
        If h5py is missing.
    """
    fields = (*dataset.input_fields, *dataset.output_fields)
    require_on_grid(fields, "PDEBench's layouts")
    grid = dataset.grid
    axes = dict(zip(grid.axis_names, grid.coordinates(), strict=True))
    if len(fields) == 2 and all(info.num_channels == 1 and info.times is None for info in fields):
        with writing(path) as file:
            file["nu"], file["tensor"] = shown(dataset, fields[0])[:, 0], shown(dataset, fields[1])
            _write_constants(file, dataset, axes)
        return
    if not is_forecast(dataset):
        names = ", ".join(info.name for info in fields)
        raise ValueError(
            "`dataset` must have one input and one output, of one channel each or of the same components with times "
            f"after 0, for PDEBench's layouts. Got {names}."
        )
    values, times = trajectory(dataset)
    with writing(path) as file:
        if grid.num_axes == 1 and values.shape[2] == 1:
            file["tensor"] = values[:, :, 0]
            _write_constants(file, dataset, axes | {"t": times})
            return
        for number in _progress.track(range(len(values)), "write", unit="sample"):
            group = file.create_group(f"{number:04d}")
            group["data"] = np.moveaxis(values[number], 1, -1)
            for name, coordinates in (axes | {"t": times}).items():
                group[f"grid/{name}"] = coordinates


def _write_constants(file: Any, dataset: Dataset, coordinates: dict[str, np.ndarray]) -> None:
    for name, values in coordinates.items():
        file[f"{name}-coordinate"] = values
    for name in dataset.parameter_names:
        scalars = dataset.array(f"parameter_{name}")
        if (scalars == scalars[:1]).all():
            file.attrs[name] = scalars[0]


def _axes(file: Any, num_axes: int) -> list[np.ndarray]:
    return [np.asarray(file[f"{name}-coordinate"]) for name in AXIS_NAMES[:num_axes]]


def _constants(file: Any, num: int) -> dict[str, np.ndarray]:
    numbers = {key: value for key, value in file.attrs.items() if np.ndim(value) == 0 and np.isreal(value)}
    return {key: np.full(num, float(value)) for key, value in numbers.items() if key.isidentifier()}


def _periodic(boundary: "str | Sequence[Any]", num_axes: int) -> list[bool]:
    return [kind == "periodic" for kind in _check.per_axis("boundary", boundary, num_axes)]


def _darcy(file: Any, boundary: "str | Sequence[Any]", centring: str | None) -> Dataset:
    x, y = np.asarray(file["nu"]), np.asarray(file["tensor"])
    grid = grid_of(_axes(file, x.ndim - 1), periodic=_periodic(boundary, x.ndim - 1), centring=centring)
    inputs, outputs = [Field(FieldInfo("nu"), x[:, np.newaxis])], [Field(FieldInfo("tensor"), y)]
    return assemble(grid, boundary, inputs, outputs, parameters=_constants(file, len(x)), origin="pdebench")


def _flow(file: Any, names: list[str], boundary: "str | Sequence[Any]", centring: str | None) -> Dataset:
    num_axes = file[names[0]].ndim - 2
    grid = grid_of(_axes(file, num_axes), periodic=_periodic(boundary, num_axes), centring=centring)
    times = np.asarray(file["t-coordinate"], np.float64)
    pairs = [forecast(name, np.asarray(file[name])[:, :, np.newaxis], times) for name in names]
    inputs, outputs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    constants = _constants(file, len(inputs[0].values))
    return assemble(grid, boundary, inputs, outputs, parameters=constants, origin="pdebench")


def _groups(file: Any, boundary: "str | Sequence[Any]", centring: str | None) -> Dataset:
    keys = sorted(key for key in file if "data" in file[key])
    first = file[keys[0]]
    num_axes = first["data"].ndim - 2
    axes = [np.asarray(first["grid"][name]) for name in AXIS_NAMES[:num_axes]]
    grid = grid_of(axes, periodic=_periodic(boundary, num_axes), centring=centring)
    values = np.stack([np.moveaxis(np.asarray(file[key]["data"]), -1, 1) for key in keys])
    start, after = forecast("data", values, np.asarray(first["grid"]["t"], np.float64))
    return assemble(grid, boundary, [start], [after], origin="pdebench")
