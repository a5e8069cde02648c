"""Converted weights of the published scOT compute what they computed there, the whole network.

``VCYCLE_REFERENCES`` names a folder with a checkout of https://github.com/camlab-ethz/poseidon in ``poseidon``; its
model needs ``transformers`` 4.
"""

import importlib.util
import os
import warnings
from pathlib import Path

import pytest
import torch

from helpers import assert_close
from vcycle.models import ScOT

STAGES = 3
SMALL = {"width": 6, "stages": STAGES, "heads": 3, "patch": 2, "skip_depth": 2, "boundary": "neumann"}


@pytest.fixture(scope="module")
def theirs():
    path = Path(os.environ.get("VCYCLE_REFERENCES", "nowhere")) / "poseidon" / "scOT" / "model.py"
    if not path.is_file():
        pytest.skip("VCYCLE_REFERENCES has no checkout of github.com/camlab-ethz/poseidon")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers.models.swinv2", reason="transformers is not installed", exc_type=ImportError)
        spec = importlib.util.spec_from_file_location("scot_reference", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def reference(module, *, points, depth, window, timed, seed=0):
    """The network of the published code, every weight random, also those that start as zeros or as almost nothing."""
    config = module.ScOTConfig(
        image_size=points,
        patch_size=2,
        num_channels=2,
        num_out_channels=3,
        embed_dim=6,
        depths=[depth] * STAGES,
        num_heads=[3 * 2**i for i in range(STAGES)],
        skip_connections=[2] * (STAGES - 1) + [0],  # none on the coarsest grid, as in all published models
        window_size=window,
        use_conditioning=timed,
    )
    generator = torch.Generator().manual_seed(seed)
    model = module.ScOT(config).eval().double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            centre = 1.0 if name.endswith("logit_scale") else 0.0
            p.copy_(centre + torch.randn(p.shape, dtype=p.dtype, generator=generator) * max(p[0].numel(), 4) ** -0.5)
    return model


def with_exact_offsets(model):
    """Replace the tables of relative positions, which are kept rounded to single precision, by exact ones."""
    for module in model.modules():
        if hasattr(module, "relative_coords_table"):
            rounded = module.relative_coords_table
            steps = rounded.shape[1] // 2  # from one end of the window to the other
            offsets = (rounded.sign() * (8.0 ** rounded.abs() - 1) * steps / 8).round()
            scaled = offsets * 8 / max(steps, 1)
            module.relative_coords_table = scaled.sign() * (scaled.abs() + 1).log() / torch.tensor(8.0).double().log()
            assert_close(module.relative_coords_table, rounded, rtol=1e-6)
    return model


# Weights -------------------------------------------------------------------------------------------------------------


def blocks(ours):
    """Names of all blocks, here and there, where the decoder begins at the coarsest grid."""
    for side in ("encoder", "decoder"):
        for i in range(STAGES):
            place = i if side == "encoder" else STAGES - 1 - i
            for j in range(len(ours.encoder[0].blocks)):
                yield f"{side}.{i}.blocks.{j}", f"{side}.layers.{place}.blocks.{j}"


def linear_maps(ours):
    """Names of all affine maps of the channels, here and there."""
    for here, there in blocks(ours):
        for part in ("query", "key", "value"):
            yield f"{here}.A.to_{part}", f"{there}.attention.self.{part}"
        for layer in (0, 2):
            yield f"{here}.A.bias.{layer}", f"{there}.attention.self.continuous_position_bias_mlp.{layer}"
        yield f"{here}.A.out", f"{there}.attention.output.dense"
        yield f"{here}.M.0", f"{there}.intermediate.dense"
        yield f"{here}.M.2", f"{there}.output.dense"
    for i in range(STAGES - 1):
        yield f"unmerge.{i}.mix", f"decoder.layers.{STAGES - 2 - i}.upsample.mixup"
        for j in range(len(ours.skips[i])):
            for part, other in (("D.conv", "dwconv"), ("enter", "pwconv1"), ("leave", "pwconv2")):
                yield f"skips.{i}.{j}.{part}", f"residual_blocks.{i}.{j}.{other}"
    yield "embed", "embeddings.patch_embeddings.projection"
    yield "recover", "patch_recovery.projection"
    yield "smooth.conv", "patch_recovery.mixup"


def convert(state, ours):
    """Return the weights of ``ours`` that compute what the published names in ``state`` do."""
    new = {"smooth.conv.bias": torch.zeros(3, dtype=torch.float64)}  # theirs has none
    for here, there in linear_maps(ours):
        for part in ("weight", "bias"):
            if f"{there}.{part}" in state:
                shape = ours.get_parameter(f"{here}.{part}").shape  # a 1x1 convolution or a product of matrices
                new[f"{here}.{part}"] = state[f"{there}.{part}"].reshape(shape)
    for here, there in blocks(ours):
        new[f"{here}.A.sharpness"] = state[f"{there}.attention.self.logit_scale"]
    for i in range(STAGES - 1):
        # Neighbours: (column, row, channel) on the way down and (row, column, channel) on the way up there; (channel,
        # row, column) here.
        merged = state[f"encoder.layers.{i}.downsample.reduction.weight"]
        spread = state[f"decoder.layers.{STAGES - 2 - i}.upsample.upsample.weight"]
        merged, spread = merged.unflatten(1, (2, 2, -1)), spread.unflatten(0, (2, 2, -1))
        new[f"merge.{i}.map.weight"] = merged.permute(0, 3, 2, 1).flatten(1)[..., None, None]
        new[f"unmerge.{i}.spread.weight"] = spread.permute(2, 0, 1, 3).flatten(0, 2)[..., None, None]
        for j in range(len(ours.skips[i])):
            new[f"skips.{i}.{j}.scale"] = state[f"residual_blocks.{i}.{j}.weight"][:, None, None]
    return new | convert_norms(state, ours)


def norm_names(ours):
    """Names of all norms, here and there."""
    yield "norm", "embeddings.norm"
    for here, there in blocks(ours):
        yield f"{here}.after_attention", f"{there}.layernorm_before"  # though it comes after
        yield f"{here}.after_network", f"{there}.layernorm_after"
    for i in range(STAGES - 1):
        yield f"merge.{i}.norm", f"encoder.layers.{i}.downsample.norm"
        yield f"unmerge.{i}.norm", f"decoder.layers.{STAGES - 2 - i}.upsample.norm"
        for j in range(len(ours.skips[i])):
            yield f"skips.{i}.{j}.norm", f"residual_blocks.{i}.{j}.norm"


def convert_norms(state, ours):
    """Return the norms' weights; scales and shifts that are affine in the time are those of one network here.

    Of its hidden units two are used: ``gelu(t) - gelu(-t) = t``.
    """
    new = {}
    if ours.condition is None:
        return {
            f"{here}.{part}": state[f"{there}.{part}"]
            for here, there in norm_names(ours)
            for part in ("weight", "bias")
        }
    hidden, channels = ours.condition.network[0].out_features, ours.condition.channels
    slope, constant = (torch.full((2, channels), float("nan"), dtype=torch.float64) for _ in range(2))
    for here, there in norm_names(ours):
        norm = ours.get_submodule(here)
        mine = slice(norm.first, norm.first + norm.channels)
        for row, part in enumerate(("weight", "bias")):
            slope[row, mine] = state[f"{there}.{part}.weight"][:, 0]
            constant[row, mine] = state[f"{there}.{part}.bias"]
        new[f"{here}.weight"] = torch.ones(norm.channels, dtype=torch.float64)
        new[f"{here}.bias"] = torch.zeros(norm.channels, dtype=torch.float64)
    constant[0] -= 1  # ours is 1 + gamma
    first, second = torch.zeros(hidden, 1).double(), torch.zeros(2 * channels, hidden).double()
    first[:2, 0] = torch.tensor([1.0, -1.0])
    second[:, 0], second[:, 1] = slope.flatten(), -slope.flatten()
    return new | {
        "condition.network.0.weight": first,
        "condition.network.0.bias": torch.zeros(hidden).double(),
        "condition.network.2.weight": second,
        "condition.network.2.bias": constant.flatten(),
    }


def both(theirs, *, points=16, depth=2, window=4, timed=True):
    model = reference(theirs, points=points, depth=depth, window=window, timed=timed)
    ours = ScOT(2, 3, depth=depth, window=window, num_parameters=int(timed), **SMALL).double()
    ours.load_state_dict(convert(model.state_dict(), ours))
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(2, 2, points, points, dtype=torch.float64, generator=generator)
    time = torch.rand(2, dtype=torch.float64, generator=generator)
    return ours, model, u, time


# Forward -------------------------------------------------------------------------------------------------------------


# 32 points are 16, 8 and 4 tokens per axis. Windows of 4 are shifted on the two finer grids; with windows of 8 the two
# coarser grids are one window each, the coarsest a smaller one, as in the published models. Windows that do not divide
# the grid are left out: there the published code attends to its padding, which ours cuts off.
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(("depth", "window"), [(2, 4), (3, 8)])
def test_the_whole_network(theirs, depth, window, timed):
    ours, model, u, time = both(theirs, points=32, depth=depth, window=window, timed=timed)
    with torch.no_grad():
        found = ours(u, time[:, None] if timed else None)
        assert_close(found, model(u, time).output, rtol=1e-6)
        expected = with_exact_offsets(model)(u, time).output
    assert_close(found, expected, rtol=1e-12)
