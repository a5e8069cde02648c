"""Boosting: networks that learn in turn what those before them left over."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vcycle import _check
from vcycle.objectives.losses import data_loss
from vcycle.problems.problem import count_channels
from vcycle.training.config import FitConfig
from vcycle.training.fit import fit
from vcycle.training.networks import BoostedNetwork
from vcycle.training.operator import TrainedOperator
from vcycle.training.resume import OPERATOR, num_stages, require_same
from vcycle.training.storage import is_operator
from vcycle.training.task import walls

if TYPE_CHECKING:
    from vcycle.data import Dataset

STAGE = "stage-{}"
"""Folder of a stage's training."""

ModelFactory = Callable[[int, int], nn.Module]
"""Makes a network from its numbers of input and output channels."""


def boost(
    model_factory: ModelFactory,
    train: "Dataset",
    *,
    epochs: int,
    stages: int = 2,
    feed: bool = True,
    validation: "Dataset | None" = None,
    seed: int = 0,
    config: "FitConfig | dict[str, Any] | None" = None,
    out: str | Path | None = None,
    **fit_arguments: Any,
) -> TrainedOperator:
    """Train networks one after the other, each on the residual that those before it leave on the training data.

    A network learns the large scales first and small ones hardly at all; a second one for which the small ones are all
    there is, at unit size, learns them. Memory is that of one network at a time.

    Parameters
    ----------
    model_factory
        Called as ``model_factory(in_channels, out_channels)`` once for each stage, after PyTorch's generator was seeded
        by stage.
    train
        Training data. Later stages are trained on arrays made of it, which know no problem and so no symmetries, unless
        ``config`` names them.
    epochs
        Number of passes over the data in each stage.
    stages
        Number of networks.
    feed
        Let later stages see the prediction so far, in channels after the input. The paper does not say.
    validation
        Data to watch, see :func:`vcycle.fit`; later stages watch its residuals.
    seed
        Of the first weights and of training; stage ``k`` trains with ``seed + k``.
    config
        As for :func:`vcycle.fit`. Residuals are divided by their root mean square, whatever it says: at unit size they
        can be learned, and a network that is zero must leave the prediction as it is.
    out
        Folder for the operator, with a folder ``stage-0``, ``stage-1``... of every stage's training.
    **fit_arguments
        ``loss``, ``batch_size``, ``learning_rate``, ``resume`` and ``progress`` of :func:`vcycle.fit`.

    Returns
    -------
    TrainedOperator
        Whose prediction is the sum of all stages; ``history`` lists the epochs of all, with their ``stage`` from 0.

    Raises
    ------
    ValueError
        As :func:`vcycle.fit`; if ``config`` asks for steps of trajectories, which residuals do not have, with more than
        one stage; if ``out`` holds the operator of another run, or one of another number of stages.

    Notes
    -----
    Structure inferred: no reference code. Losses relative to the target are relative to the residual in later stages.

    References
    ----------
    Qin et al., "Toward a Better Understanding of Fourier Neural Operators from a Spectral Perspective" (SpecBoost),
    arXiv:2404.07200.
    """
    _check.integer("stages", stages, 1)
    settings = FitConfig.of(config)
    if stages > 1:
        _check_one_step(train, settings, stages)
    if out is not None:
        _check_folder(Path(out), stages)
    loss = fit_arguments.get("loss", "h1")
    if isinstance(loss, str):  # residuals do not know the problem and its walls
        kinds, zero = walls(train)
        fit_arguments["loss"] = data_loss(loss, grid=train.grid, boundary=kinds, zero_on_walls=zero)
    found: list[TrainedOperator] = []
    pair: tuple[Dataset, Dataset | None] = (train, validation)
    for stage in range(stages):
        if found:
            so_far = boosted(found, feed=feed)
            pair = (residuals(so_far, train, feed=feed), validation and residuals(so_far, validation, feed=feed))
            settings = dataclasses.replace(settings, output_normaliser="scale")
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed + stage)
            model = model_factory(count_channels(pair[0].input_fields), count_channels(train.output_fields))
        found.append(
            fit(
                model,
                pair[0],
                epochs=epochs,
                validation=pair[1],
                seed=seed + stage,
                config=settings,
                out=None if out is None else Path(out) / STAGE.format(stage),
                **fit_arguments,
            )
        )
    operator = boosted(found, feed=feed)
    if out is not None:
        operator.save(Path(out) / OPERATOR)
    return operator


def _check_one_step(train: "Dataset", config: FitConfig, stages: int) -> None:
    """Raise if the training needs to know which channels are a state, or what comes after: residuals have no steps."""
    from vcycle.data.steps import Steps

    names = ("rollout_steps", "pushforward", *(("noise",) if isinstance(train, Steps) else ()))
    for name in names:
        if getattr(config, name) is not None:
            raise ValueError(
                f"`{name}` must be None where `stages` is above 1: residuals are no steps of trajectories. Leave one "
                f"of the two out. Got stages {stages}."
            )


def _check_folder(folder: Path, stages: int) -> None:
    """Raise if the folder's operator is not of so many stages; one alone leaves a folder of its training too."""
    place = folder / OPERATOR
    if not is_operator(place):
        return
    training = TrainedOperator.load(place).training
    if "stages" not in training and not (folder / STAGE.format(0)).exists():
        raise ValueError(
            f"`out` must not hold the operator of another run. Got {str(folder)!r}; choose another folder."
        )
    require_same({"stages": num_stages(training)}, {"stages": stages})


def residuals(operator: TrainedOperator, data: "Dataset", *, feed: bool = True) -> "Dataset":
    """Return what an operator leaves of a dataset's outputs, as a dataset with the same grid and boundary.

    Parameters
    ----------
    operator
        What was trained so far.
    data
        The data.
    feed
        Put the prediction after the inputs.
    """
    from vcycle.data import Dataset

    prediction = operator.predict(data.inputs, operator.parameters_of(data)).double()
    inputs = torch.cat([data.inputs, prediction], 1) if feed else data.inputs
    scalars = {} if data.parameters is None else dict(zip(data.parameter_names, data.parameters.T, strict=True))
    left = data.outputs - prediction
    return Dataset.from_arrays(inputs, left, grid=data.grid, boundary=data.boundary, parameters=scalars)


def boosted(stages: Sequence[TrainedOperator], *, feed: bool = True) -> TrainedOperator:
    """Return the sum of trained operators as one: the first, and those trained on :func:`residuals` in turn."""
    first = stages[0]
    if len(stages) == 1:
        return first
    history = [entry | {"stage": stage} for stage, operator in enumerate(stages) for entry in operator.history]
    times = {
        key: sum(operator.metrics.get(key, 0) for operator in stages) for key in ("epochs", "seconds", "cpu_seconds")
    }
    return dataclasses.replace(
        first,
        network=BoostedNetwork.of(stages, feed=feed).eval(),
        training=first.training | {"stages": [operator.training for operator in stages], "feed": feed},
        metrics=stages[-1].metrics | times,
        history=history,
    )
