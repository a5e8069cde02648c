"""Batches as slices of one tensor in memory: at 16x16 a loader with workers costs more than a step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vcycle.training.augment import Augmentation

SHUFFLE, SYMMETRY, NETWORK = range(3)
"""Streams of random numbers, so that none depends on how much of another was used."""


def stream_seed(seed: int, epoch: int, stream: int) -> int:
    """Return the seed of a random stream in an epoch; nothing else decides, so that a resumed run draws the same."""
    return int(np.random.SeedSequence(seed, spawn_key=(epoch, stream)).generate_state(1, np.uint64)[0] >> 1)


class ShuffledBatches:
    """Training batches in an order, and under symmetries, that depend on ``(seed, epoch)`` only.

    Parameters
    ----------
    inputs, outputs
        ``(sample, channel, *space)``.
    batch_size
        Samples per batch and process; the last batch of an epoch may be smaller.
    seed
        Seed of the run.
    augmentation
        Which symmetries to apply; draws belong to a sample's position in the data, not to its batch.
    rank, world_size
        Which part of the samples this process sees, of how many.
    """

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
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
        return len(self.inputs) // self.world_size

    def __len__(self) -> int:
        return -(-self.samples_per_process // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs), generator=self._generator(SHUFFLE))
        order = order[self.rank :: self.world_size][: self.samples_per_process]
        if not len(self.augmentation):
            for batch in order.split(self.batch_size):
                yield self.inputs[batch], self.outputs[batch]
            return
        size = (len(self.inputs), len(self.augmentation))
        chosen = torch.randint(2, size, generator=self._generator(SYMMETRY), dtype=torch.uint8).bool()
        chosen = chosen.to(self.inputs.device)
        for batch in order.split(self.batch_size):
            yield self.augmentation(self.inputs[batch], self.outputs[batch], chosen[batch])

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self.seed, self.epoch, stream))

    def to(self, device: torch.device) -> None:
        """Move all samples to a device."""
        self.inputs, self.outputs = self.inputs.to(device), self.outputs.to(device)


class OrderedBatches:
    """Validation batches: slices in the order of the data, dealt out to the processes in turn.

    Parameters
    ----------
    inputs, outputs
        ``(sample, channel, *space)``.
    batch_size
        Samples per batch; the last may be smaller.
    rank, world_size
        Which part of the batches this process sees, of how many.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        pairs = list(zip(inputs.split(batch_size), outputs.split(batch_size), strict=True))
        self.batches = pairs[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)
