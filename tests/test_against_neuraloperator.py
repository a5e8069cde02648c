"""Converted weights of neuraloperator's FNO, TFNO and U-NO compute what they computed there."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_close
from vcycle.layers.transforms import resample
from vcycle.models import FNO, TFNO, UNO
from vcycle.models.convert_neuraloperator import convert_fno_weights, convert_tfno_weights, tucker_ranks

HERE = {"boundary": "periodic", "centring": "vertex", "width": 6, "depth": 3}
SHAPES = [(20,), (16, 20), (8, 12, 10)]


@pytest.fixture
def neuralop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("neuralop", reason="neuraloperator is not installed")
        import neuralop.models

        yield neuralop.models


class EverySecond:
    """Without channel networks neuraloperator applies every activation twice; the published FNO does once."""

    calls = 0

    def __call__(self, v):
        self.calls += 1
        return F.gelu(v) if self.calls % 2 else v


def options(num_axes, k=3):
    n_modes = (*(2 * k,) * (num_axes - 1), 2 * k - 2)
    return {"n_modes": n_modes, "in_channels": 2, "out_channels": 3, "hidden_channels": 6, "n_layers": 3}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_fno(neuralop, shape):
    torch.manual_seed(0)
    plain = {"lifting_channel_ratio": 0, "use_channel_mlp": False, "projection_channel_ratio": 128 / 6}
    theirs = neuralop.FNO(**options(len(shape)), **plain)
    theirs.fno_blocks.non_linearity = EverySecond()
    ours = FNO(2, 3, modes=3, num_axes=len(shape), padding=0, **HERE)
    ours.load_state_dict(convert_fno_weights(theirs.state_dict()))
    u = random(2, 2, *shape)
    with torch.no_grad():
        assert_close(ours(u), theirs(u))
    theirs.fno_blocks.non_linearity = F.gelu  # as it is shipped: another function
    with torch.no_grad():
        assert (ours(u) - theirs(u)).norm() > 1e-3 * ours(u).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_tfno(neuralop, shape):
    torch.manual_seed(0)
    theirs = neuralop.TFNO(**options(len(shape)), rank=0.4)
    state = theirs.state_dict()
    ranks = [2 * r for r in tucker_ranks(state)]
    ours = TFNO(2, 3, modes=3, num_axes=len(shape), rank=ranks, padding=0.0, **HERE)
    ours.load_state_dict(convert_tfno_weights(state))
    u = random(2, 2, *shape)
    with torch.no_grad():
        assert_close(ours(u), theirs(u))


def test_a_foreign_state_is_named():
    with pytest.raises(ValueError, match=r"`state` must hold .* It has no 'fno_blocks.convs.0.bias'"):
        convert_fno_weights({"a": torch.zeros(1)})


# U-NO ----------------------------------------------------------------------------------------------------------------

DEPTH, WIDTH, MODES = 2, 6, 4
LEVELS = [0, 1, 2, 1, 0, 0]  # the last layer is the projection's


@pytest.fixture
def in_double_precision(monkeypatch):
    """The spectral convolutions are written for single precision."""
    monkeypatch.setattr(torch, "cfloat", torch.complex128)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def shapes_of(shape):
    return [tuple(-(-n // 2**level) for n in shape) for level in LEVELS]


def reference_uno(neuralop, shape, **options):
    """A network with our layers: skips join after the way up, and one of the two goes to the projection.

    Its blocks are ``A_2 gelu(A_1 (K v + W v + c) + b_1) + b_2``, without the second way around; the last one is a
    network of the channels alone, and what follows it an affine map: ``gelu(x) - gelu(-x) = x``.
    """
    torch.manual_seed(0)
    shapes, d = shapes_of(shape), len(shape)
    kept = [MODES // 2 ** min(pair) for pair in zip([0, *LEVELS], LEVELS, strict=False)]
    model = neuralop.UNO(
        in_channels=2,
        out_channels=3,
        hidden_channels=WIDTH,
        lifting_channels=2 * WIDTH,
        projection_channels=6,
        n_layers=len(LEVELS),
        uno_out_channels=[WIDTH * 2**level for level in LEVELS[:-1]] + [4 * WIDTH],
        uno_n_modes=[[2 * k] * (d - 1) + [2 * k - 2] for k in kept],
        uno_scalings=[
            [b / a for a, b in zip(*pair, strict=True)] for pair in zip([shape, *shapes], shapes, strict=False)
        ],
        horizontal_skips_map={2 * DEPTH + 1 - level: level for level in range(DEPTH)},
        channel_mlp_expansion=1.0,
        channel_mlp_skip=None,
        **options,
    ).double()
    with torch.no_grad():
        for name, p in model.named_parameters():  # as they are made, the output hardly depends on the input
            inputs = p.shape[0] if p.is_complex() else p[0].numel()
            p.normal_(std=0.5 if "bias" in name else inputs**-0.5)
        model.fno_blocks[-1].convs[0].weight.tensor.zero_()
        first, second = model.projection.fcs
        first.bias.zero_()
        first.weight[3:] = -first.weight[:3]
        second.weight[:, 3:] = -second.weight[:, :3]
    return model


def convert_uno(state, d):
    """Return our weights: what acts on the channels after the gelu is taken into the next layer."""
    get = {key: value[..., 0] if value.ndim == 3 and "convs" not in key else value for key, value in state.items()}
    new, spread = {}, (..., *(None,) * d)
    after = []  # the affine map of the channels after every gelu
    for i in range(len(LEVELS)):
        block, skip = f"fno_blocks.{i}", 2 * DEPTH + 1 - i
        (A1, b1), (A2, b2) = (
            [get[f"{block}.channel_mlp.0.fcs.{k}.{part}"] for part in ("weight", "bias")] for k in (0, 1)
        )
        before, constant = after[-1] if after else (torch.eye(WIDTH), torch.zeros(WIDTH))
        if 0 <= skip < DEPTH:
            S = get[f"horizontal_skips.{skip}.conv.weight"]
            before = torch.block_diag(before, S @ after[skip][0])
            constant = torch.cat([constant, S @ after[skip][1]])
        W, K = get[f"{block}.fno_skips.0.conv.weight"], state[f"{block}.convs.0.weight.tensor"]
        for axis in range(2, K.ndim - 1):  # negative frequencies come first there, last here
            K = K.roll(-(K.shape[axis] // 2), axis)
        mean = K[(..., *(0,) * d)].real.T + W  # what both ways make of constants
        bias = A1 @ (mean @ constant + state[f"{block}.convs.0.bias"].flatten()) + b1
        W = A1 @ W @ before
        if i < len(LEVELS) - 1:
            K = torch.einsum("io...,ij,po->jp...", K, before.to(K.dtype), A1.to(K.dtype))
            new |= {f"K.{i}.weight": torch.view_as_real(K), f"W.{i}.weight": W[spread], f"W.{i}.bias": bias}
        after.append((A2, b2))
    new |= {"Q.0.weight": W[spread], "Q.0.bias": bias}
    affine = get["projection.fcs.1.weight"][:, :3] @ get["projection.fcs.0.weight"][:3]
    new["Q.2.weight"], new["Q.2.bias"] = (affine @ A2)[spread], affine @ b2 + get["projection.fcs.1.bias"]
    for ours, theirs in (("P.0", "lifting.fcs.0"), ("P.2", "lifting.fcs.1")):
        new |= {f"{ours}.weight": get[f"{theirs}.weight"][spread], f"{ours}.bias": get[f"{theirs}.bias"]}
    return new


def converted_uno(model, d):
    ours = UNO(2, 3, modes=MODES, width=WIDTH, depth=DEPTH, num_axes=d, boundary="periodic", centring="vertex").double()
    ours.load_state_dict(convert_uno(model.state_dict(), d))
    return ours


def fourier_resample(v, scale, axes, output_shape=None):
    """Evaluate the series of functions on an odd number of points of one axis on another such number."""
    n = round(v.shape[-1] * scale[0]) if output_shape is None else output_shape[0]
    assert n % 2 == v.shape[-1] % 2 == 1
    return torch.fft.irfft(torch.fft.rfft(v, norm="forward"), n=n, norm="forward")


@pytest.mark.usefixtures("in_double_precision")
def test_uno(neuralop, monkeypatch):
    """But for the pointwise way, which is interpolated there, linearly on the line."""
    import neuralop.layers.spectral_convolution as spectral

    model = reference_uno(neuralop, (25,))
    ours, u = converted_uno(model, 1), random(2, 2, 25).double()
    with torch.no_grad():
        shipped = (model(u) - ours(u)).norm() / ours(u).norm()
        monkeypatch.setattr(spectral, "resample", fourier_resample)
        assert_close(ours(u), model(u), rtol=1e-12)
    assert 1e-3 < shipped < 0.5


@pytest.mark.usefixtures("in_double_precision")
def test_uno_in_the_plane(neuralop, monkeypatch):
    """But for the pointwise way, and for multipliers where the number of points changes.

    There they leave negative frequencies of all axes but the last one at their index, which means others on the new
    grid; so they act on the old points here.
    """
    import neuralop.layers.spectral_convolution as spectral
    from neuralop.layers.fno_block import FNOBlocks

    def ours_to(v, scale, axes, output_shape=None):
        shape = (
            [round(n * s) for n, s in zip(v.shape[2:], scale, strict=True)] if output_shape is None else output_shape
        )
        return resample(v, shape, (True, True), "vertex")

    class OnTheOldPoints(spectral.SpectralConv):
        def forward(self, v, output_shape=None):
            return self.transform(super().forward(v, output_shape=v.shape[2:]), output_shape)

    monkeypatch.setattr(spectral, "resample", ours_to)
    u = random(2, 2, 24, 32).double()
    fixed = reference_uno(neuralop, (24, 32), operator_block=partial(FNOBlocks, conv_module=OnTheOldPoints))
    ours = converted_uno(fixed, 2)
    with torch.no_grad():
        assert_close(ours(u), fixed(u), rtol=1e-12)
        shipped = reference_uno(neuralop, (24, 32))(u)
    assert (shipped - ours(u)).norm() > 1e-2 * ours(u).norm()
