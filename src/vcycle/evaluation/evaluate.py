"""How good an operator is on data that it has not seen."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcycle import _check, _progress, metrics
from vcycle.boundary import Boundary
from vcycle.data.dataset import Dataset
from vcycle.errors import DataError
from vcycle.problems.problem import FieldInfo
from vcycle.training.operator import TrainedOperator, as_operator
from vcycle.training.task import walls

NUM_WORST = 5


@dataclass(frozen=True)
class Evaluation:
    """Errors of an operator on a dataset, all relative (dimensionless); ``print`` shows them as a table.

    Parameters
    ----------
    num_samples
        Number of samples.
    relative_l2, relative_h1, truncated_spectral_h1, boundary_error
        Means over samples of the metrics of these names in :mod:`vcycle.metrics`. ``boundary_error`` is ``None``
        where all axes are periodic.
    band_edges, band_energy
        Lower edges in half waves per box length, and squared relative L2 error in each band, mean over samples.
    per_sample
        The same metrics for each sample, ``(num_samples,)``, and ``band_energy`` ``(num_samples, bands)``.
    worst
        ``sample_id`` and relative L2 error of the worst samples, worst first.
    samples_per_second
        Of prediction, by the clock.
    milliseconds_per_sample
        Of prediction, CPU time of all threads.
    """

    num_samples: int
    relative_l2: float
    relative_h1: float
    truncated_spectral_h1: float
    boundary_error: float | None
    band_edges: tuple[float, ...]
    band_energy: tuple[float, ...]
    per_sample: dict[str, Tensor]
    worst: tuple[tuple[int, float], ...]
    samples_per_second: float
    milliseconds_per_sample: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        result: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "num_samples",
                "relative_l2",
                "relative_h1",
                "truncated_spectral_h1",
                "boundary_error",
                "samples_per_second",
                "milliseconds_per_sample",
            )
        }
        edges = zip(self.band_edges, self.band_energy, strict=True)
        result["bands"] = [{"half_waves_from": edge, "error_energy": energy} for edge, energy in edges]
        result["worst"] = [{"sample_id": sample, "relative_l2": error} for sample, error in self.worst]
        result["per_sample"] = {name: values.tolist() for name, values in self.per_sample.items()}
        return result

    def __str__(self) -> str:
        rows = [
            ("relative L2", f"{self.relative_l2:.3%}"),
            ("relative H1", f"{self.relative_h1:.3%}"),
            ("truncated spectral H1", f"{self.truncated_spectral_h1:.3%}"),
            ("on the boundary", "-" if self.boundary_error is None else f"{self.boundary_error:.3%}"),
        ]
        uppers = [f"{edge:g}" for edge in self.band_edges[1:]] + [""]
        for low, high, energy in zip(self.band_edges, uppers, self.band_energy, strict=True):
            rows.append(
                (f"half waves {low:g} to {high}" if high else f"half waves from {low:g}", f"{math.sqrt(energy):.3%}")
            )
        rows.append(("worst samples", ", ".join(f"{sample} ({error:.2%})" for sample, error in self.worst)))
        rows.append(
            ("throughput", f"{self.samples_per_second:.4g} samples/s, {self.milliseconds_per_sample:.3g} CPU-ms each")
        )
        width = max(len(name) for name, _ in rows)
        lines = [f"{self.num_samples} samples, mean errors", *(f"  {name:<{width}}  {value}" for name, value in rows)]
        return "\n".join(lines)


def evaluate(
    operator: "TrainedOperator | str | Path", dataset: Dataset, *, batch_size: int = 64, progress: bool = False
) -> Evaluation:
    """Measure an operator on a dataset.

    Parameters
    ----------
    operator
        An operator, or the folder of a saved one.
    dataset
        Data with true outputs; its grid may differ from that of training if the operator takes it.
    batch_size
        Samples per pass through the network.
    progress
        Whether long work shows a progress bar on stderr.

    Returns
    -------
    Evaluation
        Errors, worst samples and throughput.

    Raises
    ------
    ValueError
        If there are no samples, the data are of another family than those of training, or a prediction overflows.
    TypeError
        If the dataset is not one.
    DataError
        If a true output is not finite.
    CheckpointError
        If the saved operator cannot be read.
    """
    operator = as_operator(operator)
    _check.instance("dataset", dataset, Dataset, "a vcycle.Dataset, such as Dataset.from_arrays builds")
    _check.integer("batch_size", batch_size, 1)
    check_family(operator, dataset)
    inputs, outputs = dataset.inputs, dataset.outputs.to(torch.float64)
    if len(inputs) == 0:
        raise ValueError("`dataset` must have at least one sample. Got 0.")
    _check.shape(
        "dataset.outputs",
        outputs.shape,
        (len(inputs), operator.out_channels, *dataset.grid.shape),
        "the operator's outputs",
    )
    if not bool(torch.isfinite(outputs).all()):
        raise DataError("The outputs of `dataset` hold NaN or infinity.")
    parameters = operator.parameters_of(dataset)
    first = None if parameters is None else parameters[:1]
    operator.predict(inputs[:1], first)  # what is only done once is not part of the throughput
    with _progress.shown(progress=progress):
        wall, cpu = time.perf_counter(), time.process_time()
        predictions = operator.predict(inputs, parameters, batch_size=batch_size)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        per_sample, edges = _measure(predictions.to(torch.float64), outputs, dataset, batch_size)
    worst = per_sample["relative_l2"].argsort(descending=True)[:NUM_WORST].tolist()
    names = torch.as_tensor(dataset.sample_id).tolist()
    return Evaluation(
        num_samples=len(inputs),
        relative_l2=_mean(per_sample, "relative_l2"),
        relative_h1=_mean(per_sample, "relative_h1"),
        truncated_spectral_h1=_mean(per_sample, "truncated_spectral_h1"),
        boundary_error=_mean(per_sample, "boundary_error") if "boundary_error" in per_sample else None,
        band_edges=tuple(edges.tolist()),
        band_energy=tuple(per_sample["band_energy"].mean(0).tolist()),
        per_sample=per_sample,
        worst=tuple((names[i], per_sample["relative_l2"][i].item()) for i in worst),
        samples_per_second=len(inputs) / max(wall, 1e-9),
        milliseconds_per_sample=1e3 * cpu / len(inputs),
    )


def check_family(operator: TrainedOperator, dataset: Dataset, *, name: str = "dataset") -> None:
    """Raise unless an operator was trained on data of this kind; sizes may differ, and names of a person's own arrays.

    ``name`` is what messages call the data.

    Raises
    ------
    ValueError
        If names, faces, boundary kinds or the centring differ, or scalars are missing that the operator takes.
    """
    facts: list[tuple[str, str, str]] = [
        ("boundary", str(operator.boundary), str(dataset.boundary)),
        ("centring", operator.grid.centring, dataset.grid.centring),
    ]
    if dataset.problem is not None:
        facts.append(("inputs", _names(operator.input_fields), _names(dataset.input_fields)))
        facts.append(("outputs", _names(operator.output_fields), _names(dataset.output_fields)))
    if operator.parameter_names:
        there = [parameter for parameter in operator.parameter_names if parameter in dataset.parameter_names]
        facts.append(("scalars", ", ".join(operator.parameter_names), ", ".join(there) or "none"))
    for fact, trained, given in facts:
        if trained != given:
            raise ValueError(f"`{name}` must be like the data of training: {fact} {trained}. Got {given}.")


def _names(fields: Sequence[FieldInfo]) -> str:
    return ", ".join(info.name for info in fields)


def _measure(
    predictions: Tensor, outputs: Tensor, dataset: Dataset, batch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return every metric per sample, in batches so that memory stays bounded, and the edges of the bands."""
    boundary = Boundary.on(dataset.grid, dataset.boundary)
    kinds, zero_on_walls = walls(dataset)
    parts: dict[str, list[Tensor]] = {}
    edges = torch.empty(0)
    pairs = list(zip(predictions.split(batch_size), outputs.split(batch_size), strict=True))
    for prediction, target in _progress.track(pairs, "measure", unit="batch"):
        place: dict[str, Any] = {"grid": dataset.grid, "boundary": boundary, "reduction": "none"}
        values = {
            "relative_l2": metrics.relative_l2(prediction, target, reduction="none"),
            "relative_h1": metrics.relative_h1(
                prediction, target, zero_on_walls=zero_on_walls, **(place | {"boundary": kinds})
            ),
            "truncated_spectral_h1": metrics.truncated_spectral_h1(prediction, target, reduction="none"),
        }
        if not all(boundary.periodic):
            values["boundary_error"] = metrics.boundary_error(prediction, target, **place)
        edges, values["band_energy"] = metrics.error_by_band(prediction, target, **place)
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    return {name: torch.cat(part) for name, part in parts.items()}, edges


def _mean(per_sample: dict[str, Tensor], name: str) -> float:
    return per_sample[name].mean().item()
