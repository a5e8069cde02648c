"""Trajectories as pairs of states: one row per trajectory and step, without copying a trajectory."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.data.dataset import Dataset
from vcycle.data.split import parts
from vcycle.data.window import CLOSE, Window, channels
from vcycle.problems.problem import FieldInfo

if TYPE_CHECKING:
    from pathlib import Path

LEAD_TIME = "lead_time"
"""Name of the scalar that says how far apart the two states of a row are, in the unit of time."""


@dataclass(frozen=True)
class Trajectories:
    """States of some trajectories, and what stays the same along each.

    Parameters
    ----------
    states
        ``(trajectory, time, channel, *space)``.
    constants
        ``(trajectory, channel, *space)``; often no channel at all.
    """

    states: Tensor
    constants: Tensor

    def inputs(self, trajectory: Tensor, time: Tensor) -> Tensor:
        """Return states and, behind their channels, the constants: ``(row, channel, *space)`` for two indices a row."""
        return torch.cat([self.states[trajectory, time], self.constants[trajectory]], dim=1)

    def to(self, target: "torch.device | torch.dtype") -> "Trajectories":
        """Return the trajectories on a device, or of a type."""
        return Trajectories(self.states.to(target), self.constants.to(target))


@dataclass(frozen=True)
class _State:
    """Which fields make up the state, and when it is known."""

    fields: tuple[FieldInfo, ...]
    initial: tuple[FieldInfo, ...]
    """At time 0, one per field; empty where the fields' own times begin there."""
    constants: tuple[FieldInfo, ...]
    times: tuple[float, ...]


class Steps(Dataset):
    """Pairs ``u(t_k) -> u(t_l)`` of the states of trajectories; made by :meth:`vcycle.data.Dataset.steps`.

    :attr:`inputs` are the state at ``t_k`` and, behind it, the input fields that are not states; :attr:`outputs` the
    state at ``t_l``. Rows hold indices, trajectories are read once. :attr:`sample_id`, :meth:`array` and :meth:`field`
    speak of the trajectory that a row belongs to. :meth:`split` divides trajectories, so that none is on both sides.

    Parameters
    ----------
    trajectories
        The dataset that the rows index into.
    state
        Which fields are the state.
    pairs
        Trajectory, ``k`` and ``l`` of each row, int64 ``(row, 3)``.
    stride
        Snapshots per step; 1 where rows have lead times of their own.
    has_lead_time
        Whether ``t_l - t_k`` is a scalar of each row, the last of :attr:`parameters`.
    """

    def __init__(
        self, trajectories: Dataset, state: _State, pairs: np.ndarray, *, stride: int, has_lead_time: bool
    ) -> None:
        used, position = np.unique(pairs[:, 0], return_inverse=True)
        whole = len(used) == len(trajectories)
        self.trajectories = trajectories if whole else trajectories.subset(used)
        self.pairs = pairs if whole else np.column_stack([position, pairs[:, 1:]]).astype(np.int64)
        self.stride, self.has_lead_time, self._state = stride, has_lead_time, state
        super().__init__(
            trajectories.schema,
            trajectories._arrays,
            specs=trajectories.specs,
            rows=self.trajectories._rows[self.pairs[:, 0]],
            problem=trajectories._problem,
            window=trajectories.window,
            path=trajectories.path,
        )

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        stride: int,
        lead_times: Sequence[float] | None,
        all_to_all: bool,
        initial: Sequence[str] | None,
    ) -> "Steps":
        """Return the rows of a dataset of trajectories; see :meth:`vcycle.data.Dataset.steps`."""
        if isinstance(dataset, Steps):
            raise ValueError("`dataset` must be one of trajectories to be divided into steps. Got steps already.")
        state = _state_of(dataset, initial)
        _check.integer("stride", stride, 1)
        has_lead_time = all_to_all or lead_times is not None
        if has_lead_time and stride != 1:
            raise ValueError(f"`stride` must be 1 where rows have lead times of their own. Got {stride}.")
        times = np.array(state.times)
        if lead_times is not None:
            steps = _pairs_that_last(times, [_check.positive("lead_times", lead) for lead in lead_times])
        elif all_to_all:
            steps = np.column_stack(np.triu_indices(len(times), 1))
        else:
            _step_time(times, stride)
            starts = np.arange(len(times) - stride)
            steps = np.column_stack([starts, starts + stride])
        numbers = np.repeat(np.arange(len(dataset)), len(steps))
        pairs = np.column_stack([numbers, np.tile(steps, (len(dataset), 1))]).astype(np.int64)
        return cls(dataset, state, pairs, stride=stride, has_lead_time=has_lead_time)

    # ------------------------------------------------------------------------------------------------------ choosing

    def _at(self, positions: "np.ndarray | slice") -> "Steps":
        pairs = self.pairs[positions]
        return Steps(self.trajectories, self._state, pairs, stride=self.stride, has_lead_time=self.has_lead_time)

    def split(self, test: int | float = 100, *, validation: int | float = 0, seed: int = 0) -> tuple["Steps", ...]:
        """Divide the trajectories at random, as :meth:`vcycle.data.Dataset.split` of the trajectories themselves does.

        Parameters
        ----------
        test, validation
            Numbers of trajectories, or fractions of them.
        seed
            Of the permutation.

        Raises
        ------
        ValueError
            If a size is not usable, or nothing is left for training.
        """
        numbers = self.trajectories.sample_id.numpy()
        positions = parts(numbers, test=test, validation=validation, seed=seed)
        return tuple(self._at(np.flatnonzero(np.isin(self.pairs[:, 0], part))) for part in positions)

    def windowed(self, window: Window) -> NoReturn:
        """Refuse: fields are chosen before the steps are.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("`window` must be chosen first: dataset.windowed(window).steps(). Got steps already.")

    def save(self, path: "str | Path", *, chunk_size: int = 1) -> NoReturn:
        """Refuse: what is kept are trajectories.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            f"`path` must be where trajectories go: dataset.save(path), and dataset.steps() after opening. Got {path}."
        )

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The state, and the fields that stay."""
        return (*self.output_fields, *self._state.constants)

    @property
    def output_fields(self) -> tuple[FieldInfo, ...]:
        """The state, without a time axis."""
        return tuple(replace(info, times=None) for info in self._state.fields)

    @property
    def state_times(self) -> tuple[float, ...]:
        """When the state is known, in the unit of time; 0 is the initial state."""
        return self._state.times

    @property
    def step_time(self) -> float:
        """Time that one step of :attr:`stride` snapshots takes.

        Raises
        ------
        ValueError
            If the times are not equally spaced.
        """
        return _step_time(np.array(self.state_times), self.stride)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the scalars that come with each row."""
        return (*self.schema.parameters, LEAD_TIME) if self.has_lead_time else self.schema.parameters

    @property
    def parameters(self) -> Tensor | None:
        """Scalars ``(row, parameter)``, float64; ``None`` where there are none."""
        times = np.array(self.state_times)
        given = self.trajectories.parameters
        of_rows = None if given is None else given[torch.from_numpy(self.pairs[:, 0])]
        return self._with_lead_time(of_rows, torch.from_numpy(times[self.pairs[:, 2]] - times[self.pairs[:, 1]]))

    @property
    def step_parameters(self) -> Tensor | None:
        """Scalars of each trajectory for one step of :attr:`stride` snapshots, ``(trajectory, parameter)``, float64."""
        lead = torch.full((len(self.trajectories),), self.step_time, dtype=torch.float64)
        return self._with_lead_time(self.trajectories.parameters, lead)

    def _with_lead_time(self, given: Tensor | None, lead: Tensor) -> Tensor | None:
        if not self.has_lead_time:
            return given
        return lead[:, None] if given is None else torch.cat([given, lead[:, None]], dim=1)

    def read_trajectories(
        self, rows: "slice | np.ndarray | None" = None, *, dtype: torch.dtype = torch.float64
    ) -> Trajectories:
        """Return whole trajectories by their positions in :attr:`trajectories`, time 0 first."""

        def read(info: FieldInfo) -> Tensor:
            values = torch.from_numpy(self.trajectories.stored(info.name, rows)).to(dtype)
            return channels(info, self._find(info.name)[1], self.grid, values)

        times = len(self.state_times) - bool(self._state.initial)
        states = torch.cat([read(info).unflatten(1, (times, info.components)) for info in self._state.fields], dim=2)
        if self._state.initial:
            first = torch.cat([read(info) for info in self._state.initial], dim=1)
            states = torch.cat([first.unsqueeze(1), states], dim=1)
        constants = [read(info) for info in self._state.constants]
        nothing = states.new_empty(len(states), 0, *self.grid.shape)
        return Trajectories(states, torch.cat([nothing, *constants], dim=1))

    def read(self, rows: "slice | np.ndarray | None" = None) -> tuple[Tensor, Tensor]:
        """Return inputs and outputs of some rows, float64, without keeping them; each trajectory is read once."""
        pairs = self.pairs if rows is None else self.pairs[rows]
        used, position = np.unique(pairs[:, 0], return_inverse=True)
        block = self.read_trajectories(used)
        where, first, last = torch.from_numpy(position.reshape(-1)), *map(torch.from_numpy, pairs.T[1:].copy())
        return block.inputs(where, first), block.states[where, last]

    @functools.cached_property
    def inputs(self) -> Tensor:
        """States that rows begin with, and the fields that stay, ``(row, channel, *space)``, float64."""
        return self.read()[0]

    @functools.cached_property
    def outputs(self) -> Tensor:
        """States that rows end with, ``(row, channel, *space)``, float64."""
        return self.read()[1]

    def fingerprint(self) -> str:
        """Return a hash, 32 hexadecimal digits, of the trajectories, of the state's fields and of the rows."""
        digest = hashlib.blake2b(digest_size=16)
        names = [[info.name for info in part] for part in (self._state.fields, self._state.initial)]
        constants = [info.name for info in self._state.constants]
        digest.update(f"{self.trajectories.fingerprint()} {names} {constants}".encode())
        digest.update(f"{self.state_times} {self.has_lead_time} {self.pairs.shape}".encode())
        digest.update(np.ascontiguousarray(self.pairs).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        step = "lead times as a scalar" if self.has_lead_time else f"{self.stride} snapshot(s) a step"
        return f"{super().__repr__()}\n  steps    of {len(self.trajectories)} trajectories, {step}"


def _state_of(dataset: Dataset, initial: Sequence[str] | None) -> _State:
    """Return which fields are the state, from the outputs that have times and the names of their initial values."""
    fields, given = dataset.output_fields, dataset.input_fields
    if not fields or any(info.times is None for info in fields):
        missing = [info.name for info in fields if info.times is None]
        raise ValueError(f"`steps` needs outputs with a time axis. Got {', '.join(missing)} without one.")
    if any(info.face is not None for info in fields):
        raise ValueError("`steps` needs outputs on the grid. Got one on a face.")
    if any(info.times is not None for info in given):
        raise ValueError("`steps` needs inputs without a time axis: choose others with a Window. Got one with times.")
    times = fields[0].times or ()
    start = _initial_fields(fields, given, initial)
    constants = tuple(info for info in given if info not in start)
    if times[0] > 0 and start:
        return _State(fields, start, constants, (0.0, *times))
    return _State(fields, (), constants, times)


def _initial_fields(
    fields: Sequence[FieldInfo], given: Sequence[FieldInfo], names: Sequence[str] | None
) -> tuple[FieldInfo, ...]:
    known = {info.name: info for info in given}
    if names is not None:
        names = (names,) if isinstance(names, str) else tuple(names)
        start = tuple(known[_check.choice("initial", name, known)] for name in names)
    elif len(fields) == 1 and "initial" in known:
        start = (known["initial"],)
    else:
        start = tuple(given[: len(fields)])
    sizes = [(info.components, info.face) for info in start]
    if start and sizes != [(info.components, None) for info in fields]:
        states = ", ".join(f"{info.name} ({info.components} components)" for info in fields)
        raise ValueError(
            f"`initial` must name the inputs that are {states} at time 0, or be () where none is. Got {names}."
        )
    return start


def _step_time(times: np.ndarray, stride: int) -> float:
    """Return the time between states ``stride`` apart, which must be one."""
    if stride >= len(times):
        raise ValueError(f"`stride` must be below the number of states, {len(times)}. Got {stride}.")
    leads = times[stride:] - times[:-stride]
    if np.ptp(leads) > CLOSE * np.abs(times).max():
        raise ValueError(
            f"`stride` needs times that are equally spaced; elsewhere `all_to_all` gives each row its lead time. "
            f"Got steps from {leads.min():.6g} to {leads.max():.6g}."
        )
    return float(leads[0])


def _pairs_that_last(times: np.ndarray, leads: Sequence[float]) -> np.ndarray:
    """Return the pairs of states that are one of the lead times apart, in order of their beginning, ``(pair, 2)``."""
    first, last = np.triu_indices(len(times), 1)
    apart = times[last] - times[first]
    chosen = np.zeros(len(apart), dtype=bool)
    for lead in leads:
        near = np.abs(apart - lead) <= CLOSE * np.abs(times).max()
        if not near.any():
            nearest = apart[np.abs(apart - lead).argmin()]
            raise ValueError(f"`lead_times` must lie between two states. Got {lead:.6g}; the nearest is {nearest:.6g}.")
        chosen |= near
    return np.column_stack([first[chosen], last[chosen]])
