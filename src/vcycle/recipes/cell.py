"""One cell of a study: a model trained on a data set from one seed, in a process of its own, and what was measured.

``python -m vcycle.recipes.cell`` reads a :class:`Cell` as JSON from standard input.
"""

import importlib
import json
import math
import platform
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle import __version__, _check
from vcycle._files import write_json
from vcycle.errors import CheckpointError
from vcycle.recipes.building import RecipeData, channels_of, load_data, train
from vcycle.recipes.process import work_on
from vcycle.recipes.recipe import BUDGET, STAGES, Recipe, fit_arguments, tuples, without
from vcycle.recipes.running import numbers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vcycle.data import Dataset
    from vcycle.training import TrainedOperator

RECORD, TUNING, WEIGHTS, RUN = "record.json", "tuning.json", "weights.pt", "run"
TIMED_SAMPLES, REPEATS = 16, 5
LOSSES = ("loss", "validation_loss")
MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """What one process of a study does.

    Parameters
    ----------
    folder
        Where it writes.
    recipe
        The data: entries of a :class:`Recipe`.
    model
        As in a study's entry.
    fit
        Everything for the training but its length, and the learning rate where that is chosen.
    cpu_seconds
        Budget of the training.
    seed
        Of weights and training.
    rates
        Learning rates to choose among, each with ``share`` of the budget; empty chooses nothing.
    share
        See ``rates``.
    first
        Folder of the first seed's cell, whose learning rate is used; ``folder`` itself if this is the first seed.
    data_dir, cache
        As for :func:`vcycle.recipes.load_data`.
    """

    folder: str
    recipe: dict[str, Any]
    model: dict[str, Any]
    fit: dict[str, Any]
    cpu_seconds: float
    seed: int
    rates: list[float] = field(default_factory=list)
    share: float = 0.15
    first: str = ""
    data_dir: str | None = None
    cache: str | None = None

    def data(self) -> RecipeData:
        """Read the data; test sets are opened, and read when they are measured on."""
        entries = self.recipe | {"folder": Path(self.recipe["folder"]), "seeds": (), "expect": ()}
        return load_data(Recipe(**entries), data_dir=self.data_dir, cache=self.cache, progress=False)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and measure one cell, and write its record; what was begun is continued.

    Returns
    -------
    dict
        The record: errors (relative, dimensionless) by test set, on training and validation data; ``parameters``
        (real numbers); ``cpu_seconds``, ``epochs`` and ``history`` of the training; ``inference_ms``, CPU milliseconds
        per sample; ``peak_mib`` of the process, ``start_mib`` of it before there was a model.

    Raises
    ------
    ValueError, TypeError
        If the model or the training cannot be what is asked for.
    FloatingPointError
        If training diverges.
    """
    folder = Path(cell.folder)
    data = cell.data()
    start = _peak_mib()
    rate, spent = _learning_rate(cell, data)
    settings = cell.fit | ({} if rate is None else {"learning_rate": rate})
    operator = _trained(cell, data, settings, cell.cpu_seconds, folder / RUN, keep=True)
    validation = None if data.validation is None else numbers(operator, data.validation)
    first = data.train.subset(range(min(len(data.train), max(map(len, data.tests.values())))))
    record = {
        "seed": cell.seed,
        "learning_rate": rate if rate is not None else cell.fit.get("learning_rate"),
        "tuning_cpu_seconds": spent,
        "parameters": num_parameters(operator.network),
        "cpu_seconds": operator.metrics["cpu_seconds"],
        "epochs": operator.metrics["epochs"],
        "history": _history(operator),
        "train": numbers(operator, first),
        "validation": validation,
        "peak_mib": _peak_mib(),
        "start_mib": start,
    }
    record["tests"] = {name: numbers(operator, test, data.trajectories.get(name)) for name, test in data.tests.items()}
    record["inference_ms"] = inference_ms({"it": operator}, next(iter(data.tests.values())))["it"]
    record |= {"version": __version__, "machine": platform.platform()}
    write_json(folder / RECORD, record)
    return record


def inference_ms(
    operators: "Mapping[str, TrainedOperator]", test: "Dataset", repeats: int = REPEATS
) -> dict[str, float]:
    """Return CPU milliseconds per sample by name, medians of repetitions in turn after one that is not counted."""
    some = test.subset(range(min(TIMED_SAMPLES, len(test))))
    times: dict[str, list[float]] = {name: [] for name in operators}
    for _ in range(repeats + 1):
        for name, operator in operators.items():
            started = time.process_time()
            operator.predict(some.inputs, operator.parameters_of(some))
            times[name].append(1000 * (time.process_time() - started) / len(some))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def _learning_rate(cell: Cell, data: RecipeData) -> tuple[float | None, float]:
    """Return the learning rate to train with, and the CPU seconds that choosing it took here."""
    if not cell.rates:
        return None, 0.0
    if Path(cell.first) != Path(cell.folder):
        chosen = (read_kept(Path(cell.first) / TUNING) or {}).get("chosen")
        if chosen is None:
            raise ValueError("Not run: the first seed, which chooses the learning rate of all, has failed.")
        return float(chosen), 0.0
    path = Path(cell.folder) / TUNING
    tried: dict[str, dict[str, Any]] = (read_kept(path) or {}).get("tried", {})
    for rate in cell.rates:
        if f"{rate:g}" not in tried:
            tried[f"{rate:g}"] = _tried(cell, data, rate)
            write_json(path, {"tried": tried, "chosen": None})
    errors = {rate: tried[f"{rate:g}"]["validation"] for rate in cell.rates}
    if all(error is None for error in errors.values()):
        raise FloatingPointError(f"No learning rate works: {tried[f'{cell.rates[0]:g}']['reason']}")
    best = min(errors, key=lambda rate: math.inf if errors[rate] is None else errors[rate])
    write_json(path, {"tried": tried, "chosen": best})
    return best, sum(trial["cpu_seconds"] for trial in tried.values())


def _tried(cell: Cell, data: RecipeData, rate: float) -> dict[str, Any]:
    """Train with one candidate; its error on validation data is ``None`` where it diverges."""
    if data.validation is None:
        raise ValueError("`data.validation` must be given where a learning rate is chosen. Got none.")
    started = time.process_time()
    folder = Path(cell.folder) / f"rate-{rate:g}"
    try:
        operator = _trained(cell, data, cell.fit | {"learning_rate": rate}, cell.share * cell.cpu_seconds, folder)
        error = numbers(operator, data.validation)["relative_l2"]
    except FloatingPointError as diverged:
        return {"validation": None, "reason": str(diverged), "cpu_seconds": time.process_time() - started}
    return {"validation": error, "cpu_seconds": operator.metrics["cpu_seconds"]}


def _trained(
    cell: Cell, data: RecipeData, settings: Mapping[str, Any], seconds: float, folder: Path, *, keep: bool = False
) -> "TrainedOperator":
    settings = {"logger": ["csv"]} | dict(settings)
    if "import" in cell.model:
        return _trained_outside(cell, data, settings, seconds, folder, keep=keep)
    return train(
        data.train,
        model=cell.model["name"],
        out=folder,
        model_args=without(cell.model, "name"),
        fit_args=settings | {BUDGET: seconds},
        validation=data.validation,
        seed=cell.seed,
        progress=False,
    )


def _trained_outside(
    cell: Cell, data: RecipeData, settings: Mapping[str, Any], seconds: float, folder: Path, *, keep: bool
) -> "TrainedOperator":
    """Train a model that cannot be saved as an operator; only its weights are kept, and no checkpoint."""
    import torch

    from vcycle.training import fit
    from vcycle.training.budget import budget_in

    if STAGES in settings:
        raise ValueError(f"`{STAGES}` must be left out for a model of another package. Got {settings[STAGES]}.")
    network = build_outside(cell.model, data.train, seed=cell.seed)
    arguments = fit_arguments(settings) | {"validation": data.validation, "seed": cell.seed}
    epochs = budget_in(folder, network, data.train, cpu_seconds=seconds, **arguments).epochs
    operator = fit(network, data.train, epochs=epochs, progress=False, **arguments)
    if keep:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(_tensors(operator), folder / WEIGHTS)
    return operator


def _tensors(operator: "TrainedOperator") -> "dict[str, Tensor]":
    """Return weights and normalisers by name; a package may put more than tensors into its ``state_dict``."""
    modules = {
        "network": operator.network,
        "input_normaliser": operator.input_normaliser,
        "output_normaliser": operator.output_normaliser,
    }
    if operator.parameter_normaliser is not None:
        modules["parameter_normaliser"] = operator.parameter_normaliser
    return {
        f"{place}.{name}": tensor.detach()
        for place, module in modules.items()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def build_outside(model: Mapping[str, Any], data: "Dataset", *, seed: int) -> "nn.Module":
    """Build a model of another package by ``factory(in_channels=, out_channels=, grid=, **arguments)``.

    Raises
    ------
    ValueError
        If the module has no such factory.
    TypeError
        If it does not return a network.
    ImportError
        If there is no such module.
    """
    import torch
    from torch import nn

    module, _, name = model["import"].partition(":")
    factory = getattr(importlib.import_module(module), name, None)
    if not callable(factory):
        raise ValueError(f"`model.import` must name a function of {module}. Got {name!r}.")
    arguments = {key: tuples(value) for key, value in model.items() if key != "import"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = factory(**channels_of(data), grid=data.grid, **arguments)
    _check.instance("model", network, nn.Module, "a torch.nn.Module")
    return network


def num_parameters(network: "nn.Module") -> int:
    """Return the number of real numbers that training changes; a complex one counts twice."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in network.parameters() if p.requires_grad)


def read_kept(path: Path) -> dict[str, Any] | None:
    """Return what a cell wrote down; ``None`` where there is nothing.

    Raises
    ------
    CheckpointError
        If it is corrupt.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is corrupt. Remove its folder to run the cell again.")
    return content


def _history(operator: "TrainedOperator") -> list[dict[str, float]]:
    """Return the losses by epoch with the CPU seconds until then; all epochs do the same work.

    Losses of later stages of boosting are left out: they are relative to what the stages before left over.
    """
    rows, total = operator.history, float(operator.metrics["cpu_seconds"])
    return [
        {key: row[key] for key in ("epoch", *(() if row.get("stage") else LOSSES)) if key in row}
        | {"cpu_seconds": total * number / len(rows)}
        for number, row in enumerate(rows, start=1)
    ]


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MIB


if __name__ == "__main__":
    work_on(lambda told: run_cell(Cell(**told)))
