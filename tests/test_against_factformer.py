"""Converted weights of the authors' FactFormer compute what they computed there.

``VCYCLE_REFERENCES`` names a folder with a checkout of https://github.com/BaratiLab/FactFormer in ``FactFormer``.

What there is done with plain sums is a quadrature here, so weights are converted for one grid, of equal weights. Places
are those of our grids in the unit box: they are arguments of the published networks.
"""

import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from helpers import assert_close
from vcycle.layers.axial import AxialAttention
from vcycle.layers.norm import ChannelNorm
from vcycle.models import FactFormer
from vcycle.models.factformer import PublishedFactFormer

UNUSED = ("h5py", "matplotlib", "mpl_toolkits", "mpl_toolkits.axes_grid1", "psutil", "tqdm", "yaml")
SETTINGS = {"dim": 16, "depth": 2, "heads": 4, "dim_head": 6, "kernel_multiplier": 3, "in_dim": 2, "out_dim": 3}
"""Sixteen Fourier features in each of two blocks: together the 32 that all blocks share here."""
PLANE = {"pos_in_dim": 2, "pos_out_dim": 2}
DARCY = PLANE | {"positional_embedding": "rotary", "reducer": None}
LATENT = PLANE | {"in_time_window": 5, "out_time_window": 1, "latent_multiplier": 2.0, "max_latent_steps": 1}

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture
def published(monkeypatch):
    """Return the loader of a published module, by its path in the checkout."""
    folder = Path(os.environ.get("VCYCLE_REFERENCES", "nowhere")) / "FactFormer"
    if not folder.is_dir():
        pytest.skip("VCYCLE_REFERENCES has no checkout of github.com/BaratiLab/FactFormer")
    pytest.importorskip("einops", reason="einops is not installed")
    for name in UNUSED:  # imported there for data, figures and logs
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)  # set there on import
    monkeypatch.syspath_prepend(folder)

    def load(path):
        spec = importlib.util.spec_from_file_location(f"published_{Path(path).stem}", folder / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in [name for name in sys.modules if name.partition(".")[0] in ("libs", "utils", "loss_fn", "train_utils")]:
        del sys.modules[name]


def repair(network):
    """Undo what keeps the published code, at its last commit, from running: a norm joins the axes and leaves it so."""
    for module in network.modules():
        if getattr(module, "domain_wise", False):
            module.register_forward_hook(lambda module, inputs, output: output.view_as(inputs[0]))
    return network


def prepare(network):
    """Give a published network queries and keys of order one, and double precision throughout.

    They start there so small that the kernels are lost beside the epsilon of the normalisation, and rotations are made
    in single precision.
    """
    for module in network.modules():
        if hasattr(module, "init_gain"):
            torch.nn.init.normal_(module.to_q.weight)
            torch.nn.init.normal_(module.to_k.weight)
    repair(network).double()
    for module in network.modules():
        if hasattr(module, "inv_freq"):
            pairs = len(module.inv_freq)
            module.inv_freq = 1e4 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    return network


def convert_block(state, shape, heads, multiplier=2):
    """Return what our `AxialAttention` calls the weights of a published block, for points of ``shape``.

    There, values are divided by ``sqrt(var n / (n - 1) + 1e-8)`` with ``n`` the points times the channels of a head,
    here by ``sqrt(var + 1e-12)``, and every kernel by the number of points of its axis: a factor of the queries makes
    up for the constants, and one of the next layer for ``n / (n - 1)``.
    """
    pointwise = (..., *(None,) * len(shape))
    width = state["to_v.weight"].shape[0]
    n = math.prod(shape) * width // heads
    scaling = (multiplier * width / heads) ** -0.5 if multiplier > 4 else 1.0
    ours = {"to_value.weight": state["to_v.weight"][pointwise], "to_field.weight": state["to_in.weight"][pointwise]}
    ours["to_field.bias"] = torch.zeros_like(state["in_norm.bias"])
    for axis, points in enumerate(shape):
        letter = "xyz"[axis]
        pooled = f"to_{letter}.{min(axis, 1)}."  # after a transposition, but for the first axis
        network, to = f"{pooled}out_ffn.fn.net.", f"reduce.{axis}."
        ours[to + "enter.weight"] = state[pooled + "to_in.weight"]
        ours[to + "enter.bias"] = torch.zeros_like(ours["to_field.bias"])
        for kind in ("weight", "bias"):
            ours[f"{to}norm.{kind}"] = state[f"{pooled}out_ffn.norm.{kind}"]
            ours[f"{to}gate.{kind}"], ours[f"{to}value.{kind}"] = state[f"{network}0.{kind}"].chunk(2)
            ours[f"{to}leave.{kind}"] = state[f"{network}3.{kind}"]
        gain = scaling * points * (1e-4 * n / (n - 1)) ** (0.5 / len(shape))
        ours[to + "to_query.weight"] = gain * state[f"low_rank_kernel_{letter}.to_q.weight"]
        ours[to + "to_key.weight"] = state[f"low_rank_kernel_{letter}.to_k.weight"]
    ours["out.0.weight"] = ((n - 1) / n) ** 0.5 * state["to_out.1.weight"][pointwise]
    ours["out.2.weight"] = state["to_out.3.weight"][pointwise]
    ours["out.0.bias"] = ours["out.2.bias"] = torch.zeros_like(state["to_out.3.weight"][0])
    return ours


def convert_encoder(state, shape, heads, multiplier=2):
    """Return what our FactFormer calls the weights of a published encoder, for points of ``shape``.

    Every published block has Fourier features of its own. All of them are features of all blocks here, and the linear
    maps of a block take no notice of those of the others.
    """
    depth = 1 + max(int(key.split(".")[1]) for key in state)
    frequencies = [state[f"layers.{layer}.0.0._B"].T for layer in range(depth)]
    ours, of_a_block = {"features.frequencies": torch.cat(frequencies)}, len(frequencies[0])
    for layer in range(depth):
        prefix = f"layers.{layer}.1."
        block = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        ours |= {f"A.{layer}.{key}": value for key, value in convert_block(block, shape, heads, multiplier).items()}
        ours |= {f"norms.{layer}.{kind}": block[f"in_norm.{kind}"] for kind in ("weight", "bias")}
        theirs = state[f"layers.{layer}.0.1.weight"].unflatten(1, (2, of_a_block))  # sines, cosines
        weight = torch.zeros(len(theirs), 2, depth, of_a_block, dtype=theirs.dtype)
        weight[:, :, layer] = theirs
        ours |= {f"E.{layer}.weight": weight.flatten(1), f"E.{layer}.bias": state[f"layers.{layer}.0.1.bias"]}
    return ours


def convert_lifting(state, num_axes=2):
    return {"P.weight": state["weight"][(..., *(None,) * num_axes)], "P.bias": state["bias"]}


def identity(width, num_axes):
    """Return the weights of a projection that changes nothing: ``gelu(v) - gelu(-v)`` is ``v``."""
    both = torch.cat([torch.eye(width), -torch.eye(width)]).double()
    weights = {"Q.0.weight": both[(..., *(None,) * num_axes)], "Q.2.weight": both.T[(..., *(None,) * num_axes)]}
    return weights | {"Q.0.bias": torch.zeros(2 * width), "Q.2.bias": torch.zeros(width)}


def ours(in_channels, out_channels, *, num_axes=2, **where):
    taken = {"width": "dim", "depth": "depth", "heads": "heads", "head_size": "dim_head"}
    options = {here: SETTINGS[there] for here, there in taken.items()} | {"kernel_multiplier": 3}
    return FactFormer(in_channels, out_channels, num_axes=num_axes, **options, **where).double()


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def cells(*shape):
    return [(torch.arange(n).double() + 0.5) / n for n in shape]


def columns(places):
    return [axis[:, None] for axis in places]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(7, 10), (4, 6, 5)])
@pytest.mark.parametrize("multiplier", [2, 6])  # from five on, kernels are scaled there
def test_block(published, shape, multiplier):
    """Kernels of any places: the layer alone knows no grid."""
    torch.manual_seed(0)
    blocks = published("libs/factorization_module.py")
    kind = {2: blocks.FABlock2D, 3: blocks.FABlock3D}[len(shape)]
    theirs = prepare(kind(12, 6, 12, 4, 12, kernel_multiplier=multiplier))
    state = theirs.state_dict()
    norm = ChannelNorm(12).double()
    norm.load_state_dict({kind: state[f"in_norm.{kind}"] for kind in ("weight", "bias")})
    layer = AxialAttention(12, 4, 6, len(shape), kernel_multiplier=multiplier).double()
    layer.load_state_dict(convert_block(state, shape, 4, multiplier))
    places, weights = [random(n) for n in shape], [torch.ones(n).double() / n for n in shape]
    u = random(2, 12, *shape)
    expected = theirs(u.movedim(1, -1), columns(places)).movedim(-1, 1)
    assert_close(layer(norm(u), places, weights), expected)
    wrong = convert_block(state, shape, 4, multiplier)
    wrong["reduce.1.to_key.weight"] = wrong["reduce.0.to_key.weight"]
    layer.load_state_dict(wrong)
    assert (layer(norm(u), places, weights) - expected).norm() > 1e-2 * expected.norm()


@torch.no_grad()
def test_block_as_it_is_made(published):
    """In single precision, with the rotations and the small kernels that the authors start from."""
    torch.manual_seed(0)
    theirs = repair(published("libs/factorization_module.py").FABlock2D(12, 6, 12, 4, 12))
    layer, u, places = AxialAttention(12, 4, 6, 2, kernel_multiplier=3), random(2, 12, 7, 10).float(), cells(7, 10)
    layer.load_state_dict(convert_block(theirs.state_dict(), (7, 10), 4, 3))
    expected = theirs(u.movedim(1, -1), columns(place.float() for place in places)).movedim(-1, 1)
    v = torch.nn.functional.layer_norm(u.movedim(1, -1), (12,)).movedim(-1, 1)
    assert_close(layer(v, places, [torch.full((n,), 1 / n) for n in (7, 10)]), expected)


@torch.no_grad()
@pytest.mark.parametrize("num_axes", [2, 3])
def test_encoder_of_flows(published, num_axes):
    """Blocks with their Fourier features. In the plane the whole network up to its latent state, lifting included."""
    torch.manual_seed(0)
    module, shape = published(f"examples/turb_ns{num_axes}d_fact_lm.py"), (9, 6, 5)[:num_axes]
    if num_axes == 2:
        network = prepare(module.FactFormer2D(SimpleNamespace(**SETTINGS, **LATENT)))
        encoder, lifting, channels = network.encoder, network.to_in, LATENT["in_time_window"]
    else:  # the lifting is a convolution in time
        arguments = [SETTINGS[key] for key in ("dim", "dim_head", "heads", "dim", "depth")]
        encoder = prepare(module.FactorizedTransformer(*arguments, kernel_multiplier=3))
        channels = SETTINGS["dim"]
        lifting = torch.nn.Linear(channels, channels).double()
    model = ours(channels, SETTINGS["dim"], num_axes=num_axes)  # around periodic axes our features close, theirs do not
    state = convert_encoder(encoder.state_dict(), shape, SETTINGS["heads"], 3)
    state |= convert_lifting(lifting.state_dict(), num_axes) | identity(SETTINGS["dim"], num_axes)
    model.load_state_dict(state)
    u, places = random(2, channels, *shape), cells(*shape)
    expected = encoder(lifting(u.movedim(1, -1)), columns(places)).movedim(-1, 1)
    assert_close(model(u), expected)
    model.load_state_dict(state | {"E.1.weight": state["E.0.weight"]})
    assert (model(u) - expected).norm() > 1e-2 * expected.norm()


def convert_marching(state, shape, heads, multiplier):
    """Return what our PublishedFactFormer calls the weights of the published network for flows in the plane."""
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    ours = {k: v for k, v in convert_encoder(encoder, shape, heads, multiplier).items() if not k.startswith(("E", "f"))}
    for layer in range(sum(key.endswith("._B") for key in state)):
        ours[f"E.{layer}.0.frequencies"] = encoder[f"layers.{layer}.0.0._B"].T
        ours |= {f"E.{layer}.1.{kind}": encoder[f"layers.{layer}.0.1.{kind}"] for kind in ("weight", "bias")}
    ours |= convert_lifting({kind: state[f"to_in.{kind}"] for kind in ("weight", "bias")})
    ours["Q.enter.weight"] = state["expand_latent.weight"][..., None, None]
    ours["Q.time"] = state["latent_time_emb"][0].movedim(-1, 1)
    ours |= {f"Q.norm.{kind}": state[f"propagator.norm.{kind}"] for kind in ("weight", "bias")}
    for here, there in {"advance.0": "propagator.fn.net.0", "advance.2": "propagator.fn.net.3"}.items():
        ours |= {
            f"Q.{here}.weight": state[f"{there}.weight"][..., None, None],
            f"Q.{here}.bias": state[f"{there}.bias"],
        }
    projection = {k.removeprefix("simple_to_out."): v for k, v in state.items() if k.startswith("simple_to_out.")}
    for key, value in projection.items():
        layer, kind = key.split(".")
        ours[f"Q.leave.{int(layer) - 1}.{kind}"] = value[..., None] if value.ndim == 3 else value
    return ours


@torch.no_grad()
def test_network_for_flows(published):
    """The whole network, with three steps in time."""
    torch.manual_seed(0)
    shape, settings = (9, 6), SETTINGS | LATENT | {"max_latent_steps": 3}
    theirs = prepare(published("examples/turb_ns2d_fact_lm.py").FactFormer2D(SimpleNamespace(**settings)))
    torch.nn.init.normal_(theirs.latent_time_emb)
    for parameter in theirs.simple_to_out[1].parameters():
        torch.nn.init.normal_(parameter)
    model = marching(5, 3 * 3, steps=3, boundary="periodic", centring="vertex")
    state = convert_marching(theirs.state_dict(), shape, SETTINGS["heads"], 3)
    model.load_state_dict(state)
    u, places = random(2, 5, *shape), [torch.arange(n).double() / n for n in shape]
    states = theirs(u.movedim(1, -1), columns(places), latent_steps=3)
    expected = states.movedim(-1, 2).flatten(1, 2)
    assert_close(model(u), expected)
    model.load_state_dict(state | {"Q.time": state["Q.time"].flip(0)})
    assert (model(u) - expected).norm() > 1e-2 * expected.norm()


def marching(in_channels, out_channels, **options):
    return PublishedFactFormer(
        in_channels, out_channels, width=16, depth=2, heads=4, head_size=6, kernel_multiplier=3, **options
    ).double()


def test_marching_further_begins_with_the_same_states():
    torch.manual_seed(0)
    three, u = marching(2, 6, steps=3), random(2, 2, 9, 6)
    one = marching(2, 2)
    one.load_state_dict(three.state_dict() | {"Q.time": three.Q.time[:1]})
    assert_close(three(u)[:, :2], one(u))
    assert (three(u)[:, 2:4] - one(u)).norm() > 1e-3 * one(u).norm()
    rebuilt = PublishedFactFormer(**json.loads(json.dumps(three.config()))).double()
    rebuilt.load_state_dict(three.state_dict())
    assert torch.equal(rebuilt(u), three(u))
    three(u).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in three.parameters())


def test_marching_in_other_dimensions_with_parameters():
    for num_axes in (1, 3):
        model = marching(1, 2, steps=2, num_axes=num_axes, num_parameters=1)
        u, parameters = random(2, 1, *(5, 4, 6)[:num_axes]), torch.tensor([[0.0], [1.0]]).double()
        assert model(u, parameters).shape == (2, 2, *u.shape[2:])
        assert (model(u, parameters) - model(u, parameters.flip(0))).norm() > 1e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 2}, "`steps` must divide `out_channels`, 3. Got 2"),
        ({"steps": 0}, "`steps` must be at least 1. Got 0"),
        ({"width": 12}, "`width` must be a multiple of 8. Got 12"),
    ],
)
def test_wrong_arguments_of_marching_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        PublishedFactFormer(1, 3, **wrong)


@torch.no_grad()
def test_network_for_darcy(published):
    """The whole network but for what is no operator's: strided convolutions, which know the grid, give nothing here.

    Nor does it normalise the groups of channels over all points before the projection, as the published one does.
    """
    torch.manual_seed(0)
    module, n, dim = published("examples/darcy2d_fact.py"), 9, SETTINGS["dim"]
    theirs = prepare(module.FactFormer2D(SimpleNamespace(**SETTINGS, **DARCY, resolution=n)))
    theirs.up_block[-1].weight.zero_()
    theirs.up_block[-1].bias.zero_()
    theirs.simple_to_out[1] = torch.nn.Identity()
    model = ours(2, 3, boundary="dirichlet", centring="cell")
    state = convert_encoder(theirs.encoder.state_dict(), (n, n), SETTINGS["heads"], 3)
    state |= convert_lifting(theirs.to_in.state_dict()) | {
        key: torch.zeros_like(p) for key, p in model.Q.named_parameters(prefix="Q")
    }
    state["Q.0.weight"][:dim, :, 0, 0] = theirs.simple_to_out[2].weight[:, dim:, 0]  # the rest sees the convolutions
    state["Q.2.weight"][:, :dim, 0, 0] = theirs.simple_to_out[4].weight[..., 0]
    state["Q.2.bias"] = theirs.simple_to_out[4].bias
    model.load_state_dict(state)
    u = random(2, 2, n, n)
    expected = theirs(u.movedim(1, -1), columns(cells(n, n))).movedim(-1, 1)
    assert_close(model(u), expected)
