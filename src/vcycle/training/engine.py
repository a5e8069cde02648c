"""Lightning runs a task. Imported by :func:`vcycle.fit` only when it trains: Lightning costs seconds to import."""

import logging
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third parties' deprecations, while they are imported
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Callback, EarlyStopping
    from lightning.pytorch.loggers import Logger, TensorBoardLogger
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from vcycle.training.callbacks import BestWeights, Log, Progress, SaveLast, WeightAverage, WholeCheckpoints
    from vcycle.training.module import OperatorModule

from vcycle._files import locked, writing
from vcycle.training.memory import keep_freed_memory
from vcycle.training.operator import TrainedOperator
from vcycle.training.resume import HISTORY, LAST, OPERATOR, TENSORBOARD, prepare
from vcycle.training.storage import one_line
from vcycle.training.task import Task

PRECISION: dict[str, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "32": "32-true",
    "16-mixed": "16-mixed",
    "bf16-mixed": "bf16-mixed",
}
CHATTY = (
    "lightning.pytorch",
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
)


def run_task(task: Task, *, folder: Path | None, progress: bool) -> TrainedOperator:
    """Train the task's network, from the folder's checkpoint on if there is one.

    Parameters
    ----------
    task
        What is trained on what.
    folder
        Where logs and checkpoints go, or ``None``.
    progress
        Show a bar on standard error.

    Returns
    -------
    TrainedOperator
        On the CPU.

    Raises
    ------
    ValueError
        If Lightning cannot have the devices that are asked for.
    DataError
        If the folder cannot be written, or another process is training in it.
    """
    config = task.run.config
    keep_freed_memory()
    module = OperatorModule(task)
    best = BestWeights() if config.early_stopping else None
    average = WeightAverage(task.network, config.ema) if config.ema else None
    chosen: list[Callback] = [callback for callback in (best, average) if callback is not None]  # best sees the average
    with _undisturbed():
        trainer = _trainer(task, chosen + _callbacks(task, folder, progress=progress), folder)
        mine = folder if trainer.is_global_zero else None  # further processes of this run write nothing
        with nullcontext() if mine is None else locked(mine):
            finished = None if mine is None else _looked_again(mine, task)
            if finished is not None:
                return finished
            checkpoint = folder / LAST if folder is not None and (folder / LAST).is_file() else None
            with nullcontext() if folder is None else writing(folder):
                trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
            operator = _operator(task, module, best, average)
            if mine is not None:
                operator.save(mine / OPERATOR)
                (mine / LAST).unlink(missing_ok=True)
    return operator


def _looked_again(folder: Path, task: Task) -> TrainedOperator | None:
    """Return the operator if another process has trained it meanwhile; remove what killed ones left half-written."""
    for left in (path for name in (LAST, OPERATOR) for path in folder.glob(f".{name}.*.partial*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return prepare(folder, task.description, resume=True)


def _operator(
    task: Task, module: OperatorModule, best: BestWeights | None, average: WeightAverage | None
) -> TrainedOperator:
    network = module.cpu().network
    if average is not None:
        average.swap(module)
    if best is not None:
        best.restore(module)
    last = module.history[-1]
    metrics = {name: value for name, value in last.items() if "loss" in name}
    if best is not None:
        metrics["best_validation_loss"] = best.loss
    metrics |= {"epochs": last["epoch"], **module.spent()}
    return task.operator(network, metrics=metrics, history=module.history)


def _callbacks(task: Task, folder: Path | None, *, progress: bool) -> list[Callback]:
    config = task.run.config
    callbacks: list[Callback] = [Log(folder / HISTORY if folder is not None and "csv" in config.logger else None)]
    if config.early_stopping:
        callbacks.append(EarlyStopping("validation_loss", patience=config.early_stopping, check_finite=False))
    if progress:
        callbacks.append(Progress(task.run.epochs))
    if folder is not None:
        callbacks.append(SaveLast(folder / LAST, task.description, config.checkpoint_seconds))
    return callbacks


def _trainer(task: Task, callbacks: list[Callback], folder: Path | None) -> pl.Trainer:
    config = task.run.config
    loggers: list[Logger] = [logger for logger in config.logger if isinstance(logger, Logger)]
    if folder is not None and "tensorboard" in config.logger:
        loggers.append(TensorBoardLogger(folder, name="", version=TENSORBOARD))
    devices = list(config.devices) if isinstance(config.devices, tuple) else config.devices
    try:
        return pl.Trainer(
            max_epochs=task.run.epochs,
            precision=PRECISION[config.precision],
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            gradient_clip_val=config.gradient_clip,
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            logger=loggers,
            limit_val_batches=None if task.validation is not None else 0,
            num_sanity_val_steps=0,
            enable_checkpointing=folder is not None,  # by SaveLast
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            inference_mode=False,  # validation then may keep the weights that it sees
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        asked = f"{config.accelerator!r} and {devices!r}"
        raise ValueError(
            f"`accelerator` and `devices` must be what this machine has. Got {asked}: {one_line(error).rstrip('!')}."
        ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what Lightning does to the process inside: random state, warnings, talk, gradient mode, and Ctrl-C.

    Lightning ignores further interruptions after the first, and makes an exit of it.
    """
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    devices = range(torch.cuda.device_count())
    interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices), torch.enable_grad():
        warnings.filterwarnings("ignore", module=r"(lightning|torchmetrics|tensorboard)(\.|$)")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise stop.__context__ from None
            raise
        finally:
            if interrupt is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, interrupt)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
