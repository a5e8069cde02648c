"""What is trained on what: the arguments of a run checked against each other, before anything heavy is loaded."""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vcycle import __version__, _check
from vcycle.boundary import Boundary, Kind
from vcycle.errors import DataError
from vcycle.grid import Grid
from vcycle.objectives.losses import Loss, data_loss, measured
from vcycle.problems.problem import FieldInfo, count_channels, zero_on_walls
from vcycle.training.augment import Augmentation
from vcycle.training.config import Run, decisive, plain
from vcycle.training.networks import takes_factor
from vcycle.training.normaliser import Normaliser
from vcycle.training.operator import TrainedOperator
from vcycle.training.samples import Samples, Source, Transitions
from vcycle.training.storage import listed, one_line
from vcycle.training.strategies import Strategies, factors_of

if TYPE_CHECKING:
    from vcycle.data import Dataset


@dataclass(frozen=True, eq=False)
class Task:
    """A network with its data, normalisers, symmetries, strategies and loss; build it with :meth:`of`."""

    network: nn.Module
    input_normaliser: Normaliser
    output_normaliser: Normaliser
    parameter_normaliser: Normaliser | None
    data: Source
    validation: Source | None
    augmentation: Augmentation
    strategies: Strategies
    loss: Loss
    run: Run
    grid: Grid
    boundary: Boundary
    input_fields: tuple[FieldInfo, ...]
    output_fields: tuple[FieldInfo, ...]
    parameter_names: tuple[str, ...]
    description: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, train: "Dataset", *, validation: "Dataset | None", run: Run) -> "Task":
        """Check the arguments of :func:`vcycle.fit`, which says what is raised, and copy the model."""
        if run.config.early_stopping and validation is None:
            raise ValueError("`validation` must be given for `early_stopping`. Got None.")
        names = _parameter_names(model, train)
        data = _source("train", train, names)
        strategies = _strategies(model, train, run)
        _check_model(model, data, strategies)
        grid, boundary = train.grid, Boundary.on(train.grid, train.boundary)
        loss = run.loss
        if isinstance(loss, str):
            kinds, zero = walls(train)
            loss = data_loss(loss, grid=grid, boundary=kinds, zero_on_walls=zero)
        _check_loss(loss, data, strategies)
        inputs, outputs = data.distinct()
        return cls(
            deepcopy(model),
            Normaliser.of(inputs, kind=run.config.input_normaliser),
            Normaliser.of(outputs, kind=run.config.output_normaliser),
            None if data.parameters is None else Normaliser.of_parameters(data.parameters),
            data=data,
            validation=None if validation is None else _source("validation", validation, names, like=data),
            augmentation=_augmentation(run, train, boundary),
            strategies=strategies,
            loss=loss,
            run=run,
            grid=grid,
            boundary=boundary,
            input_fields=tuple(train.input_fields),
            output_fields=tuple(train.output_fields),
            parameter_names=names,
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
            parameter_names=self.parameter_names,
            parameter_normaliser=self.parameter_normaliser,
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


def _parameter_names(model: nn.Module, train: "Dataset") -> tuple[str, ...]:
    """Return the names of the scalars that the model takes: all of the data's or none."""
    config = getattr(model, "config", None)
    described = config() if callable(config) else {}
    wanted = getattr(model, "num_parameters", described.get("num_parameters", 0))
    names = train.parameter_names
    if wanted == 0:
        return ()
    if wanted != len(names):
        have = f"as many as the data have ({', '.join(names)}), or 0" if names else "as the data have no scalars"
        raise ValueError(f"`model` must have num_parameters = {len(names)}, {have}. Got {wanted}.")
    return names


def _source(name: str, dataset: "Dataset", names: Sequence[str], like: Source | None = None) -> Source:
    """Return the data in memory, float32, checked; ``names`` are the scalars that the model takes."""
    from vcycle.data.steps import Steps  # data need Zarr, which the rest of this module does not

    if len(dataset) == 0:
        raise ValueError(f"`{name}` must have at least one sample. Got 0.")
    parameters = None
    if names:
        if dataset.parameter_names != tuple(names) or dataset.parameters is None:
            given = ", ".join(dataset.parameter_names) or "none"
            raise ValueError(f"`{name}` must have the scalars {', '.join(names)}. Got {given}.")
        parameters = dataset.parameters.to(torch.float32)
        wrong = (~torch.isfinite(parameters)).any(1).nonzero().flatten().tolist()
        if wrong:
            raise DataError(f"The parameters of `{name}` hold NaN or infinity (in float32) in row {listed(wrong)}.")
    source: Source
    if isinstance(dataset, Steps):
        trajectories = dataset.read_trajectories(dtype=torch.float32)
        source = Transitions(trajectories, torch.from_numpy(dataset.pairs), parameters)
        parts = {"states": trajectories.states, "inputs": trajectories.constants}
    else:
        inputs, outputs = dataset.inputs.to(torch.float32), dataset.outputs.to(torch.float32)
        source, parts = Samples(inputs, outputs, parameters), {"inputs": inputs, "outputs": outputs}
    for kind, fields in parts.items():
        wrong = (~torch.isfinite(fields)).flatten(1).any(1).nonzero().flatten().tolist()
        if wrong:
            raise DataError(f"The {kind} of `{name}` hold NaN or infinity (in float32) in row {listed(wrong)}.")
    if like is not None:
        first = torch.zeros(1, dtype=torch.long)
        here, there = source.batch(first), like.batch(first)
        for kind, fields, trained in (
            ("inputs", here.inputs, there.inputs),
            ("outputs", here.outputs, there.outputs),
        ):
            shape = (len(source), *fields.shape[1:])
            _check.shape(f"{name}.{kind}", shape, (None, *trained.shape[1:]), "that of the training data")
    return source


def _strategies(model: nn.Module, train: "Dataset", run: Run) -> Strategies:
    """Return the run's strategies, which the data and the model must allow."""
    from vcycle.data.steps import Steps

    config = run.config
    factors = factors_of(config.sizes or (), train.grid)
    of_steps = isinstance(train, Steps)
    strategies = Strategies(
        noise=config.noise,
        pushforward=config.pushforward,
        rollout_steps=config.rollout_steps or (),
        epochs=run.epochs,
        num_states=count_channels(train.output_fields) if of_steps else None,
        grid=train.grid,
        factors=factors,
    )
    if strategies.most_steps > 1:
        if not isinstance(train, Steps) or train.has_lead_time:
            got = "lead times" if of_steps else "other data"
            raise ValueError(f"`rollout_steps` and `pushforward` need data.steps(stride) as training data. Got {got}.")
        most = (len(train.state_times) - 1) // train.stride
        if strategies.most_steps > most:
            raise ValueError(
                f"`rollout_steps`, and one step more with `pushforward`, must be at most the {most} steps of a "
                f"trajectory. Got {strategies.most_steps}."
            )
    native = getattr(model, "native_shape", None)
    elsewhere = native not in (None, train.grid.shape)
    for factor in factors:
        if factor != 1 and (elsewhere or not takes_factor(model, factor)):
            known = f" with native_shape={native}" if hasattr(model, "native_shape") else ""
            raise ValueError(
                f"`sizes` needs a model that is the same map on a grid {factor} times coarser: one with "
                f"resolution_free, or for powers of two MgNO with native_shape={train.grid.shape}. "
                f"Got {type(model).__name__}{known}."
            )
    kinds = (config.input_normaliser, config.output_normaliser)
    if factors and "pointwise" in kinds:
        raise ValueError("`sizes` needs normalisers that are not tied to a grid. Got 'pointwise'.")
    return strategies


def _check_model(model: nn.Module, data: Source, strategies: Strategies) -> None:
    """Raise unless the model maps one sample of the inputs to the shape of the outputs, on the smallest grid too."""
    sample = data.batch(torch.zeros(1, dtype=torch.long))
    for name, fields in (("in_channels", sample.inputs), ("out_channels", sample.outputs)):
        wanted = getattr(model, name, fields.shape[1])
        if wanted != fields.shape[1]:
            raise ValueError(f"`model` must have {name} = {fields.shape[1]}, as the data have. Got {wanted}.")
    trial = deepcopy(model).eval()
    smallest = replace(strategies, factors=(max(strategies.factors, default=1),)).coarsened(sample, 0.0)
    for batch in (sample, smallest) if strategies.factors else (sample,):
        given = (batch.inputs,) if batch.parameters is None else (batch.inputs, batch.parameters)
        try:
            with torch.no_grad():
                answer = trial(*given)
        except (RuntimeError, ValueError) as error:
            shape = ", ".join(map(str, batch.inputs.shape[1:]))
            raise ValueError(
                f"`model` cannot take inputs of shape (batch, {shape}): {one_line(error)[:200]}."
            ) from error
        _check.shape("model(inputs)", answer.shape, tuple(batch.outputs.shape), "that of the outputs")


def _check_loss(loss: Loss, data: Source, strategies: Strategies) -> None:
    """Raise unless the loss can be taken on every coarser grid that batches are shown on."""
    sample = data.batch(torch.zeros(1, dtype=torch.long))
    for factor in sorted(set(strategies.factors) - {1}):
        batch = replace(strategies, factors=(factor,)).coarsened(sample, 0.0)
        try:
            measured(strategies.on_grid_of(batch, loss), torch.zeros_like(batch.outputs), batch.outputs, batch.inputs)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"`sizes` needs a loss for every grid: 'h1', 'l2' or a dataclass whose `grid` is that of the data. Got "
                f"{plain(loss)}, which cannot be taken on {tuple(batch.outputs.shape[2:])}: {one_line(error)[:200]}."
            ) from error


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
        "arguments": decisive(run.to_dict()),
    }
    return json.loads(json.dumps(description))  # as it will be read back


def _checksum(model: nn.Module) -> str:
    """Return a hash, 32 hexadecimal digits, of initial weights and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (*model.parameters(), *model.buffers()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
