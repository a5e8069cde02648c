"""Batches as slices of one tensor in memory: at 16x16 a loader with workers costs more than a step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vcycle.training.augment import Augmentation
from vcycle.training.samples import Batch, Source
from vcycle.training.strategies import Moment, Strategies

SHUFFLE, SYMMETRY, NETWORK, SIZES = range(4)
"""Streams of random numbers, so that none depends on how much of another was used."""


def stream_seed(seed: int, epoch: int, stream: int) -> int:
    """Return the seed of a random stream in an epoch; nothing else decides, so that a resumed run draws the same."""
    return int(np.random.SeedSequence(seed, spawn_key=(epoch, stream)).generate_state(1, np.uint64)[0] >> 1)


class ShuffledBatches:
    """Training batches in an order, and under symmetries, that depend on ``(seed, epoch)`` only.

    Parameters
    ----------
    source
        The training data.
    batch_size
        Samples per batch and process; the last batch of an epoch may be smaller.
    seed
        Seed of the run.
    augmentation
        Which symmetries to apply; draws belong to a sample's position in the data, not to its batch.
    rank, world_size
        Which part of the samples this process sees, of how many.
    strategies
        How many steps a batch shows, and on which grid; ``None`` is one step on the data's grid.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        rank: int = 0,
        world_size: int = 1,
        strategies: Strategies | None = None,
    ) -> None:
        self.source, self.strategies = source, strategies or Strategies()
        self.batch_size, self.seed, self.augmentation = batch_size, seed, augmentation
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    @property
    def sampler(self) -> "ShuffledBatches":
        """What Lightning tells the epoch to, through :meth:`set_epoch`, also when a run is resumed."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next iteration shuffles for."""
        self.epoch = epoch

    @property
    def samples_per_process(self) -> int:
        """Number of samples that each process sees in an epoch; at most ``world_size - 1`` are left out."""
        return len(self.source) // self.world_size

    def __len__(self) -> int:
        return -(-self.samples_per_process // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.source), generator=self._generator(SHUFFLE))
        order = order[self.rank :: self.world_size][: self.samples_per_process]
        size = (len(self.source), len(self.augmentation))
        chosen = torch.randint(2, size, generator=self._generator(SYMMETRY), dtype=torch.uint8).bool()
        drawn = torch.rand(len(self), generator=self._generator(SIZES)).tolist()  # the same in every process
        for index, rows in enumerate(order.split(self.batch_size)):
            steps = self.strategies.steps(self.moment(index))
            batch = self._transformed(self.source.batch(rows, steps), chosen[rows])
            yield self.strategies.coarsened(batch, drawn[index])

    def moment(self, index: int) -> Moment:
        """Return when in the run a batch of this epoch comes."""
        return Moment(self.epoch, index, len(self))

    def _transformed(self, batch: Batch, chosen: Tensor) -> Batch:
        if not len(self.augmentation):
            return batch
        chosen = chosen.to(batch.inputs.device)
        later = batch.later
        if later is not None:
            images = [self.augmentation(batch.inputs, state, chosen)[1] for state in later.unbind(1)]
            later = torch.stack(images, dim=1)
        inputs, outputs = self.augmentation(batch.inputs, batch.outputs, chosen)
        return batch._replace(inputs=inputs, outputs=outputs, later=later)

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self.seed, self.epoch, stream))

    def to(self, device: torch.device) -> None:
        """Move all samples to a device."""
        self.source = self.source.to(device)


class OrderedBatches:
    """Validation batches: slices in the order of the data, dealt out to the processes in turn.

    Every process gets one at least, as they wait for each other: where batches are too few they are smaller, and where
    samples are, every process gets them all, which leaves the mean as it is.

    Parameters
    ----------
    source
        The validation data.
    batch_size
        Samples per batch; the last may be smaller.
    rank, world_size
        Which part of the batches this process sees, of how many.
    """

    def __init__(self, source: Source, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.source = source
        rows = torch.arange(len(source))
        share = max(1, min(batch_size, len(rows) // world_size))
        self.rows = rows.split(batch_size) if len(rows) < world_size else rows.split(share)[rank::world_size]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Batch]:
        return (self.source.batch(rows) for rows in self.rows)
