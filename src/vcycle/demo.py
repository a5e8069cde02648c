"""The whole library in one run: two families from random fields to certified predictions, and a report about them."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle import __version__
from vcycle._files import write_json

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vcycle.data import Dataset
    from vcycle.evaluation.evaluate import Evaluation
    from vcycle.evaluation.report import ReportData, SamplePicture
    from vcycle.problems import Problem
    from vcycle.training import TrainedOperator

Say = Callable[[str], None]


@dataclass(frozen=True)
class Family:
    """One family of the demo: all of its choices.

    Parameters
    ----------
    title
        Heading in the report.
    problem
        ``name``, ``shape`` and further arguments of the problem.
    num_train, num_test
        Numbers of samples.
    model, fit
        ``name`` and arguments of the model; arguments of the training.
    input_name
        What the first input channel is.
    """

    title: str
    problem: Mapping[str, Any]
    num_train: int
    num_test: int
    model: Mapping[str, Any]
    fit: Mapping[str, Any]
    input_name: str


TRAINING = {"batch_size": 20, "learning_rate": 0.002, "loss": "h1", "output_normaliser": "pointwise"}
DARCY = Family(
    title="Two-phase Darcy flow",
    problem={"name": "darcy", "shape": (32, 32), "coefficient": "two-phase"},
    num_train=1000,
    num_test=200,
    model={"name": "mgno", "levels": 5, "width": 20, "depth": 3},
    fit={"epochs": 10, **TRAINING},
    input_name="coefficient",
)
DARCY_FULL = replace(
    DARCY,
    problem={**DARCY.problem, "shape": (64, 64)},
    model={**DARCY.model, "levels": 6},
    fit={**DARCY.fit, "epochs": 12},
)
HELMHOLTZ = Family(  # waves in 3-D: a sparse factorisation is dear, a coarse grid far off, and the operator can pay
    title="Helmholtz waves in a box",
    problem={"name": "helmholtz", "shape": (16, 16, 16), "wave_number": 8.6, "variation": 0.05},
    num_train=400,
    num_test=50,
    model={"name": "mgno", "levels": 3, "width": 12, "depth": 3},
    fit={"epochs": 14, **TRAINING, "batch_size": 10},
    input_name="wave speed",
)


def run_demo(
    out: str | Path, *, full: bool = False, seed: int = 0, say: Say, families: tuple[Family, ...] | None = None
) -> dict[str, Any]:
    """Take each family from random fields to certified predictions, and write ``report.html``.

    Parameters
    ----------
    out
        Folder for data, operators, ``report.html`` and ``metrics.json``; what is finished there is not done again.
    full
        Use the 64x64 settings.
    seed
        Of data, weights and training.
    say
        Called with one line per step.
    families
        Instead of the demo's own.

    Returns
    -------
    dict
        ``report`` (its path), ``seconds``, and per family the measured numbers.
    """
    from vcycle.evaluation.report import write_report

    out = Path(out)
    if families is None:
        families = (DARCY_FULL if full else DARCY, HELMHOLTZ)
    started = time.perf_counter()
    parts: list[ReportData] = []
    measured: dict[str, Any] = {}
    for family in families:
        part, numbers = run_family(family, out, seed=seed, say=say)
        parts.append(part)
        measured[family.problem["name"]] = numbers
        report = write_report(out / "report.html", parts, title="vcycle demo")
        say(f"  report: {report}")
    result = {"report": str(report), "seconds": time.perf_counter() - started, "families": measured}
    write_json(out / "metrics.json", result)
    return result


def run_family(family: Family, out: Path, *, seed: int, say: Say) -> "tuple[ReportData, dict[str, Any]]":
    """Generate, train, evaluate, certify and compare one family.

    Parameters
    ----------
    family
        What to do.
    out
        Folder for data and operator.
    seed
        Of data, weights and training.
    say
        Called with one line per step.

    Returns
    -------
    tuple
        The family's part of the report, and its numbers.
    """
    from vcycle import evaluation, recipes

    size = "x".join(map(str, family.problem["shape"]))
    name = f"{family.problem['name']}-{size}"
    arguments = {key: value for key, value in family.problem.items() if key not in ("name", "shape")}
    problem = recipes.build_problem(family.problem["name"], family.problem["shape"], arguments)
    say(f"{family.title}, {size}: {family.num_train} training and {family.num_test} unseen samples")
    clock = _Clock()
    train, test = _make_data(problem, family, out / f"{name}.zarr", seed)
    worst = float(max(max(train.solver["residual"]), max(test.solver["residual"])))
    say(f"  generated in {clock.lap('data'):.1f} s; largest true relative residual {worst:.1e}")
    model_args = {key: value for key, value in family.model.items() if key != "name"}
    operator = recipes.train(
        train,
        model=family.model["name"],
        out=out / f"{name}-operator",
        model_args=model_args,
        fit_args=family.fit,
        seed=seed,
    )
    say(f"  trained {type(operator.network).__name__} in {clock.lap('training'):.1f} s")
    evaluated = evaluation.evaluate(operator, test)
    clock.lap("evaluation")
    say(_indented(str(evaluated)))
    predictions = operator.predict(test.inputs).double()
    energy = _energies(problem, test, predictions)
    if energy is not None:
        inside = f"the true error lies inside in {energy.num_inside} of {len(test)}"
        say(f"  certified in {clock.lap('certificate'):.1f} s: upper/lower at most {energy.widest:.3f}; {inside}")
        say(f"  the grid's own error, against one twice as fine: {energy.discretisation:.2%} in L2")
    honest = evaluation.benchmark(
        problem,
        operator,
        test,
        num_samples=len(test),
        data_seconds=_data_seconds(train),
        training_seconds=float(operator.metrics["cpu_seconds"]),
    )
    clock.lap("comparison")
    say(_indented(str(honest)))
    numbers: dict[str, Any] = {"size": size, "largest_residual": worst, "seconds": clock.laps}
    numbers["benchmark"] = honest.to_dict()
    numbers["relative_l2"], numbers["relative_h1"] = evaluated.relative_l2, evaluated.relative_h1
    if energy is not None:
        numbers["certificate"] = {
            "widest": energy.widest,
            "inside": energy.num_inside,
            "samples": len(test),
            "discretisation": energy.discretisation,
        }
    return _part(family, operator, _Unseen(test, predictions, evaluated, energy), numbers), numbers


def _make_data(problem: "Problem", family: Family, path: Path, seed: int) -> "tuple[Dataset, Dataset]":
    from vcycle.data import generate

    data = generate(problem, num_samples=family.num_train + family.num_test, seed=seed, out=path)
    train, test = data.split(test=family.num_test, seed=seed)
    return train, test


def _data_seconds(train: "Dataset") -> float:
    """Return what drawing and solving the training samples took, from the CPU times that are stored with them."""
    return float(sum(sum(train.solver[key]) for key in ("seconds", "sampling_seconds") if key in train.solver))


class _Clock:
    """Wall-clock seconds per step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
        return self.laps[name]


@dataclass(frozen=True)
class _Energies:
    """Energy-norm errors relative to the solutions' energy norms, ``(sample,)`` each, dimensionless."""

    lower: "Tensor"
    upper: "Tensor"
    true: "Tensor"
    discretisation: float
    """Mean relative L2 distance of the discrete solutions from those on a grid twice as fine."""

    @property
    def widest(self) -> float:
        return float((self.upper / self.lower).max())

    @property
    def num_inside(self) -> int:
        slack = 1e-9  # the stored solution is itself solved to a tolerance
        return int(((self.true >= self.lower * (1 - slack)) & (self.true <= self.upper * (1 + slack))).sum())


def _energies(problem: "Problem", test: "Dataset", predictions: "Tensor") -> _Energies | None:
    """Certify, and compute the true errors from the stored solutions; ``None`` where no certificate exists."""
    from vcycle.evaluation import certify

    systems = problem.systems(test.inputs)
    if not systems.positive_definite:
        return None
    truth = test.outputs.squeeze(1)
    scale, true = (systems.fluxes.energy(field).sqrt() for field in (truth, predictions.squeeze(1) - truth))
    certificate = certify(problem, test.inputs, predictions, discretisation=True)
    grid_error = float(certificate.discretisation.mean()) if certificate.discretisation is not None else math.nan
    return _Energies(certificate.lower / scale, certificate.upper / scale, true / scale, grid_error)


@dataclass(frozen=True)
class _Unseen:
    """The unseen samples, and all that is known about the predictions for them."""

    data: "Dataset"
    predictions: "Tensor"
    evaluated: "Evaluation"
    energy: _Energies | None


def _part(family: Family, operator: "TrainedOperator", unseen: _Unseen, numbers: Mapping[str, Any]) -> "ReportData":
    from vcycle.evaluation.report import ReportData, representative

    evaluated, energy = unseen.evaluated, unseen.energy
    errors = evaluated.per_sample["relative_l2"]
    shown = {"relative L2": f"{evaluated.relative_l2:.2%}", "relative H1": f"{evaluated.relative_h1:.2%}"}
    shown["worst sample, L2"] = f"{errors.max():.1%}"
    if energy is not None:
        shown["errors inside their bounds"] = f"{energy.num_inside} of {len(errors)}"
        shown["widest upper / lower"] = f"{energy.widest:.3f}"
        shown["the grid's own error, L2"] = f"{energy.discretisation:.2%}"
    model = type(operator.network).__name__
    bands = zip(evaluated.band_edges, evaluated.band_energy, strict=True)
    return ReportData(
        title=f"{family.title}, {numbers['size'].replace('x', ' × ')}",
        headline=f"{model} errs by {evaluated.relative_l2:.2%} on {len(errors)} samples that it has not seen.",
        numbers=shown,
        samples=[_picture(label, i, family, unseen) for label, i in representative(errors.tolist()).items()],
        history=_curves(operator.history),
        bands={f"from {edge:g}": share**0.5 for edge, share in bands},
        table=_table(numbers["benchmark"]["rows"]),
        verdict=" ".join(filter(None, (numbers["benchmark"]["verdict"], numbers["benchmark"]["cost"]))),
        settings=_settings(family, operator, numbers),
    )


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = rows[0]["cpu_ms"]
    return [
        {
            "": row["name"],
            "relative L2 error": f"{row['error']:.2e}",
            "CPU ms per sample": float(row["cpu_ms"]),
            "time, operator = 1": float(row["cpu_ms"] / own) if own > 0 else None,
        }
        for row in rows
    ]


def _picture(label: str, index: int, family: Family, unseen: _Unseen) -> "SamplePicture":
    from vcycle.evaluation.report import SamplePicture

    energy = unseen.energy
    sides = {"lower": "lower", "upper": "upper", "true_error": "true"}
    return SamplePicture(
        label=label,
        input=_plane(unseen.data.inputs[index, 0]),
        truth=_plane(unseen.data.outputs[index, 0]),
        prediction=_plane(unseen.predictions[index, 0]),
        input_name=family.input_name,
        relative_l2=float(unseen.evaluated.per_sample["relative_l2"][index]),
        **({} if energy is None else {key: float(getattr(energy, side)[index]) for key, side in sides.items()}),
    )


def _plane(values: "Tensor") -> "np.ndarray":
    """Return what a picture can show: of a box, the plane in its middle."""
    return (values if values.ndim < 3 else values[:, :, values.shape[2] // 2]).numpy()


def _curves(history: list[dict[str, Any]]) -> dict[str, list[float]]:
    names = {"loss": "training", "validation_loss": "validation"}
    return {
        title: [float(epoch[key]) for epoch in history if epoch.get(key) is not None]
        for key, title in names.items()
        if any(epoch.get(key) is not None for epoch in history)
    }


def _settings(family: Family, operator: "TrainedOperator", numbers: Mapping[str, Any]) -> dict[str, Any]:
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "numba", "lightning")}
    weights = sum(parameter.numel() for parameter in operator.network.parameters())
    return {
        "problem": ", ".join(f"{key} = {value}" for key, value in family.problem.items()),
        "model": ", ".join(f"{key} = {value}" for key, value in family.model.items()) + f"; {weights:,} weights",
        "training": ", ".join(f"{key} = {value}" for key, value in family.fit.items()),
        "largest true relative residual of the data": numbers["largest_residual"],
        **{f"seconds for {step}": round(seconds, 2) for step, seconds in numbers["seconds"].items()},
        "versions": ", ".join(f"{name} {number}" for name, number in {"vcycle": __version__, **packages}.items()),
        "machine": f"{platform.platform()}, Python {platform.python_version()}",
    }


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
