"""Weights of the authors' Galerkin transformers compute here what they compute there.

The authors' code is not shipped: ``VCYCLE_REFERENCES`` names the folder that holds a checkout.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import test_contract
from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.layers.positions import points
from vcycle.layers.transforms import resample_linearly
from vcycle.layers.walls import vanish_on_walls
from vcycle.models import MODELS
from vcycle.models.galerkin_transformer import GalerkinTransformer, PublishedGalerkinTransformer

HEADS, WIDTH, DEPTH, MODES = 2, 16, 2, 4
KINDS = pytest.mark.parametrize("kind", ["galerkin", "fourier", "softmax"])


@pytest.fixture
def reference(monkeypatch):
    """The module ``libs/model.py``, without what only plotting and reports need."""
    libs = Path(os.environ.get("VCYCLE_REFERENCES", "")) / "galerkin-transformer" / "libs"
    if "VCYCLE_REFERENCES" not in os.environ or not (libs / "model.py").exists():
        pytest.skip("set VCYCLE_REFERENCES to a folder with a checkout of github.com/scaomath/galerkin-transformer")
    torchinfo = types.ModuleType("torchinfo")
    torchinfo.summary = None
    for name, module in {"utils_ft": types.ModuleType("utils_ft"), "torchinfo": torchinfo}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the code appends to it

    def load(name):
        spec = importlib.util.spec_from_file_location(name, libs / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    load("layers")
    model, before = load("model"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # their spectral convolution makes its coefficients in it
    yield model
    torch.set_default_dtype(before)


def neutralised(network):
    """Return their network with weights drawn so that every part matters, and without what differs on purpose.

    Attention is followed by a dropout of one half in evaluation too. With "softmax" queries and keys are normalised,
    unless layers are normalised instead; here they are not, for which their attention has a switch that the layer of
    the encoder does not pass on.
    """
    generator = torch.Generator().manual_seed(0)
    for p in network.double().parameters():
        draw = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.data = (
            0.5 + 0.3 * draw if p.ndim == 1 else draw * (2 / (p[0].numel() if p.ndim == 2 else p[0, 0].numel())) ** 0.5
        )
    for layer in network.encoder_layers:
        layer.attn.dropout = None
        layer.attn.add_norm = layer.attn.attention_type != "softmax"
    return network.eval()


def config(reference, example, **options):
    """Return the settings of one of their examples, smaller, with options changed."""
    text = (Path(reference.__file__).parents[1] / "config.yml").read_text(encoding="utf-8")
    small = {"n_hidden": WIDTH, "n_head": HEADS, "num_encoder_layers": DEPTH, "dim_feedforward": 2 * WIDTH}
    return yaml.safe_load(text)[example] | small | {"n_targets": 3, "fourier_modes": MODES} | options


def pointwise(state, name, num_axes):
    """Linear -> 1x1 convolution."""
    weight = state[f"{name}.weight"].reshape(*state[f"{name}.weight"].shape, *(1,) * num_axes)
    return {"weight": weight, "bias": state[f"{name}.bias"]}


def convert_attention(state, name, kind, num_axes):
    """SimpleAttention -> KernelAttention: coordinates come first in every head there, and last here."""
    found = {}
    for index, ours in enumerate(["to_query", "to_key", "to_value"]):
        found |= {f"{ours}.{part}": state[f"{name}.linears.{index}.{part}"] for part in ("weight", "bias")}
    for index, norm in enumerate({"galerkin": "KV", "fourier": "QK", "softmax": ""}[kind]):
        for head in range(HEADS):
            for part in ("weight", "bias"):
                found[f"norms.{index}.{head}.{part}"] = state[f"{name}.norm_{norm}.{head}.{part}"]
    place, features = state[f"{name}.fc.weight"].unflatten(1, (HEADS, -1)).tensor_split([num_axes], dim=2)
    return found | {"out.weight": torch.cat([features, place], 2).flatten(1), "out.bias": state[f"{name}.fc.bias"]}


def convert_encoder(state, kind, num_axes):
    parts = {}
    for layer in range(DEPTH):
        name = f"encoder_layers.{layer}"
        parts[f"A.{layer}."] = convert_attention(state, f"{name}.attn", kind, num_axes)
        parts[f"M.{layer}.0."] = pointwise(state, f"{name}.ff.lr1", num_axes)
        parts[f"M.{layer}.2."] = pointwise(state, f"{name}.ff.lr2", num_axes)
    return parts


def convert_decoder(state, num_axes):
    """SpectralRegressor -> spectral convolutions and the last map; rows of positive, then negative frequencies."""
    parts = {}
    for layer in range(2):
        name = f"regressor.spectral_conv.{layer}"
        blocks = [v for key, v in state.items() if key.startswith(f"{name}.fourier_weight")]
        parts[f"K.{layer}."] = {"weight": torch.cat(blocks, 2)}
        parts[f"W.{layer}."] = pointwise(state, f"{name}.linear", num_axes)
    parts["Q.0."] = pointwise(state, "regressor.regressor.0", num_axes)
    parts["Q.2."] = pointwise(state, "regressor.regressor.2", num_axes)
    return parts


def joined(parts):
    return {prefix + key: value for prefix, part in parts.items() for key, value in part.items()}


def convert_plain(state, kind, num_axes):
    """SimpleTransformer or FourierTransformer2DLite -> GalerkinTransformer."""
    first = {"P.": pointwise(state, "feat_extract.id", num_axes)}
    found = joined(first | convert_encoder(state, kind, num_axes) | convert_decoder(state, num_axes))
    # Their last map has as many hidden channels as the functions, ours twice as many: the others do nothing.
    missing = [0, 0] * num_axes
    return found | {
        "Q.0.weight": F.pad(found["Q.0.weight"], [*missing, 0, 0, 0, WIDTH]),
        "Q.0.bias": F.pad(found["Q.0.bias"], [0, WIDTH]),
        "Q.2.weight": F.pad(found["Q.2.weight"], [*missing, 0, WIDTH]),
    }


def convert_published(state, kind):
    """FourierTransformer2D with interpolating scalers -> PublishedGalerkinTransformer."""
    parts = convert_encoder(state, kind, 2) | convert_decoder(state, 2) | {"D.": pointwise(state, "regressor.fc", 2)}
    convolutions = {f"P.layers.{i}.conv.": f"downscaler.downsample.conv{i}.conv.0.weight" for i in range(4)}
    convolutions["widen.conv."] = "upscaler.upsample.conv.0.conv.0.weight"
    for ours, theirs in convolutions.items():  # theirs have no bias
        parts[ours] = {"weight": state[theirs], "bias": torch.zeros(len(state[theirs]))}
    return joined(parts)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def places(u, model):
    return points(u, model.periodic, model.centring).expand(len(u), -1, -1)


def last(v):
    """Channels last, points in one axis."""
    return v.flatten(2).transpose(1, 2)


def assert_every_weight_matters(network, u, but=None):
    """Any tensor that is converted wrongly is seen. In a softmax a constant of all keys cancels."""
    with torch.no_grad():
        expected = network(u)
        for key, value in network.state_dict().items():
            kept = value.clone()
            value += 0.01 * kept.abs().mean() * torch.randn_like(value) + 0.01
            difference = ((network(u) - expected).norm() / expected.norm()).item()
            assert (difference > 1e-6) != (but is not None and key.endswith(but)), (key, difference)
            value.copy_(kept)


@KINDS
@pytest.mark.parametrize(("centring", "boundary"), [("cell", "dirichlet"), ("vertex", "periodic")])
@pytest.mark.parametrize("num_axes", [1, 2])
def test_network_without_coarse_grid(reference, kind, centring, boundary, num_axes):
    """Whole networks, with gelu for their relu and silu where ours has gelu. Their means over points are quadratures
    on these grids."""
    options = {"node_feats": 2 + num_axes, "attention_type": kind, "freq_dim": WIDTH, "spacial_fc": False}
    published = {1: ("SimpleTransformer", "ex1_burgers"), 2: ("FourierTransformer2DLite", "ex2_darcy")}
    network, example = published[num_axes]
    theirs = neutralised(getattr(reference, network)(**config(reference, example, **options)))
    theirs.regressor.regressor[1] = nn.GELU()
    for layer in theirs.encoder_layers:
        layer.ff.activation = nn.GELU()
    where = {"centring": centring, "boundary": boundary, "num_axes": num_axes}
    ours = GalerkinTransformer(
        2, 3, width=WIDTH, depth=DEPTH, heads=HEADS, attention=kind, modes=MODES, padding=0, **where
    )
    ours.load_state_dict(convert_plain(theirs.state_dict(), kind, num_axes))
    u = random(2, 2, *(13,) * num_axes)
    with torch.no_grad():
        place = places(u, ours)
        # Two dimensions are joined by their coordinates inside, one is not.
        node = torch.cat([last(u), place], -1) if num_axes == 1 else last(u)
        expected = theirs(node, None, place, place.reshape(2, *u.shape[2:], num_axes))["preds"]
        actual = ours(u)
    assert_close(actual, expected.movedim(-1, 1))
    assert_every_weight_matters(ours, u, but="to_key.bias" if kind == "softmax" else None)


@KINDS
@pytest.mark.parametrize("n", [18, 31])
def test_whole_network_for_darcy_flow(reference, kind, n):
    ours = PublishedGalerkinTransformer(
        2, 3, width=WIDTH, depth=DEPTH, heads=HEADS, attention=kind, modes=MODES, coarsening=2.5, centring="vertex"
    )
    (between, _), (coarse, _) = ours.grids((n, n))
    assert 2 < coarse < between < n
    options = {
        "node_feats": 2,
        "attention_type": kind,
        "freq_dim": WIDTH // 4,
        "norm_eps": 1e-5,  # what their script sets from 211 points on; 1e-7 below
        "downscaler_size": ((between, between), (coarse, coarse)),
        "upscaler_size": ((between, between), (n, n)),
    }
    theirs = neutralised(reference.FourierTransformer2D(**config(reference, "ex2_darcy", **options)))
    ours.load_state_dict(convert_published(theirs.state_dict(), kind))
    u = random(2, 2, n, n)
    with torch.no_grad():
        place = places(u.new_zeros(2, 1, coarse, coarse), ours)
        grid = places(u, ours).reshape(2, n, n, 2)
        expected = theirs(u.movedim(1, -1), None, place, grid)["preds"].movedim(-1, 1)
        actual = vanish_on_walls(ours(u), Boundary.of("dirichlet", 2), "vertex")
    assert_close(actual, expected)
    assert_every_weight_matters(ours, u, but="to_key.bias" if kind == "softmax" else None)


# What needs no reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rule for rule in vars(test_contract.TestContract) if rule.startswith("test_")])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_published_network_fulfils_the_contract(monkeypatch, tmp_path, rule, num_axes):
    name = PublishedGalerkinTransformer.name
    monkeypatch.setitem(MODELS, name, PublishedGalerkinTransformer)
    small = {"width": 8, "depth": 2, "heads": 2, "modes": 3, "coarsening": 2.0}
    monkeypatch.setitem(test_contract.SMALL, name, small)
    arguments = (name, num_axes, tmp_path) if "config" in rule else (name, num_axes)
    getattr(test_contract.TestContract(), rule)(*arguments)


def test_published_network_takes_boundaries_parameters_and_small_grids(monkeypatch):
    name = PublishedGalerkinTransformer.name
    monkeypatch.setitem(MODELS, name, PublishedGalerkinTransformer)
    monkeypatch.setitem(test_contract.SMALL, name, {"width": 32, "depth": 2, "heads": 2, "modes": 3})
    test_contract.TestContract().test_parameters_change_the_output_of_their_own_sample(name, 2)
    test_contract.test_smallest_grid_and_no_sample(name)
    test_contract.test_half_precision_autocast_trains_and_stays_near(name)
    for centring in ("cell", "vertex"):
        test_contract.test_boundaries_and_centrings(name, "periodic", centring)


def test_coarse_grid_of_the_paper():
    model = PublishedGalerkinTransformer(1, 1, width=8, depth=1, centring="vertex")
    assert model.grids((141, 141))[1] == [43, 43]
    with pytest.raises(ValueError, match=r"`coarsening` must be at least 1. Got 0.5"):
        PublishedGalerkinTransformer(1, 1, width=8, coarsening=0.5)
    with pytest.raises(ValueError, match=r"`width` must be at least 3. Got 2"):
        PublishedGalerkinTransformer(1, 1, width=2, heads=1)


@pytest.mark.parametrize("shape", [(5, 9), (17, 23)])
def test_linear_interpolation_between_walls_is_that_of_torch(shape):
    v = random(2, 3, 8, 11)
    for centring, corners in (("cell", False), ("vertex", True)):
        expected = F.interpolate(v, shape, mode="bilinear", align_corners=corners)
        assert_close(resample_linearly(v, shape, (False, False), centring), expected)


@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_linear_interpolation_closes_periodic_axes(centring):
    v = random(1, 1, 6)
    fine = resample_linearly(v, (18,), (True,), centring)
    assert_close(resample_linearly(v.roll(1, -1), (18,), (True,), centring), fine.roll(3, -1))
    x = (torch.arange(18, dtype=v.dtype) + (0.5 if centring == "cell" else 0.0)) / 3
    x = x - (0.5 if centring == "cell" else 0.0)
    hats = (1 - (x[:, None] - torch.arange(-1, 8)).abs()).clamp_min(0)
    assert_close(fine[0, 0], hats @ v[0, 0, torch.arange(-1, 8) % 6])
