"""What training gives: a network with everything that is needed to use it in physical units, and its folder on disk."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vcycle import __version__, _check, _progress
from vcycle.boundary import Boundary
from vcycle.errors import CheckpointError
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo, count_channels
from vcycle.training.networks import describe, rebuilt, unfilled
from vcycle.training.normaliser import Normaliser
from vcycle.training.rollout import Step, first_overflow, unroll_finite
from vcycle.training.storage import fill, is_operator, listed, one_line, read_folder, write_folder

if TYPE_CHECKING:
    from vcycle.data import Dataset

FORMAT = 1


@dataclass(frozen=True, eq=False)
class TrainedOperator:
    """A solution operator in physical units.

    Parameters
    ----------
    network
        Maps normalised inputs to normalised outputs, ``(batch, channel, *space)``; an entry of
        ``vcycle.models.MODELS`` if the operator is to be saved.
    input_normaliser, output_normaliser
        Between physical units and the network's.
    grid, boundary
        Of the training data.
    input_fields, output_fields
        Names, units and components of the channels.
    fingerprint
        Hash of the training data.
    training
        What the training run was of: version, model, data, arguments.
    metrics
        What training measured: the last losses, ``epochs``, and over all resumptions ``seconds`` by the clock on the
        wall and ``cpu_seconds`` of the process.
    history
        One entry per epoch: ``epoch`` (from 1), ``loss``, ``learning_rate``, ``validation_loss`` if there is one.
    parameter_names
        Names of the scalars per sample that the network takes besides the fields.
    parameter_normaliser
        Between their units and the network's, buffers ``(parameter,)``; ``None`` where there are none.
    """

    network: nn.Module
    input_normaliser: Normaliser
    output_normaliser: Normaliser
    grid: Grid
    boundary: Boundary
    input_fields: tuple[FieldInfo, ...]
    output_fields: tuple[FieldInfo, ...]
    fingerprint: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    parameter_names: tuple[str, ...] = ()
    parameter_normaliser: Normaliser | None = None

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return count_channels(self.input_fields)

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return count_channels(self.output_fields)

    def predict(self, inputs: Any, parameters: Any = None, *, batch_size: int = 64) -> Tensor:
        """Return the operator's outputs.

        Parameters
        ----------
        inputs
            Array or tensor ``(sample, channel, *space)`` in physical units. Another size than that of the training
            grid is taken if the network takes it and the normalisers are not pointwise.
        parameters
            ``(sample, parameter)`` in physical units, in the order of :attr:`parameter_names`, as :meth:`parameters_of`
            finds them in a dataset; ``None`` where the operator takes none.
        batch_size
            Samples per pass through the network.

        Returns
        -------
        Tensor
            ``(sample, channel, *space)`` in physical units, on the CPU, in the precision of the weights.

        Raises
        ------
        ValueError
            If a shape does not fit, the network cannot take the size, or a value is not finite in the precision of
            the weights, be it of the inputs or of the outputs.
        TypeError
            If the inputs are not real numbers.
        """
        _check.integer("batch_size", batch_size, 1)
        fields, scalars = self._given(inputs, parameters)
        outputs = self._in_batches(lambda step, part: step(part), fields, scalars, batch_size)
        wrong = _not_finite(outputs)
        if wrong:
            raise ValueError(
                f"`inputs` must keep the network's output finite. It overflowed in sample {listed(wrong)}."
            )
        return outputs

    def rollout(
        self,
        initial: Any,
        steps: int,
        parameters: Any = None,
        inputs: Any = None,
        *,
        batch_size: int = 64,
        allow_overflow: bool = False,
    ) -> Tensor:
        """Apply the operator to its own predictions, for operators trained on :meth:`vcycle.Dataset.steps`.

        Parameters
        ----------
        initial
            The state to begin with, ``(sample, channel, *space)``, as many channels as outputs, physical units.
        steps
            Number of applications.
        parameters
            As for :meth:`predict`; the same at every step. A lead time is that of one step.
        inputs
            The inputs behind the state, the same at every step, ``(sample, channel, *space)``; ``None`` for none.
        batch_size
            Samples per pass through the network.
        allow_overflow
            Return infinity from the step on at which a sample overflows, instead of raising.

        Returns
        -------
        Tensor
            ``(sample, step, channel, *space)`` in physical units, on the CPU; the initial state is not among them.

        Raises
        ------
        ValueError
            If a shape does not fit, a given value is not finite, or a sample overflows.
        TypeError
            If the values are not real numbers.
        """
        _check.integer("steps", steps, 1)
        _check.integer("batch_size", batch_size, 1)
        free = (None,) * self.grid.num_axes
        state = _check.real_tensor("initial", initial, "an array or tensor")
        _check.shape("initial", state.shape, (None, self.out_channels, *free), "(sample, channel, *space) of outputs")
        behind = self.in_channels - self.out_channels
        constants = state[:, :0] if inputs is None else _check.real_tensor("inputs", inputs, "an array or tensor")
        shape = (len(state), behind, *state.shape[2:])
        _check.shape("inputs", constants.shape, shape, f"the {behind} input channels behind the state")
        fields, scalars = self._given(torch.cat([state, constants.to(state.dtype)], dim=1), parameters)
        states = self._in_batches(lambda step, part: unroll_finite(step, part, steps), fields, scalars, batch_size)
        states = states.reshape(len(state), steps, self.out_channels, *state.shape[2:])
        overflow = first_overflow(states)
        if overflow is not None and not allow_overflow:
            sample, step = overflow
            raise ValueError(f"`steps` must keep the states finite. Sample {sample} overflowed in step {step}.")
        return states

    def parameters_of(self, dataset: "Dataset") -> Tensor | None:
        """Return the scalars of a dataset that the network takes, ``(sample, parameter)``; ``None`` if it takes none.

        Raises
        ------
        ValueError
            If the dataset lacks one.
        """
        return self.select_parameters(dataset.parameter_names, dataset.parameters)

    def select_parameters(self, names: Sequence[str], values: Tensor | None) -> Tensor | None:
        """Return the columns that the network takes of ``values``, ``(sample, parameter)`` of these names.

        Raises
        ------
        ValueError
            If one is missing.
        """
        if not self.parameter_names:
            return None
        missing = [name for name in self.parameter_names if name not in names]
        if missing or values is None:
            wanted = ", ".join(self.parameter_names)
            given = ", ".join(names) or "none"
            raise ValueError(f"`dataset` must have the scalars that the operator takes: {wanted}. Got {given}.")
        return values[:, [list(names).index(name) for name in self.parameter_names]]

    def _given(self, inputs: Any, parameters: Any) -> tuple[Tensor, Tensor | None]:
        """Return checked fields and scalars in the precision of the weights."""
        weight = self._weight
        tensor = _check.real_tensor("inputs", inputs, "an array or tensor, such as dataset.inputs").to(weight.dtype)
        self._check_inputs(tensor)
        names = ", ".join(self.parameter_names)
        if self.parameter_normaliser is None:
            if parameters is not None:
                raise ValueError("`parameters` must be None: this operator takes no scalars. Got some.")
            return tensor, None
        if parameters is None:
            raise ValueError(f"`parameters` must be given, (sample, parameter) with {names}. Got None.")
        scalars = _check.real_tensor("parameters", parameters, "an array or tensor").to(weight.dtype)
        expected = (len(tensor), len(self.parameter_names))
        _check.shape("parameters", scalars.shape, expected, f"(sample, parameter) with {names}")
        wrong = _not_finite(scalars)
        if wrong:
            raise ValueError(f"`parameters` must be finite. Got NaN or infinity in sample {listed(wrong)}.")
        return tensor, scalars

    @property
    def _weight(self) -> Tensor:
        return next(self.network.parameters(), self.output_normaliser.mean)

    def _in_batches(
        self, run: "Callable[[Step, Tensor], Tensor]", fields: Tensor, scalars: Tensor | None, batch_size: int
    ) -> Tensor:
        """Return what ``run`` makes of the network and parts of the samples, together, on the CPU."""
        weight, was_training = self._weight, self.network.training
        if len(fields) == 0:
            return torch.empty(0, self.out_channels, *fields.shape[2:], dtype=weight.dtype)
        parts = []
        self.network.eval()
        with torch.no_grad():
            for start in _progress.track(range(0, len(fields), batch_size), "predict", unit="batch"):
                rows = slice(start, start + batch_size)
                some = None if scalars is None else scalars[rows].to(weight.device)
                step = partial(self._forward, parameters=some)
                parts.append(run(step, fields[rows].to(weight.device)).cpu())
        self.network.train(was_training)
        return torch.cat(parts)

    def _forward(self, inputs: Tensor, parameters: Tensor | None = None) -> Tensor:
        given: tuple[Tensor, ...] = (self.input_normaliser.normalise(inputs),)
        if self.parameter_normaliser is not None and parameters is not None:
            given = (*given, self.parameter_normaliser.normalise(parameters))
        return self.output_normaliser.denormalise(self.network(*given))

    def _check_inputs(self, inputs: Tensor) -> None:
        free = (None,) * self.grid.num_axes
        names = ", ".join(info.name for info in self.input_fields)
        meaning = f"(sample, channel, *space) with the channels {names}"
        _check.shape("inputs", inputs.shape, (None, self.in_channels, *free), meaning)
        for normaliser in (self.input_normaliser, self.output_normaliser):
            if math.prod(normaliser.mean.shape[1:]) > 1:
                wanted = (None, self.in_channels, *normaliser.mean.shape[1:])
                _check.shape(
                    "inputs", inputs.shape, wanted, f"{meaning}; pointwise normalisers tie the operator to its grid"
                )
        wrong = _not_finite(inputs)
        if wrong:
            precision = str(inputs.dtype).removeprefix("torch.")
            raise ValueError(f"`inputs` must be finite in {precision}. Got NaN or infinity in sample {listed(wrong)}.")

    def save(self, path: str | Path) -> Path:
        """Write the operator to one folder, which appears whole or not at all.

        Parameters
        ----------
        path
            The folder. It may hold an operator, which is replaced; anything else there is refused.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ValueError
            If the path exists and is no operator's folder, or the network is not one of ``MODELS``, or a sum of such.
        """
        path = Path(path)
        write_folder(path, self._describe(), self._parts().state_dict())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "TrainedOperator":
        """Read an operator's folder, or that of a run that has finished. Nothing is unpickled, no code is run.

        Raises
        ------
        CheckpointError
            If the folder is missing, incomplete, corrupt, of a model that is unknown here, or its weights do not fit.
        """
        folder = Path(path)
        if not is_operator(folder) and is_operator(folder / "operator"):
            folder = folder / "operator"
        description, tensors = read_folder(folder)
        try:
            operator = cls._rebuilt(description)
        except (KeyError, TypeError, ValueError) as error:
            remedy = "Read it with the version of vcycle that wrote it, or train again."
            raise CheckpointError(f"{folder} does not describe an operator: {one_line(error)}. {remedy}") from error
        fill(operator._parts(), tensors, folder)
        operator.network.eval()
        return operator

    def _parts(self) -> nn.ModuleDict:
        parts = {
            "network": self.network,
            "input_normaliser": self.input_normaliser,
            "output_normaliser": self.output_normaliser,
        }
        if self.parameter_normaliser is not None:
            parts["parameter_normaliser"] = self.parameter_normaliser
        return nn.ModuleDict(parts)

    def _describe(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": __version__,
            "model": describe(self.network),
            "normalisers": {
                "input": list(self.input_normaliser.mean.shape),
                "output": list(self.output_normaliser.mean.shape),
            },
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "input_fields": [asdict(info) for info in self.input_fields],
            "output_fields": [asdict(info) for info in self.output_fields],
            "parameters": list(self.parameter_names),
            "data": self.fingerprint,
            "training": self.training,
            "metrics": self.metrics,
            "history": self.history,
        }

    @classmethod
    def _rebuilt(cls, description: dict[str, Any]) -> "TrainedOperator":
        """Build the operator of a description, its weights yet to be filled in."""
        if description["format"] != FORMAT:
            raise ValueError(
                f"format {description['format']} is not {FORMAT}, it was written by vcycle {description['version']}"
            )
        grid = Grid(**description["grid"])
        shapes = description["normalisers"]
        names = tuple(description.get("parameters", ()))  # which operators of before there were any do not have
        return cls(
            rebuilt(description["model"]),
            unfilled(shapes["input"]),
            unfilled(shapes["output"]),
            grid=grid,
            boundary=Boundary.of(description["boundary"], grid.num_axes),
            input_fields=tuple(FieldInfo(**info) for info in description["input_fields"]),
            output_fields=tuple(FieldInfo(**info) for info in description["output_fields"]),
            fingerprint=description["data"],
            training=description["training"],
            metrics=description["metrics"],
            history=description["history"],
            parameter_names=names,
            parameter_normaliser=unfilled([len(names)]) if names else None,
        )


def _not_finite(fields: Tensor) -> list[int]:
    """Return the samples that hold NaN or infinity."""
    return (~torch.isfinite(fields)).flatten(1).any(1).nonzero().flatten().tolist()


def load(path: str | Path) -> TrainedOperator:
    """Read a saved operator; see :meth:`TrainedOperator.load`."""
    return TrainedOperator.load(path)


def predict(
    operator: "TrainedOperator | str | Path", inputs: Any, parameters: Any = None, *, batch_size: int = 64
) -> Tensor:
    """Return the outputs of an operator, or of one saved at a path; see :meth:`TrainedOperator.predict`."""
    return as_operator(operator).predict(inputs, parameters, batch_size=batch_size)


def as_operator(operator: "TrainedOperator | str | Path") -> TrainedOperator:
    """Return an operator as it is, or read it from its path.

    Raises
    ------
    TypeError
        If it is neither.
    CheckpointError
        If it cannot be read.
    """
    _check.instance("operator", operator, (TrainedOperator, str, Path), "a TrainedOperator or the path of one")
    return operator if isinstance(operator, TrainedOperator) else TrainedOperator.load(operator)
