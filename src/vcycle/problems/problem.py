"""What a PDE family must be able to do: draw parameters, solve, and say how wrong a solution is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.solvers.sequence import SequenceResult, solve_sequence
from vcycle.solvers.systems import LinearSystems

Fields = dict[str, Tensor]


@dataclass(frozen=True)
class FieldInfo:
    """A named field of a problem.

    Parameters
    ----------
    name
        As in ``input_<name>`` or ``output_<name>`` on disk.
    unit
        ``"1"`` is dimensionless.
    components
        Number of components, the second axis of the field.
    face
        ``None`` for a field on the grid; ``"x_low"``, ``"y_high"``, ... for values on one outer face, where the face's
        own axis is dropped from the shape.
    """

    name: str
    unit: str = "1"
    components: int = 1
    face: str | None = None

    def space_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return the shape of one component."""
        if self.face is None:
            return grid.shape
        axis = grid.axis_names.index(self.face[0])
        return grid.shape[:axis] + grid.shape[axis + 1 :]


class Problem(ABC):
    """A parametric PDE on a grid. Subclasses are final; one family per file.

    Fields are float64 tensors ``(sample, component, *space)``. Wherever a problem takes ``inputs`` it takes the named
    fields, or their stacked view ``(sample, channel, *space)`` as a dataset gives it.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    """Order of the discretisation in h: the L2 error at the points for smooth solutions and coefficients."""
    inputs: ClassVar[tuple[FieldInfo, ...]]
    outputs: ClassVar[tuple[FieldInfo, ...]]
    symmetries: tuple[str, ...] = ()
    """Maps of the grid onto itself under which input and output transform alike: ``"transpose"``, ``"flip_x"``, ..."""

    grid: Grid
    boundary: Boundary

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the input fields, in the order of the stacked view."""
        return tuple(info.name for info in self.input_fields)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the output fields."""
        return tuple(info.name for info in self.outputs)

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The input fields of this instance; a family whose faces vary overrides it."""
        return self.inputs

    @property
    def singular(self) -> bool:
        """Whether constants are in the kernel: then the systems say which mean they subtracted."""
        return False

    @abstractmethod
    def sample(self, seed: int, indices: Sequence[int]) -> Fields:
        """Draw the inputs of the samples ``indices``; sample i depends on ``(seed, i)`` only."""

    @abstractmethod
    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Discretise: return the linear systems whose solutions are the outputs."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""

    def solve(self, inputs: "Fields | Tensor", *, rtol: float = 1e-8, method: str = "auto") -> SequenceResult:
        """Solve for the outputs of ``inputs``; see :func:`vcycle.solvers.solve_sequence`."""
        return solve_sequence(self.systems(inputs), rtol=rtol, method=method)

    def residual(self, inputs: "Fields | Tensor", outputs: Tensor) -> Tensor:
        """Return ``b - A u`` for outputs ``(sample, 1, *space)``, in the unit of ``b``, same shape.

        Differentiable in both arguments; vanishes for the discrete solution.
        """
        systems = self.systems(inputs)
        return (systems.rhs - systems.operator.apply(outputs.to(systems.rhs).squeeze(1))).unsqueeze(1)

    def named(self, inputs: "Fields | Mapping[str, Tensor] | Tensor") -> Fields:
        """Return float64 fields by name from named fields or from the stacked view.

        Raises
        ------
        ValueError
            If a field is missing, or a shape does not fit the grid.
        """
        if isinstance(inputs, Mapping):
            missing = [name for name in self.input_names if name not in inputs]
            if missing:
                raise ValueError(
                    f"`inputs` must have the fields {', '.join(self.input_names)}. Missing: {', '.join(missing)}."
                )
            fields = {info.name: inputs[info.name].to(torch.float64) for info in self.input_fields}
        else:
            fields = self._unstacked(inputs.to(torch.float64))
        for info in self.input_fields:
            expected = (info.components, *info.space_shape(self.grid))
            if tuple(fields[info.name].shape[1:]) != expected:
                got, wanted = tuple(fields[info.name].shape), ", ".join(map(str, expected))
                raise ValueError(f"`inputs` field {info.name!r} must have shape (sample, {wanted}). Got {got}.")
        return fields

    def _unstacked(self, stacked: Tensor) -> Fields:
        channels = sum(info.components for info in self.input_fields)
        if stacked.shape[1:] != (channels, *self.grid.shape):
            wanted = ", ".join(map(str, (channels, *self.grid.shape)))
            raise ValueError(f"`inputs` must have shape (sample, {wanted}). Got {tuple(stacked.shape)}.")
        parts = stacked.split([info.components for info in self.input_fields], dim=1)
        return {
            info.name: collapse_face(info, self.grid, part) for info, part in zip(self.input_fields, parts, strict=True)
        }

    def stacked(self, inputs: Fields) -> Tensor:
        """Return the stacked view ``(sample, channel, *space)``; values on a face are repeated along its normal."""
        return torch.cat([expand_face(info, self.grid, inputs[info.name]) for info in self.input_fields], dim=1)


def expand_face(info: FieldInfo, grid: Grid, values: Tensor) -> Tensor:
    """Repeat values on a face along the face's normal, so that they fill the grid; grid fields pass through."""
    if info.face is None:
        return values
    axis = grid.axis_names.index(info.face[0])
    return values.unsqueeze(axis + 2).expand(*values.shape[:2], *grid.shape)


def collapse_face(info: FieldInfo, grid: Grid, values: Tensor) -> Tensor:
    """Undo :func:`expand_face`."""
    if info.face is None:
        return values
    return values.select(grid.axis_names.index(info.face[0]) + 2, 0)


def stack_draws(draws: Sequence[Mapping[str, np.ndarray]], infos: Sequence[FieldInfo], *, grid: Grid) -> Fields:
    """Return drawn scalar fields, one mapping by name per sample, as float64 tensors ``(sample, 1, *space)``."""
    stacks = {info.name: np.empty((len(draws), 1, *info.space_shape(grid))) for info in infos}
    for number, draw in enumerate(draws):
        for name, stack in stacks.items():
            stack[number, 0] = draw[name]
    return {name: torch.from_numpy(stack) for name, stack in stacks.items()}


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator that sample ``index`` of a data set with this seed draws from."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
