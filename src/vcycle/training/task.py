"""What is trained on what: the arguments of a run checked against each other, before anything heavy is loaded."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vcycle import __version__, _check
from vcycle.boundary import Boundary, Kind
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.objectives.losses import Loss, data_loss
from vcycle.problems.problem import FieldInfo, zero_on_walls
from vcycle.training.augment import Augmentation
from vcycle.training.config import Run
from vcycle.training.normaliser import Normaliser
from vcycle.training.operator import TrainedOperator
from vcycle.training.storage import listed, one_line

if TYPE_CHECKING:
    from vcycle.data import Dataset

Pair = tuple[Tensor, Tensor]
"""Inputs and outputs ``(sample, channel, *space)``, physical, float32."""


@dataclass(frozen=True, eq=False)
class Task:
    """A network with its data, normalisers, symmetries and loss; build it with :meth:`of`."""

    network: nn.Module
    input_normaliser: Normaliser
    output_normaliser: Normaliser
    data: Pair
    validation: Pair | None
    augmentation: Augmentation
    loss: Loss
    run: Run
    grid: Grid
    boundary: Boundary
    input_fields: tuple[FieldInfo, ...]
    output_fields: tuple[FieldInfo, ...]
    description: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, train: "Dataset", *, validation: "Dataset | None", run: Run) -> "Task":
        """Check the arguments of :func:`vcycle.fit`, which says what is raised, and copy the model."""
        if run.config.early_stopping and validation is None:
            raise ValueError("`validation` must be given for `early_stopping`. Got None.")
        data = _tensors("train", train)
        _check_model(model, data)
        grid, boundary = train.grid, Boundary.on(train.grid, train.boundary)
        loss = run.loss
        if isinstance(loss, str):
            kinds, zero = walls(train)
            loss = data_loss(loss, grid=grid, boundary=kinds, zero_on_walls=zero)
        return cls(
            deepcopy(model),
            Normaliser.of(data[0], kind=run.config.input_normaliser),
            Normaliser.of(data[1], kind=run.config.output_normaliser),
            data=data,
            validation=None if validation is None else _tensors("validation", validation, like=data),
            augmentation=_augmentation(run, train, boundary),
            loss=loss,
            run=run,
            grid=grid,
            boundary=boundary,
            input_fields=tuple(train.input_fields),
            output_fields=tuple(train.output_fields),
            description=_describe(model, train, validation, run),
        )

    def operator(self, network: nn.Module, **measured: Any) -> TrainedOperator:
        """Return the operator of a trained network; ``measured`` are its ``metrics`` and ``history``."""
        return TrainedOperator(
            network.eval(),
            self.input_normaliser,
            self.output_normaliser,
            grid=self.grid,
            boundary=self.boundary,
            input_fields=self.input_fields,
            output_fields=self.output_fields,
            fingerprint=self.description["data"],
            training=self.description,
            **measured,
        )


def walls(dataset: "Dataset") -> tuple[Boundary, bool]:
    """Return what an H1 norm of the outputs knows of the walls: kinds, and whether targets vanish on Dirichlet ones.

    The problem says the latter; arrays of your own with Dirichlet walls are taken to vanish there. Where a window shows
    another field than the unknown as an output, nothing is known: walls count as Neumann ones, which add nothing.
    """
    boundary = Boundary.on(dataset.grid, dataset.boundary)
    unknowns = {info.name for info in dataset.schema.outputs}
    if any(info.name not in unknowns for info in dataset.output_fields):
        around: tuple[Kind, Kind] = ("periodic", "periodic")
        free: tuple[Kind, Kind] = ("neumann", "neumann")
        return Boundary(tuple(around if periodic else free for periodic in boundary.periodic)), True
    if dataset.problem is not None:
        return boundary, dataset.problem.zero_on_walls
    return boundary, zero_on_walls(dataset.schema.inputs, boundary)


def _tensors(name: str, dataset: "Dataset", like: Pair | None = None) -> Pair:
    """Return the data in memory, float32, checked."""
    pair = (dataset.inputs.to(torch.float32), dataset.outputs.to(torch.float32))
    if len(pair[0]) == 0:
        raise ValueError(f"`{name}` must have at least one sample. Got 0.")
    for kind, fields in zip(("inputs", "outputs"), pair, strict=True):
        wrong = (~torch.isfinite(fields)).flatten(1).any(1).nonzero().flatten().tolist()
        if wrong:
            raise DataError(f"The {kind} of `{name}` hold NaN or infinity (in float32) in row {listed(wrong)}.")
    if like is not None:
        for kind, fields, first in zip(("inputs", "outputs"), pair, like, strict=True):
            _check.shape(f"{name}.{kind}", fields.shape, (None, *first.shape[1:]), "that of the training data")
    return pair


def _check_model(model: nn.Module, data: Pair) -> None:
    """Raise unless the model maps one sample of the inputs to the shape of the outputs."""
    inputs, outputs = (fields[:1] for fields in data)
    for name, fields in (("in_channels", inputs), ("out_channels", outputs)):
        wanted = getattr(model, name, fields.shape[1])
        if wanted != fields.shape[1]:
            raise ValueError(f"`model` must have {name} = {fields.shape[1]}, as the data have. Got {wanted}.")
    trial = deepcopy(model).eval()
    try:
        with torch.no_grad():
            answer = trial(inputs)
    except (RuntimeError, ValueError) as error:
        shape = tuple(inputs.shape[1:])
        raise ValueError(
            f"`model` cannot take inputs of shape (batch, {', '.join(map(str, shape))}): {one_line(error)[:200]}."
        ) from error
    _check.shape("model(inputs)", answer.shape, tuple(outputs.shape), "that of the outputs")


def _augmentation(run: Run, train: "Dataset", boundary: Boundary) -> Augmentation:
    augment = run.config.augment
    names: Sequence[str] = ()
    if isinstance(augment, tuple):
        names = augment
    elif augment and train.problem is not None:
        names = train.problem.symmetries
    return Augmentation(
        names,
        grid=train.grid,
        boundary=boundary,
        input_fields=train.input_fields,
        output_fields=train.output_fields,
    )


def _describe(model: nn.Module, train: "Dataset", validation: "Dataset | None", run: Run) -> dict[str, Any]:
    """Return what a run is of: two runs with equal descriptions give equal operators."""
    config = getattr(model, "config", None)
    description = {
        "version": __version__,
        "model": {"name": type(model).__name__, "config": config() if callable(config) else None},
        "initial_weights": _checksum(model),
        "data": train.fingerprint(),
        "validation": None if validation is None else validation.fingerprint(),
        "arguments": run.to_dict(),
    }
    return json.loads(json.dumps(description))  # as it will be read back


def _checksum(model: nn.Module) -> float:
    """Return a number that tells initial weights apart."""
    total = 0.0
    for index, tensor in enumerate(model.state_dict().values()):
        total += (index + 1.0) * tensor.detach().double().abs().sum().item()
    return total
