"""What training gives: a network with everything that is needed to use it in physical units, and its folder on disk."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcycle import __version__, _check, models
from vcycle.boundary import Boundary
from vcycle.errors import CheckpointError
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo
from vcycle.training.normaliser import Normaliser
from vcycle.training.storage import fill, is_operator, listed, one_line, read_folder, write_folder

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

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return sum(info.num_channels for info in self.input_fields)

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return sum(info.num_channels for info in self.output_fields)

    def predict(self, inputs: Any, *, batch_size: int = 64) -> Tensor:
        """Return the operator's outputs.

        Parameters
        ----------
        inputs
            Array or tensor ``(sample, channel, *space)`` in physical units. Another size than that of the training
            grid is taken if the network takes it and the normalisers are not pointwise.
        batch_size
            Samples per pass through the network.

        Returns
        -------
        Tensor
            ``(sample, channel, *space)`` in physical units, on the CPU, in the precision of the weights.

        Raises
        ------
        ValueError
            If the shape does not fit, the network cannot take the size, or a value is not finite in the precision of
            the weights, be it of the inputs or of the outputs.
        TypeError
            If the inputs are not real numbers.
        """
        _check.integer("batch_size", batch_size, 1)
        weight = next(self.network.parameters(), self.output_normaliser.mean)
        tensor = _check.real_tensor("inputs", inputs, "an array or tensor, such as dataset.inputs").to(weight.dtype)
        self._check_inputs(tensor)
        parts = []
        was_training = self.network.training
        self.network.eval()
        with torch.no_grad():
            for part in tensor.split(batch_size):
                parts.append(self._forward(part.to(weight.device)).cpu())
        self.network.train(was_training)
        if not parts:
            return torch.empty(0, self.out_channels, *tensor.shape[2:], dtype=weight.dtype)
        outputs = torch.cat(parts)
        wrong = _not_finite(outputs)
        if wrong:
            raise ValueError(
                f"`inputs` must keep the network's output finite. It overflowed in sample {listed(wrong)}."
            )
        return outputs

    def _forward(self, inputs: Tensor) -> Tensor:
        return self.output_normaliser.denormalise(self.network(self.input_normaliser.normalise(inputs)))

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
            If the path exists and is no operator's folder, or the network is not one of ``MODELS``.
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
            raise CheckpointError(f"{folder} does not describe an operator: {one_line(error)}.") from error
        fill(operator._parts(), tensors, folder)
        operator.network.eval()
        return operator

    def _parts(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "network": self.network,
                "input_normaliser": self.input_normaliser,
                "output_normaliser": self.output_normaliser,
            }
        )

    def _describe(self) -> dict[str, Any]:
        name = next((name for name, model in models.MODELS.items() if type(self.network) is model), None)
        if name is None:
            raise ValueError(
                f"`network` must be one of vcycle.models.MODELS to be saved. Got {type(self.network).__name__}."
            )
        return {
            "format": FORMAT,
            "version": __version__,
            "model": {"name": name, "config": self.network.config()},  # type: ignore[operator]
            "normalisers": {
                "input": list(self.input_normaliser.mean.shape),
                "output": list(self.output_normaliser.mean.shape),
            },
            "grid": self.grid.to_dict(),
            "boundary": self.boundary.to_list(),
            "input_fields": [asdict(info) for info in self.input_fields],
            "output_fields": [asdict(info) for info in self.output_fields],
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
        name = _check.choice("model", description["model"]["name"], models.MODELS)
        grid = Grid(**description["grid"])
        # building draws initial weights, which are then overwritten: the caller's random state must not notice
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            network = models.MODELS[name](**description["model"]["config"])
        shapes = description["normalisers"]
        return cls(
            network,
            _unfilled(shapes["input"]),
            _unfilled(shapes["output"]),
            grid=grid,
            boundary=Boundary.of(description["boundary"], grid.num_axes),
            input_fields=tuple(FieldInfo(**info) for info in description["input_fields"]),
            output_fields=tuple(FieldInfo(**info) for info in description["output_fields"]),
            fingerprint=description["data"],
            training=description["training"],
            metrics=description["metrics"],
            history=description["history"],
        )


def _unfilled(shape: Sequence[int]) -> Normaliser:
    sizes = tuple(_check.integer("normalisers", size, 1) for size in shape)
    return Normaliser(torch.zeros(sizes), torch.ones(sizes))


def _not_finite(fields: Tensor) -> list[int]:
    """Return the samples that hold NaN or infinity."""
    return (~torch.isfinite(fields)).flatten(1).any(1).nonzero().flatten().tolist()


def load(path: str | Path) -> TrainedOperator:
    """Read a saved operator; see :meth:`TrainedOperator.load`."""
    return TrainedOperator.load(path)


def predict(operator: "TrainedOperator | str | Path", inputs: Any, *, batch_size: int = 64) -> Tensor:
    """Return the outputs of an operator, or of one saved at a path; see :meth:`TrainedOperator.predict`."""
    return as_operator(operator).predict(inputs, batch_size=batch_size)


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
