"""The format of a recipe: what its keys are, each checked against the signature that it goes to."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcycle import _check
from vcycle.errors import DataError

DATA_VARIABLE = "VCYCLE_DATA"
GRID_KEYS = ("extent", "centring", "periodic")
FIT_BY_US = ("model", "train", "validation", "seed", "config", "out", "resume", "progress")
BUDGET = "cpu_seconds"
"""Instead of ``epochs``: as many as fit."""
STAGES = "stages"
"""Of boosting: among so many networks the epochs are divided."""
Say = Callable[[str], None]
STARTS = ("solver",)
"""Ways to choose first weights that need the problem."""
CHECK_KEYS = ("set", "metric", "at_most", "source")


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
        ``train`` and ``format``: read a file. In both cases also ``validation``, a number of samples taken out of the
        training part, and ``steps`` with ``stride``: evolutions become pairs of states so many snapshots apart.
    model
        ``name`` in ``MODELS`` and its arguments; channels, boundary, centring and scalar parameters follow the data
        where not given. ``start: solver`` begins MgNO as the problem's classical multigrid.
    fit
        Arguments of :func:`vcycle.fit` and entries of its ``config``, side by side; ``cpu_seconds`` instead of
        ``epochs`` trains for as many epochs as fit.
    evaluate
        Name of a test set to the file that holds it; the test part of a split is called ``test``.
    expect
        Each ``set``, ``metric``, ``at_most`` and ``source``: the numbers to reach, as means over ``seeds``.
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
    expect: tuple[dict[str, Any], ...]
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
    content = read_mapping(path, "a recipe", "a recipe is a mapping of name, data, model, fit and expect")
    return parse_recipe(content, folder=Path(path).parent)


def read_mapping(path: str | Path, what: str, remedy: str) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises
    ------
    DataError
        If it does not.
    """
    from vcycle import _yaml

    path = Path(path)
    if not path.is_file():
        reason = "is a folder, not" if path.is_dir() else "does not exist: it must be"
        raise DataError(f"{path} {reason} {what} in YAML. Give the path of such a file.")
    try:
        content = _yaml.read(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not {what} in YAML: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not {what}: {remedy}.")
    return content


def parse_recipe(content: Mapping[str, Any], *, folder: Path = Path()) -> Recipe:
    """Check the keys of a recipe against the signatures that they go to.

    Raises
    ------
    ValueError
        If a key is unknown or missing, with a hint for a near miss.
    """
    known = [name for name in Recipe.__dataclass_fields__ if name != "folder"]
    _check.keys("recipe", content, known, required=("name", "about", "data", "model", "fit", "expect"))
    expect = content["expect"]
    checks = tuple(expect) if isinstance(expect, list) and expect else (expect,)
    for check in checks:
        _check.keys("expect", check, CHECK_KEYS, required=CHECK_KEYS)
        _check.positive("expect.at_most", check["at_most"])
    check_model(content["model"])
    fit_arguments(content["fit"])
    check_length(content["fit"])
    check_data(content["data"])
    names = set_names(content)
    if not names:
        raise ValueError("`evaluate` must name a test set, such as `test: test.npz`. Got none.")
    for check in checks:
        _check.choice("expect.set", check["set"], names)
    values = dict(content) | {"seeds": _seeds(content.get("seeds", [0])), "expect": checks}
    return Recipe(**values, folder=folder)


def _seeds(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, (list, tuple)) or not seeds:
        raise ValueError(f"`seeds` must be a list of integers, such as [0]. Got {seeds!r}.")
    return tuple(_check.integer("seeds", seed, 0) for seed in seeds)


def check_model(model: Any) -> None:
    """Check name and arguments of a model of ``MODELS``."""
    from vcycle.models import MODELS

    _check.keys("model", model, None, required=("name",))
    name = _check.choice("model.name", model["name"], MODELS)
    _check.call(f"model {name}", MODELS[name], without(model, "name", "start"))
    if "start" in model:
        _check.choice("model.start", model["start"], STARTS)
        if name != "mgno":
            raise ValueError(f"`model.start` must be left out: only mgno starts as a solver. Got model {name}.")


def check_data(data: Any) -> None:
    """Check what says which data are generated or read."""
    from vcycle.data import FORMATS, Dataset, generate

    _check.keys("data", data, None)
    if "problem" in data:
        keys = ("problem", "generate", "split")
        _check.keys("data", data, (*keys, "validation", "steps"), required=keys)
        _check.keys("data.problem", data["problem"], None, required=("name", "shape"))
        check_problem(data["problem"]["name"], without(data["problem"], "name", "shape"))
        check_shape(data["problem"]["shape"])
        ours = ("problem", "out", "progress")
        _check.call("data.generate", generate, data["generate"], but=ours, required=("num_samples",))
        _check.call("data.split", Dataset.split, data["split"])
        if "validation" in data and "validation" in data["split"]:
            raise ValueError("`data` must say validation once. Got it in data and in data.split.")
    else:
        of_file = ("train", "format")
        _check.keys("data", data, (*of_file, "validation", "steps"), required=of_file)
        _check.choice("data.format", data["format"], FORMATS)
        _check.instance("data.train", data["train"], str, "the name of a file")
    if "validation" in data:
        _check.integer("data.validation", data["validation"], 1)
    if "steps" in data:
        _check.keys("data.steps", data["steps"], ("stride",))
        _check.integer("data.steps.stride", data["steps"].get("stride", 1), 1)


def check_problem(name: str, arguments: Mapping[str, Any]) -> None:
    """Check name and arguments of a problem family."""
    from vcycle.problems import PROBLEMS

    family = PROBLEMS[_check.choice("problem", name, PROBLEMS)]
    known = [argument for argument in inspect.signature(family).parameters if argument != "grid"]
    _check.keys(f"problem {name}", arguments, [*known, *GRID_KEYS])


def check_shape(shape: Any) -> None:
    """Raise unless a shape is a list, whose entries the grid checks."""
    if not isinstance(shape, (list, tuple)):
        raise ValueError(f"`data.problem.shape` must be a list of points per axis, such as [32, 32]. Got {shape!r}.")


def check_length(given: Mapping[str, Any]) -> None:
    """Raise unless a training says how long it is."""
    if not {"epochs", BUDGET} & set(given):
        raise ValueError(f"`fit` must have epochs or {BUDGET}.")


def set_names(content: Mapping[str, Any]) -> list[str]:
    """Return the names of a recipe's test sets; which files they are in is checked."""
    evaluate = content.get("evaluate", {})
    _check.keys("evaluate", evaluate, None)
    for name, file in evaluate.items():
        _check.instance(f"evaluate.{name}", file, str, "the name of a file")
    return [*evaluate, *(["test"] if "problem" in content["data"] else [])]


def fit_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Sort arguments of :func:`vcycle.fit` and entries of its ``config``, given side by side.

    ``cpu_seconds``, which takes the place of ``epochs``, and ``stages`` of boosting stay as they are.

    Raises
    ------
    ValueError
        If an argument is unknown, or not for a recipe to say.
    """
    from vcycle.training import FitConfig, fit

    further = list(FitConfig.__dataclass_fields__)
    own = [name for name in inspect.signature(fit).parameters if name not in FIT_BY_US]
    _check.keys("fit", given, [*own, BUDGET, STAGES, *further])
    if STAGES in given:
        _check.integer(f"fit.{STAGES}", given[STAGES], 1)
    if BUDGET in given:
        _check.positive(f"fit.{BUDGET}", given[BUDGET])
        if "epochs" in given:
            raise ValueError(
                f"`fit` must have epochs or {BUDGET}, not both. Got {given['epochs']} and {given[BUDGET]}."
            )
    config = {key: tuples(value) for key, value in given.items() if key in further}
    return {key: value for key, value in given.items() if key not in further} | {"config": config}


def without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a copy without some keys."""
    return {key: value for key, value in mapping.items() if key not in keys}


def tuples(value: Any) -> Any:
    """Return tuples for lists: sequences of a YAML file are lists, constructors take tuples."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
