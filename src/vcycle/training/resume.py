"""Whether a folder may take a run: fresh, to be continued, or finished."""

import pickle
from pathlib import Path
from typing import Any

import torch

from vcycle.errors import CheckpointError
from vcycle.training.operator import TrainedOperator
from vcycle.training.storage import is_operator, one_line

LAST, HISTORY, OPERATOR, TENSORBOARD = "last.ckpt", "history.csv", "operator", "tensorboard"
"""What a run's folder holds."""


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
        If the folder holds a run and ``resume`` is ``False``, or one of other arguments.
    CheckpointError
        If its checkpoint or operator is corrupt.
    """
    checkpoint, finished = folder / LAST, is_operator(folder / OPERATOR)
    if not finished and not checkpoint.is_file():
        return None
    if not resume:
        raise ValueError(f"`out` must not hold a run already, or `resume` must be True. Got {str(folder)!r}.")
    operator = TrainedOperator.load(folder / OPERATOR) if finished else None
    kept = operator.training if operator is not None else read_checkpoint(checkpoint)["run"]
    different = differences(kept, description)
    if different:
        raise ValueError(f"`out` holds a run of other arguments: {different[0]}. Choose another folder.")
    return operator


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Raises
    ------
    CheckpointError
        If it is corrupt or not one of a run.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt: {one_line(error)[:200]}.") from error
    if not isinstance(checkpoint, dict) or "run" not in checkpoint:
        raise CheckpointError(f"{path} is not the checkpoint of a run.")
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
