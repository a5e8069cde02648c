"""What a recipe's words become: a problem, data, a model, a trained operator."""

import inspect
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vcycle import _check
from vcycle.errors import DataError
from vcycle.recipes.recipe import (
    BUDGET,
    DATA_VARIABLE,
    GRID_KEYS,
    STAGES,
    STARTS,
    Recipe,
    check_problem,
    fit_arguments,
    tuples,
    without,
)

if TYPE_CHECKING:
    from torch import nn

    from vcycle.data import Dataset
    from vcycle.problems import Problem
    from vcycle.training import TrainedOperator

WHERE_TO_GET = {
    "neuraloperator": (
        "darcy_*.pt",
        "; it is in the repository neuraloperator/neuraloperator, folder neuralop/data/datasets/data",
    ),
    "zarr": ("*.zarr", "; make it with `vcycle generate`"),
}
"""By format: what such files are called, and what to say where one is missing."""


class RecipeData(NamedTuple):
    """What a recipe trains, chooses and is measured on.

    Parameters
    ----------
    train
        What training sees.
    validation
        What training watches; ``None`` where the recipe keeps nothing for that.
    tests
        By name.
    trajectories
        The test sets before they were cut into steps, by name; empty where they were not.
    """

    train: "Dataset"
    validation: "Dataset | None"
    tests: "dict[str, Dataset]"
    trajectories: "dict[str, Dataset]"


def build_problem(name: str, shape: tuple[int, ...], arguments: Mapping[str, Any]) -> "Problem":
    """Build a problem family on its usual grid: cells of the unit box where it says nothing else.

    Parameters
    ----------
    name
        A key of ``PROBLEMS``.
    shape
        Points per axis.
    arguments
        Further arguments of the problem; ``extent``, ``centring`` and ``periodic`` go to the grid.

    Raises
    ------
    ValueError
        If the name or an argument is unknown.
    """
    from vcycle.grid import Grid
    from vcycle.problems import PROBLEMS

    check_problem(name, arguments)
    of_grid = {key: tuples(value) for key, value in arguments.items() if key in GRID_KEYS}
    of_problem = {key: tuples(value) for key, value in arguments.items() if key not in GRID_KEYS}
    family = PROBLEMS[name]
    usual = family.usual_grid.get("extent")
    if isinstance(usual, tuple) and len(usual) != len(shape) and "extent" not in of_grid:
        raise ValueError(f"`shape` must have {len(usual)} axes for {name}, unless `extent` says more. Got {shape}.")
    return family(Grid(tuple(shape), **{**family.usual_grid, **of_grid}), **of_problem)


def build_model(name: str, data: "Dataset", arguments: Mapping[str, Any], *, seed: int = 0) -> "nn.Module":
    """Build a model for a data set; what the data determine follows them where it is not given.

    That are channels, boundary, centring, the number of scalar parameters and, where an axis is periodic, coordinates
    for the models that have them as an option (MgNO and ScOT).

    Parameters
    ----------
    name
        A key of ``MODELS``.
    data
        What it will be trained on.
    arguments
        Further arguments of the model. ``start="solver"`` begins MgNO as the classical multigrid of the data's
        problem, see :func:`vcycle.models.solver_start`.
    seed
        Of the initial weights; the caller's random state is left as it was.

    Raises
    ------
    ValueError
        If the name or an argument is unknown, or there is no solver to start from.
    """
    import torch

    from vcycle.models import MODELS

    _check.choice("model", name, MODELS)
    start, arguments = arguments.get("start"), without(arguments, "start")
    _check.call(f"model {name}", MODELS[name], arguments)
    if "modes" in arguments:
        _check_modes(arguments["modes"], data.grid.shape)
    wanted = inspect.signature(MODELS[name]).parameters
    settings: dict[str, Any] = channels_of(data)
    settings |= {"num_axes": data.grid.num_axes, "boundary": data.boundary, "centring": data.grid.centring}
    settings |= {"num_parameters": len(data.parameter_names), "coordinates": any(data.boundary.periodic)}
    chosen = {key: value for key, value in settings.items() if key in wanted} | {
        k: tuples(v) for k, v in arguments.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MODELS[name](**chosen)
    return network if start is None else _started(network, start, data, seed=seed)


def _check_modes(modes: Any, shape: tuple[int, ...]) -> None:
    """Raise if an axis has more modes than points: no data could train their weights, which take memory and time."""
    for kept, points in zip(_check.per_axis("modes", tuples(modes), len(shape)), shape, strict=True):
        if isinstance(kept, int) and kept > points:
            raise ValueError(f"`modes` must be at most the points of each axis, {shape}. Got {modes}.")


def channels_of(data: "Dataset") -> dict[str, int]:
    """Return how many channels a model for a data set has, ``in_channels`` and ``out_channels``; nothing is read."""
    from vcycle.problems.problem import count_channels

    return {"in_channels": count_channels(data.input_fields), "out_channels": count_channels(data.output_fields)}


def _started(network: "nn.Module", start: str, data: "Dataset", *, seed: int) -> "nn.Module":
    from vcycle.models import MgNO, solver_start

    _check.choice("model.start", start, STARTS)
    if not isinstance(network, MgNO):
        raise ValueError(f"`model.start` must be left out: only mgno starts as a solver. Got {type(network).__name__}.")
    if data.problem is None:
        raise ValueError("`model.start` must be left out: the data do not say which problem they solve.")
    return solver_start(network, data.problem, seed=seed)


def train(
    data: "Dataset",
    *,
    model: str,
    out: str | Path,
    model_args: Mapping[str, Any],
    fit_args: Mapping[str, Any],
    validation: "Dataset | None" = None,
    seed: int = 0,
    progress: bool = True,
) -> "TrainedOperator":
    """Build a model and train it in a folder; what was begun there is continued, what has finished is returned.

    Parameters
    ----------
    data
        What to train on.
    model
        A key of ``MODELS``.
    out
        Folder for the operator, its checkpoint and its history.
    model_args
        Further arguments of the model, see :func:`build_model`.
    fit_args
        Arguments of :func:`vcycle.fit` and entries of its ``config``, side by side; ``cpu_seconds`` instead of
        ``epochs`` trains for as many epochs as fit, see :func:`vcycle.training.budget.epochs_within`; ``stages``
        divides the epochs among so many networks, each on the residual of those before it, see
        :func:`vcycle.training.boosting.boost`.
    validation
        Data to watch.
    seed
        Of weights and training.
    progress
        Show a bar on standard error.

    Returns
    -------
    TrainedOperator
        Its ``metrics["cpu_seconds"]`` is what training took, over all resumptions.

    Raises
    ------
    ValueError
        If an argument is unknown or not usable, or ``out`` holds another run.
    """
    from vcycle.training import fit
    from vcycle.training.boosting import boost
    from vcycle.training.budget import budget_in

    arguments = fit_arguments(fit_args)
    stages = arguments.pop(STAGES, 1)
    network = build_model(model, data, model_args, seed=seed)
    seconds = arguments.pop(BUDGET, None)
    if seconds is not None:
        chosen = budget_in(out, network, data, cpu_seconds=seconds, validation=validation, seed=seed, **arguments)
        arguments["epochs"] = chosen.epochs
    arguments |= {"out": out, "resume": True, "validation": validation, "seed": seed, "progress": progress}
    if stages == 1:
        return fit(network, data, **arguments)
    if seconds is None and arguments["epochs"] < stages:
        raise ValueError(
            f"`epochs` must be at least `stages`, which share them. Got {arguments['epochs']} and {stages}."
        )
    arguments["epochs"] = max(1, arguments["epochs"] // stages)
    seeds = count(seed)

    def stage(in_channels: int, out_channels: int) -> "nn.Module":
        return build_model(model, data, {**model_args, "in_channels": in_channels}, seed=next(seeds))

    return boost(stage, data, stages=stages, **arguments)


def read_data(path: str | Path, data_format: str | None = None, *, name: str = "path") -> "Dataset":
    """Open a data set.

    Parameters
    ----------
    path
        A file or a store.
    data_format
        A key of ``vcycle.data.FORMATS``; ``None`` goes by the suffix.
    name
        What messages call the path.

    Raises
    ------
    DataError
        If the file is missing, with where to get it, or cannot be read.
    ValueError
        If no layout has this name or suffix.
    """
    from vcycle.data import FORMATS, detect_format

    if data_format is not None:
        _check.choice("format", data_format, FORMATS)
    if not Path(path).exists():
        hints = [hint for key, (names, hint) in WHERE_TO_GET.items() if key == data_format or Path(path).match(names)]
        raise DataError(f"{path} does not exist{''.join(hints)}.")
    return FORMATS[data_format or detect_format(path, name=name)].read(path)


def load_data(
    recipe: Recipe, *, data_dir: str | Path | None = None, cache: str | Path | None = None, progress: bool = True
) -> RecipeData:
    """Generate or read what a recipe trains on, and its test sets by name.

    Parameters
    ----------
    recipe
        The recipe; only what it says of data is used.
    data_dir
        Where data files lie, see :func:`vcycle.recipes.run_recipe`.
    cache
        Folder for what is generated; what is there is used again, what was interrupted goes on. ``None`` keeps
        generated data in memory.
    progress
        Show a bar while data are generated.

    Raises
    ------
    DataError
        If a data file is missing or unreadable, or the cache holds other data.
    ValueError
        If the split leaves nothing, or the data have no snapshots to step between.
    """
    data = recipe.data
    if "problem" in data:
        parts = _generated(recipe, cache=cache, progress=progress)
    else:
        folder = Path(data_dir or os.environ.get(DATA_VARIABLE) or data_folder(recipe))
        tests = {name: read_data(folder / file, data["format"]) for name, file in recipe.evaluate.items()}
        train_set, validation = read_data(folder / data["train"], data["format"]), None
        if "validation" in data:
            train_set, validation = train_set.split(test=data["validation"], seed=0)
        parts = RecipeData(train_set, validation, tests, {})
    return parts if "steps" not in data else _stepped(parts, data["steps"])


def _generated(recipe: Recipe, *, cache: str | Path | None, progress: bool) -> RecipeData:
    from vcycle.data import generate

    data = recipe.data
    problem = build_problem(
        data["problem"]["name"], data["problem"]["shape"], without(data["problem"], "name", "shape")
    )
    place = None if cache is None else Path(cache) / f"{recipe.name}.zarr"
    whole = generate(problem, out=place, **({"progress": progress} | data["generate"]))
    split = data["split"] | ({"validation": data["validation"]} if "validation" in data else {})
    train_set, *between, test = whole.split(**split)
    return RecipeData(train_set, between[0] if between else None, {"test": test}, {})


def _stepped(parts: RecipeData, steps: Mapping[str, Any]) -> RecipeData:
    """Cut trajectories into one-step pairs; they were divided before, so that none is in two sets."""
    validation = None if parts.validation is None else parts.validation.steps(**steps)
    tests: dict[str, Dataset] = {name: test.steps(**steps) for name, test in parts.tests.items()}
    return RecipeData(parts.train.steps(**steps), validation, tests, parts.tests)


def data_folder(recipe: Recipe) -> Path:
    """Look beside the recipe, then in ``data`` and ``shared/data`` of each folder above it."""
    own = recipe.folder / (recipe.data_dir or ".")
    if recipe.data_dir is None or own.is_dir():
        return own
    above = recipe.folder.resolve().parents
    places = [parent / shelf / recipe.data_dir for parent in above for shelf in ("data", "shared/data")]
    return next((place for place in places if place.is_dir()), own)
