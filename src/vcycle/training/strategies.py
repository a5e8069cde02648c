"""Ways to train for what comes after one step on one grid: noise, pushforward, rollouts that grow, several grids."""

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace

import torch
from torch import Tensor

from vcycle.grid import Grid
from vcycle.objectives.losses import Loss, measured
from vcycle.training.rollout import Step, next_inputs, unroll
from vcycle.training.samples import Batch


@dataclass(frozen=True)
class Moment:
    """When in a run a batch comes: in which epoch, as which of how many batches, all from 0."""

    epoch: int
    index: int
    batches: int

    @property
    def number(self) -> int:
        """How many batches came before."""
        return self.epoch * self.batches + self.index

    @property
    def passes(self) -> float:
        """How often the data were seen before."""
        return self.epoch + self.index / self.batches


@dataclass(frozen=True)
class Strategies:
    """What batches show and how their loss is taken; by default one step on the data's grid.

    Everything follows from when a batch comes, so that a run that is resumed goes on as it would have.
    :class:`vcycle.training.FitConfig` explains the first three.

    Parameters
    ----------
    noise
        Standard deviation of noise on the inputs, relative to their root mean square.
    pushforward
        Which batches begin with a prediction: every ``pushforward``-th.
    rollout_steps
        From which share of the epochs on the loss sees how many steps.
    epochs
        Epochs of the run.
    num_states
        Leading input channels that are noisy: the state's; ``None`` is all of them.
    grid
        The data's.
    factors
        By how much batches may be coarsened; one is drawn for each.
    """

    noise: float | None = None
    pushforward: int | None = None
    rollout_steps: tuple[tuple[float, int], ...] = ()
    epochs: int = 1
    num_states: int | None = None
    grid: Grid | None = None
    factors: tuple[int, ...] = ()

    def pushes(self, moment: Moment) -> bool:
        """Whether a batch begins with a prediction."""
        return self.pushforward is not None and (moment.number + 1) % self.pushforward == 0

    def steps(self, moment: Moment) -> int:
        """Return how many steps a batch must show: those in the loss, and one more if it begins with a prediction."""
        share = moment.passes / self.epochs
        in_loss = [steps for start, steps in self.rollout_steps if start <= share]
        return (in_loss[-1] if in_loss else 1) + self.pushes(moment)

    @property
    def most_steps(self) -> int:
        """Steps that the longest batch shows."""
        return max((steps for _, steps in self.rollout_steps), default=1) + (self.pushforward is not None)

    def coarsened(self, batch: Batch, drawn: float) -> Batch:
        """Return the batch on the grid that a number in [0, 1) chooses."""
        if not self.factors or self.grid is None:
            return batch
        factor = self.factors[int(drawn * len(self.factors))]
        later = batch.later
        if later is not None:
            later = restricted(later.flatten(0, 1), self.grid, factor).unflatten(0, later.shape[:2])
        inputs, outputs = (restricted(fields, self.grid, factor) for fields in (batch.inputs, batch.outputs))
        return batch._replace(inputs=inputs, outputs=outputs, later=later)

    def loss(self, step: Step, batch: Batch, loss: Loss, moment: Moment) -> Tensor:
        """Return the mean loss over the steps of a batch, shape ``()``; noise is drawn from PyTorch's own stream.

        A loss that takes the inputs is given what each step began with, without the noise.
        """
        loss = self.on_grid_of(batch, loss)
        given = batch.inputs
        inputs = given if self.noise is None else noisy(given, self.noise, self.num_states)
        targets = [batch.outputs] if batch.later is None else [batch.outputs, *batch.later.unbind(1)]
        if self.pushes(moment):
            with torch.no_grad():
                inputs = next_inputs(inputs, step(inputs))
            given, targets = inputs, targets[1:]
        losses = []
        for state, target in zip(unroll(step, inputs, len(targets)), targets, strict=True):
            losses.append(measured(loss, state, target, given))
            if len(losses) < len(targets):
                given = next_inputs(given, state)
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def on_grid_of(self, batch: Batch, loss: Loss) -> Loss:
        """Return the loss for the batch's grid: a dataclass with a ``grid`` changes it, others must not need one."""
        if not self.factors or not is_dataclass(loss) or getattr(loss, "grid", None) != self.grid:
            return loss
        grids = {grid.shape: grid for grid in (coarse_grid(self.grid, factor) for factor in self.factors)}
        return replace(loss, grid=grids[tuple(batch.outputs.shape[2:])])


def noisy(inputs: Tensor, noise: float, num_states: int | None = None) -> Tensor:
    """Return inputs with white Gaussian noise whose standard deviation is ``noise`` times each channel's size.

    The size is the root mean square over space, per sample and channel. (The paper takes the 2-norm over all points,
    which is that times the root of their number and would tie ``noise`` to the grid.)

    Parameters
    ----------
    inputs
        ``(batch, channel, *space)``.
    noise
        Dimensionless.
    num_states
        How many leading channels are disturbed; ``None`` is all.

    References
    ----------
    Hao et al., "DPOT: Auto-Regressive Denoising Operator Transformer", ICML 2024.
    """
    states = inputs[:, :num_states]
    size = states.square().mean(dim=tuple(range(2, states.ndim)), keepdim=True).sqrt()
    return next_inputs(inputs, states + noise * size * torch.randn_like(states))


def coarse_grid(grid: Grid, factor: int) -> Grid:
    """Return the grid with ``factor`` times fewer intervals per axis, which must divide them."""
    intervals = [n // factor for n in grid.num_intervals]
    ends = [n - m for n, m in zip(grid.shape, grid.num_intervals, strict=True)]
    shape = tuple(n + end for n, end in zip(intervals, ends, strict=True))
    return Grid(shape, grid.extent, grid.centring, grid.periodic)


def restricted(fields: Tensor, grid: Grid, factor: int) -> Tensor:
    """Return ``(batch, channel, *space)`` on :func:`coarse_grid`: means over its cells, or its vertices."""
    for dim in range(2, fields.ndim):
        if grid.centring == "cell":
            fields = fields.unflatten(dim, (-1, factor)).mean(dim + 1)
        else:
            fields = fields.index_select(dim, torch.arange(0, fields.shape[dim], factor, device=fields.device))
    return fields


def factors_of(sizes: Sequence[int], grid: Grid) -> tuple[int, ...]:
    """Return by how much a grid is coarser for each number of points along its first axis.

    Raises
    ------
    ValueError
        If there is no such coarser grid.
    """
    first = grid.shape[0] - grid.num_intervals[0]  # 1 where the end points count
    factors = []
    for size in sizes:
        factor, rest = divmod(grid.num_intervals[0], size - first) if size > first else (0, 0)
        if factor < 1 or rest or any(n % factor or n // factor < 2 for n in grid.num_intervals):
            points = "cells" if grid.centring == "cell" else "vertices"
            raise ValueError(
                f"`sizes` must be numbers of {points} along the first axis of grids whose cells are whole cells of "
                f"{grid.shape}. Got {size}."
            )
        factors.append(factor)
    return tuple(factors)
