"""What a PDE family must be able to do: draw parameters, solve, and say how wrong a solution is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import AXIS_NAMES, Grid
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.sequence import SequenceResult, solve_sequence
from vcycle.solvers.systems import LinearSystems

if TYPE_CHECKING:
    from typing import Self

Fields = dict[str, Tensor]

FIELD = "an array or tensor (sample, component, *space)"

TRANSPOSITIONS = {"transpose": (0, 1), "transpose_xz": (0, 2), "transpose_yz": (1, 2)}
"""Symmetries that exchange two axes, by name; the others of a box are ``"flip_x"``, ``"flip_y"`` and ``"flip_z"``."""


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
    times
        ``None`` for a field without a time axis; otherwise the increasing times of its snapshots.

    Raises
    ------
    ValueError
        If the name is no word, there are no components, there is no such face, or the times do not increase.
    TypeError
        If the unit is no text or the number of components no integer.
    """

    name: str
    unit: str = "1"
    components: int = 1
    face: str | None = None
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.times is not None:
            object.__setattr__(self, "times", tuple(float(time) for time in self.times))
            if not self.times or any(late <= early for early, late in pairwise(self.times)):
                raise ValueError(f"`times` must increase, and be at least one. Got {self.times}.")
        _check.word("name", self.name)
        _check.instance("unit", self.unit, str, "a text")
        _check.integer("components", self.components, 1)
        if self.face is not None:
            _check.choice("face", self.face, [f"{axis}_{side}" for axis in AXIS_NAMES for side in ("low", "high")])

    def space_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return the shape of one component at one time."""
        if self.face is None:
            return grid.shape
        axis = grid.axis_names.index(self.face[0])
        return grid.shape[:axis] + grid.shape[axis + 1 :]

    def sample_shape(self, grid: Grid) -> tuple[int, ...]:
        """Return the shape of one sample: ``(component, *space)``, after the time axis where there is one."""
        times = () if self.times is None else (len(self.times),)
        return (*times, self.components, *self.space_shape(grid))

    @property
    def num_channels(self) -> int:
        """Number of channels in a stacked view: components, times the number of snapshots."""
        return self.components * (1 if self.times is None else len(self.times))


def count_channels(fields: Iterable[FieldInfo]) -> int:
    """Return the number of channels in which fields are stacked."""
    return sum(info.num_channels for info in fields)


@dataclass(frozen=True)
class QualityInfo:
    """A number that says how well one sample was solved, recorded with it.

    Parameters
    ----------
    name
        As in ``solver_<name>`` on disk.
    unit
        ``"1"`` is dimensionless.
    about
        What it measures.
    dtype
        ``"float64"`` or ``"int64"``.
    """

    name: str
    unit: str = "1"
    about: str = ""
    dtype: str = "float64"


RESIDUAL = QualityInfo("residual", about="true relative residual |b - A u| / |b| of the float64 solution")
ITERATIONS = QualityInfo("iterations", about="steps of the iterative solver; 0 for a direct one", dtype="int64")
REMOVED_MEAN = QualityInfo(
    "removed_mean", about="mean subtracted from source and boundary fluxes, where no face fixes the solution"
)


@dataclass(frozen=True)
class Produced:
    """The outputs of some samples, and how well they were solved: what data are made from.

    Parameters
    ----------
    outputs
        By the outputs' names, ``(sample, *FieldInfo.sample_shape)``, float64.
    quality
        By the names of :attr:`Problem.quality`, ``(sample,)``.
    seconds
        Wall-clock seconds per sample, ``(sample,)``; work shared by several samples is divided evenly.
    failures
        What is wrong, by the sample's position, with the remedy; empty where every sample was solved.
    factors
        What sparse LU hands to the next call.
    """

    outputs: Fields
    quality: Fields
    seconds: Tensor
    failures: Mapping[int, str] = field(default_factory=dict)
    factors: DirectFactors | None = field(default=None, repr=False)


class Problem(ABC):
    """A parametric PDE on a grid. Subclasses are final; one family per file.

    Fields are float64 tensors ``(sample, component, *space)``. Wherever a problem takes ``inputs`` it takes the named
    fields, or their stacked view ``(sample, channel, *space)`` as a dataset gives it.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    """Order of the discretisation in h: the L2 error at the points for smooth solutions and coefficients."""
    inputs: ClassVar[tuple[FieldInfo, ...]]
    outputs: tuple[FieldInfo, ...]
    usual_grid: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the grid, beside its shape, that a family usually lives on; default the cells of the unit box."""
    can_reject: bool = False
    """Whether :meth:`rejects` ever refuses a sample."""
    symmetries: tuple[str, ...] = ()
    """Maps of the grid onto itself under which input and output transform alike: ``"transpose"``, ``"flip_x"``, ...

    Values on a face move with the face.
    """

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
        """Whether no face fixes the unknown, so that the systems subtract a mean and say which.

        A family with a zero-order term overrides it.
        """
        return not self.boundary.fixes_constant

    @property
    def zero_on_walls(self) -> bool:
        """Whether the unknown vanishes on all Dirichlet faces: no input holds values there.

        A family with constant values on faces overrides it.
        """
        return zero_on_walls(self.input_fields, self.boundary)

    @property
    def quality(self) -> tuple[QualityInfo, ...]:
        """What :meth:`produce` says of every sample."""
        return (RESIDUAL, ITERATIONS, REMOVED_MEAN) if self.singular else (RESIDUAL, ITERATIONS)

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the input fields of one sample, by name, each of its :meth:`FieldInfo.space_shape`."""

    def sample(self, seed: int, indices: Sequence[int], *, attempts: Sequence[int] | None = None) -> Fields:
        """Draw the inputs of the samples ``indices``, ``(sample, 1, *space)`` each, float64.

        Sample i depends on ``(seed, i)`` only, and on its number in ``attempts`` where earlier draws were rejected.
        """
        tries = [0] * len(indices) if attempts is None else attempts
        draws = [self.draw(sample_generator(seed, i, attempt)) for i, attempt in zip(indices, tries, strict=True)]
        stacks = {info.name: np.empty((len(draws), 1, *info.space_shape(self.grid))) for info in self.input_fields}
        for number, draw in enumerate(draws):
            for name, stack in stacks.items():
                stack[number, 0] = draw[name]
        return {name: torch.from_numpy(stack) for name, stack in stacks.items()}

    @abstractmethod
    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Discretise: return the linear systems whose solutions are the outputs."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""

    def on_grid(self, grid: Grid) -> "Self":
        """Return the same family on another grid of the same box.

        Constant arrays, such as a source given by its values in cells, are functions that are constant in each cell:
        they are repeated where ``grid`` is finer by a whole number, and averaged over its cells where it is coarser.

        Parameters
        ----------
        grid
            A grid of the same box: equal extent, periodic axes and centring.

        Raises
        ------
        ValueError
            If the box is another, a family does not exist on the grid, or arrays are given and the numbers of cells
            are no multiples of each other.
        """
        for key in ("extent", "periodic", "centring"):
            here, there = getattr(self.grid, key), getattr(grid, key)
            if here != there:
                raise ValueError(f"`grid` must be of the same box, with {key} {here}. Got {there}.")
        return type(self)(**(self._arguments_on(grid) | {"grid": grid}))

    def _arguments_on(self, grid: Grid) -> dict[str, Any]:
        """Return the arguments that build this problem on another grid; a family with constant arrays overrides it."""
        return {key: value for key, value in self.config().items() if key not in ("name", "grid")}

    def solve(
        self,
        inputs: "Fields | Tensor",
        *,
        rtol: float = 1e-8,
        method: str = "auto",
        order: str = "auto",
        factors: DirectFactors | None = None,
    ) -> SequenceResult:
        """Solve for the outputs of ``inputs``; see :func:`vcycle.solvers.solve_sequence`."""
        return solve_sequence(self.systems(inputs), rtol=rtol, method=method, order=order, factors=factors)

    def produce(
        self,
        inputs: "Fields | Tensor",
        *,
        rtol: float = 1e-8,
        method: str = "auto",
        factors: DirectFactors | None = None,
    ) -> Produced:
        """Solve for data: outputs as they are stored, with the :attr:`quality` of each sample.

        Parameters are those of :meth:`solve`; samples are solved in the order given.
        """
        systems = self.systems(inputs)
        result = solve_sequence(systems, rtol=rtol, method=method, order="given", factors=factors)
        quality = {RESIDUAL.name: result.relative_residuals, ITERATIONS.name: result.iterations}
        if systems.removed_mean is not None:
            quality[REMOVED_MEAN.name] = systems.removed_mean.detach()
        failures = dict(zip(result.failed, result.reasons(), strict=True))
        outputs = {self.outputs[0].name: as_output(result.solutions)}
        return Produced(outputs, quality, result.seconds, failures, result.factors)

    def rejects(self, inputs: Fields, outputs: Fields) -> Tensor | None:
        """Say which samples are not to be kept, ``(sample,)`` boolean; ``None`` where the family keeps all.

        A rejected sample is drawn again, and the number of draws that were rejected is recorded with it.
        """
        return None

    def residual(self, inputs: "Fields | Tensor", outputs: Tensor) -> Tensor:
        """Return ``b - A u`` for outputs ``(sample, 1, *space)``, in the unit of ``b``, same shape.

        Complex solutions have two components, real and imaginary part, and so have their residuals. Differentiable in
        both arguments; vanishes for the discrete solution.
        """
        outputs = _check.real_tensor("outputs", outputs, FIELD)
        systems = self.systems(inputs)
        solutions = as_solution(outputs.to(torch.float64), is_complex=systems.dtype.is_complex)
        return as_output(systems.rhs - systems.operator.apply(solutions))

    def named(self, inputs: "Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray") -> Fields:
        """Return float64 fields by name from named fields or from the stacked view, tensors or arrays.

        Raises
        ------
        ValueError
            If a field is missing, or a shape does not fit the grid.
        TypeError
            If the values are not real numbers.
        """
        if isinstance(inputs, Mapping):
            missing = [name for name in self.input_names if name not in inputs]
            if missing:
                raise ValueError(
                    f"`inputs` must have the fields {', '.join(self.input_names)}. Missing: {', '.join(missing)}."
                )
            fields = {
                name: _check.real_tensor(f"inputs[{name!r}]", inputs[name], FIELD).to(torch.float64)
                for name in self.input_names
            }
        else:
            meaning = "an array or tensor (sample, channel, *space), or one per field by name"
            fields = self._unstacked(_check.real_tensor("inputs", inputs, meaning).to(torch.float64))
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


def as_output(solutions: Tensor) -> Tensor:
    """Return solutions ``(sample, *space)`` as a field ``(sample, component, *space)``: complex ones have two."""
    if solutions.is_complex():
        return torch.stack([solutions.real, solutions.imag], dim=1)
    return solutions.unsqueeze(1)


def as_solution(outputs: Tensor, *, is_complex: bool) -> Tensor:
    """Undo :func:`as_output`."""
    return torch.complex(outputs[:, 0], outputs[:, 1]) if is_complex else outputs.squeeze(1)


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


def zero_on_walls(input_fields: Sequence[FieldInfo], boundary: Boundary) -> bool:
    """Whether no input field lies on a Dirichlet face."""
    sides = {"low": 0, "high": 1}
    faces = [info.face.split("_") for info in input_fields if info.face is not None]
    return not any(boundary.kinds[AXIS_NAMES.index(axis)][sides[side]] == "dirichlet" for axis, side in faces)


def sample_generator(seed: int, index: int, attempt: int = 0) -> np.random.Generator:
    """Return the generator that sample ``index`` of a data set with this seed draws from.

    ``attempt`` counts the draws that were rejected before.
    """
    key = (index, attempt) if attempt else (index,)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
