"""HDF5 files: the extra that reads them, and errors in one line."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vcycle import _files
from vcycle.errors import DataError


def import_h5py() -> Any:
    """Return the module.

    Raises
    ------
    ImportError
        If it is missing, with the extra that brings it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need h5py. Install it with `pip install "vcycle[formats]"`.') from error
    return h5py


@contextmanager
def reading(path: str | Path) -> Iterator[Any]:
    """Give an open file.

    Raises
    ------
    DataError
        If it is missing or no HDF5 file.
    """
    h5py, path = import_h5py(), Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist. Correct the path.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file, or cut off ({error}). Fetch it again.") from error
    with file:
        yield file


@contextmanager
def writing(path: str | Path) -> Iterator[Any]:
    """Give a file that appears at ``path``, whole, when the block ends well.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    h5py = import_h5py()
    with _files.whole(path) as partial:
        try:
            with h5py.File(partial, "w") as file:
                yield file
        except (OSError, RuntimeError) as error:  # HDF5 tells several lines, of which one number is the reason
            found = re.search(r"errno = (\d+)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def holds(path: str | Path, members: Sequence[str]) -> bool:
    """Whether an HDF5 file has one of some members.

    Raises
    ------
    DataError
        If it is none.
    """
    with reading(path) as file:
        return any(member in file for member in members)
