"""A trained operator in memory and on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vcycle as vc
from helpers import assert_close
from vcycle.models import MODELS
from vcycle.problems.problem import FieldInfo
from vcycle.training import Normaliser, TrainedOperator
from vcycle.training.export import PhysicalNetwork, export_operator
from vcycle.training.storage import checksum


class Affine(nn.Module):
    """Channel sums by a convolution of one point: what it answers can be said in closed form."""

    name = "affine"

    def __init__(self, in_channels: int = 2, out_channels: int = 1, bias: float = 0.0) -> None:
        super().__init__()
        self.mix = nn.Conv2d(in_channels, out_channels, 1)
        self.drop = nn.Dropout(0.5)
        nn.init.constant_(self.mix.bias, bias)
        self._config = {"in_channels": in_channels, "out_channels": out_channels, "bias": bias}

    def config(self) -> dict:
        return self._config

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        if min(u.shape[2:]) < 4:
            raise ValueError(f"`u` must have at least 4 points per axis. Got {tuple(u.shape[2:])}.")
        return self.drop(self.mix(u))


@pytest.fixture(autouse=True)
def affine_is_known(monkeypatch):
    monkeypatch.setitem(MODELS, "affine", Affine)


def operator(*, pointwise: bool = False, seed: int = 0) -> TrainedOperator:
    generator = torch.Generator().manual_seed(seed)
    grid = vc.Grid((6, 5), (1.0, 2.0))
    shape = grid.shape if pointwise else (1, 1)
    network = Affine(bias=0.25)
    with torch.no_grad():
        network.mix.weight.copy_(torch.randn(1, 2, 1, 1, generator=generator))
    return TrainedOperator(
        network,
        Normaliser(torch.randn(2, *shape, generator=generator), 1 + torch.rand(2, *shape, generator=generator)),
        Normaliser(torch.randn(1, *shape, generator=generator), 1 + torch.rand(1, *shape, generator=generator)),
        grid=grid,
        boundary=vc.Boundary.of(["dirichlet", ("neumann", "dirichlet")], 2),
        input_fields=(FieldInfo("coefficient", "m^2"), FieldInfo("source", "kg")),
        output_fields=(FieldInfo("head", "m"),),
        fingerprint="abc",
        training={"arguments": {"epochs": 3}},
        metrics={"loss": 0.5},
        history=[{"epoch": 1, "loss": 0.5}],
    )


def inputs(samples: int = 7, space: tuple[int, ...] = (6, 5)) -> torch.Tensor:
    return torch.randn(samples, 2, *space, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("pointwise", [False, True])
def test_prediction_is_in_physical_units(pointwise):
    trained, x = operator(pointwise=pointwise), inputs()
    numbers = {name: value.numpy() for name, value in trained._parts().state_dict().items()}
    z = (x.numpy() - numbers["input_normaliser.mean"]) / numbers["input_normaliser.scale"]
    z = np.einsum("oi,nixy->noxy", numbers["network.mix.weight"][:, :, 0, 0], z) + 0.25
    expected = z * numbers["output_normaliser.scale"] + numbers["output_normaliser.mean"]
    assert_close(trained.predict(x), torch.from_numpy(expected))
    assert_close(trained.predict(x.numpy(), batch_size=2), trained.predict(x))
    assert trained.predict(x[:0]).shape == (0, 1, 6, 5)


def test_prediction_takes_other_sizes_and_leaves_the_network_as_it_was():
    trained = operator()
    trained.network.train()
    x = inputs(space=(9, 4))
    assert_close(trained.predict(x[..., :5]), trained.predict(x)[..., :5])  # dropout is off, or this would differ
    assert trained.network.training
    assert trained.predict(x).requires_grad is False


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            inputs()[:, :1],
            r"`inputs` must have shape \(any, 2, any, any\), .* channels coefficient, source\. Got \(7, 1, 6, 5\)",
        ),
        (inputs()[0], r"`inputs` must have shape \(any, 2, any, any\)"),
        (inputs(space=(3, 8)), r"`u` must have at least 4 points per axis. Got \(3, 8\)"),
        (
            inputs().index_fill(0, torch.tensor([2, 4]), float("nan")),
            "`inputs` must be finite in float32. Got NaN or infinity in sample 2, 4.",
        ),
        (
            inputs().index_fill(0, torch.tensor([1]), float("-inf")),
            "`inputs` must be finite in float32. Got NaN or infinity in sample 1.",
        ),
        (
            inputs().index_fill(0, torch.tensor([3]), 1e300),
            "`inputs` must be finite in float32. Got NaN or infinity in sample 3.",
        ),
        (
            inputs().index_fill(0, torch.tensor([5]), 3e38),
            "`inputs` must keep the network's output finite. It overflowed in sample 5.",
        ),
    ],
)
def test_inputs_that_cannot_be_used_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        operator().predict(x)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (inputs().numpy() + 1j, "complex128"),
        (inputs() + 1j, "torch.complex128"),
        ({"coefficient": inputs()[:, :1], "source": inputs()[:, 1:]}, "dict"),
        (vc.Dataset.from_arrays(inputs(), inputs()), "Dataset"),
        ([[1.0, 2.0], [3.0]], "list"),
        ("inputs.npy", "str"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_array_of_real_numbers_is_named(x, got):
    message = rf"^`inputs` must be real numbers: an array or tensor, such as dataset.inputs. Got {got}\.$"
    with pytest.raises(TypeError, match=message):
        operator().predict(x)
    with pytest.raises(TypeError, match=r"`operator` must be a TrainedOperator or the path of one. Got dict."):
        vc.predict({}, inputs())


def test_any_layout_of_an_array_gives_the_same_prediction():
    x = inputs().numpy()
    expected = operator().predict(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    layouts = {
        "big endian": x.astype(">f8"),
        "negative stride": np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
        "columns first": np.asfortranarray(x),
        "long double": x.astype(np.longdouble),
        "read-only": read_only,
        "list": x.tolist(),
    }
    for name, layout in layouts.items():
        assert torch.equal(operator().predict(layout), expected), name


def test_pointwise_normalisers_tie_the_operator_to_its_grid():
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(any, 2, 6, 5\), .* tie the operator to its grid"):
        operator(pointwise=True).predict(inputs(space=(8, 8)))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        operator().predict(inputs(), batch_size=0)


@pytest.mark.parametrize("pointwise", [False, True])
def test_saved_operators_come_back_bit_for_bit(tmp_path, pointwise):
    first, x = operator(pointwise=pointwise), inputs()
    assert first.save(tmp_path / "a" / "op") == tmp_path / "a" / "op"
    second = vc.load(tmp_path / "a" / "op")
    assert torch.equal(first.predict(x), second.predict(x))
    assert torch.equal(vc.predict(str(tmp_path / "a" / "op"), x), first.predict(x))
    assert not second.network.training
    for name in ("grid", "boundary", "input_fields", "output_fields", "fingerprint", "training", "metrics", "history"):
        assert getattr(second, name) == getattr(first, name), name
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["op"]  # nothing temporary is left


def test_loading_draws_no_random_numbers(tmp_path):
    operator().save(tmp_path / "op")
    before = torch.get_rng_state()
    vc.load(tmp_path / "op")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mgno", "fno"])
def test_the_librarys_models_come_back_too(tmp_path, name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MODELS[name](in_channels=2, out_channels=1)
    first = operator()
    first = TrainedOperator(
        network,
        first.input_normaliser,
        first.output_normaliser,
        grid=first.grid,
        boundary=first.boundary,
        input_fields=first.input_fields,
        output_fields=first.output_fields,
    )
    x = inputs(2, (32, 32))
    first.save(tmp_path / "op")
    assert torch.equal(vc.load(tmp_path / "op").predict(x), first.predict(x))


def test_the_description_is_json_for_people(tmp_path):
    operator().save(tmp_path / "op")
    description = json.loads((tmp_path / "op" / "operator.json").read_text())
    assert description["model"] == {"name": "affine", "config": {"in_channels": 2, "out_channels": 1, "bias": 0.25}}
    assert description["version"] == vc.__version__
    assert description["output_fields"] == [{"name": "head", "unit": "m", "components": 1, "face": None, "times": None}]
    assert set(load_file(tmp_path / "op" / "weights.safetensors")) == {
        "network.mix.weight",
        "network.mix.bias",
        *(f"{side}_normaliser.{value}" for side in ("input", "output") for value in ("mean", "scale")),
    }


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    trained = operator()
    trained.metrics["loss"] = float("nan")
    trained.save(tmp_path / "op")
    assert "NaN" not in (tmp_path / "op" / "operator.json").read_text()
    assert vc.load(tmp_path / "op").metrics == {"loss": None}


def test_an_operator_may_be_replaced_but_nothing_else(tmp_path):
    first, second, x = operator(seed=0), operator(seed=1), inputs()
    first.save(tmp_path / "op")
    second.save(tmp_path / "op")
    assert torch.equal(vc.load(tmp_path / "op").predict(x), second.predict(x))
    assert [path.name for path in tmp_path.iterdir()] == ["op"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="`path` must be new or an operator's folder"):
        first.save(tmp_path / "mine")
    with pytest.raises(ValueError, match="`path` must be new or an operator's folder"):
        first.save(tmp_path / "mine" / "thesis.tex")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    first.save(tmp_path / "empty")
    assert torch.equal(vc.load(tmp_path / "empty").predict(x), first.predict(x))


def test_a_save_that_fails_leaves_the_old_operator(tmp_path, monkeypatch):
    first, x = operator(seed=0), inputs()
    first.save(tmp_path / "op")
    expected = first.predict(x)

    def full(self, *args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(vc.DataError, match="op cannot be written: No space left"):
        operator(seed=1).save(tmp_path / "op")
    assert torch.equal(vc.load(tmp_path / "op").predict(x), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["op"]


def test_networks_that_are_not_models_cannot_be_saved(tmp_path):
    trained = operator()
    MODELS.pop("affine")
    try:
        with pytest.raises(ValueError, match=r"`network` must be one of vcycle\.models.MODELS to be saved. Got Affine"):
            trained.save(tmp_path / "op")
    finally:
        MODELS["affine"] = Affine
    assert list(tmp_path.iterdir()) == []


def edit(folder, change, *, sign: bool = True) -> None:
    """Change the description, and its checksum with it unless told otherwise."""
    path = folder / "operator.json"
    description = json.loads(path.read_text())
    change(description)
    if sign:
        description.pop("description_sha256")
        description["description_sha256"] = checksum(description)
    path.write_text(json.dumps(description))


def spoil_weights(folder) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    path.write_bytes(content)


def truncate_weights(folder) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def consistent(folder, tensors) -> None:
    """Write other weights together with their checksum."""
    import hashlib

    save_file(tensors, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda d: d.update(sha256=digest))


def garbage(folder) -> None:
    import hashlib

    (folder / "weights.safetensors").write_bytes(b"not tensors")
    edit(folder, lambda d: d.update(sha256=hashlib.sha256(b"not tensors").hexdigest()))


DAMAGE = {
    "one bit": (
        spoil_weights,
        r"weights.safetensors is corrupt: it is not the file that operator.json was written with",
    ),
    "truncated": (truncate_weights, "weights.safetensors is corrupt"),
    "garbage": (garbage, "weights.safetensors is corrupt"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "no description": (
        lambda f: (f / "operator.json").unlink(),
        "is not a saved operator: there is no operator.json in it",
    ),
    "half a description": (
        lambda f: (f / "operator.json").write_text((f / "operator.json").read_text()[:100]),
        "operator.json is corrupt",
    ),
    "a list": (
        lambda f: (f / "operator.json").write_text("[]"),
        "operator.json is corrupt: it does not hold a description",
    ),
    "unknown model": (
        lambda f: edit(f, lambda d: d["model"].update(name="afine")),
        "does not describe an operator: `model` must be one of .* Did you mean 'affine'?",
    ),
    "unknown argument": (
        lambda f: edit(f, lambda d: d["model"]["config"].update(depth=3)),
        "does not describe an operator: .*unexpected keyword argument 'depth'",
    ),
    "other width": (
        lambda f: edit(f, lambda d: d["model"]["config"].update(in_channels=3)),
        "holds the weights of another model: network.mix.weight does not fit",
    ),
    "other weights": (
        lambda f: consistent(f, {"network.mix.weight": torch.zeros(1, 2, 1, 1)}),
        "holds the weights of another model: input_normaliser.mean, .* does not fit",
    ),
    "newer format": (lambda f: edit(f, lambda d: d.update(format=99)), "format 99 is not 1"),
    "no grid": (lambda f: edit(f, lambda d: d.pop("grid")), "does not describe an operator: 'grid'"),
    "edited by hand": (
        lambda f: edit(f, lambda d: d["boundary"][0].__setitem__(0, "neumann"), sign=False),
        r"operator.json was changed after it was written. Restore the operator from a copy, or remove it and train",
    ),
    "no checksum": (
        lambda f: edit(f, lambda d: d.pop("description_sha256"), sign=False),
        "operator.json was changed after it was written",
    ),
    "bad normaliser": (
        lambda f: edit(f, lambda d: d["normalisers"].update(input=[-1])),
        "does not describe an operator: `normalisers` must be at least 1",
    ),
    "bad grid": (
        lambda f: edit(f, lambda d: d["grid"].update(shape=[1, 5])),
        "does not describe an operator: `shape` must be",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_operators_are_named_in_one_line(tmp_path, damage):
    spoil, message = DAMAGE[damage]
    operator().save(tmp_path / "op")
    spoil(tmp_path / "op")
    with pytest.raises(vc.CheckpointError, match=message) as caught:
        vc.load(tmp_path / "op")
    assert "\n" not in str(caught.value)


def test_another_layout_of_the_same_description_is_taken(tmp_path):
    first = operator()
    first.metrics[3] = (1, np.float64(0.1))  # JSON makes a word of the key and a list of the pair
    first.save(tmp_path / "op")
    edit(tmp_path / "op", lambda d: d.update(boundary=d.pop("boundary")), sign=False)
    assert vc.load(tmp_path / "op").metrics == {"loss": 0.5, "3": [1, 0.1]}


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(vc.CheckpointError, match="nowhere is not a saved operator"):
        vc.load(tmp_path / "nowhere")
    with pytest.raises(vc.CheckpointError, match="nowhere is not a saved operator"):
        vc.predict(tmp_path / "nowhere", inputs())


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_exported_mgno_takes_other_numbers_of_samples_and_points(tmp_path, suffix):
    if suffix == "onnx":
        runtime = [pytest.importorskip(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    fields = torch.randn(2, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    data = vc.Dataset.from_arrays(*fields)
    model = MODELS["mgno"](1, 1, width=4, depth=2, levels=3)
    operator = vc.fit(model, data, epochs=1, progress=False)
    path = export_operator(operator, tmp_path / f"operator.{suffix}", any_size=True)
    physical = PhysicalNetwork(operator)
    for shape in ((4, 1, 16, 16), (1, 1, 32, 20)):
        a = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = physical(a)
            if suffix == "pt2":
                answer = torch.export.load(path).module()(a)
            else:
                session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
                answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: a.numpy()})[0])
        assert (answer - expected).abs().max() < 1e-5 * expected.abs().max()


def with_scalars(name: str, **options) -> TrainedOperator:
    u, v = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scalars = {"speed": torch.linspace(10.0, 20.0, 4), "angle": torch.linspace(0.0, 1.0, 4)}
    model = MODELS[name](1, 1, width=4, depth=2, num_parameters=2, **options)
    return vc.fit(model, vc.Dataset.from_arrays(u, v, parameters=scalars), epochs=1, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize(("name", "options"), [("fno", {"modes": 3}), ("mgno", {"levels": 2})])
def test_exported_operator_takes_scalars_and_names_them(tmp_path, name, options, suffix):
    if suffix == "onnx":
        runtime = [pytest.importorskip(package) for package in ("onnx", "onnxscript", "onnxruntime")][-1]
    torch.manual_seed(0)
    operator = with_scalars(name, **options)
    path = export_operator(operator, tmp_path / f"operator.{suffix}")
    if suffix == "pt2":
        said = {"vcycle.json": ""}
        program = torch.export.load(path, extra_files=said).module()
        record = said["vcycle.json"]
    else:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [given.name for given in session.get_inputs()] == ["inputs", "parameters"]
        record = session.get_modelmeta().custom_metadata_map["vcycle.json"]
    assert json.loads(record) == {"inputs": ["inputs", "parameters"], "parameter_names": ["speed", "angle"]}

    def answer(a: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        if suffix == "pt2":
            return program(a, scalars).detach()
        return torch.from_numpy(session.run(None, {"inputs": a.numpy(), "parameters": scalars.numpy()})[0])

    generator = torch.Generator().manual_seed(1)
    for samples in (1, 3):
        a = torch.randn(samples, 1, 8, 8, generator=generator)
        scalars = torch.tensor([10.0, 0.0]) + torch.tensor([10.0, 1.0]) * torch.rand(samples, 2, generator=generator)
        expected = operator.predict(a, scalars)
        assert (answer(a, scalars) - expected).abs().max() < 1e-5 * expected.abs().max()
        for other in (scalars + torch.tensor([5.0, 0.0]), scalars + torch.tensor([0.0, 0.5])):
            changed = operator.predict(a, other)
            assert (changed - expected).abs().max() > 1e-4 * expected.abs().max()
            assert (answer(a, other) - changed).abs().max() < 1e-5 * expected.abs().max()
