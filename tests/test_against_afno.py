"""Converted weights of FourCastNet, a vision transformer of AFNO blocks, compute what they computed there.

``VCYCLE_REFERENCES`` names a folder with a checkout of https://github.com/NVlabs/FourCastNet in ``FourCastNet``.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from helpers import assert_close
from vcycle.layers.positions import points
from vcycle.models import AFNO

WIDTH, DEPTH, BLOCKS, THRESHOLD = 8, 3, 2, 0.3


@pytest.fixture
def theirs(monkeypatch):
    """The code, with what it imports and what its network does not need replaced, and computing in double precision."""
    path = Path(os.environ.get("VCYCLE_REFERENCES", "nowhere")) / "FourCastNet" / "networks" / "afnonet.py"
    if not path.is_file():
        pytest.skip("VCYCLE_REFERENCES has no checkout of github.com/NVlabs/FourCastNet")
    pytest.importorskip("einops", reason="einops is not installed")
    for name in ("timm", "timm.models", "utils", "utils.img_utils", "numpy.lib.arraypad"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    layers = types.ModuleType("timm.models.layers")
    layers.DropPath, layers.trunc_normal_ = torch.nn.Identity, torch.nn.init.trunc_normal_
    monkeypatch.setitem(sys.modules, "timm.models.layers", layers)
    spec = importlib.util.spec_from_file_location("afno_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the mixer rounds to single precision
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(before)


def reference(module, shape, patch, seed=0):
    """The network of the published code, every weight random."""
    params = types.SimpleNamespace(patch_size=patch, N_in_channels=2, N_out_channels=3, num_blocks=BLOCKS)
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "sparsity_threshold": THRESHOLD}
    model = module.AFNONet(params, img_size=shape, **sizes).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            fan_in = p.shape[-2] if ".filter.w" in name else p[0].numel() if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=generator) * max(fan_in, 1) ** -0.5)
    return model


def convert(state, ours, tokens, patch):
    """Return the weights of ``ours`` that compute what those of the published network do on a number of tokens.

    Its coefficients are ours times the root of the number of tokens. A table of positions is a map of our features of
    the place, as long as there are no more tokens than features.
    """
    new, gain = {}, (tokens[0] * tokens[1]) ** 0.5
    place = ours.features(points(torch.zeros(1, 1, *tokens), ours.periodic, "cell"))
    table = state["pos_embed"][0]
    solution = torch.linalg.lstsq(torch.cat([place, torch.ones(len(place), 1)], 1), table).solution
    new |= {"E.weight": solution[:-1].T, "E.bias": solution[-1], "features.frequencies": ours.features.frequencies}
    new |= {f"embed.{part}": state[f"patch_embed.proj.{part}"] for part in ("weight", "bias")}
    for i in range(DEPTH):
        block = f"blocks.{i}"
        for k in (1, 2):
            new[f"mix.{i}.weight{k}"] = state[f"{block}.filter.w{k}"]
            new[f"mix.{i}.bias{k}"] = state[f"{block}.filter.b{k}"].unsqueeze(2) / gain
            new[f"M.{i}.{2 * k - 2}.weight"] = state[f"{block}.mlp.fc{k}.weight"][..., None, None]
            new[f"M.{i}.{2 * k - 2}.bias"] = state[f"{block}.mlp.fc{k}.bias"]
            for part in ("weight", "bias"):
                new[f"norms.{2 * i + k - 1}.{part}"] = state[f"{block}.norm{k}.{part}"]
    new["recover.weight"] = state["head.weight"].unflatten(0, (patch, patch, 3)).permute(3, 2, 0, 1)
    new["recover.bias"] = torch.zeros(3)  # theirs has none
    return new


# Odd numbers of tokens, and no more columns than rows: on even ones the published code keeps the highest frequency,
# which ours leaves out as the grid does not resolve it, and it cuts the columns' frequencies at half the rows.
@pytest.mark.parametrize("tokens", [(7, 5), (7, 7)])
def test_the_whole_network(theirs, tokens):
    patch = 3
    shape = tuple(patch * n for n in tokens)
    model = reference(theirs, shape, patch)
    threshold = THRESHOLD / (tokens[0] * tokens[1]) ** 0.5
    ours = AFNO(2, 3, width=WIDTH, depth=DEPTH, patch=patch, blocks=BLOCKS, threshold=threshold)
    ours.load_state_dict(convert(model.state_dict(), ours, tokens, patch))
    u = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(ours(u), model(u), rtol=1e-12)
