"""Do what a recipe says: train once per seed, measure, and compare with the numbers that must come out."""

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle import _check
from vcycle._files import write_json
from vcycle.recipes.building import RecipeData, load_data, train
from vcycle.recipes.recipe import Recipe, Say, read_recipe, without

if TYPE_CHECKING:
    from vcycle.data import Dataset
    from vcycle.training import TrainedOperator


def run_recipe(
    path: str | Path,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    seed: int | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> dict[str, Any]:
    """Do what a recipe file says, once per seed, and compare with the numbers that it must reach.

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
        As in ``metrics.json``, see :func:`summary`.

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
    data = load_data(recipe, data_dir=data_dir, progress=progress)
    seeds = recipe.seeds if seed is None else (_check.integer("seed", seed, 0),)
    shown = {check["metric"] for check in recipe.expect}
    runs = []
    for chosen in seeds:
        run = _run_seed(recipe, data, out=out / f"seed-{chosen}", seed=chosen, progress=progress)
        runs.append(run)
        errors = (f"{key} {value:.4f}" for key, value in run["metrics"].items() if key.partition(".")[2] in shown)
        say(f"{recipe.name}, seed {chosen}: {', '.join(errors)}")
    result = summary(recipe, runs)
    write_json(out / "metrics.json", result)
    return result


def summary(recipe: Recipe, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare means over the runs with the numbers that the recipe must reach.

    Returns
    -------
    dict
        ``runs`` (per seed metrics and CPU seconds); of the first number ``metric``, ``mean``, ``expected`` and
        ``source``, of all of them the same in ``checks``; and whether all were ``reached``.
    """
    checks = [_compared(check, runs) for check in recipe.expect]
    first = without(checks[0], "reached")
    reached = all(check["reached"] for check in checks)
    return {"recipe": recipe.name, "runs": runs, **first, "checks": checks, "reached": reached}


def _compared(check: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    key = f"{check['set']}.{check['metric']}"
    for run in runs:
        _check.choice("expect.metric", key, run["metrics"])
    mean = statistics.fmean(run["metrics"][key] for run in runs)
    return {
        "metric": key,
        "mean": mean,
        "expected": check["at_most"],
        "source": check["source"],
        "reached": mean <= check["at_most"],
    }


def _run_seed(recipe: Recipe, data: RecipeData, *, out: Path, seed: int, progress: bool) -> dict[str, Any]:
    from vcycle.data import origin
    from vcycle.training.resume import RUN_FILE

    wanted = {"seed": seed, "model": recipe.model, "fit": recipe.fit, **origin(data.train, data.train, data.validation)}
    wanted["tests"] = {name: test.fingerprint() for name, test in data.tests.items()}
    finished = _finished(out, wanted)
    if finished is not None:
        return finished
    operator = train(
        data.train,
        model=recipe.model["name"],
        out=out,
        model_args=without(recipe.model, "name"),
        fit_args=recipe.fit,
        validation=data.validation,
        seed=seed,
        progress=progress,
    )
    metrics = {
        f"{name}.{key}": value
        for name, test in data.tests.items()
        for key, value in numbers(operator, test, data.trajectories.get(name)).items()
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


def numbers(operator: "TrainedOperator", test: "Dataset", trajectories: "Dataset | None" = None) -> dict[str, float]:
    """Return what an operator's errors on a test set are, by name; over whole trajectories too where they are given."""
    from vcycle.evaluation import evaluate

    measured: dict[str, Any] = evaluate(operator, test).to_dict()
    if trajectories is not None:
        from vcycle.evaluation import rollout_errors

        measured |= rollout_errors(operator, trajectories)
    return {
        key: float(value)
        for key, value in measured.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
