"""Evaluation against the metrics themselves and against predictions whose errors are known."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

import vcycle as vc
from helpers import assert_close
from vcycle import metrics
from vcycle.data import Dataset
from vcycle.evaluation.evaluate import evaluate
from vcycle.models import MODELS
from vcycle.problems.problem import FieldInfo
from vcycle.training import Normaliser, TrainedOperator


class Copy(nn.Module):
    """Answers its input."""

    name = "copy"

    def config(self) -> dict:
        return {}

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return u


def copier(grid: vc.Grid, boundary: str = "dirichlet") -> TrainedOperator:
    return TrainedOperator(
        Copy(),
        Normaliser(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        Normaliser(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        grid=grid,
        boundary=vc.Boundary.on(grid, boundary),
        input_fields=(FieldInfo("u"),),
        output_fields=(FieldInfo("u"),),
    )


def noisy(samples: int = 9, boundary: str = "dirichlet") -> Dataset:
    """Inputs are the outputs with an error of ``sample + 1`` per cent of their norm."""
    generator = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(2, samples, 1, 8, 6, generator=generator, dtype=torch.float64)
    size = 0.01 * torch.arange(1, samples + 1).reshape(-1, 1, 1, 1)
    noise = (
        size
        * noise
        * truth.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        / noise.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    )
    grid = vc.Grid((8, 6), periodic=boundary == "periodic")
    return Dataset.from_arrays(truth + noise, truth, grid=grid, boundary=boundary)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_every_number_is_the_metric_of_all_samples(batch_size):
    data = noisy()
    result = evaluate(copier(data.grid), data, batch_size=batch_size)
    prediction = data.inputs.float().double()
    place = {"grid": data.grid, "boundary": "dirichlet"}
    assert_close(result.per_sample["relative_l2"], 0.01 * torch.arange(1.0, 10.0), rtol=1e-5)
    assert result.relative_l2 == pytest.approx(0.05, rel=1e-5)
    assert_close(result.relative_h1, metrics.relative_h1(prediction, data.outputs, **place))
    assert_close(result.truncated_spectral_h1, metrics.truncated_spectral_h1(prediction, data.outputs))
    assert_close(result.boundary_error, metrics.boundary_error(prediction, data.outputs, **place))
    bands = metrics.error_by_band(prediction, data.outputs, **place)
    assert_close(result.band_energy, bands.energy)
    assert list(result.band_edges) == bands.edges.tolist()
    assert_close(result.per_sample["band_energy"].sum(1), result.per_sample["relative_l2"] ** 2)


def test_the_worst_samples_are_named_by_their_number():
    data = noisy().subset([8, 0, 7, 2, 6, 5, 4])  # sample 3 and 1 are not here
    result = evaluate(copier(data.grid), data)
    assert [sample for sample, _ in result.worst] == [8, 7, 6, 5, 4]
    assert_close([error for _, error in result.worst], [0.09, 0.08, 0.07, 0.06, 0.05], rtol=1e-5)
    assert result.num_samples == 7


def test_periodic_data_have_no_boundary_error():
    data = noisy(boundary="periodic")
    result = evaluate(copier(data.grid, "periodic"), data)
    assert result.boundary_error is None
    assert json.loads(json.dumps(result.to_dict()))["boundary_error"] is None
    assert "on the boundary        -" in str(result)


def test_the_table_and_the_dictionary_hold_the_numbers():
    data = noisy()
    result = evaluate(copier(data.grid), data)
    table = str(result)
    assert "9 samples" in table
    assert "relative L2            5.000%" in table
    assert f"{math.sqrt(result.band_energy[1]):.3%}" in table
    assert "8 (9.00%), 7 (8.00%)" in table
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["relative_l2"] == result.relative_l2
    assert record["worst"][0] == {"sample_id": 8, "relative_l2": result.worst[0][1]}
    assert sum(band["error_energy"] for band in record["bands"]) == pytest.approx(sum(result.band_energy))
    assert len(record["per_sample"]["relative_h1"]) == 9


class Slow(Copy):
    """Burns 20 ms of CPU time per pass."""

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        import time

        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return u


def test_throughput_counts_prediction_only():
    data = noisy()
    fast = copier(data.grid)
    slow = dataclasses.replace(fast, network=Slow())
    result = evaluate(slow, data, batch_size=3)  # three passes of 20 ms for nine samples
    assert 1e3 * 0.06 / 9 <= result.milliseconds_per_sample < 10 * 1e3 * 0.06 / 9
    assert result.samples_per_second <= 9 / 0.06


def test_a_saved_operator_is_evaluated_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "copy", Copy)
    data = noisy()
    copier(data.grid).save(tmp_path / "op")
    assert evaluate(tmp_path / "op", data).relative_l2 == evaluate(copier(data.grid), data).relative_l2
    with pytest.raises(vc.CheckpointError, match="is not a saved operator"):
        evaluate(tmp_path / "none", data)


def test_data_on_a_finer_grid_than_that_of_training_are_taken():
    data = noisy()
    assert evaluate(copier(vc.Grid((4, 3))), data).relative_l2 == pytest.approx(0.05, rel=1e-5)


def test_unusable_data_are_named():
    data = noisy()
    with pytest.raises(ValueError, match=r"`dataset` must have at least one sample\. Got 0"):
        evaluate(copier(data.grid), data.subset([]))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        evaluate(copier(data.grid), data, batch_size=0)
    spoilt = data.outputs.clone()
    spoilt[1, 0, 0, 0] = math.nan
    with pytest.raises(vc.DataError, match="The outputs of `dataset` hold NaN or infinity"):
        evaluate(copier(data.grid), Dataset.from_arrays(data.inputs, spoilt))
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        evaluate(copier(data.grid), Dataset.from_arrays(spoilt, data.outputs))
    two = data.outputs.expand(-1, 2, -1, -1)
    with pytest.raises(ValueError, match=r"`dataset.outputs` must have shape \(9, 1, 8, 6\)"):
        evaluate(copier(data.grid), Dataset.from_arrays(data.inputs, two))
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(any, 1, any, any\)"):
        evaluate(copier(data.grid), Dataset.from_arrays(two, data.outputs))


def test_what_is_no_dataset_is_named():
    data = noisy()
    with pytest.raises(TypeError, match=r"`dataset` must be a vcycle.Dataset, such as .*\. Got Tensor\."):
        evaluate(copier(data.grid), data.inputs)
    with pytest.raises(TypeError, match=r"`operator` must be a TrainedOperator or the path of one\. Got Dataset\."):
        evaluate(data, data)


def test_data_of_another_family_are_refused():
    operator = copier(vc.Grid((8, 8)))
    with pytest.raises(
        ValueError, match=r"`dataset` must be like the data of training: boundary dirichlet. Got periodic"
    ):
        evaluate(operator, noisy(boundary="periodic"))
    vertices = Dataset.from_arrays(
        torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8), grid=vc.Grid((8, 8), centring="vertex")
    )
    with pytest.raises(ValueError, match=r"`dataset` must be like the data of training: centring cell. Got vertex"):
        evaluate(operator, vertices)
    darcy = vc.generate(vc.problems.Darcy(vc.Grid((8, 8))), num_samples=2, progress=False)
    with pytest.raises(ValueError, match=r"`dataset` must be like the data of training: inputs u. Got coefficient"):
        evaluate(operator, darcy)
