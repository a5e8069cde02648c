"""Converted weights of the authors' T1 compute what they computed there.

``VCYCLE_REFERENCES`` names a folder with a checkout of https://github.com/DiffEqML/kairos in ``kairos``.
"""

import os
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from helpers import assert_close
from vcycle.layers.coordinates import append_coordinates
from vcycle.models import T1


@pytest.fixture
def published(monkeypatch):
    folder = Path(os.environ.get("VCYCLE_REFERENCES", "nowhere")) / "kairos"
    if not folder.is_dir():
        pytest.skip("VCYCLE_REFERENCES has no checkout of github.com/DiffEqML/kairos")
    pytest.importorskip("einops", reason="einops is not installed")
    monkeypatch.setitem(sys.modules, "hydra", MagicMock())  # imported there, and not used by the network
    monkeypatch.syspath_prepend(folder)
    import src.models.t1 as module

    yield module.T1_2d
    for name in [name for name in sys.modules if name.partition(".")[0] == "src"]:
        del sys.modules[name]


def build(published, n, **options):
    """Return the published network on ``n`` points per axis, every weight of order one in what it does.

    As it is made there its head has weights of 1e-8. ``modes2`` is what it is not: every axis has ``modes1``.
    """
    torch.manual_seed(0)
    shared = {"modes1": 5, "modes2": 5, "width": 6, "nlayers": 3, "act": "gelu", "transform": "dct"}
    network = published(**shared, signal_resolution=(n, n), padding=0, keep_high=False, **options)
    with torch.no_grad():
        network.fc1.normal_(std=0.5)
        network.fc2.normal_(std=0.1)
    return network


def convert(state, n):
    """Return what our T1 calls the weights of the published network, for ``n`` cells per axis.

    Its coefficients are ``n`` times ours, which do not depend on the grid (orthonormal for the sum over the points, not
    for the mean), and its coordinates are ``i / (n - 1)`` where ours are ``(i + 1/2) / n``.
    """
    weight, stretch = state["fc0.weight"].clone(), n / (n - 1)
    bias = state["fc0.bias"] - weight[:, -2:].sum(1) * 0.5 / (n - 1)
    weight[:, -2:] *= stretch
    ours = {"P.weight": weight[..., None, None], "P.bias": bias}
    ours["Q.0.weight"] = n * state["fc1"].T[..., None, None]
    ours["Q.2.weight"] = state["fc2"].T[..., None, None] / n
    for layer in range(sum(key.endswith("ch_mixing_1") for key in state)):
        theirs = {
            key: state[f"layers.{layer}.{key}"] for key in ("ch_mixing_1", "spatial_mixing_1", "spatial_mixing_2")
        }
        ours[f"A.{layer}"] = n * theirs["ch_mixing_1"]
        ours[f"M.{layer}.matrices.0"] = theirs["spatial_mixing_1"].permute(2, 1, 0) / n
        ours[f"M.{layer}.matrices.1"] = theirs["spatial_mixing_2"].permute(2, 1, 0)
    return ours


def ours(in_channels, out_channels, head="sine"):
    return T1(in_channels, out_channels, modes=5, width=6, depth=3, head=head, boundary="neumann", centring="cell")


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("n", [9, 17])  # with these the published coordinates, made in single precision, are exact
def test_network(published, n):
    theirs = build(published, n, in_channels=2, out_channels=3).double()
    model = ours(2, 3).double()
    model.load_state_dict(convert(theirs.state_dict(), n))
    u = random(2, 2, n, n)
    assert_close(model(u), theirs(u), rtol=1e-13)
    model.load_state_dict(convert(theirs.state_dict(), n) | {"M.1.matrices.0": model.M[1].matrices[0].mT.clone()})
    assert (model(u) - theirs(u)).norm() > 1e-3 * theirs(u).norm()


@torch.no_grad()
def test_network_of_one_channel_in_single_precision(published):
    theirs, model = build(published, 16), ours(1, 1)
    model.load_state_dict(convert(theirs.state_dict(), 16))
    u = random(2, 1, 16, 16, dtype=torch.float32)
    assert_close(model(u)[:, 0], theirs(u[:, 0]))


@torch.no_grad()
def test_network_of_published_size(published, monkeypatch):
    """The authors' settings for flows, 11 million weights; coordinates in double precision, as ours are."""
    torch.manual_seed(0)
    theirs = published(24, 24, 48, (64, 64), nlayers=8, act="gelu").double()
    theirs.fc1.normal_(std=0.05)
    theirs.fc2.normal_()
    model = T1(1, 1, modes=24, width=48, depth=8, head="sine", boundary="neumann").double()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters()) == 11_065_664
    model.load_state_dict(convert(theirs.state_dict(), 64))
    axis = torch.linspace(0, 1, 64, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[None]
    monkeypatch.setattr(theirs, "get_grid", lambda shape, device: grid)
    u = random(1, 1, 64, 64)
    assert_close(model(u)[:, 0], theirs(u[:, 0]))


@torch.no_grad()
def test_network_that_gives_coefficients(published):
    """What the authors train: the loss is one of coefficients, and no transform back is done."""
    theirs, model = (
        build(published, 9, in_channels=2, out_channels=3, perform_inverse=False).double(),
        ours(2, 3).double(),
    )
    model.load_state_dict(convert(theirs.state_dict(), 9))
    u = random(2, 2, 9, 9)
    coefficients = theirs(u)
    assert_close(9 * model.coefficients(model(u)), coefficients[..., :5, :5], rtol=1e-13)
    assert coefficients.square().sum() == coefficients[..., :5, :5].square().sum()


@torch.no_grad()
def test_sine_head_is_a_sine_between_two_linear_maps():
    torch.manual_seed(0)
    model, z = ours(2, 3).double(), random(2, 6, 5, 5)
    first, second = (model.Q[i].weight[..., 0, 0] for i in (0, 2))
    expected = torch.einsum("oc,bcxy->boxy", second, torch.einsum("oc,bcxy->boxy", first, z).sin())
    assert_close(model.Q(z), expected)
    model.A = torch.nn.ParameterList(torch.zeros_like(A) for A in model.A)  # no layer does anything: gelu(0) is 0
    u = random(2, 2, 9, 7)
    z = model.coefficients(model.P(append_coordinates(u, "cell", (False, False))))
    assert_close(model(u), model.evaluate(model.Q(z), (9, 7)))


def test_head_is_kept_in_the_configuration_and_checked():
    assert T1(**ours(1, 1).config()).state_dict().keys() == ours(1, 1).state_dict().keys()
    assert "linear.weight" in ours(1, 1, head="gelu").state_dict()
    with pytest.raises(ValueError, match=r"`head` must be one of 'gelu', 'sine'. Got 'sin'. Did you mean 'sine'"):
        ours(1, 1, head="sin")
