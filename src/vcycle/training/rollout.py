"""A network applied to its own predictions, step after step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]
"""Maps inputs, the state's channels first, to the next state; ``(batch, channel, *space)``, physical units."""


def next_inputs(inputs: Tensor, state: Tensor) -> Tensor:
    """Return the inputs with another state in their first channels; what lies behind stays."""
    constants = inputs[:, state.shape[1] :]
    return torch.cat([state, constants], dim=1) if constants.shape[1] else state


def unroll(step: Step, inputs: Tensor, steps: int) -> Iterator[Tensor]:
    """Yield the states after 1, 2, ... ``steps`` applications, ``(batch, channel, *space)`` each."""
    for _ in range(steps):
        state = step(inputs)
        yield state
        inputs = next_inputs(inputs, state)


def unroll_finite(step: Step, inputs: Tensor, steps: int) -> Tensor:
    """Return all states of :func:`unroll`, ``(batch, step, channel, *space)``, infinite from where a sample overflows.

    A sample that has overflowed goes on from zero, so that no infinity becomes NaN, and its states are not looked at.
    """
    lost = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    states = []
    for _ in range(steps):
        state = step(inputs)
        lost = lost | (~torch.isfinite(state)).flatten(1).any(1)
        mask = lost.reshape(-1, *(1,) * (state.ndim - 1))
        states.append(state.masked_fill(mask, torch.inf))
        inputs = next_inputs(inputs, state.masked_fill(mask, 0.0))
    return torch.stack(states, dim=1)


def first_overflow(states: Tensor) -> tuple[int, int] | None:
    """Return the sample and the step, from 1 on, of the earliest state that is not finite; ``None`` if all are."""
    wrong = (~torch.isfinite(states)).flatten(2).any(2)
    if not bool(wrong.any()):
        return None
    step = int(wrong.any(0).nonzero()[0])
    return int(wrong[:, step].nonzero()[0]), step + 1
