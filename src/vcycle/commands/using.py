"""The commands that use what was made: measure, predict, bound, compare, describe."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle import __version__, _progress
from vcycle._files import check_file, write_json, write_npy
from vcycle.commands.shared import (
    Outcome,
    Say,
    check_suffix,
    data_seconds,
    load_operator,
    load_pair,
    open_data,
    problem_of,
    read_npy,
    unseen,
)
from vcycle.errors import DataError

if TYPE_CHECKING:
    from vcycle.data import Dataset
    from vcycle.training import TrainedOperator


def evaluate(operator: str, data: str, *, with_training: bool = False) -> Outcome:
    """Measure an operator on the samples of a data set that it was not trained on.

    Parameters
    ----------
    operator
        Folder of a trained operator.
    data
        A data set.
    with_training
        Also use samples that the operator was trained on.
    """
    from vcycle.evaluation import evaluate as measure

    trained, dataset = load_pair(operator, data)
    chosen, which = _chosen(operator, dataset, data, with_training=with_training)
    measured = measure(trained, chosen, progress=True)
    return Outcome(f"{operator} on {which}\n{measured}", measured.to_dict() | {"data": which})


def predict(operator: str, data: str, *, out: str) -> Outcome:
    """Predict outputs, in physical units, into a NumPy file.

    Parameters
    ----------
    operator
        Folder of a trained operator.
    data
        A NumPy file of inputs (sample, channel, *space), or a data set.
    out
        The file to write, ending in .npy: outputs (sample, channel, *space).
    """
    from vcycle.training import predict as predict_outputs

    check_suffix("out", out, ".npy")
    inputs: Any
    if Path(data).suffix == ".npy":
        trained, inputs, parameters = load_operator(operator), read_npy(data), None
    else:
        trained, dataset = load_pair(operator, data)
        inputs, parameters = dataset.inputs, trained.parameters_of(dataset)
    with _progress.shown(progress=True):
        outputs = predict_outputs(trained, inputs, parameters).numpy()
    write_npy(out, outputs)
    text = f"{len(outputs)} predictions of shape {outputs.shape[1:]} in {out}"
    return Outcome(text, {"path": out, "shape": list(outputs.shape)})


def certify(
    operator: str,
    data: str,
    *,
    steps: int = 0,
    discretisation: bool = False,
    polish: str | None = None,
    rtol: float = 1e-8,
    with_training: bool = False,
    out: str | None = None,
) -> Outcome:
    """Bracket the energy-norm error of an operator's predictions; no true solution is used.

    Parameters
    ----------
    operator
        Folder of a trained operator.
    data
        A data set of a problem with symmetric positive definite matrices.
    steps
        Steps of multigrid-preconditioned conjugate gradients; more steps narrow the interval.
    discretisation
        Also compare with a grid twice as fine.
    polish
        Also continue to solver accuracy, and write that to this file, ending in .npy.
    rtol
        Relative residual of the polished predictions.
    with_training
        Also use samples that the operator was trained on.
    out
        A JSON file for the bounds of each sample.
    """
    from vcycle.evaluation import certify as bracket

    if out is not None:
        check_file("out", out)
    if polish is not None:
        check_suffix("polish", polish, ".npy")
    trained, dataset = load_pair(operator, data)
    chosen, which = _chosen(operator, dataset, data, with_training=with_training)
    problem = problem_of(chosen, data)
    settings = {"steps": steps, "discretisation": discretisation, "polish": polish is not None, "rtol": rtol}
    with _progress.shown(progress=True):
        prediction = trained.predict(chosen.inputs, trained.parameters_of(chosen))
        certificate = bracket(problem, chosen.inputs, prediction, **settings)  # type: ignore[arg-type]
    result = certificate.to_dict() | {"sample_id": [int(i) for i in chosen.sample_id]}
    if out is not None:
        write_json(out, result)
    if polish is not None and certificate.polished is not None:
        write_npy(polish, certificate.polished.numpy())
    return Outcome(f"{operator} on {which}\n{certificate}", result | {"data": which})


def benchmark(
    operator: str,
    data: str | None = None,
    *,
    with_training: bool = False,
    out: str | None = None,
    only: list[str],
    dataset: list[str],
    budget: float | None = None,
    jobs: int | None = None,
    redo: bool = False,
    data_dir: str | None = None,
    say: Say,
) -> Outcome:
    """Compare an operator with classical solvers on this machine, or models with each other as a study says.

    Parameters
    ----------
    operator
        Folder of a trained operator; or a study, ending in .yaml, which trains models for equal CPU time.
    data
        A data set of the family that the operator was trained on; none with a study.
    with_training
        Also use samples that the operator was trained on.
    out
        A JSON file for the table; of a study the folder for everything, where a repetition continues.
    only
        Of a study, labels of the models to run.
    dataset
        Of a study, names of the data sets to run.
    budget
        Of a study, CPU seconds of each training in place of its own.
    jobs
        Of a study, models trained at the same time, each on one thread; 1 if nothing is said.
    redo
        Of a study, run again what failed or was changed.
    data_dir
        Of a study, where data files lie.
    """
    of_study = {"only": only, "dataset": dataset, "budget": budget, "jobs": jobs, "redo": redo, "data_dir": data_dir}
    given = {
        name: value for name, value in of_study.items() if value is not None and value is not False and value != []
    }
    if Path(operator).suffix in (".yaml", ".yml"):
        if data is not None:
            raise ValueError(f"`data` must not be given with a study: it says its data. Got {data}.")
        if with_training:
            raise ValueError("`with_training` must not be given with a study: it says its data. Got True.")
        return _study(operator, out, given, say)
    if given:
        name, value = next(iter(given.items()))
        raise ValueError(f"`{name}` must only be given with a study, a .yaml file. Got {value} with {operator}.")
    if data is None:
        raise ValueError("`data` must be given with the folder of an operator.")
    return _against_solvers(operator, data, with_training=with_training, out=out)


def _study(path: str, out: str | None, given: Mapping[str, Any], say: Say) -> Outcome:
    from vcycle.recipes.runner import run_study

    if out is None:
        raise ValueError("`out` must be given with a study: the folder for everything.")
    named = {"datasets" if name == "dataset" else name: value for name, value in given.items()}
    board = run_study(path, out, say=say, **named)
    text = f"{board}\n\nEverything is in {out}"
    return Outcome(text, board.to_dict() | {"path": out}, status=1 if board.failures else 0)


def _against_solvers(operator: str, data: str, *, with_training: bool, out: str | None) -> Outcome:
    from vcycle.evaluation import benchmark as compare

    if out is not None:
        check_file("out", out)
    trained, dataset = load_pair(operator, data)
    chosen, which = _chosen(operator, dataset, data, with_training=with_training)
    training = trained.metrics.get("cpu_seconds")
    table = compare(
        problem_of(chosen, data),
        trained,
        chosen,
        data_seconds=data_seconds(operator, dataset),
        training_seconds=None if training is None else float(training),
    )
    if out is not None:
        write_json(out, table.to_dict())
    return Outcome(f"{operator} on {which}\n{table}", table.to_dict() | {"data": which})


def _chosen(operator: str, dataset: "Dataset", data: str, *, with_training: bool) -> "tuple[Dataset, str]":
    """Return the samples to use, and in words which these are."""
    if with_training:
        return dataset, f"all {len(dataset)} samples of {data}, those that it was trained on among them"
    return unseen(operator, dataset, data)


def export(operator: str, *, out: str, any_size: bool = False) -> Outcome:
    """Write an operator as a program that runs without vcycle, physical units in and out, any number of samples.

    Scalars that the operator takes are a second input of the program.

    Parameters
    ----------
    operator
        Folder of a trained operator.
    out
        The file to write: ending in .pt2 for torch.export.load, in .onnx for ONNX Runtime.
    any_size
        Leave the grid's size free too.
    """
    from vcycle.training.export import export_operator

    check_suffix("out", out, ".pt2", ".onnx")
    trained = load_operator(operator)
    export_operator(trained, out, any_size=any_size)
    sizes = [f"n{axis}" for axis in range(trained.grid.num_axes)] if any_size else trained.grid.shape
    shape = ["sample", trained.in_channels, *sizes]
    names = trained.parameter_names
    scalars = f", parameters {('sample', len(names))} in the order {', '.join(names)}" if names else ""
    reader = "ONNX Runtime" if out.endswith(".onnx") else "torch.export.load"
    return Outcome(
        f"{out}: inputs {tuple(shape)}{scalars}, float32; {reader} reads it",
        {"path": out, "input_shape": shape, "parameter_names": list(names)},
    )


def info(path: str | None = None) -> Outcome:
    """Describe a data set, a trained operator, or without a path this installation.

    Parameters
    ----------
    path
        A data set or the folder of an operator.
    """
    from vcycle.data.formats.pipe import is_pipe

    if path is None:
        description = _describe_installation()
    elif not Path(path).exists():
        raise DataError(f"{path} does not exist.")
    elif Path(path).is_file() or (Path(path) / "zarr.json").exists() or is_pipe(path):
        description = _describe_dataset(open_data(path, name="path"))
    else:
        description = _describe_operator(load_operator(path))
    width = max(len(key) for key in description)
    return Outcome("\n".join(f"{key:<{width}}  {_short(value)}" for key, value in description.items()), description)


def _describe_installation() -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("torch", "numpy", "scipy", "numba", "zarr", "lightning")
    found = {name: version(name) for name in packages}
    return {"vcycle": __version__, "python": platform.python_version(), **found, "machine": platform.platform()}


def _describe_dataset(dataset: "Dataset") -> dict[str, Any]:
    problem = None if dataset.problem is None else dataset.problem.config()
    return {
        "kind": "data set",
        "samples": len(dataset),
        "inputs": [f"{f.name} [{f.unit}]" for f in dataset.input_fields],
        "outputs": [f"{f.name} [{f.unit}]" for f in dataset.output_fields],
        "grid": dataset.grid.to_dict(),
        "boundary": str(dataset.boundary),
        "problem": problem,
        "fingerprint": dataset.fingerprint(),
    }


def _describe_operator(trained: "TrainedOperator") -> dict[str, Any]:
    network: Any = trained.network
    weights = sum(p.numel() for p in network.parameters())
    return {
        "kind": "trained operator",
        "model": type(network).__name__,
        "weights": weights,
        "arguments": network.config(),
        "inputs": [f"{f.name} [{f.unit}]" for f in trained.input_fields],
        "outputs": [f"{f.name} [{f.unit}]" for f in trained.output_fields],
        "grid": trained.grid.to_dict(),
        "boundary": str(trained.boundary),
        "metrics": dict(trained.metrics),
    }


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_short(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
