"""Recipes: a YAML file that says data, model, training and the number that must come out, and what runs it."""

import difflib
import inspect
import json
import os
import statistics
import time
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
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a recipe in YAML: {' '.join(str(error).split())}.") from error
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
    check_keys("recipe", content, known, required=("name", "about", "data", "model", "fit", "expect"))
    check_keys(
        "expect",
        content["expect"],
        ("set", "metric", "at_most", "source"),
        required=("set", "metric", "at_most", "source"),
    )
    check_keys("model", content["model"], None, required=("name",))
    _check.choice("model.name", content["model"]["name"], MODELS)
    check_call(
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

        check_keys("data", data, ("problem", "generate", "split"), required=("problem", "generate", "split"))
        check_keys("data.problem", data["problem"], None, required=("name", "shape"))
        _check_problem(data["problem"]["name"], _without(data["problem"], "name", "shape"))
        check_call("data.generate", generate, data["generate"], but=("problem", "out", "progress"))
        check_call("data.split", Dataset.split, data["split"])
    else:
        from vcycle.data import FORMATS

        check_keys("data", data, ("train", "format"), required=("train", "format"))
        _check.choice("data.format", data["format"], FORMATS)


def _check_problem(name: str, arguments: Mapping[str, Any]) -> None:
    from vcycle.problems import PROBLEMS

    family = PROBLEMS[_check.choice("problem", name, PROBLEMS)]
    known = [argument for argument in inspect.signature(family).parameters if argument != "grid"]
    check_keys(f"problem {name}", arguments, [*known, *GRID_KEYS])


def _test_sets(content: Mapping[str, Any]) -> list[str]:
    return [*content.get("evaluate", {}), *(["test"] if "problem" in content["data"] else [])]


def check_keys(what: str, given: Any, known: Any, *, required: tuple[str, ...] = ()) -> None:
    """Raise a ``ValueError`` for an unknown or missing key, with a hint for a near miss.

    ``known=None`` allows any key.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"`{what}` must be a mapping. Got {given!r}.")
    for key in given if known is not None else ():
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"`{what}` has no {key!r}. {hint}")
    missing = [key for key in required if key not in given]
    if missing:
        raise ValueError(f"`{what}` must have {', '.join(missing)}.")


def check_call(what: str, function: Callable[..., Any], given: Any, *, but: tuple[str, ...] = ()) -> None:
    """Raise a ``ValueError`` if ``function`` has no argument of one of the given names; ``but`` are not for recipes."""
    parameters = inspect.signature(function).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    check_keys(what, given, [p.name for p in parameters if p.name not in ("self", *but) and p.kind in plain])


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
    check_keys("fit", given, [*own, *further])
    config = {key: _tuples(value) for key, value in given.items() if key in further}
    return {key: value for key, value in given.items() if key in own} | {"config": config}


# ------------------------------------------------------------------------------------------------------ what is built


def build_problem(name: str, shape: tuple[int, ...], arguments: Mapping[str, Any]) -> "Problem":
    """Build a problem family on a cell grid of the unit box.

    Parameters
    ----------
    name
        A key of ``PROBLEMS``.
    shape
        Cells per axis.
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
    return PROBLEMS[name](Grid(tuple(shape), **of_grid), **of_problem)


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
    check_call(f"model {name}", MODELS[name], arguments)
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


def read_data(path: str | Path, data_format: str | None = None) -> "Dataset":
    """Open a data set.

    Parameters
    ----------
    path
        A file or a store.
    data_format
        A key of ``vcycle.data.FORMATS``; ``None`` goes by the suffix.

    Raises
    ------
    DataError
        If the file is missing, with where to get it, or cannot be read.
    """
    from vcycle.data import FORMATS, detect_format

    name = detect_format(path) if data_format is None else _check.choice("format", data_format, FORMATS)
    if not Path(path).exists():
        raise DataError(f"{path} does not exist{WHERE_TO_GET.get(name, '')}.")
    return FORMATS[name].read(path)


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
    train, tests = load_data(recipe, data_dir=data_dir, progress=progress)
    seeds = recipe.seeds if seed is None else (_check.integer("seed", seed, 0),)
    runs = []
    for chosen in seeds:
        run = _run_seed(recipe, train, tests, out=out / f"seed-{chosen}", seed=chosen, progress=progress)
        runs.append(run)
        errors = (
            f"{key} {value:.4f}" for key, value in run["metrics"].items() if key.endswith(recipe.expect["metric"])
        )
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
    recipe: Recipe, train: "Dataset", tests: "dict[str, Dataset]", *, out: Path, seed: int, progress: bool
) -> dict[str, Any]:
    from vcycle.training import fit

    wanted = {"seed": seed, "model": recipe.model, "fit": recipe.fit, "data": train.fingerprint()}
    finished = _finished(out / "run.json", wanted)
    if finished is not None:
        return finished
    model = build_model(recipe.model["name"], train, _without(recipe.model, "name"), seed=seed)
    started = time.process_time()
    arguments = fit_arguments(recipe.fit) | {"seed": seed, "progress": progress}
    operator = fit(model, train, out=out, resume=True, **arguments)
    seconds = time.process_time() - started
    metrics = {
        f"{name}.{key}": value for name, test in tests.items() for key, value in _numbers(operator, test).items()
    }
    run = wanted | {"metrics": metrics, "cpu_seconds": seconds}
    write_json(out / "run.json", run)
    return run


def _finished(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of an earlier run if it is of the same recipe on the same data."""
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    same = all(record.get(key) == json.loads(json.dumps(value)) for key, value in wanted.items())
    return record if same else None


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
