"""One training step, said to Lightning. Imported by :func:`vcycle.fit` only: Lightning costs seconds to import."""

import math
import time
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from vcycle.objectives.losses import measured
from vcycle.training.batches import NETWORK, OrderedBatches, ShuffledBatches, stream_seed
from vcycle.training.muon import Muon
from vcycle.training.samples import Batch
from vcycle.training.schedule import one_cycle
from vcycle.training.strategies import Moment
from vcycle.training.task import Task

DEVICE_SHARE = 0.25
"""Training data that need less than this share of the free device memory are kept there."""

Row = dict[str, Any]


class OperatorModule(pl.LightningModule):
    """A network between its normalisers, with its data and its loss; errors are measured in physical units.

    Parameters
    ----------
    task
        What is trained on what; its network is trained in place.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.network = task.network
        self.input_normaliser, self.output_normaliser = task.input_normaliser, task.output_normaliser
        self.parameter_normaliser = task.parameter_normaliser
        self.history: list[Row] = []
        self._batches: ShuffledBatches | None = None
        self._training, self._validation = _Losses(), _Losses()
        self._rate = 0.0
        self._clock_at_zero = _clocks()

    def forward(self, inputs: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map physical inputs ``(batch, channel, *space)``, and scalars if any, to physical outputs."""
        given: tuple[Tensor, ...] = (self.input_normaliser.normalise(inputs),)
        if self.parameter_normaliser is not None and parameters is not None:
            given = (*given, self.parameter_normaliser.normalise(parameters))
        return self.output_normaliser.denormalise(self.network(*given).float())

    def train_dataloader(self) -> ShuffledBatches:
        """Return this process's batches."""
        self._batches = ShuffledBatches(
            self.task.data,
            batch_size=self.task.run.batch_size,
            seed=self.task.run.seed,
            augmentation=self.task.augmentation,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            strategies=self.task.strategies,
        )
        return self._batches

    def val_dataloader(self) -> OrderedBatches:
        """Return this process's share of the validation batches."""
        return OrderedBatches(
            self.task.data if self.task.validation is None else self.task.validation,
            batch_size=self.task.run.batch_size,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser with a one-cycle learning rate that changes at every step."""
        run = self.task.run
        rate, decay = run.learning_rate, run.config.weight_decay
        trained = [p for p in self.network.parameters() if p.requires_grad]
        muon = run.config.optimizer == "muon"
        optimizer = Muon(self.network, rate, decay) if muon else torch.optim.AdamW(trained, rate, weight_decay=decay)
        cycle = partial(
            one_cycle,
            num_steps=int(self.trainer.estimated_stepping_batches),
            warmup=run.config.warmup,
            final_division=run.config.final_division,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cycle)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Keep the data on the device if they are small there."""
        if self._batches is None or self.device.type != "cuda":
            return
        if self.task.data.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            self._batches.to(self.device)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch; random layers draw from the epoch's stream, whatever ran before."""
        if batch_index == 0:
            torch.manual_seed(
                stream_seed(
                    self.task.run.seed, self.current_epoch * self.trainer.world_size + self.global_rank, NETWORK
                )
            )
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]  # of this step; afterwards it is the next one's
        step = partial(self, parameters=batch.parameters)
        moment = Moment(self.current_epoch, batch_index, int(self.trainer.num_training_batches))
        loss = self.task.strategies.loss(step, batch, self.task.loss, moment)
        self._training.add(loss, len(batch.inputs))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add a batch to the mean validation loss."""
        prediction = self(batch.inputs, batch.parameters)
        self._validation.add(measured(self.task.loss, prediction, batch.outputs, batch.inputs), len(batch.inputs))

    def on_validation_epoch_end(self) -> None:
        """Say the mean over all samples of all processes; Lightning's own rounds their number per process."""
        self.log("validation_loss", self._validation.mean(self.trainer), logger=False)

    def finish_epoch(self) -> None:
        """Write the epoch down in ``history``; a loss that is not a number ends the run.

        Raises
        ------
        FloatingPointError
            Naming the epoch and the remedy.
        """
        loss = float(self._training.mean(self.trainer))
        row: Row = {"epoch": self.current_epoch + 1, "loss": loss, "learning_rate": self._rate}
        if self.task.validation is not None:
            row["validation_loss"] = float(self.trainer.callback_metrics["validation_loss"])
        self.history.append(row)
        if not all(map(math.isfinite, row.values())):
            raise FloatingPointError(f"The loss is not finite in epoch {row['epoch']}. Try {self._remedies()}.")

    def _remedies(self) -> str:
        run = self.task.run
        remedies = [f"a `learning_rate` below {run.learning_rate:g}"]
        remedies += [] if run.config.gradient_clip else ["a `gradient_clip`"]
        remedies += [] if run.config.precision == "32" else ["`precision` '32'"]
        return " or ".join(remedies)

    def spent(self) -> dict[str, float]:
        """Return what training took so far, ``seconds`` by the clock on the wall and ``cpu_seconds`` of this process.

        With what was spent before the checkpoint that it continues; what was lost after it does not count.
        """
        return {name: now - self._clock_at_zero[name] for name, now in _clocks().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the history and the seconds."""
        checkpoint["history"] = self.history
        checkpoint["spent"] = self.spent()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history and the seconds up again."""
        self.history = list(checkpoint["history"])
        for name, before in checkpoint.get("spent", {}).items():
            self._clock_at_zero[name] -= before


class _Losses:
    """The losses of an epoch's batches, with their numbers of samples."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []

    def add(self, loss: Tensor, size: int) -> None:
        """Note a batch; its loss is read once per epoch only, as reading waits for the device."""
        self._losses.append(loss.detach())
        self._sizes.append(size)

    def mean(self, trainer: pl.Trainer) -> Tensor:
        """Return the mean over the samples of all processes, and begin anew."""
        losses = torch.stack(self._losses)
        sizes = torch.tensor(self._sizes, dtype=losses.dtype, device=losses.device)
        self._losses, self._sizes = [], []
        total, count = trainer.strategy.reduce(torch.stack([(losses * sizes).sum(), sizes.sum()]), reduce_op="sum")
        return total / count


def _clocks() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}
