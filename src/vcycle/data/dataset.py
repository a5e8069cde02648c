"""The one kind of dataset: named fields per sample, in memory or on disk, and how well they were solved."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vcycle import _check, _progress
from vcycle.boundary import Boundary
from vcycle.data.arrays import own_arrays
from vcycle.data.schema import ArraySpec, Schema, solver_key
from vcycle.data.split import parts
from vcycle.data.store import Store
from vcycle.data.window import Window, channels
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.problems import PROBLEMS, from_config
from vcycle.problems.problem import FieldInfo, Problem

if TYPE_CHECKING:
    from vcycle.data.steps import Steps

ROWS_AT_A_TIME = 256


class Dataset:
    """Samples of input and output fields on one grid; immutable.

    Made by :func:`vcycle.generate`, :meth:`open` or :meth:`from_arrays`. Data on disk are read when they are asked for;
    :attr:`inputs` and :attr:`outputs` are kept once read, :meth:`read` is not.

    Parameters
    ----------
    schema
        Fields, grid, boundary and origin.
    arrays
        Per name ``(row, *shape)``, NumPy or Zarr.
    specs
        What each array is, in the order of the store.
    rows
        The rows that belong to the dataset, in its order; ``None`` is all.
    problem
        The problem object, where it is at hand.
    window
        The fields that :attr:`inputs` and :attr:`outputs` show.
    path
        The store, where there is one.
    """

    def __init__(
        self,
        schema: Schema,
        arrays: Mapping[str, Any],
        *,
        specs: Sequence[ArraySpec],
        rows: np.ndarray | None = None,
        problem: Problem | None = None,
        window: Window | None = None,
        path: Path | None = None,
    ) -> None:
        self.schema, self.specs, self.path = schema, tuple(specs), path
        self.window = window or Window()
        self._arrays, self._problem = dict(arrays), problem
        self._rows = np.arange(self._arrays["sample_id"].shape[0]) if rows is None else rows

    # ----------------------------------------------------------------------------------------------- making, keeping

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a complete store; nothing but its description is read.

        Raises
        ------
        DataError
            If there is no store at ``path``, or it is damaged or incomplete; the message says the remedy.
        """
        store = Store.open(Path(path))
        store.require_complete()
        return cls.of_store(store)

    @classmethod
    def of_store(cls, store: Store, *, problem: Problem | None = None) -> "Dataset":
        """Return the dataset of a store that is known to be complete."""
        arrays = {spec.name: store.array(spec.name) for spec in store.specs}
        return cls(store.schema, arrays, specs=store.specs, problem=problem, path=store.path)

    @classmethod
    def from_arrays(
        cls,
        inputs: "np.ndarray | Tensor",
        outputs: "np.ndarray | Tensor",
        *,
        grid: Grid | None = None,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        parameters: "Mapping[str, np.ndarray | Tensor] | None" = None,
        times: Sequence[float] | None = None,
    ) -> "Dataset":
        """Build a dataset from arrays of your own.

        Parameters
        ----------
        inputs, outputs
            ``(sample, channel, *space)``, real; with a ``grid`` the channel may be left out. float32 and float64 are
            kept, everything else becomes float64. Copied.
        grid
            Where the values live; default the cells of the unit box, as many as the arrays have. Arrays with 3 axes
            need it: ``(sample, channel, x)`` and ``(sample, x, y)`` look alike.
        boundary
            What the outputs do at the outer faces.
        input_names, output_names
            One name per channel; default one field, ``"input"`` or ``"output"``, of all channels.
        parameters
            Named scalars, ``(sample,)`` each; names are words of letters, digits and _.
        times
            Where the outputs have a time axis, ``(sample, time, channel, *space)``: its times, increasing.

        Raises
        ------
        ValueError
            If shapes, sizes or names do not fit, or arrays with 3 axes come without a grid.
        TypeError
            If the values are not real numbers, or an argument is of another kind.
        """
        schema, arrays, specs = own_arrays(
            inputs,
            outputs,
            grid=grid,
            boundary=boundary,
            names={"input": input_names, "output": output_names},
            parameters={} if parameters is None else parameters,
            times=times,
        )
        return cls(schema, arrays, specs=specs)

    def save(self, path: str | Path, *, chunk_size: int = ROWS_AT_A_TIME) -> "Dataset":
        """Write the dataset as a store and return it opened; the store appears whole or not at all.

        Parameters
        ----------
        path
            Must not exist yet.
        chunk_size
            Rows per chunk.

        Raises
        ------
        DataError
            If there is something at ``path``, there is no space, or it cannot be written.
        """
        path = Path(path)
        call = {"function": "save", "of": self.schema.call}
        schema = dataclasses.replace(self.schema, call=call)
        chunk_size = _check.integer("chunk_size", chunk_size, 1)
        with Store.growing(path, schema, specs=self.specs, num_samples=len(self), chunk_size=chunk_size) as store:
            for chunk in _progress.track(range(store.num_chunks), "write", unit="chunk"):
                store.write(chunk, {spec.name: self.array(spec.name, store.rows(chunk)) for spec in self.specs})
        return type(self).of_store(Store.open(path), problem=self._problem)

    # ------------------------------------------------------------------------------------------------------ choosing

    def subset(self, indices: "Sequence[int] | np.ndarray | Tensor | slice") -> "Dataset":
        """Return the samples at some positions, in that order; nothing is read.

        Raises
        ------
        ValueError
            If a position is out of range.
        TypeError
            If the positions are not integers.
        """
        if isinstance(indices, slice):
            return self._at(indices)
        positions = np.asarray(indices)
        if positions.size and positions.dtype.kind not in "iu":
            raise TypeError(f"`indices` must be integers. Got {positions.dtype}.")
        positions = positions.astype(np.int64).reshape(-1)
        wrong = positions[(positions < 0) | (positions >= len(self))]
        if len(wrong):
            raise ValueError(f"`indices` must be at least 0 and below {len(self)}. Got {wrong[0]}.")
        return self._at(positions)

    def split(self, test: int | float = 100, *, validation: int | float = 0, seed: int = 0) -> tuple["Dataset", ...]:
        """Divide the samples at random into disjoint sets.

        Which samples go where depends on their numbers, the sizes and ``seed`` only, not on the order of the rows.

        Parameters
        ----------
        test, validation
            Numbers of samples, or fractions between 0 and 1; a validation of 0 is left out of the answer.
        seed
            Of the permutation.

        Returns
        -------
        tuple of Dataset
            ``(train, test)`` or ``(train, validation, test)``; rows keep their order.

        Raises
        ------
        ValueError
            If a size is not usable, or nothing is left for training.
        """
        positions = parts(self.sample_id.numpy(), test=test, validation=validation, seed=seed)
        return tuple(self.subset(part) for part in positions)

    def windowed(self, window: Window) -> "Dataset":
        """Return the dataset with other fields, or other times of them, as inputs and outputs.

        Raises
        ------
        ValueError
            If a name is none of the fields', or a time none of those stored.
        """
        window.fields(self.schema)
        return self._with(window=window)

    def steps(
        self,
        stride: int = 1,
        *,
        lead_times: Sequence[float] | None = None,
        all_to_all: bool = False,
        initial: Sequence[str] | None = None,
    ) -> "Steps":
        """Return one row per trajectory and step, ``u(t_k) -> u(t_(k + stride))``, of outputs with a time axis.

        The initial state at time 0 belongs to the states. The input fields that are no initial state stay inputs, the
        same at every step.

        Parameters
        ----------
        stride
            Snapshots per step; the times must be equally spaced.
        lead_times
            Instead, every pair of states that is one of these times apart, and how far as the scalar ``lead_time``.
        all_to_all
            Instead, every pair of an earlier and a later state, and the time between as the scalar ``lead_time``
            (Herde et al., "Poseidon", NeurIPS 2024, less the pairs of a state with itself).
        initial
            Names of the inputs that are the outputs at time 0, in their order; default ``"initial"``, or else the first
            inputs. ``()`` where none is. Where the outputs' times begin at 0 it is not used.

        Returns
        -------
        Steps
            A dataset of pairs; :meth:`split` divides its trajectories.

        Raises
        ------
        ValueError
            If an output has no times, ``initial`` does not fit, or there are no such steps.
        """
        from vcycle.data.steps import Steps  # which is a dataset

        return Steps.of(self, stride=stride, lead_times=lead_times, all_to_all=all_to_all, initial=initial)

    def _at(self, positions: "np.ndarray | slice") -> "Dataset":
        """Return the rows at positions that are known to be there."""
        return self._with(rows=self._rows[positions])

    def _with(self, *, rows: np.ndarray | None = None, window: Window | None = None) -> "Dataset":
        return type(self)(
            self.schema,
            self._arrays,
            specs=self.specs,
            rows=self._rows if rows is None else rows,
            problem=self._problem,
            window=window or self.window,
            path=self.path,
        )

    # ------------------------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        return len(self._rows)

    def array(self, name: str, rows: "slice | np.ndarray | None" = None) -> np.ndarray:
        """Return stored values of one array by its name on disk, ``(row, *shape)``, of the stored type.

        Raises
        ------
        ValueError
            If there is no such array.
        """
        _check.choice("name", name, self._arrays)
        source, wanted = self._arrays[name], self._rows if rows is None else self._rows[rows]
        if isinstance(source, np.ndarray):
            return source[wanted]
        if len(wanted) == 0:
            return np.empty((0, *source.shape[1:]), source.dtype)
        first, last = int(wanted[0]), int(wanted[-1])
        if last - first + 1 == len(wanted) and bool(np.all(np.diff(wanted) == 1)):
            return np.asarray(source[first : last + 1])
        return np.asarray(source.oindex[wanted])

    def field(self, name: str, rows: "slice | np.ndarray | None" = None) -> Tensor:
        """Return one field, float64, ``(sample, component, *space)``; a field on a face without the face's axis.

        A field with a time axis is ``(sample, time, component, *space)``.

        Raises
        ------
        ValueError
            If there is no such field.
        """
        return torch.from_numpy(self.stored(name, rows).astype(np.float64))

    def stored(self, name: str, rows: "slice | np.ndarray | None" = None) -> np.ndarray:
        """Return one field as :meth:`field` does, but of the stored type.

        Raises
        ------
        ValueError
            If there is no such field.
        """
        return self.array(f"{self._find(name)[0]}_{name}", rows)

    def read(self, rows: "slice | np.ndarray | None" = None) -> tuple[Tensor, Tensor]:
        """Return the stacked inputs and outputs of some positions, float64, without keeping them."""
        return self._stacked(self.input_fields, rows), self._stacked(self.output_fields, rows)

    @functools.cached_property
    def inputs(self) -> Tensor:
        """Input fields ``(sample, channel, *space)``, float64; values on a face are repeated along its normal."""
        return self._stacked(self.input_fields)

    @functools.cached_property
    def outputs(self) -> Tensor:
        """Output fields ``(sample, channel, *space)``, float64; the times of a field are channels side by side."""
        return self._stacked(self.output_fields)

    def _stacked(self, fields: Sequence[FieldInfo], rows: "slice | np.ndarray | None" = None) -> Tensor:
        shown = [channels(info, self._find(info.name)[1], self.grid, self.field(info.name, rows)) for info in fields]
        return torch.cat(shown, dim=1)

    def _find(self, name: str) -> tuple[str, FieldInfo]:
        known = {info.name: ("input", info) for info in self.schema.inputs} | {
            info.name: ("output", info) for info in self.schema.outputs
        }
        return known[_check.choice("name", name, known)]

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The fields that :attr:`inputs` stacks."""
        return self.window.fields(self.schema)[0]

    @property
    def output_fields(self) -> tuple[FieldInfo, ...]:
        """The fields that :attr:`outputs` stacks."""
        return self.window.fields(self.schema)[1]

    @property
    def grid(self) -> Grid:
        """Where the values live."""
        return self.schema.grid

    @property
    def times(self) -> tuple[float, ...] | None:
        """Times of the fields that have a time axis, in the unit of time; ``None`` where none has."""
        return self.schema.times

    @property
    def boundary(self) -> Boundary:
        """What the unknown does at the outer faces."""
        return self.schema.boundary

    @functools.cached_property
    def problem(self) -> Problem | None:
        """The problem whose samples these are; ``None`` if it is not known, or not to this version.

        Raises
        ------
        DataError
            If its description does not build a problem with these fields.
        """
        config = self.schema.problem
        if self._problem is not None or config is None or config["name"] not in PROBLEMS:
            return self._problem
        try:
            problem = from_config(config)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path} has a problem that cannot be built: {error} Make the data again.") from error
        there = (self.schema.grid, self.schema.boundary, self.schema.inputs, self.schema.outputs)
        if there != (problem.grid, problem.boundary, problem.input_fields, problem.outputs):
            raise DataError(f"{self.path} has a problem whose grid, walls or fields are others. Make the data again.")
        return problem

    @property
    def sample_id(self) -> Tensor:
        """Numbers of the samples, ``(sample,)``, int64; rows may be stored in another order."""
        return torch.from_numpy(self.array("sample_id"))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the scalars that come with each sample."""
        return self.schema.parameters

    @property
    def parameters(self) -> Tensor | None:
        """Scalars ``(sample, parameter)``, float64; ``None`` where there are none."""
        if not self.parameter_names:
            return None
        columns = [self.array(f"parameter_{name}").astype(np.float64) for name in self.parameter_names]
        return torch.from_numpy(np.stack(columns, axis=1))

    @property
    def solver(self) -> dict[str, Tensor]:
        """What the solver said, per sample ``(sample,)``; empty where the data were not solved here.

        ``seconds`` of the solve and ``sampling_seconds`` of drawing and discretising, both CPU time; what the problem
        says of its :attr:`~vcycle.problems.problem.Problem.quality`: for linear ones ``residual`` (true, relative, of
        the float64 solution), ``iterations`` and, where a mean was subtracted from the source to make a singular
        problem solvable, ``removed_mean``; for outputs stored in float32 ``stored_residual``, that of what is stored;
        where draws can be rejected, how many were, ``rejected``.
        """
        keys = {spec.name: solver_key(spec.name) for spec in self.specs}
        return {key: torch.from_numpy(self.array(name)) for name, key in keys.items() if key is not None}

    def fingerprint(self) -> str:
        """Return a hash, 32 hexadecimal digits, of grid, boundary, and all fields in order; not of timings.

        Equal for a dataset in memory and on disk.
        """
        content = self.schema.to_dict()
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr([content[key] for key in ("grid", "boundary", "inputs", "outputs", "parameters")]).encode())
        for spec in self.specs:
            if not spec.name.startswith(("input_", "output_", "parameter_")):
                continue
            digest.update(f"{spec.name} {spec.dtype} {spec.shape} {len(self)}".encode())
            for start in range(0, len(self), ROWS_AT_A_TIME):
                digest.update(np.ascontiguousarray(self.array(spec.name, slice(start, start + ROWS_AT_A_TIME))).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        schema, size = self.schema, " x ".join(map(str, self.grid.shape))
        what = f" of {schema.problem['name']}" if schema.problem else ""
        points = "cells" if self.grid.centring == "cell" else "vertices"
        lines = [f"Dataset: {len(self)} samples{what} on {size} {points}, {self.boundary}"]
        lines += [
            f"  {role:<8} {_described(fields)}"
            for role, fields in (("inputs", self.input_fields), ("outputs", self.output_fields))
        ]
        if self.parameter_names:
            lines.append(f"  scalars  {', '.join(self.parameter_names)}")
        if "residual" in self.solver and len(self):
            lines.append(f"  residual at most {self.solver['residual'].max():.1e}")
        return "\n".join([*lines, f"  in {self.path or 'memory'}"])


def _described(fields: Sequence[FieldInfo]) -> str:
    return ", ".join(
        info.name
        + (f" x {info.components}" if info.components > 1 else "")
        + (f" [{info.unit}]" if info.unit != "1" else "")
        + (f" at {len(info.times)} times" if info.times else "")
        for info in fields
    )
