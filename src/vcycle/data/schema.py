"""What a dataset is about, apart from its numbers: fields, grid, boundary, and the call that made it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from vcycle import __version__, _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.problems.problem import ITERATIONS as ITERATIONS_INFO
from vcycle.problems.problem import REMOVED_MEAN as REMOVED_MEAN_INFO
from vcycle.problems.problem import RESIDUAL as RESIDUAL_INFO
from vcycle.problems.problem import FieldInfo, Problem, QualityInfo

FORMAT = 1
"""Version of the layout on disk; raised when older readers would misread it."""

STORED_DTYPES = ("float64", "float32")
ARRAY_DTYPES = (*STORED_DTYPES, "int64")


@dataclass(frozen=True)
class ArraySpec:
    """One array of a dataset; the first axis is the sample.

    Parameters
    ----------
    name
        ``input_<field>``, ``output_<field>``, ``parameter_<name>``, ``sample_id``, ``solver_*``, ``stored_residual``,
        ``timing_*``.
    shape
        Shape of one sample.
    dtype
        ``"float64"``, ``"float32"`` or ``"int64"``.
    dimensions
        Names of the axes after the sample's.
    unit
        ``"1"`` is dimensionless.
    about
        What the numbers are.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    dimensions: tuple[str, ...] = ()
    unit: str = "1"
    about: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes per sample."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def varies(self) -> bool:
        """Whether the values differ from run to run: times do, everything else is fixed by the call."""
        return self.name.startswith("timing_")


def quality_spec(info: QualityInfo) -> ArraySpec:
    """Return the array that holds one number of :attr:`Problem.quality`."""
    return ArraySpec(f"solver_{info.name}", dtype=info.dtype, unit=info.unit, about=info.about)


SAMPLE_ID = ArraySpec(
    "sample_id", dtype="int64", about="number of the sample: it draws from SeedSequence(seed, spawn_key=(sample_id,))"
)
RESIDUAL, ITERATIONS, REMOVED_MEAN = map(quality_spec, (RESIDUAL_INFO, ITERATIONS_INFO, REMOVED_MEAN_INFO))
REJECTED = ArraySpec(
    "solver_rejected",
    dtype="int64",
    about="draws rejected before this one: it draws from SeedSequence(seed, spawn_key=(sample_id, solver_rejected))",
)
STORED_RESIDUAL = ArraySpec("stored_residual", about="true relative residual of the outputs as stored, rounded")
TIMING_SOLVE = ArraySpec("timing_solve", unit="s", about="CPU time of the solve")
TIMING_SAMPLE = ArraySpec(
    "timing_sample", unit="s", about="CPU time of drawing and discretising, divided evenly in a chunk"
)
OF_THE_SOLVER = {
    TIMING_SOLVE.name: "seconds",
    TIMING_SAMPLE.name: "sampling_seconds",
    STORED_RESIDUAL.name: STORED_RESIDUAL.name,
}
"""Array on disk -> key in ``Dataset.solver``; ``solver_<name>`` has the key ``<name>``."""

TIME = "time"
"""Dimension and coordinate of the fields that have a time axis."""


def solver_key(name: str) -> str | None:
    """Return the key in ``Dataset.solver`` of an array on disk; ``None`` if it says nothing of the solver."""
    return name.removeprefix("solver_") if name.startswith("solver_") else OF_THE_SOLVER.get(name)


@dataclass(frozen=True)
class Schema:
    """Fields and origin of a dataset.

    Parameters
    ----------
    grid, boundary
        Where the values live, and what the unknown does at the outer faces.
    inputs, outputs
        The fields, in the order of the stacked views.
    parameters
        Names of the scalars ``parameter_<name>``.
    problem
        ``{"name": ..., **Problem.config()}``, or ``None`` where the problem is not known.
    seed
        Seed of the draws, where there were any.
    call
        What made the data: for generated ones the arguments that their bytes depend on.
    versions
        Versions of the packages that the bytes depend on.
    """

    grid: Grid
    boundary: Boundary
    inputs: tuple[FieldInfo, ...]
    outputs: tuple[FieldInfo, ...]
    parameters: tuple[str, ...] = ()
    problem: Mapping[str, Any] | None = None
    seed: int | None = None
    call: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes = {info.times for info in (*self.inputs, *self.outputs) if info.times is not None}
        if len(axes) > 1:
            raise ValueError(f"`times` must be the same for all fields of a dataset. Got {len(axes)} different ones.")

    @property
    def times(self) -> tuple[float, ...] | None:
        """Times of the fields that have a time axis, in the unit of time; ``None`` where none has."""
        return next((info.times for info in (*self.inputs, *self.outputs) if info.times is not None), None)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Coordinates of the grid's axes and, where there is one, of the time axis, by dimension."""
        space = dict(zip(self.grid.axis_names, self.grid.coordinates(), strict=True))
        return space if self.times is None else {TIME: np.array(self.times), **space}

    @classmethod
    def of(cls, problem: Problem, *, seed: int, call: Mapping[str, Any]) -> "Schema":
        """Return the schema of data drawn from a problem."""
        config = {"name": problem.name, **problem.config()}
        return cls(
            problem.grid, problem.boundary, problem.input_fields, problem.outputs, (), config, seed, call, versions()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description: the attributes of a store."""
        content = {
            "format": FORMAT,
            "problem": self.problem,
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "inputs": [_described(info) for info in self.inputs],
            "outputs": [_described(info) for info in self.outputs],
            "parameters": list(self.parameters),
            "seed": self.seed,
            "call": self.call,
            "versions": dict(self.versions),
        }
        return json.loads(json.dumps(content))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Schema":
        """Undo :meth:`to_dict`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the description is not one.
        """
        grid = Grid(**content["grid"])
        inputs, outputs = (_fields(key, content[key], grid) for key in ("inputs", "outputs"))
        _different("names of fields", [info.name for info in (*inputs, *outputs)])
        parameters = tuple(_check.word("parameters", name) for name in content["parameters"])
        _different("parameters", parameters)
        for key in ("problem", "call"):
            _check.instance(key, content[key], (Mapping, type(None)), "a mapping or null")
        if "rtol" in (content["call"] or {}):
            _check.positive("call.rtol", content["call"]["rtol"])
        if content["problem"] is not None:
            _check.word("problem.name", content["problem"]["name"].replace("-", "_"))
        _check.instance("versions", content["versions"], Mapping, "a mapping")
        return cls(
            grid,
            Boundary.of(content["boundary"], grid.num_axes),
            inputs,
            outputs,
            parameters,
            content["problem"],
            None if content["seed"] is None else _check.integer("seed", content["seed"], 0),
            content["call"],
            content["versions"],
        )

    def check_arrays(self, specs: Sequence[ArraySpec]) -> None:
        """Raise unless arrays are those of the fields, with their shapes, and those that every dataset has.

        Raises
        ------
        ValueError
            If one is missing, or its shape, type or dimensions are others.
        """
        given = {spec.name: spec for spec in specs}
        for spec in specs:
            _check.choice(f"{spec.name} data_type", spec.dtype, ARRAY_DTYPES)
        needed = (*self.field_specs(dtypes={name: spec.dtype for name, spec in given.items()}), SAMPLE_ID)
        for wanted in needed:
            got = given[wanted.name]
            if (got.shape, got.dtype, got.dimensions) != (wanted.shape, wanted.dtype, wanted.dimensions):
                raise ValueError(f"`{wanted.name}` must have shape {wanted.shape} per sample. Got {got.shape}.")
        for spec in specs:
            if solver_key(spec.name) is not None and spec.shape != ():
                raise ValueError(f"`{spec.name}` must have shape () per sample. Got {spec.shape}.")

    def field_specs(self, *, dtypes: Mapping[str, str]) -> tuple[ArraySpec, ...]:
        """Return the arrays of all fields and parameters; ``dtypes`` gives stored types by the arrays' names."""
        pairs = [("input", info) for info in self.inputs] + [("output", info) for info in self.outputs]
        specs = []
        for role, info in pairs:
            time = () if info.times is None else (TIME,)
            space = tuple(name for name in self.grid.axis_names if info.face is None or name != info.face[0])
            # one dimension name has one size in the whole store, or xarray refuses it
            component = "component" if info.components == 1 else f"component_{info.components}"
            name = f"{role}_{info.name}"
            about = f"{role} field" if info.face is None else f"{role} field on the face {info.face}"
            shape = info.sample_shape(self.grid)
            specs.append(ArraySpec(name, shape, dtypes[name], (*time, component, *space), info.unit, about))
        scalars = [f"parameter_{name}" for name in self.parameters]
        return (*specs, *(ArraySpec(name, dtype=dtypes[name], about="scalar parameter") for name in scalars))


def _described(info: FieldInfo) -> dict[str, Any]:
    """Return the JSON-ready description of a field; without a time axis, as readers from before there was one know."""
    content = asdict(info)
    if info.times is None:
        del content["times"]
    return content


def _fields(key: str, content: Sequence[Mapping[str, Any]], grid: Grid) -> tuple[FieldInfo, ...]:
    """Return the fields of one side, of which there must be some, from their descriptions."""
    fields = tuple(FieldInfo(**info) for info in content)
    if not fields:
        raise ValueError(f"`{key}` must have at least one field. Got none.")
    for info in fields:
        if info.face is not None:
            _check.choice(f"{key}.face", info.face[0], grid.axis_names)
    return fields


def _different(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"`{what}` must differ. Got {', '.join(names)}.")


def versions() -> dict[str, str]:
    """Return the versions of what the bytes of generated data depend on."""
    packages = ("numpy", "scipy", "numba", "torch", "zarr")
    return {"vcycle": __version__, **{name: metadata.version(name) for name in packages}}


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return one phrase per entry in which two descriptions differ, nested entries by their path."""
    flat_there, flat_asked = dict(_flat(there)), dict(_flat(asked))
    keys = [*flat_there, *(key for key in flat_asked if key not in flat_there)]
    absent = "nothing"
    pairs = [(key, flat_there.get(key, absent), flat_asked.get(key, absent)) for key in keys]
    return [f"{key}: {_short(old)} there, {_short(new)} asked" for key, old, new in pairs if old != new]


def _flat(content: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        parts = [_flat(value, f"{path}.{key}" if path else str(key)) for key, value in content.items()]
        return [pair for part in parts for pair in part]
    return [(path, content)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def channel_names(fields: Sequence[FieldInfo]) -> list[str]:
    """Return one name per channel of a stacked view: ``"solution"``, ``"velocity[1]"``, ``"solution[t=0.5]"``.

    Fields with a time axis have one channel per time and component, all components of a time side by side.
    """
    return [
        info.name + _which(None if info.components == 1 else component, time)
        for info in fields
        for time in info.times or (None,)
        for component in range(info.components)
    ]


def _which(component: int | None, time: float | None) -> str:
    parts = [] if component is None else [str(component)]
    parts += [] if time is None else [f"t={time:.6g}"]
    return f"[{', '.join(parts)}]" if parts else ""
