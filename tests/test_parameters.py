"""Scalars of samples as an input: learned where they decide the answer, kept in files, and asked for where missing."""

import json

import pytest
import torch
from torch import nn

import vcycle as vc
from helpers import assert_close
from vcycle import metrics
from vcycle.data import Dataset
from vcycle.errors import DataError
from vcycle.models import MODELS
from vcycle.training import Normaliser, TrainedOperator, fit
from vcycle.training.storage import checksum


class Gain(nn.Module):
    """``(a + b . p) u``: the smallest network that a scalar can steer."""

    name = "gain"

    def __init__(self, num_parameters: int = 1) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.constant = nn.Parameter(torch.tensor([0.1]))
        self.slope = nn.Parameter(torch.full((num_parameters,), 0.1))

    def config(self) -> dict:
        return {"num_parameters": self.num_parameters}

    def forward(self, u: torch.Tensor, parameters: torch.Tensor | None = None) -> torch.Tensor:
        gain = self.constant
        if self.num_parameters:
            gain = gain + (parameters * self.slope).sum(1).reshape(-1, *(1,) * (u.ndim - 1))
        return gain * u


@pytest.fixture(autouse=True)
def gain_is_known(monkeypatch):
    monkeypatch.setitem(MODELS, "gain", Gain)


def family(samples: int = 48, seed: int = 0, names: tuple[str, ...] = ("viscosity",)) -> Dataset:
    """``u = p f``, the first scalar of order 1e3 and the others of no meaning; only p says what u is."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(samples, 1, 8, generator=generator, dtype=torch.float64)
    scalars = 1e3 * torch.rand(samples, len(names), generator=generator, dtype=torch.float64)
    parameters = dict(zip(names, scalars.T, strict=True))
    u = scalars[:, 0].reshape(-1, 1, 1) * f
    return Dataset.from_arrays(f, u, grid=vc.Grid((8,), periodic=True), boundary="periodic", parameters=parameters)


SETTINGS = {"output_normaliser": "scale", "input_normaliser": "scale", "gradient_clip": None, "weight_decay": 0.0}


def trained(num_parameters: int, data: Dataset, epochs: int = 30, **arguments) -> TrainedOperator:
    return fit(
        Gain(num_parameters),
        data,
        epochs=epochs,
        batch_size=8,
        learning_rate=0.05,
        loss="l2",
        config=SETTINGS,
        progress=False,
        **arguments,
    )


def test_a_scalar_that_decides_the_answer_is_learned_with_it_and_not_without():
    data, unseen = family(), family(20, seed=1)
    informed, blind = trained(1, data), trained(0, data)
    assert vc.evaluate(informed, unseen).relative_l2 < 0.01
    assert vc.evaluate(blind, unseen).relative_l2 > 0.3  # the best single gain is off by the spread of p
    p = data.parameters
    assert_close(informed.parameter_normaliser.mean, p.mean(0), rtol=1e-6)
    assert_close(informed.parameter_normaliser.scale, p.std(0, correction=0), rtol=1e-6)


def test_prediction_normalises_the_scalars_and_evaluation_passes_them():
    data = family(6)
    operator = trained(1, family(), epochs=1)
    p = (data.parameters - operator.parameter_normaliser.mean) / operator.parameter_normaliser.scale
    gain = operator.network.constant + p * operator.network.slope
    ratio = operator.output_normaliser.scale / operator.input_normaliser.scale
    expected = (gain[:, :, None] * data.inputs * ratio).detach()
    prediction = operator.predict(data.inputs, data.parameters, batch_size=4)
    assert_close(prediction, expected.float())
    assert_close(vc.predict(operator, data.inputs.numpy(), data.parameters.numpy()), prediction)
    error = metrics.relative_l2(prediction.double(), data.outputs).item()
    assert vc.evaluate(operator, data).relative_l2 == pytest.approx(error)


def test_scalars_are_found_by_name_whatever_their_order_in_the_data():
    two = family(names=("viscosity", "depth"))
    operator = trained(2, two, epochs=2)
    swapped = Dataset.from_arrays(
        two.inputs,
        two.outputs,
        grid=two.grid,
        boundary="periodic",
        parameters={"depth": two.parameters[:, 1], "other": two.parameters[:, 0], "viscosity": two.parameters[:, 0]},
    )
    assert torch.equal(operator.parameters_of(swapped), two.parameters)
    assert vc.evaluate(operator, swapped).relative_l2 == vc.evaluate(operator, two).relative_l2


def test_operators_keep_their_scalars_and_older_ones_without_still_load(tmp_path):
    data = family()
    operator = trained(1, data, epochs=2, out=tmp_path / "run", validation=family(5, seed=2))
    loaded = vc.load(tmp_path / "run")
    assert loaded.parameter_names == ("viscosity",)
    assert torch.equal(loaded.predict(data.inputs, data.parameters), operator.predict(data.inputs, data.parameters))

    blind = trained(0, data, epochs=1)
    path = blind.save(tmp_path / "old") / "operator.json"
    description = json.loads(path.read_text())
    del description["description_sha256"], description["parameters"]  # as before there were any
    path.write_text(json.dumps(description | {"description_sha256": checksum(description)}))
    assert vc.load(tmp_path / "old").parameter_names == ()
    assert torch.equal(vc.load(tmp_path / "old").predict(data.inputs), blind.predict(data.inputs))


def test_a_model_that_takes_none_trains_as_if_there_were_none():
    with_scalars = family()
    without = Dataset.from_arrays(
        with_scalars.inputs, with_scalars.outputs, grid=with_scalars.grid, boundary="periodic"
    )
    first, second = trained(0, with_scalars, epochs=2), trained(0, without, epochs=2)
    assert torch.equal(first.network.constant, second.network.constant)
    assert first.parameters_of(with_scalars) is None


def test_what_does_not_fit_is_named():
    data, two = family(), family(names=("viscosity", "depth"))
    bare = Dataset.from_arrays(data.inputs, data.outputs, grid=data.grid, boundary="periodic")
    with pytest.raises(ValueError, match=r"num_parameters = 0, as the data have no scalars\. Got 1\."):
        trained(1, bare)
    with pytest.raises(ValueError, match=r"num_parameters = 2, as many as the data have \(viscosity, depth\), or 0"):
        trained(1, two)
    with pytest.raises(ValueError, match=r"`validation` must have the scalars viscosity\. Got none\."):
        trained(1, data, validation=bare)
    spoilt = family()
    spoilt._arrays["parameter_viscosity"][3] = float("nan")
    with pytest.raises(DataError, match=r"parameters of `train` hold NaN or infinity \(in float32\) in row 3\."):
        trained(1, spoilt)

    operator, blind = trained(1, data, epochs=1), trained(0, data, epochs=1)
    with pytest.raises(ValueError, match=r"`parameters` must be given, .* with viscosity\. Got None\."):
        operator.predict(data.inputs)
    with pytest.raises(ValueError, match=r"`parameters` must have shape \(48, 1\)"):
        operator.predict(data.inputs, two.parameters)
    with pytest.raises(ValueError, match=r"`parameters` must be finite\. Got NaN or infinity in sample 3\."):
        operator.predict(data.inputs, spoilt.parameters)
    with pytest.raises(ValueError, match="`parameters` must be None: this operator takes no scalars"):
        blind.predict(data.inputs, data.parameters)
    with pytest.raises(ValueError, match=r"must be like the data of training: scalars viscosity\. Got none\."):
        vc.evaluate(operator, bare)


def test_every_scalar_has_a_normaliser_of_its_own():
    values = torch.tensor([[1.0, 1e6, 5.0], [3.0, 3e6, 5.0]])
    normaliser = Normaliser.of_parameters(values)
    assert_close(normaliser.normalise(values), torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]))
