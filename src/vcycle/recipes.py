"""Recipes: a YAML file that says data, model, training and the number that must come out, and what runs it."""

import inspect
import json
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle import _check
from vcycle._files import write_json
from vcycle.errors import DataError

if TYPE_CHECKING:
    from torch import nn

    from vcycle.data import Dataset
    from vcycle.problems import Problem
    from vcycle.training import TrainedOperator

DATA_VARIABLE = "VCYCLE_DATA"
WHERE_TO_GET = {
    "neuraloperator": "; it is in the repository neuraloperator/neuraloperator, folder neuralop/data/datasets/data",
    "zarr": "; make it with `vcycle generate`",
}
GRID_KEYS = ("extent", "centring", "periodic")
FIT_BY_US = ("model", "train", "validation", "seed", "config", "out", "resume", "progress")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What one YAML file says; every key is checked against the signature that it goes to.

    Parameters
    ----------
    name
        A short name, for messages.
    about
        What it reproduces, and what is known about it.
    data
        Either ``problem`` (with ``name`` and ``shape``), ``generate`` and ``split``: draw and solve a family; or
        ``train`` and ``format``: read a file.
    model
        ``name`` in ``MODELS`` and its arguments; channels, boundary and centring follow the data where not given.
    fit
        Arguments of :func:`vcycle.fit` and entries of its ``config``, side by side.
    evaluate
        Name of a test set to the file that holds it; the test part of a split is called ``test``.
    expect
        ``set``, ``metric``, ``at_most`` and ``source``: the number to reach, as the mean over ``seeds``.
    seeds
        One training per seed.
    folder
        Where the YAML file lies.
    """

    name: str
    about: str
    data: dict[str, Any]
    model: dict[str, Any]
    fit: dict[str, Any]
    expect: dict[str, Any]
    evaluate: dict[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    data_dir: str | None = None
    folder: Path = Path()


def read_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file; nothing is run.

    Raises
    ------
    DataError
        If the file is not a recipe in YAML.
    ValueError
        If a key is unknown or missing, with a hint for a near miss.
    """
    from vcycle import _yaml

    path = Path(path)
    try:
        content = _yaml.read(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not a recipe in YAML: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a recipe: a recipe is a mapping of name, data, model, fit and expect.")
    return parse_recipe(content, folder=path.parent)


def parse_recipe(content: Mapping[str, Any], *, folder: Path = Path()) -> Recipe:
    """Check the keys of a recipe against the signatures that they go to.

    Raises
    ------
    ValueError
        If a key is unknown or missing, with a hint for a near miss.
    """
    from vcycle.data import generate
    from vcycle.models import MODELS

    known = [name for name in Recipe.__dataclass_fields__ if name != "folder"]
    _check.keys("recipe", content, known, required=("name", "about", "data", "model", "fit", "expect"))
    _check.keys(
        "expect",
        content["expect"],
        ("set", "metric", "at_most", "source"),
        required=("set", "metric", "at_most", "source"),
    )
    _check.keys("model", content["model"], None, required=("name",))
    _check.choice("model.name", content["model"]["name"], MODELS)
    _check.call(
        f"model {content['model']['name']}", MODELS[content["model"]["name"]], _without(content["model"], "name")
    )
    fit_arguments(content["fit"])
    _check_data(content["data"], generate)
    sets = _test_sets(content)
    _check.choice("expect.set", content["expect"]["set"], sets)
    values = dict(content) | {"seeds": tuple(content.get("seeds", (0,))), "evaluate": dict(content.get("evaluate", {}))}
    return Recipe(**values, folder=folder)


def _check_data(data: Mapping[str, Any], generate: Callable[..., Any]) -> None:
    if "problem" in data:
        from vcycle.data import Dataset

        _check.keys("data", data, ("problem", "generate", "split"), required=("problem", "generate", "split"))
        _check.keys("data.problem", data["problem"], None, required=("name", "shape"))
        _check_problem(data["problem"]["name"], _without(data["problem"], "name", "shape"))
        _check.call("data.generate", generate, data["generate"], but=("problem", "out", "progress"))
        _check.call("data.split", Dataset.split, data["split"])
    else:
        from vcycle.data import FORMATS

        _check.keys("data", data, ("train", "format"), required=("train", "format"))
        _check.choice("data.format", data["format"], FORMATS)


def _check_problem(name: str, arguments: Mapping[str, Any]) -> None:
    from vcycle.problems import PROBLEMS

    family = PROBLEMS[_check.choice("problem", name, PROBLEMS)]
    known = [argument for argument in inspect.signature(family).parameters if argument != "grid"]
    _check.keys(f"problem {name}", arguments, [*known, *GRID_KEYS])


def _test_sets(content: Mapping[str, Any]) -> list[str]:
    return [*content.get("evaluate", {}), *(["test"] if "problem" in content["data"] else [])]


def fit_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Sort arguments of :func:`vcycle.fit` and entries of its ``config``, given side by side.

    Raises
    ------
    ValueError
        If an argument is unknown, or not for a recipe to say.
    """
    from vcycle.training import FitConfig, fit

    further = list(FitConfig.__dataclass_fields__)
    own = [name for name in inspect.signature(fit).parameters if name not in FIT_BY_US]
    _check.keys("fit", given, [*own, *further])
    config = {key: _tuples(value) for key, value in given.items() if key in further}
    return {key: value for key, value in given.items() if key in own} | {"config": config}


# ------------------------------------------------------------------------------------------------------ what is built


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

    _check_problem(name, arguments)
    of_grid = {key: _tuples(value) for key, value in arguments.items() if key in GRID_KEYS}
    of_problem = {key: _tuples(value) for key, value in arguments.items() if key not in GRID_KEYS}
    family = PROBLEMS[name]
    usual = family.usual_grid.get("extent")
    if isinstance(usual, tuple) and len(usual) != len(shape) and "extent" not in of_grid:
        raise ValueError(f"`shape` must have {len(usual)} axes for {name}, unless `extent` says more. Got {shape}.")
    return family(Grid(tuple(shape), **{**family.usual_grid, **of_grid}), **of_problem)


def build_model(name: str, data: "Dataset", arguments: Mapping[str, Any], *, seed: int = 0) -> "nn.Module":
    """Build a model for a data set; channels, boundary and centring follow the data where they are not given.

    Parameters
    ----------
    name
        A key of ``MODELS``.
    data
        What it will be trained on.
    arguments
        Further arguments of the model.
    seed
        Of the initial weights; the caller's random state is left as it was.

    Raises
    ------
    ValueError
        If the name or an argument is unknown.
    """
    import torch

    from vcycle.models import MODELS

    _check.choice("model", name, MODELS)
    _check.call(f"model {name}", MODELS[name], arguments)
    wanted = inspect.signature(MODELS[name]).parameters
    inputs, outputs = data.inputs, data.outputs
    settings: dict[str, Any] = {"in_channels": inputs.shape[1], "out_channels": outputs.shape[1]}
    settings |= {"num_axes": data.grid.num_axes, "boundary": data.boundary, "centring": data.grid.centring}
    chosen = {key: value for key, value in settings.items() if key in wanted} | {
        k: _tuples(v) for k, v in arguments.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](**chosen)


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
        Arguments of :func:`vcycle.fit` and entries of its ``config``, side by side.
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

    arguments = fit_arguments(fit_args) | {"validation": validation, "seed": seed, "progress": progress}
    return fit(build_model(model, data, model_args, seed=seed), data, out=out, resume=True, **arguments)


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
        guesses = [key for key, known in FORMATS.items() if key == data_format or Path(path).suffix in known.suffixes]
        where = WHERE_TO_GET.get(guesses[0], "") if guesses else ""
        raise DataError(f"{path} does not exist{where}.")
    return FORMATS[data_format or detect_format(path, name=name)].read(path)


# --------------------------------------------------------------------------------------------------------- the running


def run_recipe(
    path: str | Path,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    seed: int | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> dict[str, Any]:
    """Do what a recipe file says, once per seed, and compare with the number that it must reach.

    Parameters
    ----------
    path
        The YAML file.
    out
        Folder for ``metrics.json`` and one trained operator per seed; a seed that is there is not trained again.
    data_dir
        Where the data files lie; otherwise the environment variable ``VCYCLE_DATA``, otherwise the recipe's own
        ``data_dir``: beside the recipe, or in a folder ``data`` or ``shared/data`` above it.
    seed
        Train this seed only.
    progress
        Show progress bars.
    say
        Called with one line per step.

    Returns
    -------
    dict
        As in ``metrics.json``: ``runs`` (per seed metrics and CPU seconds), ``mean``, ``expected``, ``reached``.

    Raises
    ------
    DataError
        If a data file is missing or unreadable.
    ValueError
        If the recipe is wrong.
    """
    recipe = read_recipe(path)
    out = Path(out)
    say = say or (lambda line: None)
    data, tests = load_data(recipe, data_dir=data_dir, progress=progress)
    seeds = recipe.seeds if seed is None else (_check.integer("seed", seed, 0),)
    runs = []
    for chosen in seeds:
        run = _run_seed(recipe, data, tests, out=out / f"seed-{chosen}", seed=chosen, progress=progress)
        runs.append(run)
        metric = recipe.expect["metric"]
        errors = (f"{key} {value:.4f}" for key, value in run["metrics"].items() if key.endswith(metric))
        say(f"{recipe.name}, seed {chosen}: {', '.join(errors)}")
    result = summary(recipe, runs)
    write_json(out / "metrics.json", result)
    return result


def load_data(
    recipe: Recipe, *, data_dir: str | Path | None = None, progress: bool = True
) -> "tuple[Dataset, dict[str, Dataset]]":
    """Generate or read what a recipe trains on, and its test sets by name."""
    data = recipe.data
    if "problem" in data:
        from vcycle.data import generate

        problem = build_problem(
            data["problem"]["name"], data["problem"]["shape"], _without(data["problem"], "name", "shape")
        )
        train, test = generate(problem, **({"progress": progress} | data["generate"])).split(**data["split"])
        return train, {"test": test}
    folder = Path(data_dir or os.environ.get(DATA_VARIABLE) or _data_folder(recipe))
    tests = {name: read_data(folder / file, data["format"]) for name, file in recipe.evaluate.items()}
    return read_data(folder / data["train"], data["format"]), tests


def _data_folder(recipe: Recipe) -> Path:
    """Look beside the recipe, then in ``data`` and ``shared/data`` of each folder above it."""
    own = recipe.folder / (recipe.data_dir or ".")
    if recipe.data_dir is None or own.is_dir():
        return own
    above = recipe.folder.resolve().parents
    places = [parent / shelf / recipe.data_dir for parent in above for shelf in ("data", "shared/data")]
    return next((place for place in places if place.is_dir()), own)


def summary(recipe: Recipe, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the mean over the runs with the number that the recipe must reach."""
    key = f"{recipe.expect['set']}.{recipe.expect['metric']}"
    for run in runs:
        _check.choice("expect.metric", key, run["metrics"])
    mean = statistics.fmean(run["metrics"][key] for run in runs)
    return {
        "recipe": recipe.name,
        "runs": runs,
        "metric": key,
        "mean": mean,
        "expected": recipe.expect["at_most"],
        "source": recipe.expect["source"],
        "reached": mean <= recipe.expect["at_most"],
    }


def _run_seed(
    recipe: Recipe, data: "Dataset", tests: "dict[str, Dataset]", *, out: Path, seed: int, progress: bool
) -> dict[str, Any]:
    from vcycle.data import origin
    from vcycle.training.resume import RUN_FILE

    wanted = {"seed": seed, "model": recipe.model, "fit": recipe.fit, **origin(data, data)}
    finished = _finished(out, wanted)
    if finished is not None:
        return finished
    name, model_args = recipe.model["name"], _without(recipe.model, "name")
    operator = train(
        data, model=name, out=out, model_args=model_args, fit_args=recipe.fit, seed=seed, progress=progress
    )
    metrics = {
        f"{name}.{key}": value for name, test in tests.items() for key, value in _numbers(operator, test).items()
    }
    run = wanted | {"metrics": metrics, "cpu_seconds": operator.metrics["cpu_seconds"]}
    write_json(out / RUN_FILE, run)
    return run


def _finished(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of an earlier run if it is of the same recipe on the same data."""
    from vcycle.training.resume import read_record

    record = read_record(folder) or {}
    same = all(record.get(key) == json.loads(json.dumps(value)) for key, value in wanted.items())
    return record if same and {"metrics", "cpu_seconds"} <= record.keys() else None


def _numbers(operator: "TrainedOperator", test: "Dataset") -> dict[str, float]:
    from vcycle.evaluation import evaluate

    measured = evaluate(operator, test).to_dict()
    return {
        key: float(value)
        for key, value in measured.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def _tuples(value: Any) -> Any:
    """Sequences of a YAML file are lists; constructors take tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
