"""Files appear whole or not at all, and what the file system refuses is said in one sentence."""

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle.errors import DataError

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the file system says while ``path`` is written into one sentence with a remedy.

    Raises
    ------
    DataError
        For any ``OSError`` of the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free some space and give the same command again."
            raise DataError(f"{path} cannot be written: no space left. {remedy}") from error
        a_file = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a part of the path is a file" if a_file else error.strerror or str(error)
        raise DataError(f"{path} cannot be written: {reason}. Give a path in a writable folder.") from error


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well it becomes ``path``, otherwise it is removed.

    Raises
    ------
    ValueError
        If ``path`` is a folder or empty.
    DataError
        If it cannot be written.
    """
    path = check_file("path", path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep other processes from making, writing or replacing a folder; the lock dies with its process.

    It is a file beside the folder, ``.NAME.lock``: the folder itself may be replaced meanwhile, and network file
    systems lock no folders. Two in one process exclude each other too.

    Raises
    ------
    DataError
        If someone else holds it, or nothing can be written there.
    """
    folder = Path(folder)
    target = folder.resolve()
    file = target.with_name(f".{target.name}.lock")
    with writing(folder):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _held(file, folder)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                file.unlink()
            os.close(handle)


def _held(file: Path, folder: Path) -> int | None:
    """Return the open lock; ``None`` where files cannot be put beside the folder, which may be writable itself."""
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return None
            raise
        try:
            _lock(handle)
        except BlockingIOError as error:
            os.close(handle)
            raise DataError(f"{folder} is being written by another process. Wait for it to end.") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        os.close(handle)  # whoever held it has just removed it: others lock another file by now


def _lock(handle: int) -> None:
    """Raise a BlockingIOError if someone else holds the lock; where there are no locks everyone gets it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return


def check_file(name: str, path: str | Path) -> Path:
    """Return the path of a file to be written; a folder or an empty path, which is the one we are in, is refused."""
    if Path(path).is_dir():
        raise ValueError(f"`{name}` must be a file. Got {str(path)!r}, a folder.")
    return Path(path)


def finite(content: Any) -> Any:
    """Return what strict JSON can hold: numbers that are not finite become ``None``."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with two spaces of indent."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_npy(path: str | Path, array: "np.ndarray") -> None:
    """Write a NumPy file; unlike in ``numpy.save``, a full disk is an error that says so."""
    import numpy as np

    array = np.ascontiguousarray(array)
    with whole(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
