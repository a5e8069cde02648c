"""Weights of the authors' LSM compute here what they compute there, in the whole network.

The authors' code is not shipped: ``VCYCLE_REFERENCES`` names the folder that holds a checkout.
"""

import importlib.util
import os
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import test_contract
from helpers import assert_close
from vcycle.layers import ushape
from vcycle.layers.latent import LatentSpectralBlock
from vcycle.models import MODELS
from vcycle.models.lsm import LSM, PublishedLSM

WIDTH, TOKENS, BASES, PATCH = 8, 3, 12, 2
SHAPES = [(32, 32), (32, 64), (27, 61)]  # the last is padded to (32, 64), as 85 points are to 96 in the paper


@pytest.fixture
def reference(monkeypatch):
    """The module ``models/LSM_2D.py``, which neither wants a GPU nor rounds to single precision."""
    path = Path(os.environ.get("VCYCLE_REFERENCES", "")) / "Latent-Spectral-Models" / "models" / "LSM_2D.py"
    if "VCYCLE_REFERENCES" not in os.environ or not path.exists():
        pytest.skip("set VCYCLE_REFERENCES to a folder with a checkout of github.com/thuml/Latent-Spectral-Models")
    # Constants are moved to the GPU, and made in single precision whatever the network is in.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch, "float", torch.float64)
    spec = importlib.util.spec_from_file_location("lsm_2d", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convert_double_conv(state):
    """DoubleConv -> two LocalConv with batch normalisation."""
    parts = {"0": "0.conv", "1": "1", "3": "3.conv", "4": "4"}
    found = {}
    for key, value in state.items():
        index, name = key.removeprefix("double_conv.").split(".")
        found[f"{parts[index]}.{name}"] = value
    return found


def convert_block(state, heads=8):
    """NeuralSpectralBlock2d -> LatentSpectralBlock: keys and values of a head alternate there, and follow here."""

    def apart(value):  # (head, channel, key or value) -> (key or value, head, channel)
        return value.unflatten(0, (heads, -1, 2)).movedim(2, 0).flatten(0, 2)

    return {
        "tokens": state["latent"],
        "weight": state["weights"].unflatten(0, (heads, -1)).unsqueeze(1),
        "to_key_value.weight": apart(state["encoder_attn.weight"]),
        "to_key_value.bias": apart(state["encoder_attn.bias"]),
        "to_query.weight": state["decoder_attn.weight"],
        "to_query.bias": state["decoder_attn.bias"],
    }


def convert(state):
    """Model -> PublishedLSM."""

    def under(prefix):
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    parts = {"body.first.": convert_double_conv(under("inc."))}
    for level in range(4):
        parts[f"body.down.{level}."] = convert_double_conv(under(f"down{level + 1}.maxpool_conv.1."))
        parts[f"body.up.{level}."] = convert_double_conv(under(f"up{4 - level}.conv."))
    for level in range(5):
        parts[f"body.blocks.{level}."] = convert_block(under(f"process{level + 1}."))
    parts["body.last."] = under("outc.conv.")
    for ours, theirs in {"P.": "fc0.", "Q.0.": "fc1.", "Q.2.": "fc2."}.items():
        parts[ours] = {key: v[..., None, None] if v.ndim == 2 else v for key, v in under(theirs).items()}
    return {prefix + key: value for prefix, part in parts.items() for key, value in part.items()}


def randomised(network):
    """Draw weights of such a size that every part matters, statistics of the normalisation too."""
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 1
            draw = torch.randn(value.shape, dtype=value.dtype, generator=generator)
            moments = {"running_var": draw.abs() + 0.5, "running_mean": draw / 3}
            value.copy_(moments.get(key.rsplit(".", 1)[-1], draw * (2 / fan) ** 0.5 if fan > 1 else 0.3 * draw + 0.3))
    return network


def build(reference, shape):
    padding = [-n % (16 * PATCH) for n in reversed(shape)]
    arguments = types.SimpleNamespace(
        in_dim=2,
        out_dim=3,
        d_model=WIDTH,
        num_token=TOKENS,
        num_basis=BASES,
        patch_size=f"{PATCH},{PATCH}",
        padding=",".join(map(str, padding)),
    )
    theirs = randomised(reference.Model(arguments).double())
    ours = PublishedLSM(2, 3, width=WIDTH, depth=4, tokens=TOKENS, bases=BASES, patch=PATCH, centring="vertex").double()
    return theirs, ours


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_whole_network(reference, shape, training):
    theirs, ours = build(reference, shape)
    ours.load_state_dict(convert(theirs.state_dict()))
    u = random(2, 2, *shape)
    with torch.no_grad():
        expected = theirs.train(training)(u.movedim(1, -1)).movedim(-1, 1)
        actual = ours.train(training)(u)
    assert_close(actual, expected)


def test_every_weight_matters(reference):
    """Any tensor that is converted wrongly is seen."""
    theirs, ours = build(reference, (32, 32))
    ours.load_state_dict(convert(theirs.state_dict()))
    u = random(1, 2, 32, 32)
    with torch.no_grad():
        expected = ours.eval()(u)
        for key, value in ours.state_dict().items():
            if not value.is_floating_point():
                continue  # how many batches the statistics have seen
            kept = value.clone()
            value += 0.01 * kept.abs().mean() * torch.randn(value.shape, dtype=value.dtype).abs() + 0.01
            assert (ours(u) - expected).norm() > 1e-9 * expected.norm(), key
            value.copy_(kept)


def test_default_network_but_for_its_convolutions(reference, monkeypatch):
    """The default, with their blocks of convolutions, halving, refinement and affine map after the U put in place."""
    theirs = build(reference, (32, 32))[0].eval()
    ours = LSM(2, 3, width=WIDTH, depth=4, tokens=TOKENS, bases=BASES, patch=PATCH, centring="vertex").double()
    ours.body.blocks[4] = LatentSpectralBlock(8 * WIDTH, TOKENS, BASES, 8, PATCH, 2).double()
    ours.body.first = ours.body.down = ours.body.up = nn.Identity()
    shared = convert(theirs.state_dict()).items()
    shared = {key: value for key, value in shared if key.startswith(("P.", "Q.", "body.blocks."))}
    ours.load_state_dict(shared)
    ours.body.first = theirs.inc
    ours.body.down = nn.ModuleList(getattr(theirs, f"down{i}").maxpool_conv[1] for i in (1, 2, 3, 4))
    ours.body.up = nn.ModuleList(getattr(theirs, f"up{i}").conv for i in (4, 3, 2, 1))
    ours.Q.insert(0, theirs.outc)
    monkeypatch.setattr(ushape, "halve", theirs.down1.maxpool_conv[0])
    monkeypatch.setattr(ushape, "enlarge", lambda v, shape, periodic: theirs.up1.up(v))
    u = random(2, 2, 32, 32)
    with torch.no_grad():
        assert_close(ours(u), theirs(u.movedim(1, -1)).movedim(-1, 1))


# What needs no reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rule for rule in vars(test_contract.TestContract) if rule.startswith("test_")])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_published_network_fulfils_the_contract_in_evaluation(monkeypatch, tmp_path, rule, num_axes):
    name = PublishedLSM.name
    monkeypatch.setitem(MODELS, name, lambda *a, **options: PublishedLSM(*a, **options).eval())
    monkeypatch.setitem(test_contract.SMALL, name, test_contract.SMALL["lsm"] | {"depth": 2})
    arguments = (name, num_axes, tmp_path) if "config" in rule else (name, num_axes)
    getattr(test_contract.TestContract(), rule)(*arguments)
