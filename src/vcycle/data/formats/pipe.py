"""The three NumPy files of Geo-FNO's pipe flow: coordinates of a body-fitted grid, and what was solved for on it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcycle import _check, _files
from vcycle.data.dataset import Dataset
from vcycle.data.formats.common import Field, assemble, refuse, require_on_grid, shown
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo, count_channels

X, Y, Q = FILES = ("Pipe_X.npy", "Pipe_Y.npy", "Pipe_Q.npy")
WALLS = ("neumann", "dirichlet")
"""Flow comes in and goes out along the first axis; fluid sticks to the walls at the ends of the second."""


def is_pipe(path: str | Path) -> bool:
    """Whether a path is a folder with the three files."""
    return all((Path(path) / name).is_file() for name in FILES)


def read_pipe(
    path: str | Path,
    *,
    first: int = 0,
    last: int | None = None,
    component: int = 0,
    boundary: "str | Sequence[Any]" = WALLS,
) -> Dataset:
    """Read a folder with ``Pipe_X.npy``, ``Pipe_Y.npy`` and ``Pipe_Q.npy``; nothing is unpickled.

    ``X`` and ``Y`` ``(sample, n, m)`` are the coordinates of the points of a grid that follows the body, its first
    axis along the pipe; ``Q`` is ``(sample, n, m)`` or, with components, ``(sample, component, n, m)``. The grid of the
    dataset is that of the reference square, n x m vertices: the geometry is in the inputs.

    Parameters
    ----------
    path
        The folder.
    first, last
        Read the samples from ``first`` on and before ``last``; ``None`` is the last of the file. Geo-FNO trains on 0
        to 1000 and tests on 1000 to 1200 of 2310.
    component
        Which component of ``Q`` is the output; 0 is the velocity along x.
    boundary
        What the output does at the outer faces.

    Returns
    -------
    Dataset
        ``input_x`` and ``input_y``, in the file's unit of length, and ``output_velocity``.

    Raises
    ------
    DataError
        If a file is missing or damaged, or the shapes do not fit.
    ValueError
        If there are no such samples, or no such component.
    """
    path = Path(path)
    x, y, q = (_array(path / name) for name in FILES)
    if (
        x.ndim != 3
        or y.shape != x.shape
        or (q.shape != x.shape and (q.shape[:1], q.shape[2:]) != (x.shape[:1], x.shape[1:]))
    ):
        shapes = ", ".join(str(array.shape) for array in (x, y, q))
        raise DataError(f"{path} must hold X and Y (sample, n, m), and Q with or without components. Got {shapes}.")
    if q.ndim == 4:
        components = q.shape[1]
        if _check.integer("component", component, 0) >= components:
            raise ValueError(f"`component` must be below {components}. Got {component}.")
        q = q[:, component]
    end = len(x) if last is None else _check.integer("last", last, 1)
    if not _check.integer("first", first, 0) < end <= len(x):
        raise ValueError(f"`first` and `last` must be increasing, up to {len(x)} samples. Got {first} and {last}.")
    rows = slice(first, end)
    inputs, outputs = [(FieldInfo("x"), x), (FieldInfo("y"), y)], [(FieldInfo("velocity"), q)]
    fields = [[Field(info, np.array(values[rows])[:, np.newaxis]) for info, values in of] for of in (inputs, outputs)]
    try:
        return assemble(Grid(x.shape[1:], (1.0, 1.0), "vertex"), boundary, *fields, origin="pipe")
    except ValueError as error:
        raise refuse(path, "Geo-FNO's pipe data", error) from error


def write_pipe(dataset: Dataset, path: str | Path) -> None:
    """Write a folder with the three files, whole or not at all; boundary, names and origin are lost.

    Raises
    ------
    ValueError
        If the dataset has not two input channels and one output channel on two axes.
    DataError
        If the folder exists or cannot be written.
    """
    path, fields = Path(path), (*dataset.input_fields, *dataset.output_fields)
    counts = [count_channels(side) for side in (dataset.input_fields, dataset.output_fields)]
    if counts != [2, 1] or dataset.grid.num_axes != 2:
        got = f"{counts[0]} and {counts[1]} on {dataset.grid.num_axes}"
        raise ValueError(f"`dataset` must have two input channels and one output channel on two axes. Got {got}.")
    require_on_grid(fields, "Geo-FNO's pipe data")
    if path.exists():
        raise DataError(f"{path} exists. Give another path, or remove it.")
    columns = np.concatenate(
        [shown(dataset, info).reshape(len(dataset), -1, *dataset.grid.shape) for info in fields], 1
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        for name, values in zip(FILES, (columns[:, 0], columns[:, 1], columns[:, 2:]), strict=True):
            _files.write_npy(partial / name, values)
        with _files.writing(path):
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path} does not exist. Put {X}, {Y} and {Q} into that folder, or correct the path.")
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise refuse(path, "a NumPy array", error) from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path} must hold real numbers. Got {array.dtype}.")
    return array
