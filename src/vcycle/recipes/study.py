"""The format of a study: which models are trained on which data, for how long, and how often."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vcycle import _check
from vcycle.recipes.recipe import (
    BUDGET,
    STAGES,
    Recipe,
    check_data,
    check_model,
    fit_arguments,
    read_mapping,
    read_recipe,
    set_names,
    without,
)

SHARE = 0.15
"""Of the budget, for each candidate of ``tune``."""
OF_STUDY = ("budget", "on_demand")
"""What a study says of a data set besides what a recipe says."""
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Entry:
    """A model of a study.

    Parameters
    ----------
    label
        What tables call it.
    model
        ``name`` in ``MODELS``, or ``import`` as ``module:factory``, and its arguments.
    fit
        What it trains with besides what is common to all.
    datasets
        The only data sets it is for; empty is all.
    """

    label: str
    model: dict[str, Any]
    fit: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class MoreSeeds:
    """Further seeds for the models that lead.

    Parameters
    ----------
    count
        How many more seeds.
    leading
        For how many models, those of the lowest error on validation data.
    dataset
        On which data set only; ``None`` is all.
    """

    count: int
    leading: int
    dataset: str | None = None


@dataclass(frozen=True)
class Study:
    """What a study's YAML file says.

    Parameters
    ----------
    name, about
        Title, and what it compares.
    datasets
        By name; of the recipes only what they say of data is used.
    models
        The models.
    cpu_seconds
        Budget of CPU time of each training, by data set.
    fit
        Arguments of :func:`vcycle.fit` and entries of its ``config``, common to all models.
    rates
        Candidates for the learning rate, chosen among on validation data by the first seed; empty chooses nothing.
    share
        Of the budget, for each candidate.
    seeds
        One training each.
    more_seeds
        Further ones, or ``None``.
    on_demand
        Data sets that are left out unless they are asked for.
    folder
        Where the YAML file lies; factories are imported from there too.
    """

    name: str
    about: str
    datasets: dict[str, Recipe]
    models: tuple[Entry, ...]
    cpu_seconds: dict[str, float]
    fit: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    share: float = SHARE
    seeds: tuple[int, ...] = (0,)
    more_seeds: MoreSeeds | None = None
    on_demand: tuple[str, ...] = ()
    folder: Path = Path()


def read_study(path: str | Path) -> Study:
    """Read and check a study file; nothing is run.

    Raises
    ------
    DataError
        If the file, or that of one of its data sets, is not in YAML or not a mapping.
    ValueError
        If a key is unknown or missing, with a hint for a near miss, or a value not usable.
    """
    remedy = "a study is a mapping of name, about, datasets, models and budget"
    return parse_study(read_mapping(path, "a study", remedy), folder=Path(path).parent)


def parse_study(content: Mapping[str, Any], *, folder: Path = Path()) -> Study:
    """Check the keys of a study against what they go to.

    Raises
    ------
    ValueError
        If a key is unknown or missing, with a hint for a near miss, or a value not usable.
    """
    required = ("name", "about", "datasets", "models", "budget")
    _check.keys("study", content, (*required, "fit", "tune", "seeds", "more_seeds"), required=required)
    _check_fit("fit", content.get("fit", {}))
    common = dict(content.get("fit", {}))
    given_datasets = _entries("datasets", content["datasets"])
    recipes = [_dataset(given, folder) for given in given_datasets]
    _different("datasets", "names", [recipe.name for recipe in recipes])
    datasets = {recipe.name: recipe for recipe in recipes}
    budgets = [
        content["budget"] if isinstance(given, str) else given.get("budget", content["budget"])
        for given in given_datasets
    ]
    models = tuple(_entry(given, datasets) for given in _entries("models", content["models"]))
    _different("models", "labels", [entry.label for entry in models])
    rates, share = _tuning(content.get("tune"))
    unwatched = [name for name, recipe in datasets.items() if not _has_validation(recipe.data)]
    if unwatched and (rates or "more_seeds" in content):
        raise ValueError(f"`data.validation` must be given: the study chooses by it. Got none in {unwatched[0]}.")
    seeds = _entries("seeds", content.get("seeds", [0]))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be different. Got {seeds}.")
    return Study(
        str(content["name"]),
        str(content["about"]),
        datasets,
        models,
        cpu_seconds=dict(zip(datasets, map(_budget, budgets), strict=True)),
        fit=common,
        rates=rates,
        share=share,
        seeds=tuple(_check.integer("seeds", seed, 0) for seed in seeds),
        more_seeds=_more_seeds(content.get("more_seeds"), datasets),
        on_demand=tuple(name for name, given in zip(datasets, given_datasets, strict=True) if _on_demand(given)),
        folder=folder,
    )


def _entries(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"`{name}` must be a list of at least one entry. Got {given!r}.")
    return given


def _dataset(given: Any, folder: Path) -> Recipe:
    if isinstance(given, str):
        recipe = read_recipe(folder / given)
    else:
        known = ("name", "about", "data", "data_dir", "evaluate", *OF_STUDY)
        _check.keys("datasets", given, known, required=("name", "data"))
        check_data(given["data"])
        further = without(given, "name", "about", "data", *OF_STUDY)
        recipe = Recipe(
            str(given["name"]), str(given.get("about") or ""), given["data"], {}, {}, (), **further, folder=folder
        )
    if not set_names({"data": recipe.data, "evaluate": recipe.evaluate}):
        raise ValueError(f"`evaluate` must name a test set. Got none in {recipe.name}.")
    return replace(recipe, model={}, fit={}, expect=(), seeds=())


def _budget(given: Any) -> float:
    _check.keys("budget", given, (BUDGET,), required=(BUDGET,))
    return _check.positive(f"budget.{BUDGET}", given[BUDGET])


def _on_demand(given: Any) -> bool:
    asked = False if isinstance(given, str) else given.get("on_demand", False)
    _check.instance("on_demand", asked, bool, "true or false")
    return asked


def slug(text: str) -> str:
    """Return a label as the name of a folder."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "unnamed"


def _different(name: str, what: str, texts: Sequence[str]) -> None:
    """Raise unless texts, and the folders that are named after them, differ."""
    seen: dict[str, str] = {}
    for text in texts:
        other = seen.setdefault(slug(text).lower(), text)  # some file systems do not tell case
        if text == other and texts.count(text) > 1:
            raise ValueError(f"`{name}` must have {what} of their own. Got {text!r} twice.")
        if text != other:
            raise ValueError(f"`{name}` must have {what} whose folders differ. Got {other!r} and {text!r}.")


def _has_validation(data: Mapping[str, Any]) -> bool:
    return "validation" in data or bool(data.get("split", {}).get("validation"))


def _entry(given: Any, datasets: Mapping[str, Recipe]) -> Entry:
    _check.keys("models", given, ("label", "model", "fit", "datasets"), required=("label", "model"))
    label, model = str(given["label"]), given["model"]
    _check.keys("model", model, None)
    if "import" in model:
        factory = model["import"]
        module, colon, name = str(factory).partition(":")
        words = [*module.split("."), name]
        if not colon or not all(word.isidentifier() for word in words):
            raise ValueError(f"`model.import` must be module:factory. Got {factory!r}.")
    else:
        check_model(model)
    _check_fit(f"fit of {label}", given.get("fit", {}))
    only = _entries("datasets", given["datasets"]) if "datasets" in given else []
    for name in only:
        _check.choice(f"datasets of {label}", name, datasets)
    return Entry(label, dict(model), dict(given.get("fit", {})), tuple(only))


def _check_fit(name: str, given: Any) -> None:
    from vcycle.training.config import FitConfig, Run

    _check.keys(name, given, None)
    for key in ("epochs", BUDGET):
        if key in given:
            raise ValueError(f"`{name}` must leave out {key}: the study's budget says it. Got {given[key]}.")
    usual = {"epochs": 1, "seed": 0, "loss": "h1", "batch_size": 1, "learning_rate": 1.0}
    arguments: dict[str, Any] = usual | without(fit_arguments(given), STAGES)
    Run(**arguments | {"config": FitConfig.of(arguments["config"])})  # says what is wrong before anything runs


def _tuning(given: Any) -> tuple[tuple[float, ...], float]:
    if given is None:
        return (), SHARE
    _check.keys("tune", given, ("learning_rate", "share"), required=("learning_rate",))
    rates = _entries("tune.learning_rate", given["learning_rate"])
    share = _check.share("tune.share", given.get("share", SHARE))
    return tuple(_check.positive("tune.learning_rate", rate) for rate in rates), share


def _more_seeds(given: Any, datasets: Mapping[str, Recipe]) -> MoreSeeds | None:
    if given is None:
        return None
    _check.keys("more_seeds", given, ("count", "leading", "dataset"), required=("count", "leading"))
    dataset = given.get("dataset")
    if dataset is not None:
        _check.choice("more_seeds.dataset", dataset, datasets)
    count = _check.integer("more_seeds.count", given["count"], 1)
    return MoreSeeds(count, _check.integer("more_seeds.leading", given["leading"], 1), dataset)
