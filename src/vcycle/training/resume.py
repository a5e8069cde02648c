"""Whether a folder may take a run: fresh, to be continued, or finished."""

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from vcycle._files import write_json
from vcycle.errors import CheckpointError
from vcycle.training.operator import TrainedOperator
from vcycle.training.storage import is_operator, one_line

LAST, HISTORY, OPERATOR, TENSORBOARD = "last.ckpt", "history.csv", "operator", "tensorboard"
"""What a run's folder holds."""
RUN_FILE = "run.json"
"""Beside them, by the command line: what was trained on, so that evaluation can keep to what it has not seen."""

UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError, TypeError)
"""Over bytes that are no checkpoint the unpickler stumbles in any of these ways, and says nothing of use."""


def prepare(folder: Path, description: dict[str, Any], *, resume: bool) -> TrainedOperator | None:
    """Return the operator of a finished run, or ``None`` if there is something to train.

    Parameters
    ----------
    folder
        Where the run writes.
    description
        What the run is of; see :attr:`vcycle.training.task.Task.description`.
    resume
        Whether an earlier run is to be continued.

    Raises
    ------
    ValueError
        If the folder holds a run and ``resume`` is ``False``, or one of other arguments, or is a data set.
    CheckpointError
        If its checkpoint or operator is corrupt.
    """
    check_folder(folder)
    checkpoint, finished = folder / LAST, is_operator(folder / OPERATOR)
    if not finished and not checkpoint.is_file():
        return None
    if not resume:
        raise ValueError(f"`out` must not hold a run already, or `resume` must be True. Got {str(folder)!r}.")
    operator = TrainedOperator.load(folder / OPERATOR) if finished else None
    kept = operator.training if operator is not None else read_checkpoint(checkpoint)["run"]
    require_same({"stages": num_stages(kept)}, {"stages": 1})
    require_same(kept, description)
    return operator


def num_stages(training: Mapping[str, Any]) -> int:
    """Return how many networks a run trained one after the other, see :func:`vcycle.training.boosting.boost`."""
    return len(training.get("stages", (training,)))


def require_same(kept: Any, wanted: Any) -> None:
    """Raise a ``ValueError`` that names where the run in a folder differs from what was asked for."""
    different = differences(kept, wanted)
    if different:
        raise ValueError(f"`out` holds a run of other arguments: {different[0]}. Choose another folder.")


def check_folder(folder: str | Path) -> None:
    """Raise a ``ValueError`` unless a run may write to a folder: a file or a data set is not for that."""
    if str(folder) == "" or Path(folder).is_file() or (Path(folder) / "zarr.json").exists():
        raise ValueError(f"`out` must be a folder for a run, and no data set. Got {str(folder)!r}.")


@contextmanager
def recorded(folder: str | Path, record: Mapping[str, Any]) -> Iterator[None]:
    """Have a run's record beside it from before it is trained, so that no kill leaves an operator without one.

    What is there of another run stays until this one is known to be the same; a run that leaves nothing else leaves no
    record.
    """
    folder = Path(folder)
    check_folder(folder)
    new, made = not _holds_run(folder), not folder.exists()
    if new:
        write_json(folder / RUN_FILE, record)
    try:
        yield
    except BaseException:
        if new and not _holds_run(folder):
            (folder / RUN_FILE).unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # logs may be there
                    folder.rmdir()
        raise
    write_json(folder / RUN_FILE, record)


def _holds_run(folder: Path) -> bool:
    return (folder / LAST).is_file() or is_operator(folder / OPERATOR)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return what a run wrote down about its data, see :func:`vcycle.data.origin`; ``None`` if there is nothing.

    Raises
    ------
    CheckpointError
        If it is corrupt.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return None
    remedy = "Remove it and repeat the command that trained: it is written again, and the operator is kept."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is corrupt: {one_line(error)}. {remedy}") from error
    numbers = record.get("trained_on") if isinstance(record, dict) else None
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise CheckpointError(f"{path} is corrupt: it does not say what was trained on. {remedy}")
    if "fingerprint" not in record:
        raise CheckpointError(f"{path} is corrupt: it does not say on which data. {remedy}")
    return record


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Raises
    ------
    CheckpointError
        If it is corrupt or not one of a run.
    """
    remedy = "Remove it to begin the run anew."
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(f"{path} is corrupt. {remedy}") from error
    if not isinstance(checkpoint, dict) or "run" not in checkpoint:
        raise CheckpointError(f"{path} is not the checkpoint of a run. {remedy}")
    return checkpoint


def differences(kept: Any, wanted: Any, name: str = "") -> list[str]:
    """Return in words where two descriptions differ."""
    if isinstance(kept, dict) and isinstance(wanted, dict):
        return [
            words
            for key in sorted(set(kept) | set(wanted))
            for words in differences(kept.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if kept == wanted else [f"{name} is {kept!r} there, not {wanted!r}"]
