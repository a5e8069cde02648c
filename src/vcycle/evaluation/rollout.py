"""How far an operator's own steps lead away from true trajectories."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcycle import _check
from vcycle.data.dataset import Dataset
from vcycle.data.steps import LEAD_TIME, Steps
from vcycle.errors import DataError
from vcycle.evaluation.evaluate import check_family
from vcycle.metrics import relative_l2
from vcycle.training.operator import TrainedOperator, as_operator


def rollout_errors(
    operator: "TrainedOperator | str | Path", dataset: Dataset, steps: int | None = None, *, batch_size: int = 64
) -> dict[str, Any]:
    """Apply an operator to its own predictions from the initial states on, and compare with the trajectories.

    Parameters
    ----------
    operator
        An operator that was trained on :meth:`vcycle.Dataset.steps`, or the folder of a saved one.
    dataset
        The trajectories, whose steps are single snapshots; or their ``steps(stride)``, whose trajectories count, each
        once and from its beginning, whatever rows are there.
    steps
        Number of steps; ``None`` is all that the trajectories have.
    batch_size
        Trajectories per pass through the network.

    Returns
    -------
    dict
        All relative (dimensionless), means over trajectories, infinite where a rollout overflows: ``rollout_l2_full``,
        the L2 error over all times and points together (the MgNO and FNO papers' ``test_l2_full``);
        ``rollout_l2_step``, the mean of the errors of each step; ``rollout_l2_by_step``, those errors in a list.

    Raises
    ------
    ValueError
        If the trajectories are too short, or of another family than the data of training.
    TypeError
        If the dataset is not one.
    DataError
        If a true state is not finite.
    CheckpointError
        If the saved operator cannot be read.
    """
    operator = as_operator(operator)
    _check.instance("dataset", dataset, Dataset, "a vcycle.Dataset with trajectories")
    rows = dataset if isinstance(dataset, Steps) else _steps_for(operator, dataset)
    check_family(operator, rows)
    if len(rows.trajectories) == 0:
        raise ValueError("`dataset` must have at least one trajectory. Got none.")
    most = (len(rows.state_times) - 1) // rows.stride
    steps = most if steps is None else _check.integer("steps", steps, 1)
    if steps > most:
        raise ValueError(f"`steps` must be at most {most}, the steps of a trajectory. Got {steps}.")
    data = rows.read_trajectories()
    truth = data.states[:, rows.stride :: rows.stride][:, :steps]
    if not bool(torch.isfinite(truth).all()):
        raise DataError("The states of `dataset` hold NaN or infinity.")
    parameters = operator.select_parameters(rows.parameter_names, rows.step_parameters)
    states = operator.rollout(
        data.states[:, 0], steps, parameters, data.constants, batch_size=batch_size, allow_overflow=True
    ).to(truth.dtype)
    by_step = [_error(states[:, [step]], truth[:, [step]]) for step in range(steps)]
    return {
        "rollout_l2_full": _error(states, truth),
        "rollout_l2_step": sum(by_step) / steps,
        "rollout_l2_by_step": by_step,
    }


def _steps_for(operator: TrainedOperator, dataset: Dataset) -> Steps:
    """Return the rows of a dataset of trajectories, with lead times where the operator takes them."""
    takes_lead = LEAD_TIME in operator.parameter_names and LEAD_TIME not in dataset.parameter_names
    return dataset.steps(all_to_all=takes_lead)


def _error(states: Tensor, truth: Tensor) -> float:
    """Return the mean relative L2 error of blocks ``(trajectory, step, channel, *space)``."""
    return relative_l2(states.flatten(1, 2), truth.flatten(1, 2)).item()
