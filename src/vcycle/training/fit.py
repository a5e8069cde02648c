"""Train an operator: the checks and the plan. Lightning runs it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vcycle.models import MODELS
from vcycle.objectives.losses import Loss
from vcycle.training.config import FitConfig, Run
from vcycle.training.operator import TrainedOperator
from vcycle.training.resume import prepare
from vcycle.training.task import Task

if TYPE_CHECKING:
    from vcycle.data import Dataset


def fit(
    model: nn.Module,
    train: "Dataset",
    *,
    epochs: int,
    validation: "Dataset | None" = None,
    seed: int = 0,
    loss: str | Loss = "h1",
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    config: FitConfig | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainedOperator:
    """Train a copy of ``model`` with AdamW, or Muon, and a one-cycle learning rate.

    On the CPU a run is determined by its arguments, bit for bit, and so is one that was killed and resumed.

    Parameters
    ----------
    model
        Neural operator on normalised tensors, with its initial weights; it stays as it is.
    train
        Training data. Their scalars are normalised and given to a model with ``num_parameters``. Rows of trajectories,
        ``dataset.steps()``, train an operator that :meth:`TrainedOperator.rollout` applies to its own predictions.
    epochs
        Number of passes over the data. The learning rate's cycle spans all of them.
    validation
        Data to watch, and to choose by with ``early_stopping``; never trained on.
    seed
        Seed of the order of the samples, of their symmetries, and of random layers.
    loss
        ``"h1"`` (true relative H1 error), ``"l2"`` (relative L2 error), or a function of prediction and target
        ``(batch, channel, *space)``, and of the inputs too where it has a true attribute ``takes_inputs``: losses that
        an equation gives need no targets, see :class:`vcycle.objectives.LabelFree`. Losses see physical units.
    batch_size
        Samples per step and device.
    learning_rate
        The highest of the cycle (dimensionless).
    config
        Everything else: a :class:`FitConfig`, or its entries by name.
    out
        Folder for ``history.csv``, TensorBoard's ``tensorboard/``, the checkpoint ``last.ckpt`` and finally, in its
        place, the operator in ``operator/``; ``None`` writes nothing. Only for models of ``vcycle.models.MODELS``:
        others cannot be built again from a file.
    resume
        Continue the run in ``out``, begun with the same arguments; begin it if nothing was saved yet; if it has
        finished, return its operator.
    progress
        Show a bar on standard error, or say there that the run has finished already.

    Returns
    -------
    TrainedOperator
        On the CPU, with the losses of every epoch in ``history``.

    Raises
    ------
    ValueError
        If an argument is out of range, the model does not fit the data or cannot be saved in ``out``, or ``out`` holds
        another run.
    DataError
        If the data hold values that are not finite, or ``out`` cannot be written or another process trains in it.
    CheckpointError
        If the checkpoint to resume from is corrupt.
    FloatingPointError
        If the loss stops being a number.
    """
    run = Run(epochs, seed, loss, batch_size, learning_rate, FitConfig.of(config))
    if out is not None and type(model) not in MODELS.values():
        raise ValueError(
            f"`model` must be one of vcycle.models.MODELS ({', '.join(MODELS)}) where `out` is given: nothing else can "
            f"be loaded again. Got {type(model).__name__}, which trains without `out`."
        )
    task = Task.of(model, train, validation=validation, run=run)
    folder = None if out is None else Path(out)
    if folder is not None:
        finished = prepare(folder, task.description, resume=resume)
        if finished is not None:
            if progress:
                sys.stderr.write(f"{folder} is complete. Nothing to do.\n")
            return finished

    from vcycle.training.engine import run_task  # Lightning costs seconds to import

    return run_task(task, folder=folder, progress=progress)
