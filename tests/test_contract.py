"""The contract that every grid operator fulfils, at tiny size."""

import json

import pytest
import torch
from torch import nn

from helpers import assert_close
from vcycle.errors import CheckpointError
from vcycle.layers.conditioning import Conditioning
from vcycle.models import MODELS

SMALL = {
    "affnet": {"width": 8, "depth": 2, "blocks": 2},
    "afno": {"width": 8, "depth": 2, "blocks": 2, "patch": 2, "expansion": 2},
    "deeponet": {"sensors": 5, "width": 8, "depth": 2, "terms": 4},
    "dmd": {"points": 8, "rank": 4, "width": 6, "depth": 2},
    "dpot": {"width": 8, "depth": 2, "times": 2, "blocks": 2},
    "dsno": {"modes": 3, "time_modes": 2, "width": 6, "depth": 2},
    "factformer": {"width": 6, "depth": 2, "heads": 2, "head_size": 4},
    "ffno": {"modes": 3, "width": 6, "depth": 2},
    "fno": {"modes": 3, "width": 6, "depth": 2, "padding": 2},
    "galerkin_transformer": {"width": 8, "depth": 2, "heads": 2, "modes": 3},
    "gfno": {"modes": 3, "width": 3, "depth": 2},
    "gno": {"width": 5, "depth": 2, "radius": 0.16, "hidden": 4},
    "ifactformer": {"width": 6, "depth": 2, "heads": 2, "head_size": 4},
    "implicit_fno": {"modes": 3, "width": 6, "depth": 2},
    "lno": {"width": 6, "depth": 2, "rank": 2, "hidden": 6},
    "local_no": {"modes": 3, "width": 6, "depth": 2, "radius": 0.125},
    "lordnet": {"points": 10, "width": 6, "depth": 2},
    "lsm": {"width": 4, "depth": 1, "tokens": 3, "bases": 4, "heads": 2, "patch": 2},
    "mg_tfno": {"modes": 3, "width": 6, "depth": 2, "rank": 0.3},
    "mgno": {"levels": 3, "width": 5, "depth": 2, "cycle": "V"},
    "monet": {"width": 8, "depth": 1, "levels": 2},
    "multipole_gno": {"width": 5, "depth": 2, "levels": 3, "radius": 0.13, "hidden": 4},
    "neural_spectral": {"modes": 4, "width": 6, "depth": 2},
    "published_factformer": {"width": 8, "depth": 2, "heads": 2, "head_size": 4},
    "published_galerkin_transformer": {"width": 16, "depth": 2, "heads": 2, "modes": 3},
    "resnet": {"width": 6, "depth": 2, "kernel": 3},
    "scot": {"width": 8, "depth": 2, "stages": 2, "heads": 2, "window": 4, "skip_depth": 1},
    "sfno": {"modes": 4, "width": 6, "depth": 2},
    "spectral_refiner": {"modes": 3, "time_modes": 2, "width": 6, "depth": 2},
    "srno": {"width": 8, "depth": 2, "features": 4, "encoder_depth": 1, "heads": 2},
    "t1": {"modes": 4, "width": 6, "depth": 2},
    "tfno": {"modes": 3, "width": 6, "depth": 2, "rank": 0.3},
    "unet": {"width": 4, "depth": 2},
    "uno": {"modes": 3, "width": 4, "depth": 1},
}
SHAPES = {1: (16,), 2: (16, 12), 3: (8, 8, 12)}
CASES = [(name, d) for name, model in MODELS.items() for d in model.axes]
NAMES = pytest.mark.parametrize("name", MODELS)


def build(name, num_axes=2, seed=0, **options):
    torch.manual_seed(seed)
    return MODELS[name](2, 3, num_axes=num_axes, **(SMALL[name] | options))


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_every_model_has_a_small_configuration_and_its_name():
    assert SMALL.keys() == MODELS.keys()
    assert {name: model.name for name, model in MODELS.items()} == {name: name for name in MODELS}


@pytest.mark.parametrize(("name", "num_axes"), CASES)
class TestContract:
    def test_shape_dtype_and_two_resolutions_even_and_odd(self, name, num_axes):
        model = build(name, num_axes)
        for shape in (SHAPES[num_axes], tuple(n + 1 for n in SHAPES[num_axes])):
            output = model(random(1, 2, *shape))
            assert output.shape == (1, 3, *shape)
            assert output.dtype == torch.float32
            assert output.isfinite().all()
            assert output.std() > 1e-4

    def test_samples_of_a_batch_do_not_mix(self, name, num_axes):
        model, u = build(name, num_axes), random(3, 2, *SHAPES[num_axes])
        assert_close(model(u)[1:2], model(u[1:2]))
        changed = u.clone()
        changed[0] += 1.0
        assert_close(model(changed)[1:], model(u)[1:])

    def test_finite_gradient_reaches_every_parameter(self, name, num_axes):
        model = build(name, num_axes)
        u = random(2, 2, *SHAPES[num_axes]).requires_grad_()
        model(u).square().sum().backward()
        assert u.grad.abs().max() > 0
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key

    def test_seed_decides_the_weights(self, name, num_axes):
        u = random(1, 2, *SHAPES[num_axes])
        assert torch.equal(build(name, num_axes)(u), build(name, num_axes)(u))
        assert not torch.equal(build(name, num_axes)(u), build(name, num_axes, seed=1)(u))

    def test_config_and_state_rebuild_it_also_when_nested(self, name, num_axes, tmp_path):
        model, u = build(name, num_axes), random(1, 2, *SHAPES[num_axes])
        torch.save(nn.Sequential(model).state_dict(), tmp_path / "weights.pt")
        rebuilt = nn.Sequential(MODELS[name](**json.loads(json.dumps(model.config()))))
        rebuilt.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(rebuilt(u), model(u))

    def test_wrong_channels_and_axes_raise(self, name, num_axes):
        model, shape = build(name, num_axes), SHAPES[num_axes]
        with pytest.raises(ValueError, match=r"`u` must have shape .*2 channels.* Got \(1, 4,"):
            model(random(1, 4, *shape))
        with pytest.raises(ValueError, match=r"`u` must have shape"):
            model(random(1, 2, *shape, 8))
        with pytest.raises(ValueError, match="`parameters`"):
            model(random(1, 2, *shape), torch.ones(1, 1))

    def test_double_precision_agrees(self, name, num_axes):
        model, u = build(name, num_axes), random(2, 2, *SHAPES[num_axes], dtype=torch.float64)
        single = model(u.float())
        assert_close(model.double()(u), single, rtol=1e-5)

    def test_parameters_change_the_output_of_their_own_sample(self, name, num_axes):
        model = build(name, num_axes, num_parameters=2).double()
        u = random(2, 2, *(9, 8, 7)[:num_axes], dtype=torch.float64)
        first = torch.tensor([[0.5, -1.0], [1.0, 2.0]], dtype=torch.float64)
        second = first + torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        outputs = model(u, first), model(u, second)
        assert_close(outputs[0][:1], outputs[1][:1])
        assert (outputs[0][1] - outputs[1][1]).norm() > 1e-5 * outputs[0][1].norm()
        outputs[0].square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
        assert MODELS[name](**model.config()).config()["num_parameters"] == 2
        with pytest.raises(ValueError, match="`parameters` must be given"):
            model(u)
        with pytest.raises(ValueError, match=r"`parameters` must have shape \(2, 2\)"):
            model(u, torch.ones(2, 3))

    def test_layout_in_memory_does_not_matter(self, name, num_axes):
        model, u = build(name, num_axes), random(2, 2, *SHAPES[num_axes])
        strided = u.transpose(0, -1).contiguous().transpose(0, -1)
        assert not strided.is_contiguous()
        assert_close(model(strided), model(u))


@NAMES
def test_weights_are_real_and_apart(name):
    """What averaging of weights, data-parallel backends, safetensors and every optimiser can take."""
    tensors = build(name).state_dict()
    assert all(t.dtype == torch.float32 for t in tensors.values()), name
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == len(tensors)


@NAMES
def test_what_conditions_is_built_once(name, monkeypatch):
    built, init = [], Conditioning.__init__
    monkeypatch.setattr(
        Conditioning, "__init__", lambda self, *given, **named: (built.append(self), init(self, *given, **named))[1]
    )
    model = build(name, num_parameters=1)
    assert built == [part for part in model.modules() if isinstance(part, Conditioning)]
    assert model.condition in built


@NAMES
def test_weights_that_do_not_fit_are_named(name):
    model = build(name)
    state = model.state_dict()
    lost, weight = state.popitem()
    kind = type(model).__name__
    with pytest.raises(
        CheckpointError, match=rf"another {kind}: \d+ tensors there and \d+ here; {lost} is only here\."
    ):
        model.load_state_dict(state)
    with pytest.raises(CheckpointError, match=rf"another {kind}: {lost} has shape .* there and .* here\."):
        model.load_state_dict(state | {lost: weight[None]})


@NAMES
def test_half_precision_autocast_trains_and_stays_near(name):
    model, u = build(name), random(2, 2, 16, 12)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(u)
        loss = output.float().square().mean()
    assert_close(output.float(), model(u), rtol=0.1)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@NAMES
@pytest.mark.parametrize("boundary", ["periodic", "neumann", ("dirichlet", "periodic")])
@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_boundaries_and_centrings(name, boundary, centring):
    if name == "gfno" and not isinstance(boundary, str):
        with pytest.raises(ValueError, match="`boundary` must be of one kind on all faces"):
            build(name, boundary=boundary)
        return
    output = build(name, boundary=boundary, centring=centring)(random(1, 2, 9, 10))
    assert output.shape == (1, 3, 9, 10)
    assert output.isfinite().all()


@NAMES
def test_smallest_grid_and_no_sample(name):
    model = build(name)
    assert model(random(1, 2, model.smallest, model.smallest)).isfinite().all()
    assert model(random(0, 2, 16, 12)).shape == (0, 3, 16, 12)


@pytest.mark.full
@NAMES
def test_model_can_be_compiled_whole(name):
    torch.compiler.reset()
    model, u = build(name), random(2, 2, 16, 12)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(compiled(u), model(u))


@pytest.mark.parametrize(  # maps for every layer, the same under another name, and for every norm
    ("name", "options"),
    [("fno", {"depth": 1}), ("mgno", {"depth": 1, "levels": 2}), ("scot", {"depth": 1, "stages": 1})],
)
def test_one_with_parameters_is_compiled_whole_and_recorded(name, options):
    torch.compiler.reset()
    model, u, p = build(name, num_parameters=2, **options).eval(), random(3, 2, 16, 12), random(3, 2, seed=1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(compiled(u, p), model(u, p))
    samples = torch.export.Dim("samples", min=1)
    program = torch.export.export(model, (u[:2], p[:2]), dynamic_shapes=({0: samples}, {0: samples}))
    assert_close(program.module()(u, p), model(u, p))


@pytest.mark.slow
@NAMES
def test_model_can_be_recorded_for_any_number_of_samples(name):
    model, u = build(name).eval(), random(3, 2, 16, 12)
    samples = torch.export.Dim("samples", min=1)
    program = torch.export.export(model, (u[:2],), dynamic_shapes=({0: samples},))
    assert_close(program.module()(u), model(u))


@NAMES
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "`width` must be at least 1. Got 0"),
        ({"depth": 1.5}, "`depth` must be an integer. Got 1.5"),
        ({"centring": "node"}, "`centring` must be one of 'cell', 'vertex'. Got 'node'"),
        ({"boundary": "dirichet"}, "Did you mean 'dirichlet'"),
    ],
)
def test_wrong_arguments_are_named(name, wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(name, **wrong)


@NAMES
def test_dimensions_in_which_a_model_does_not_exist_raise(name):
    for num_axes in {1, 2, 3, 4} - set(MODELS[name].axes):
        with pytest.raises(ValueError, match=f"`num_axes` must be one of .* Got {num_axes}"):
            build(name, num_axes)


@pytest.mark.full
@NAMES
def test_onnx_computes_what_the_model_does(name, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    model, u = build(name).eval(), random(1, 2, 16, 12)
    path = str(tmp_path / "model.onnx")
    with torch.no_grad():
        torch.onnx.export(model, (u,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        (output,) = session.run(None, {session.get_inputs()[0].name: u.numpy()})
        assert_close(torch.from_numpy(output), model(u), rtol=1e-5)
