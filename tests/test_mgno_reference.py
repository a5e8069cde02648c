"""Weights of the reference MgNO give the same forward.

The reference code is not shipped. Its Darcy model is transcribed here from the published recipe, with its names of the
weights; where a checkout is at hand (``VCYCLE_MGNO_REFERENCE``), the code itself is the judge too.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_close
from vcycle.models import MgNO
from vcycle.models.reference import convert_reference_weights

SMOOTHING = [[2, 1], [1, 1], [1, 0], [2, 0]]
PUBLISHED = [[1, 0]] * 5 + [[2, 0]]


def reference_weights(smoothing, width, depth, generator):
    """Random weights with the reference code's names and shapes."""

    def make(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator) / shape[0] / shape[-1]

    weights = {"linear.weight": make(1, width, 1, 1)}
    for i in range(depth):
        c = 1 if i == 0 else width
        weights |= {f"linear_list.{i}.weight": make(width, c, 1, 1), f"linear_list.{i}.bias": make(width)}
        for level, (pre, post) in enumerate(smoothing):
            first = 0 if level == 0 else 1
            for k in range(pre):
                step = f"conv_list.{i}.layer{level}.{k + first}"
                weights[f"{step}.S.weight"] = make(width, c, 3, 3)
                if (level, k) != (0, 0):
                    weights[f"{step}.A.weight"] = make(c, width, 3, 3)
            for k in range(post):
                step = f"conv_list.{i}.post_smooth_layer{level}.{k}"
                weights |= {f"{step}.S.weight": make(width, c, 3, 3), f"{step}.A.weight": make(c, width, 3, 3)}
            if level + 1 < len(smoothing):
                weights[f"conv_list.{i}.layer{level + 1}.0.Pi.weight"] = make(width, width, 3, 3)
                weights[f"conv_list.{i}.layer{level + 1}.0.R.weight"] = make(c, c, 3, 3)
                weights[f"conv_list.{i}.RTlayers.{level}.weight"] = make(width, width, 4, 4)
    return weights


def reference_forward(weights, smoothing, depth, a):
    """The published layer, loops written out."""
    u = a
    for i in range(depth):
        skip = F.conv2d(u, weights[f"linear_list.{i}.weight"], weights[f"linear_list.{i}.bias"])
        f, v, stored = u, None, []

        def improve(name, f, v):
            residual = f if v is None else f - F.conv2d(v, weights[f"{name}.A.weight"], padding=1)
            change = F.conv2d(residual, weights[f"{name}.S.weight"], padding=1)
            return change if v is None else v + change

        for level, (pre, _) in enumerate(smoothing):
            if level > 0:
                down = f"conv_list.{i}.layer{level}.0"
                v = F.conv2d(v, weights[f"{down}.Pi.weight"], stride=2, padding=1)
                f = F.conv2d(f, weights[f"{down}.R.weight"], stride=2, padding=1)
            for k in range(pre):
                v = improve(f"conv_list.{i}.layer{level}.{k + (level > 0)}", f, v)
            stored.append((v, f))
        for level in range(len(smoothing) - 2, -1, -1):
            fine, f = stored[level]
            v = fine + F.conv_transpose2d(v, weights[f"conv_list.{i}.RTlayers.{level}.weight"], stride=2, padding=1)
            for k in range(smoothing[level][1]):
                v = improve(f"conv_list.{i}.post_smooth_layer{level}.{k}", f, v)
        u = F.gelu(v + skip)
    return F.conv2d(u, weights["linear.weight"])


def converted(weights, smoothing, width, depth):
    model = MgNO(
        1, 1, width=width, depth=depth, levels=len(smoothing), cycle="V", smoothing=smoothing, boundary="zeros"
    )
    model.double().load_state_dict(convert_reference_weights(weights))
    return model


@pytest.mark.parametrize(
    ("smoothing", "width", "depth"), [(SMOOTHING, 5, 3), (PUBLISHED, 24, 4)], ids=["general", "published"]
)
def test_converted_weights_give_the_transcribed_forward(smoothing, width, depth):
    generator = torch.Generator().manual_seed(0)
    weights = reference_weights(smoothing, width, depth, generator)
    a = torch.randn(2, 1, 64, 32, dtype=torch.float64, generator=generator)
    expected = reference_forward(weights, smoothing, depth, a)
    assert_close(converted(weights, smoothing, width, depth)(a), expected, rtol=1e-12)


def test_unknown_names_are_refused():
    wanted = r"`state` must hold the weights of a reference MgNO_DC\. Got the name 'conv1\.weight'"
    with pytest.raises(ValueError, match=wanted):
        convert_reference_weights({"conv1.weight": torch.zeros(1)})


def reference_module():
    """Import the checkout's ``models.py`` with stand-ins for what it imports and does not need."""
    folder = Path(os.environ["VCYCLE_MGNO_REFERENCE"])
    stubs = {"torchinfo": types.SimpleNamespace(summary=None), "utilities3": types.SimpleNamespace(count_params=None)}
    sys.modules.update({name: stub for name, stub in stubs.items() if name not in sys.modules})
    spec = importlib.util.spec_from_file_location("mgno_reference", folder / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif("VCYCLE_MGNO_REFERENCE" not in os.environ, reason="needs a checkout of github.com/xlliu2017/MgNO")
@pytest.mark.parametrize("smoothing", [PUBLISHED, SMOOTHING], ids=["published", "general"])
def test_converted_weights_give_the_reference_codes_forward(smoothing):
    torch.manual_seed(0)
    reference = reference_module().MgNO_DC(4, 24, 1, 1, smoothing).double()
    a = torch.randn(2, 1, 64, 32, dtype=torch.float64)
    if smoothing is PUBLISHED:
        assert sum(p.numel() for p in reference.parameters()) == 572_661
    assert_close(converted(reference.state_dict(), smoothing, 24, 4)(a), reference(a), rtol=1e-12)
