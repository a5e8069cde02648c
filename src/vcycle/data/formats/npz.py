"""NumPy ``.npz`` archives: our own, which hold everything, and anyone's with one array of inputs and one of outputs."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcycle import _check, _files
from vcycle.data.dataset import Dataset
from vcycle.data.formats.common import refuse
from vcycle.data.schema import ArraySpec, Schema
from vcycle.errors import DataError
from vcycle.grid import Grid

DESCRIPTION = "description"
PAIRS = (("inputs", "outputs"), ("x", "y"), ("a", "u"))
"""Names under which others keep inputs and outputs."""


def write_npz(dataset: Dataset, path: str | Path) -> None:
    """Write all arrays by their names on disk, coordinates, and the description as JSON; nothing is lost.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    arrays: dict[str, Any] = {spec.name: dataset.array(spec.name) for spec in dataset.specs}
    arrays |= dataset.schema.coordinates
    units = {spec.name: [list(spec.dimensions), spec.unit, spec.about] for spec in dataset.specs}
    content = dataset.schema.to_dict() | {"arrays": units}
    with _files.whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **(arrays | {DESCRIPTION: np.array(json.dumps(content))}))


def read_npz(
    path: str | Path,
    *,
    inputs: str | None = None,
    outputs: str | None = None,
    extent: "float | Sequence[float] | None" = None,
    centring: str = "cell",
    boundary: "str | Sequence[Any]" = "dirichlet",
    times: Sequence[float] | None = None,
) -> Dataset:
    """Read an archive; nothing is unpickled.

    Parameters
    ----------
    path
        The file.
    inputs, outputs
        Names of the arrays in an archive that is not ours; default those of ``inputs`` and ``outputs``, ``x`` and
        ``y``, or ``a`` and ``u`` that are there. Their shape is ``(sample, channel, *space)`` or, with ``extent``,
        ``(sample, *space)``.
    extent
        Of the box, in the unit of length; one value or one per axis.
    centring
        ``"cell"`` or ``"vertex"``.
    boundary
        What the outputs do at the outer faces; periodic axes are those that it calls so.
    times
        Of outputs ``(sample, time, channel, *space)``.

    Raises
    ------
    DataError
        If the file is missing or damaged, or does not hold these arrays.
    ValueError
        If an option is not usable.
    """
    path = Path(path)
    arrays = _arrays(path)
    if DESCRIPTION in arrays:
        return _ours(path, arrays)
    pair = next(((x, y) for x, y in PAIRS if x in arrays and y in arrays), PAIRS[0])
    names = (inputs or pair[0], outputs or pair[1])
    for name in names:
        if name not in arrays:
            there = ", ".join(arrays) or "nothing"
            raise DataError(f"{path} has no array {name!r}. It holds {there}. Say which are `inputs` and `outputs`.")
    x, y = (arrays[name] for name in names)
    if extent is None:
        return Dataset.from_arrays(x, y, boundary=boundary, times=times)
    num_axes = len(extent) if isinstance(extent, Sequence) else x.ndim - 1
    kinds = _check.per_axis("boundary", boundary, num_axes)
    grid = Grid(x.shape[x.ndim - num_axes :], extent, centring, tuple(kind == "periodic" for kind in kinds))  # type: ignore[arg-type]
    return Dataset.from_arrays(x, y, grid=grid, boundary=boundary, times=times)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} does not exist. Correct the path.")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, KeyError) as error:
        raise refuse(path, "a NumPy archive of numbers", error) from error


def _ours(path: Path, arrays: dict[str, np.ndarray]) -> Dataset:
    try:
        content = json.loads(str(arrays[DESCRIPTION]))
        schema = Schema.from_dict(content)
        specs = [
            ArraySpec(name, arrays[name].shape[1:], str(arrays[name].dtype), tuple(dimensions), unit, about)
            for name, (dimensions, unit, about) in content["arrays"].items()
        ]
        schema.check_arrays(specs)
        rows = {len(arrays[spec.name]) for spec in specs}
        if len(rows) != 1:
            raise ValueError(f"the arrays must have equal numbers of rows. Got {sorted(rows)}")
    except (LookupError, TypeError, ValueError) as error:
        raise refuse(path, "an archive that vcycle wrote", error) from error
    return Dataset(schema, {spec.name: arrays[spec.name] for spec in specs}, specs=specs)
