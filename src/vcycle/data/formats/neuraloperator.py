"""The ``.pt`` files of neuraloperator's Darcy data."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcycle import _files
from vcycle.data.dataset import Dataset
from vcycle.data.formats.common import shown
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo


def read_neuraloperator(path: str | Path) -> Dataset:
    """Read the ``.pt`` layout of neuraloperator's Darcy data.

    The file is a dictionary saved by torch: ``x`` ``(sample, r, r)``, the two-phase coefficient reduced to a boolean
    (False and True become 0 and 1), and ``y`` ``(sample, r, r)``, the solution, float32. Only tensors are read: a
    file with other pickled objects is refused.

    The grid starts on the boundary and stops one spacing short of the far side of the unit square: point i lies at i
    / r. That is a vertex grid over ``(r - 1) / r`` of the square, so that files of several resolutions have the same
    coordinates where they have common points. The unknown vanishes on the low faces and one spacing beyond the high
    ones, which is where padding looks; hence ``"dirichlet"`` all around. The problem is left unknown: the
    coefficient's values are not in the file, nor is the discretisation ours, so residuals cannot be checked.

    Returns
    -------
    Dataset
        ``input_coefficient`` (0 or 1) and ``output_solution``, one component each, on 1 to 3 axes.

    Raises
    ------
    DataError
        If the file is missing, is not of this layout, or holds pickled objects.
    """
    path = Path(path)
    content = _load_tensors(path)
    x, y = (_tensor(path, content, key) for key in ("x", "y"))
    if x.shape != y.shape or not 2 <= x.ndim <= 4 or 0 in x.shape or min(x.shape[1:]) < 2:
        got = f"x {tuple(x.shape)} and y {tuple(y.shape)}"
        raise DataError(
            f"{path} must hold x and y of the same shape (sample, *space). Got {got}. Convert it to that layout."
        )
    grid = Grid(tuple(x.shape[1:]), tuple((n - 1) / n for n in x.shape[1:]), "vertex")
    return Dataset.from_arrays(
        x, y, grid=grid, boundary="dirichlet", input_names=["coefficient"], output_names=["solution"]
    )


def write_neuraloperator(dataset: Dataset, path: str | Path) -> None:
    """Write the layout that :func:`read_neuraloperator` reads; the file appears whole or not at all.

    Values keep their stored type; an input of zeros and ones is written as boolean. Grid, boundary, names and
    residuals have no place in the layout and are lost.

    Raises
    ------
    ValueError
        If the dataset has not one input and one output channel.
    DataError
        If the file cannot be written.
    """
    fields = (*dataset.input_fields, *dataset.output_fields)
    if len(fields) != 2 or any(info.num_channels != 1 or info.face is not None for info in fields):
        names = ", ".join(info.name for info in fields)
        raise ValueError(
            f"`dataset` must have one input and one output channel on the grid for this layout. Got {names}."
        )
    x, y = (torch.from_numpy(_one_channel(dataset, info)) for info in fields)
    is_boolean = bool(((x == 0) | (x == 1)).all())
    with _files.whole(path) as partial, partial.open("wb") as file:  # given a path, torch hides why a disk refuses
        try:
            torch.save({"x": x.bool() if is_boolean else x, "y": y}, file)
        except RuntimeError as error:  # torch complains of its own position after the disk has refused
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _one_channel(dataset: Dataset, info: FieldInfo) -> np.ndarray:
    values = shown(dataset, info)
    return values.reshape(len(values), *dataset.grid.shape).copy()


def _load_tensors(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} does not exist. Correct the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "is not a file of tensors: it is damaged or holds pickled objects, which are never run"
        raise DataError(f"{path} {reason}. Save a dictionary of tensors with torch.save.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as a file of tensors ({first}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} must hold a dictionary with x and y. Got {type(content).__name__}. Convert it to that layout."
        )
    return content


def _tensor(path: Path, content: dict[str, Any], key: str) -> Tensor:
    if not isinstance(content.get(key), Tensor) or content[key].is_complex():
        keys = ", ".join(map(str, content)) or "nothing"
        raise DataError(f"{path} must hold a real tensor {key!r}. It holds {keys}. Convert it to the layout x, y.")
    return content[key]
