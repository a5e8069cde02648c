"""The MATLAB files of the FNO papers: Darcy ``coeff`` and ``sol``, Burgers ``a`` and ``u``, Navier-Stokes also ``t``.

Layouts of github.com/neuraloperator/neuraloperator's ancestor ``fourier_neural_operator``, whose reader ``MatReader``
takes version 5 through SciPy and version 7.3 through h5py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcycle import _check, _files
from vcycle.data.dataset import Dataset
from vcycle.data.formats.common import Field, assemble, refuse, require_on_grid, shown
from vcycle.data.formats.hdf5 import reading
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo

LARGEST = 2**31 - 1
"""Bytes of one variable that version 5 can hold."""


def read_fno(
    path: str | Path, *, extent: "float | Sequence[float]" = 1.0, boundary: "str | Sequence[Any] | None" = None
) -> Dataset:
    """Read a file of version 5 or 7.3; float32 and float64 are kept.

    ``coeff`` and ``sol``, ``(sample, *space)``: vertices of the box with its walls, Dirichlet. ``a`` and ``u``,
    ``(sample, *space)``: a periodic box whose first point is 0, the state at the start and at the end. With ``t``,
    ``(1, time)``, ``u`` is ``(sample, *space, time)``. What else a file holds is left aside.

    Parameters
    ----------
    path
        The file.
    extent
        Of the box, in the unit of length; one value or one per axis. It is not in the file.
    boundary
        What the outputs do at the outer faces, where it is not as above.

    Raises
    ------
    DataError
        If the file is missing, damaged, or of another layout.
    ImportError
        If the file is of version 7.3 and h5py is missing.
    """
    path = Path(path)
    content = _variables(path)
    if "coeff" in content and "sol" in content:
        x, y, names, usual, times = content["coeff"], content["sol"], ("coefficient", "solution"), "dirichlet", None
    elif "a" in content and "u" in content:
        x, y, names, usual, times = content["a"], content["u"], ("initial", "solution"), "periodic", content.get("t")
    else:
        there = ", ".join(content) or "nothing"
        raise DataError(f"{path} must hold coeff and sol, or a and u. It holds {there}. Use Dataset.from_arrays.")
    kinds = _check.per_axis("boundary", usual if boundary is None else boundary, x.ndim - 1)
    try:
        grid = Grid(x.shape[1:], extent, "vertex", tuple(kind == "periodic" for kind in kinds))  # type: ignore[arg-type]
        info = FieldInfo(names[1])
        values = y[:, np.newaxis]
        if times is not None:
            moments = tuple(float(time) for time in times.ravel())
            info = FieldInfo(names[1], times=moments)
            values = np.moveaxis(y.reshape(*x.shape, len(moments)), -1, 1)[:, :, np.newaxis]
        inputs, outputs = [Field(FieldInfo(names[0]), x[:, np.newaxis])], [Field(info, values)]
        return assemble(grid, kinds, inputs, outputs, origin="fno")
    except (ValueError, TypeError) as error:
        raise refuse(path, "MATLAB data of the FNO papers", error) from error


def write_fno(dataset: Dataset, path: str | Path) -> None:
    """Write a file of version 5, which SciPy and MATLAB read without HDF5.

    ``a``, ``u`` and ``t`` where the output has a time axis, ``a`` and ``u`` in a periodic box, else ``coeff`` and
    ``sol``. Values keep their stored type. Coordinates, boundary, names, units, scalars and residuals have no place in
    the layout and are lost: a cell grid is read back as vertices.

    Raises
    ------
    ValueError
        If the dataset has not one input and one output of one component, or a field is larger than 2 GiB, which
        version 5 cannot hold.
    DataError
        If the file cannot be written.
    """
    import scipy.io

    fields = (*dataset.input_fields, *dataset.output_fields)
    if [len(dataset.input_fields), len(dataset.output_fields)] != [1, 1] or any(i.components > 1 for i in fields):
        names = ", ".join(info.name for info in fields)
        raise ValueError(f"`dataset` must have one input and one output of one component for MATLAB. Got {names}.")
    require_on_grid(fields, "MATLAB data")
    x, y = shown(dataset, fields[0])[:, 0], shown(dataset, fields[1])
    if fields[1].times is not None:
        content = {"a": x, "u": np.moveaxis(y[:, :, 0], 1, -1), "t": np.array([fields[1].times])}
    else:
        content = {"a": x, "u": y[:, 0]} if all(dataset.grid.periodic) else {"coeff": x, "sol": y[:, 0]}
    for name, values in content.items():
        if values.nbytes > LARGEST:
            raise ValueError(f"`dataset` must have fields below 2 GiB for MATLAB; {name} has {values.nbytes} bytes.")
    with _files.whole(path) as partial, partial.open("wb") as file:
        scipy.io.savemat(file, content)  # type: ignore[arg-type]  # it takes any binary file


def _variables(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} does not exist. Correct the path.")
    with path.open("rb") as file:
        is_hdf5 = file.read(512).find(b"MATLAB 7.3") >= 0 or _is_hdf5(path)
    if is_hdf5:
        with reading(path) as file:  # column-major: axes come in reverse
            members = {name: file[name] for name in file if hasattr(file[name], "shape")}
            return {
                name: np.asarray(values).transpose() for name, values in members.items() if values.dtype.kind in "fiub"
            }
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        content = scipy.io.loadmat(path)
    except (
        MatReadError,
        ValueError,
        TypeError,
        OSError,
        EOFError,
        NotImplementedError,
        MemoryError,
        IndexError,
    ) as error:
        raise refuse(path, "a MATLAB file", error) from error
    return {
        name: values
        for name, values in content.items()
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub"
    }


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"
