"""The commands that make something: data sets and operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vcycle import _check, _progress
from vcycle.commands.shared import Outcome, Say, open_data, read_pairs, read_shape
from vcycle.errors import DataError

if TYPE_CHECKING:
    from vcycle.data import Dataset

DEFAULT_EPOCHS = 50


def demo(*, full: bool = False, out: str = "vcycle-demo", seed: int = 0, say: Say) -> Outcome:
    """Generate, train, evaluate, certify and compare, on two families, and write a report.

    Parameters
    ----------
    full
        Use 64x64 instead of 32x32 cells.
    out
        Folder for the data, the operators and ``report.html``.
    seed
        Of data, weights and training.
    """
    from vcycle.demo import run_demo
    from vcycle.training.resume import check_folder

    check_folder(out)
    result = run_demo(out, full=full, seed=_check.integer("seed", seed, 0), say=say)
    return Outcome(f"Report: {result['report']}", result)


def generate(  # noqa: PLR0913 - one argument is one option of the command
    problem: str,
    *,
    out: str,
    num_samples: int = 1000,
    shape: str = "32x32",
    seed: int = 0,
    rtol: float | None = None,
    method: str = "auto",
    order: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    chunk_size: int | None = None,
    output_dtype: Literal["float64", "float32"] = "float64",
    problem_args: list[str],
) -> Outcome:
    """Draw and solve samples of a PDE family into a Zarr store; the same command again resumes.

    Parameters
    ----------
    problem
        The PDE family, such as darcy; a wrong name gets all of them listed.
    out
        The store to write.
    num_samples
        Number of samples.
    shape
        Cells per axis, such as 64, 32x32 or 16x16x16.
    seed
        Sample i depends on the seed and i only.
    rtol
        Largest true relative residual of a stored solution, 1e-8 if nothing is said; for evolutions the largest change
        when time steps are halved.
    method
        Solver, such as auto, direct, multigrid or gcrodr; a wrong name gets all of them listed.
    order
        Order of all samples, before they are cut into chunks: given, nearest (similar ones side by side) or auto.
    workers
        Chunks solved at the same time, on threads of this process; one per core if nothing is said.
    scheduler
        Address of a Dask scheduler, such as tcp://10.0.0.1:8786, or its .json file: its workers make the chunks.
    chunk_size
        Samples per chunk.
    output_dtype
        Type of the stored solutions.
    problem_args
        Further arguments of the family, such as coefficient=lognormal.
    """
    from vcycle import data, recipes

    built = recipes.build_problem(problem, read_shape(shape), read_pairs("problem_args", problem_args))
    dataset = data.generate(
        built,
        num_samples=num_samples,
        seed=seed,
        out=out,
        rtol=rtol,
        method=method,
        order=order,
        workers=workers,
        scheduler=scheduler,
        output_dtype=output_dtype,
        chunk_size=chunk_size,
    )
    told = {"residual": "true relative residual", "step_error": "change when time steps were halved"}
    worst = {key: float(dataset.solver[key].max()) for key in told if key in dataset.solver}
    found = "".join(f"; largest {told[key]} {value:.1e}" for key, value in worst.items())
    points = "cells" if dataset.grid.centring == "cell" else "points"
    return Outcome(
        f"{len(dataset)} samples of {problem} on {shape} {points} in {out}{found}",
        {"path": out, "num_samples": len(dataset)} | {f"largest_{key}": value for key, value in worst.items()},
    )


def check(data: str, *, others: list[str]) -> Outcome:
    """Say what is wrong with a data set: NaN, constants, duplicates, leaks, residuals; status 1 if anything is.

    Parameters
    ----------
    data
        A data set.
    others
        Data sets that must share no sample with the first, such as the test set of a training set.
    """
    from vcycle.data import check as check_dataset

    report = check_dataset(open_data(data), *(open_data(other, name="others") for other in others), progress=True)
    return Outcome(str(report), {"path": data, "ok": report.ok, **report.to_dict()}, status=0 if report.ok else 1)


def convert(
    source: str,
    *,
    out: str,
    format: str | None = None,  # noqa: A002 - the word of the command line
    source_format: str | None = None,
    source_args: list[str],
) -> Outcome:
    """Turn a data set of one format into another: zarr, neuraloperator, npz, fno, the-well or pdebench.

    Parameters
    ----------
    source
        The data set to read.
    out
        The data set to write.
    format
        Of what is written, where the suffix of out does not tell.
    source_format
        Of what is read, where neither the suffix nor the file tells.
    source_args
        What the file does not say, such as boundary=periodic extent=6.2831853; docs/data_format.md lists it by format.
    """
    from vcycle.data import FORMATS, detect_format, read_file

    name = detect_format(out, name="out") if format is None else _check.choice("format", format, FORMATS)
    if Path(out).exists():
        raise DataError(f"{out} exists. Give another path, or remove it.")
    if source_format is not None:
        _check.choice("source_format", source_format, FORMATS)
    further = read_pairs("source_args", source_args)
    if source_format is None and not further:
        dataset = open_data(source, name="source")
    else:
        dataset = read_file(source, source_format, name="source", **further)
    with _progress.shown(progress=True):
        FORMATS[name].write(dataset, out)
    return Outcome(
        f"{len(dataset)} samples of {source} in {out} ({FORMATS[name].about})",
        {"path": out, "format": name, "num_samples": len(dataset)},
    )


def train(
    data: str | None = None,
    *,
    out: str,
    config: str | None = None,
    data_dir: str | None = None,
    model: str | None = None,
    epochs: int | None = None,
    test: int | None = None,
    validation: int | None = None,
    seed: int | None = None,
    model_args: list[str],
    fit_args: list[str],
    say: Say,
) -> Outcome:
    """Train an operator on a data set, or do what a recipe says.

    Parameters
    ----------
    data
        The data set; none with --config.
    out
        Folder for the operator.
    config
        A recipe file: data, model and training, and the number that must come out.
    data_dir
        Where the recipe's data files lie.
    model
        The model; mgno if nothing is said. A wrong name gets all of them listed.
    epochs
        Passes over the training samples; 50 if neither this nor --fit-args cpu_seconds is said.
    test
        Samples kept back, which evaluate uses; none if nothing is said.
    validation
        Samples that training watches but does not learn from; none if nothing is said.
    seed
        Of split, weights and shuffling; with --config the one seed to run instead of the recipe's.
    model_args
        Further arguments of the model, such as levels=4 width=24.
    fit_args
        Further arguments of the training, such as loss=l2 batch_size=16 learning_rate=0.002; cpu_seconds=60 trains for
        as many epochs as fit into that, stages=2 boosts a network by a second one.
    """
    from vcycle import recipes
    from vcycle.training.resume import check_folder

    check_folder(out)
    of_model, of_fit = read_pairs("model_args", model_args), read_pairs("fit_args", fit_args)
    choices = {"data": data, "model": model, "epochs": epochs, "test": test, "validation": validation}
    if config is not None:
        _leave_to_the_recipe(choices | {"model_args": model_args or None, "fit_args": fit_args or None})
        result = recipes.run_recipe(config, out, data_dir=data_dir, seed=seed, say=say)
        return Outcome(_recipe_text(result, out), result, status=0 if result["reached"] else 1)
    if data is None:
        raise ValueError("`data` must be given, or a recipe with --config.")
    from vcycle.models import MODELS

    _check.choice("model", model or "mgno", MODELS)
    if data_dir is not None:
        raise ValueError(f"`data_dir` must not be given without --config. Got {data_dir}.")
    if epochs is not None and "epochs" in of_fit:
        raise ValueError(f"`epochs` must be given once. Got --epochs {epochs} and epochs={of_fit['epochs']}.")
    asked = _Training(
        model or "mgno",
        test or 0,
        validation or 0,
        seed or 0,
        model_args=of_model,
        fit_args=_length(epochs, of_fit) | of_fit,
    )
    return _train(open_data(data), data, out, asked)


def _length(epochs: int | None, further: Mapping[str, Any]) -> dict[str, int]:
    if epochs is not None:
        return {"epochs": epochs}
    return {} if "cpu_seconds" in further else {"epochs": DEFAULT_EPOCHS}


def _leave_to_the_recipe(choices: Mapping[str, Any]) -> None:
    given = next((name for name, value in choices.items() if value is not None), None)
    if given is not None:
        raise ValueError(f"`{given}` must not be given with --config: the recipe says it. Got {choices[given]}.")


@dataclass(frozen=True)
class _Training:
    model: str
    test: int
    validation: int
    seed: int
    model_args: dict[str, Any]
    fit_args: dict[str, Any]


def _train(dataset: "Dataset", path: str, out: str, asked: _Training) -> Outcome:
    from vcycle import recipes
    from vcycle.data import origin
    from vcycle.training.resume import recorded

    seen, kept = _parts(dataset, asked)
    record = {"data": path, **origin(dataset, seen, kept)}
    with recorded(out, record):
        operator = recipes.train(
            seen,
            model=asked.model,
            out=out,
            model_args=asked.model_args,
            fit_args=asked.fit_args,
            validation=kept,
            seed=asked.seed,
        )
    num_seen = len(record["trained_on"])
    left = len(dataset) - num_seen
    trained = f"{asked.model} trained on {len(seen)} samples for {operator.metrics['epochs']} epochs"
    text = f"{trained}: {out}; {left} samples of {path} are unseen"
    return Outcome(text, {"path": out, "trained_on": num_seen, "unseen": left, "metrics": dict(operator.metrics)})


def _parts(dataset: "Dataset", asked: _Training) -> "tuple[Dataset, Dataset | None]":
    _check.integer("test", asked.test, 0)
    _check.integer("validation", asked.validation, 0)
    if asked.test + asked.validation >= len(dataset):
        given = f"{asked.test} and {asked.validation} of {len(dataset)}"
        raise ValueError(f"`test` and `validation` must leave samples to train on. Got {given}.")
    if asked.test == 0:  # what is watched is what a split would keep for the test
        parts = dataset.split(test=asked.validation, seed=asked.seed) if asked.validation else (dataset, None)
    else:
        parts = dataset.split(test=asked.test, validation=asked.validation, seed=asked.seed)
    return parts[0], parts[1] if asked.validation else None


def _recipe_text(result: Mapping[str, Any], out: str) -> str:
    seconds = max(run["cpu_seconds"] for run in result["runs"])
    lines = [
        f"{check['metric']} {check['mean']:.4f}, expected at most {check['expected']}: "
        f"{'reached' if check['reached'] else 'NOT reached'}"
        for check in result["checks"]
    ]
    end = f"mean of {len(result['runs'])} seeds, at most {seconds:.0f} CPU-seconds per seed. Everything is in {out}"
    return "\n".join([f"{result['recipe']}: {lines[0]}", *lines[1:], end])
