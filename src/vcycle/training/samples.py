"""What batches are cut from: training data in memory, as independent samples or as rows of trajectories."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vcycle.data.steps import Trajectories


class Batch(NamedTuple):
    """Some samples in physical units.

    ``inputs`` and ``outputs`` are ``(batch, channel, *space)``; ``parameters`` are ``(batch, parameter)`` or ``None``;
    ``later`` are the states after ``outputs``, ``(batch, step, channel, *space)``, or ``None`` where no one asked.
    """

    inputs: Tensor
    outputs: Tensor
    parameters: Tensor | None = None
    later: Tensor | None = None


class Source(Protocol):
    """Where batches come from."""

    @property
    def parameters(self) -> Tensor | None:
        """Scalars of the rows, ``(row, parameter)``; ``None`` where the network takes none."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, rows: Tensor, steps: int = 1) -> Batch:
        """Return some rows, with ``steps - 1`` later states."""

    def distinct(self) -> tuple[Tensor, Tensor]:
        """Return inputs and outputs to measure normalisers on, each field once."""

    def to(self, device: torch.device) -> "Source":
        """Return the data on a device."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Independent samples.

    Parameters
    ----------
    inputs, outputs
        ``(sample, channel, *space)``.
    parameters
        ``(sample, parameter)``, or ``None`` where the network takes none.
    """

    inputs: Tensor
    outputs: Tensor
    parameters: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor, steps: int = 1) -> Batch:
        """Return some samples; no state follows them."""
        return Batch(self.inputs[rows], self.outputs[rows], None if self.parameters is None else self.parameters[rows])

    def distinct(self) -> tuple[Tensor, Tensor]:
        """Return all inputs and outputs."""
        return self.inputs, self.outputs

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on a device."""
        parameters = None if self.parameters is None else self.parameters.to(device)
        return Samples(self.inputs.to(device), self.outputs.to(device), parameters)

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return _nbytes(self.inputs, self.outputs, self.parameters)


@dataclass(frozen=True, eq=False)
class Transitions:
    """Rows that index into trajectories: each state is in memory once, however many rows begin or end with it.

    Parameters
    ----------
    trajectories
        States, and what stays the same along each trajectory.
    pairs
        Trajectory and the two times of each row, int64 ``(row, 3)``.
    parameters
        ``(row, parameter)``, or ``None`` where the network takes none.
    """

    trajectories: "Trajectories"
    pairs: Tensor
    parameters: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, rows: Tensor, steps: int = 1) -> Batch:
        """Return some rows; one with fewer than ``steps`` steps to the end of its trajectory begins earlier."""
        where, first, last = self.pairs[rows].unbind(1)
        step, states = last - first, self.trajectories.states
        late = (first + steps * step - (states.shape[1] - 1)).clamp(min=0)
        first, last = first - late, last - late
        later = None
        if steps > 1:
            ahead = torch.arange(1, steps, device=last.device)
            later = states[where[:, None], last[:, None] + ahead * step[:, None]]
        inputs = self.trajectories.inputs(where, first)
        return Batch(inputs, states[where, last], None if self.parameters is None else self.parameters[rows], later)

    def distinct(self) -> tuple[Tensor, Tensor]:
        """Return the states that a row begins with, and those that one ends with, each once."""
        first, last = (torch.unique(self.pairs[:, [0, column]], dim=0).unbind(1) for column in (1, 2))
        return self.trajectories.inputs(*first), self.trajectories.states[last]

    def to(self, device: torch.device) -> "Transitions":
        """Return the trajectories on a device."""
        parameters = None if self.parameters is None else self.parameters.to(device)
        return replace(
            self, trajectories=self.trajectories.to(device), pairs=self.pairs.to(device), parameters=parameters
        )

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return _nbytes(self.trajectories.states, self.trajectories.constants, self.pairs, self.parameters)


def _nbytes(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
