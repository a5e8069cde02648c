"""What happens around the training steps. Imported by :func:`vcycle.fit` only, as it imports Lightning."""

import csv
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor, nn

from vcycle._files import whole
from vcycle.training.module import OperatorModule


class WeightAverage(Callback):
    """An exponential moving average of the weights, which is validated in their place.

    After step t (from 1) ``average = d average + (1 - d) weights`` with ``d = min(decay, (1 + t) / (10 + t))``,
    beginning from the initial weights.

    Parameters
    ----------
    network
        The network whose weights are averaged.
    decay
        Between 0 and 1 (dimensionless).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the network to its device."""
        self.average = [a.to(p) for a, p in zip(self.average, _weights(pl_module), strict=True)]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Take a step of the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, _weights(pl_module), 1.0 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the network."""
        self.swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        self.swap(pl_module)

    @torch.no_grad()
    def swap(self, module: pl.LightningModule) -> None:
        """Exchange average and weights."""
        for average, weight in zip(self.average, _weights(module), strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.steps, self.average = state_dict["steps"], state_dict["average"]


class BestWeights(Callback):
    """The weights of the lowest validation loss."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are better than any before."""
        loss = float(trainer.callback_metrics["validation_loss"])
        if loss < self.loss:
            self.loss = loss
            self.weights = {name: value.clone() for name, value in _operator(pl_module).network.state_dict().items()}

    def restore(self, module: pl.LightningModule) -> None:
        """Put them back into the network."""
        if self.weights:
            _operator(module).network.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.loss, self.weights = state_dict["loss"], state_dict["weights"]


class Log(Callback):
    """The history as it grows: a CSV file and Lightning's loggers, once per epoch.

    Parameters
    ----------
    csv_path
        File to write whole at each epoch's end, or ``None``.
    """

    def __init__(self, csv_path: Path | None) -> None:
        self.csv_path = csv_path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch down."""
        module = _operator(pl_module)
        module.finish_epoch()
        if not trainer.is_global_zero:
            return
        history = module.history
        for logger in trainer.loggers:
            logger.log_metrics(
                {name: value for name, value in history[-1].items() if name != "epoch"}, history[-1]["epoch"]
            )
        if self.csv_path is not None:
            write_history(self.csv_path, history)


class WholeCheckpoints(TorchCheckpointIO):
    """How Lightning writes a checkpoint: the one before stays until all of the new one is there.

    Lightning's own way leads through the folder for temporary files, from which it copies onto the old one where that
    is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; the strategy asks one process alone to do so."""
        content = io.BytesIO()  # over a full disk torch.save would lose the error that says so
        torch.save(checkpoint, content)
        with whole(path) as partial:
            partial.write_bytes(content.getbuffer())


class SaveLast(Checkpoint):
    """One checkpoint, replaced at the end of an epoch when it is old enough.

    Parameters
    ----------
    path
        The file.
    run
        What the run is of; a resumed run must be of the same.
    seconds
        Age from which it is replaced.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], seconds: float) -> None:
        self.path, self.run, self.seconds = path, run, seconds
        self.written = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint; all processes decide alike."""
        old = time.monotonic() - self.written >= self.seconds
        if trainer.strategy.broadcast(old):
            trainer.save_checkpoint(self.path)
            self.written = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what the run is of, and whether it has stopped early."""
        checkpoint["run"] = dict(self.run)
        checkpoint["should_stop"] = trainer.should_stop

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Do not go on with what had stopped."""
        trainer.should_stop = checkpoint.get("should_stop", False)


class Progress(Callback):
    """One bar over all epochs on standard error.

    Parameters
    ----------
    epochs
        Number of epochs.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar, which counts steps."""
        from tqdm import tqdm

        steps = int(trainer.estimated_stepping_batches)
        hidden = not trainer.is_global_zero
        self.bar = tqdm(
            total=steps, initial=trainer.global_step, desc="training", unit="step", disable=hidden, mininterval=0.5
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Count a step."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's losses."""
        last = _operator(pl_module).history[-1]
        losses = {"epoch": f"{last['epoch']}/{self.epochs}"}
        losses |= {name: f"{last[name]:.3g}" for name in ("loss", "validation_loss") if name in last}
        self.bar.set_postfix(losses, refresh=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, however the run ended."""
        if hasattr(self, "bar"):
            self.bar.close()


def write_history(path: Path, history: "list[dict[str, Any]]") -> None:
    """Write one line per epoch, whole or not at all."""
    with whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[-1]))
        writer.writeheader()
        writer.writerows(history)


def _operator(module: pl.LightningModule) -> OperatorModule:
    if not isinstance(module, OperatorModule):
        raise TypeError(f"`pl_module` must be an OperatorModule. Got {type(module).__name__}.")
    return module


def _weights(module: pl.LightningModule) -> list[Tensor]:
    return list(_operator(module).network.parameters())
