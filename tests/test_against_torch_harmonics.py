"""Converted weights of the SFNO in torch-harmonics compute what they computed there."""

import pytest
import torch

from helpers import assert_close
from vcycle.layers.spherical import SphericalConv, colatitudes, harmonic_matrices
from vcycle.models import SFNO

SHAPE, MODES, WIDTH, DEPTH = (9, 16), 6, 8, 2
LINEAR_PART = 64.0
"""Where gelu(x) = x to all digits, for values that are this far from zero and positive."""


@pytest.fixture
def theirs(monkeypatch):
    pytest.importorskip("torch_harmonics", reason="torch-harmonics is not installed")
    from torch_harmonics.examples.models import sfno

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # its convolutions round to single precision
    return sfno


def random(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def in_double_precision(model):
    """Make the multipliers real and everything double, the tables of Legendre functions anew."""
    model.double()
    for module in model.modules():
        if hasattr(module, "pct"):
            module.pct = type(module)(module.nlat, module.nlon, module.lmax, module.mmax, module.grid).pct
        if hasattr(module, "global_conv"):
            # Complex multipliers turn with the axis of the coordinates; ours are real.
            weight = module.global_conv.weight
            module.global_conv.weight = torch.nn.Parameter(weight.detach().real.to(torch.complex128))
    return model


def with_exact_amplitudes(model):
    """Replace sums by a quadrature, which hold for low degrees, by what the grid determines, as we have it."""
    analysis, _ = harmonic_matrices(SHAPE[0], MODES, "vertex")
    sign = (-1.0) ** torch.arange(MODES)  # of Condon and Shortley, which ours are without
    for module in model.modules():
        if hasattr(module, "weights"):
            module.weights = torch.from_numpy(analysis) * sign[:, None, None] / (2 * torch.pi)
    return model


def reference(theirs, positions):
    """The network on one grid; by default it has an inner one of Gauss points, with fewer of them."""
    torch.manual_seed(0)
    model = theirs.SphericalFourierNeuralOperator(
        img_size=SHAPE,
        grid_internal="equiangular",
        scale_factor=1,
        in_chans=2,
        out_chans=3,
        embed_dim=WIDTH,
        num_layers=DEPTH,
        hard_thresholding_fraction=MODES / 8,
        pos_embed=positions,
        bias=True,
    )
    model = in_double_precision(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name or "position" in name:
                p.copy_(random(*p.shape, seed=len(name)))
    return model


# Weights -------------------------------------------------------------------------------------------------------------


def both_signs(weight, bias, hidden):
    """Return a network with one hidden layer that is an affine map: ``gelu(x) - gelu(-x) = x``."""
    channels = weight.shape[1]
    first, second = torch.zeros(hidden, channels).double(), torch.zeros(len(weight), hidden).double()
    first[:channels], first[channels : 2 * channels] = torch.eye(channels), -torch.eye(channels)
    second[:, :channels], second[:, channels : 2 * channels] = weight, -weight
    return first, torch.zeros(hidden).double(), second, bias


def with_table(network, table):
    """Let the hidden units that are still free make a table of the colatitude, ``(colatitude, channel)``."""
    first, constants, second, bias = network
    height = torch.from_numpy(colatitudes(len(table), "vertex")).cos()
    free = slice(2 * first.shape[1], 2 * first.shape[1] + len(table))
    first = torch.cat([first, torch.zeros(len(first), 1).double()], 1)
    # Ramps that begin in the middle between two neighbours, and one below all: a triangle of values, almost.
    begin = torch.cat([(height[1:] + height[:-1]) / 2, torch.tensor([-3.0]).double()])
    first[free, -1], constants[free] = 40.0, -40.0 * begin
    ramps = torch.nn.functional.gelu(40.0 * (height[:, None] - begin))
    second[:, free] = torch.linalg.solve(ramps, table).T
    return first, constants, second, bias


def network(name, first, constants, second, bias):
    """Name the weights of a network of the channels."""
    conv = {
        "0.weight": first[..., None, None],
        "0.bias": constants,
        "2.weight": second[..., None, None],
        "2.bias": bias,
    }
    return {f"{name}.{key}": value for key, value in conv.items()}


def convert(state):
    """Return our weights.

    Ours has a gelu and a pointwise map more in every block. The latter's bias takes values where gelu is the identity,
    and the next one's takes them back. Encoder and decoder, which are affine there, are networks here.
    """
    encoder = both_signs(state["encoder.0.weight"][..., 0, 0], state["encoder.0.bias"], 2 * WIDTH)
    if "pos_embed.position_embeddings" in state:
        encoder = with_table(encoder, state["pos_embed.position_embeddings"][0, :, :, 0].T)
    decoder = both_signs(state["decoder.0.weight"][..., 0, 0], state["decoder.0.bias"], 2 * WIDTH)
    new = network("P", *encoder) | network("Q", *decoder)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        new[f"K.{i}.weight"] = state[f"{block}.global_conv.weight"].real.transpose(0, 1)
        new[f"W.{i}.weight"] = torch.zeros(WIDTH, WIDTH, 1, 1).double()
        new[f"W.{i}.bias"] = state[f"{block}.global_conv.bias"].flatten() + LINEAR_PART
        first, constants, second = (state[f"{block}.mlp.fwd.{key}"] for key in ("0.weight", "0.bias", "2.weight"))
        constants = constants - LINEAR_PART * first[..., 0, 0].sum(1)
        new |= network(f"M.{i}", first[..., 0, 0], constants, second[..., 0, 0], torch.zeros(WIDTH).double())
    return new


# Forward -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["none", "learnable lat"])
def test_the_whole_network_on_one_grid(theirs, positions):
    model = reference(theirs, positions)
    ours = SFNO(2, 3, modes=MODES, width=WIDTH, depth=DEPTH, position=positions != "none").double()
    ours.load_state_dict(convert(model.state_dict()))
    u = random(2, 2, *SHAPE)
    with torch.no_grad():
        found = ours(u)
        plain = (found - model(u)).norm() / found.norm()
        assert_close(found, with_exact_amplitudes(model)(u), rtol=1e-12)
    assert 1e-6 < plain < 0.1  # the quadrature, of a field that the grid just resolves


def test_convolutions_of_smooth_fields_with_their_own_quadrature(theirs):
    """On 17 colatitudes their sums are exact for degrees below 8."""
    from torch_harmonics import InverseRealSHT, RealSHT
    from torch_harmonics.examples.models._layers import SpectralConvS2

    shape, degrees = (17, 32), 8
    transforms = (kind(*shape, lmax=degrees, mmax=degrees, grid="equiangular") for kind in (RealSHT, InverseRealSHT))
    torch.manual_seed(0)
    model = SpectralConvS2(*transforms, 3, 4, bias=True)
    ours = SphericalConv(3, 4, degrees).double()
    model.weight = torch.nn.Parameter(ours.weight.detach().transpose(0, 1).to(torch.complex128))
    with torch.no_grad():
        model.bias.normal_()
        smooth = ours.values(random(degrees, degrees, 2, 3, 2), shape)
        assert_close(ours(smooth) + model.bias, model(smooth)[0], rtol=1e-12)
