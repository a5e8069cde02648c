"""Import and export of other layouts, one per file; :data:`FORMATS` lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcycle import _check
from vcycle.data.dataset import Dataset
from vcycle.data.formats.fno import read_fno, write_fno
from vcycle.data.formats.hdf5 import holds
from vcycle.data.formats.neuraloperator import read_neuraloperator, write_neuraloperator
from vcycle.data.formats.npz import read_npz, write_npz
from vcycle.data.formats.pdebench import read_pdebench, write_pdebench
from vcycle.data.formats.pipe import is_pipe, read_pipe, write_pipe
from vcycle.data.formats.the_well import read_the_well, write_the_well


@dataclass(frozen=True)
class Format:
    """One layout of data on disk.

    Parameters
    ----------
    suffixes
        How names of such files end, with the dot.
    about
        What it is, in a few words.
    read
        Path, and options by name, to dataset.
    write
        Dataset and path to a file.
    marks
        For a suffix that several layouts share: members of the file, any of which tells this one.
    """

    suffixes: tuple[str, ...]
    about: str
    read: Callable[..., Dataset]
    write: Callable[[Dataset, str | Path], Any]
    marks: tuple[str, ...] = ()


def _write_zarr(dataset: Dataset, path: str | Path) -> None:
    dataset.save(path)


HDF5 = (".h5", ".hdf5")
FORMATS: dict[str, Format] = {
    "zarr": Format((".zarr",), "vcycle's own store", Dataset.open, _write_zarr),
    "neuraloperator": Format((".pt",), "neuraloperator's Darcy data", read_neuraloperator, write_neuraloperator),
    "npz": Format((".npz",), "NumPy arrays by name", read_npz, write_npz),
    "fno": Format((".mat",), "MATLAB files of the FNO papers", read_fno, write_fno),
    "the-well": Format(HDF5, "The Well's HDF5", read_the_well, write_the_well, ("t0_fields",)),
    "pdebench": Format(
        HDF5, "PDEBench's HDF5", read_pdebench, write_pdebench, ("tensor", "density", "0000/data", "0001/data")
    ),
    "pipe": Format((), "a folder with Geo-FNO's pipe flow", read_pipe, write_pipe),
}
"""Layouts by name; ``vcycle convert`` and recipes know those that are listed here."""


def detect_format(path: str | Path, *, name: str = "path") -> str:
    """Return the name in :data:`FORMATS` that a path's suffix stands for; folders go by what is in them.

    Where several layouts share a suffix, a file that is there is looked into. ``name`` is what messages call the path.

    Raises
    ------
    ValueError
        If no layout has this suffix, or several have and the file does not tell.
    DataError
        If the file must be looked into, and is damaged.
    """
    if (Path(path) / "zarr.json").is_file():
        return "zarr"
    if is_pipe(path):
        return "pipe"
    found = [key for key, known in FORMATS.items() if Path(path).suffix in known.suffixes]
    if not found:
        known = ", ".join(dict.fromkeys(suffix for entry in FORMATS.values() for suffix in entry.suffixes))
        raise ValueError(f"`{name}` must end in one of {known}. Got {str(path)!r}.")
    if len(found) > 1 and Path(path).is_file():
        found = [key for key in found if holds(path, FORMATS[key].marks)] or found
    if len(found) > 1:
        raise ValueError(f"`{name}` may be one of {', '.join(found)} by its suffix: say which. Got {str(path)!r}.")
    return found[0]


def read_file(path: str | Path, data_format: str | None = None, *, name: str = "path", **options: Any) -> Dataset:
    """Read a file of any known layout.

    Parameters
    ----------
    path
        The file or folder.
    data_format
        A key of :data:`FORMATS`; ``None`` goes by the suffix.
    name
        What messages call the path.
    options
        For the layout's reader.

    Raises
    ------
    ValueError
        If there is no such layout, or it has no such option.
    DataError
        If the file cannot be read.
    """
    chosen = detect_format(path, name=name) if data_format is None else _check.choice("format", data_format, FORMATS)
    _check.call(f"{name} of {chosen}", FORMATS[chosen].read, options, but=("path",))
    return FORMATS[chosen].read(path, **options)


__all__ = [
    "FORMATS",
    "Format",
    "detect_format",
    "read_file",
    "read_fno",
    "read_neuraloperator",
    "read_npz",
    "read_pdebench",
    "read_pipe",
    "read_the_well",
    "write_fno",
    "write_neuraloperator",
    "write_npz",
    "write_pdebench",
    "write_pipe",
    "write_the_well",
]
