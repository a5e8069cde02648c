"""Layers that mix points: attention as a quadrature, axial kernels, networks on coefficients, domains."""

import math

import pytest
import torch

from helpers import assert_close
from vcycle.layers.attention import ATTENTION_KINDS, KernelAttention, rotate
from vcycle.layers.axial import AxialAttention, AxialMix
from vcycle.layers.domain import crop, divisible, pad_walls
from vcycle.layers.mlp import ChannelMLP, SoftGate
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.positions import GaussianFeatures, quadrature_weights
from vcycle.layers.spectral_mlp import SpectralMLP
from vcycle.layers.transforms import resample


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention(kind, **options):
    torch.manual_seed(0)
    return KernelAttention(8, 2, kind=kind, gain=1.0, **options).double()


# Attention -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", [0, 2])
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_points_given_twice_with_half_the_weight_change_nothing(kind, coordinates):
    layer, v, place = attention(kind, num_coordinates=coordinates), random(2, 7, 8), random(7, 2, seed=1)
    place = place if coordinates else None
    weights = random(7, seed=2).softmax(0)
    again = torch.tensor([0, 1, 2, 3, 4, 5, 6, 2, 5])
    halved = weights[again] * torch.bincount(again)[again].double().reciprocal()
    once = layer(v, place, weights)
    twice = layer(v[:, again], None if place is None else place[again], halved)
    assert_close(twice[:, :7], once, rtol=1e-13)
    unweighted = layer(v[:, again], None if place is None else place[again], weights[again])
    assert (unweighted[:, :7] - once).norm() > 1e-2 * once.norm()  # what sums without weights do


def test_kinds_are_their_formulas():
    v, weights = random(1, 5, 8), random(5, seed=2).softmax(0)

    def parts(layer):
        return [m(v)[0].reshape(5, 2, 4) for m in (layer.to_query, layer.to_key, layer.to_value)]

    def norm(part):
        return (part - part.mean(-1, keepdim=True)) / (part.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    for kind in ATTENTION_KINDS:
        layer = attention(kind)
        q, k, value = parts(layer)
        if kind == "softmax":
            scores = torch.einsum("ihd,jhd->hij", q, k) / 2.0
            kernel = scores.exp() * weights
            kernel = kernel / kernel.sum(-1, keepdim=True)
        elif kind == "fourier":
            kernel = torch.einsum("ihd,jhd->hij", norm(q), norm(k)) / 2.0 * weights
        else:
            kernel, value = torch.einsum("ihd,jhd->hij", q, norm(k)) * weights, norm(value)
        expected = layer.out(torch.einsum("hij,jhd->ihd", kernel, value).reshape(5, 8))
        assert_close(layer(v, None, weights)[0], expected, rtol=1e-13)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_attention_on_a_finer_grid_converges(kind):
    layer = attention(kind, num_coordinates=1)

    def at_first_points(n):
        x = torch.arange(n).double()[:, None] / n
        v = torch.sin(2 * math.pi * x * torch.arange(1, 9))[None]
        return layer(v, x, torch.full((n,), 1 / n).double())[:, :: n // 16]

    fine = at_first_points(256)
    errors = [(at_first_points(n) - fine).norm() / fine.norm() for n in (32, 128)]
    assert errors[1] < 0.3 * errors[0] < 0.1


def test_products_of_rotated_features_see_differences_of_coordinates():
    q, k = random(1, 8).expand(6, 8), random(1, 8, seed=1).expand(6, 8)
    x = torch.arange(6).double() / 6
    kernel = rotate(q, x) @ rotate(k, x).T
    for offset in range(-4, 5):
        assert_close(kernel.diagonal(offset), kernel.diagonal(offset)[:1].expand(6 - abs(offset)))
    assert kernel[0].std() > 0.1
    assert_close(rotate(q, x).norm(dim=-1), q.norm(dim=-1))


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"`heads` must divide `width` = 8. Got 3"):
        KernelAttention(8, 3)
    with pytest.raises(ValueError, match=r"`kind` must be one of 'galerkin', 'fourier', 'softmax'. Got 'galerkn'"):
        KernelAttention(8, 2, kind="galerkn")


def test_weights_of_a_grid_integrate_like_its_rule():
    u = random(1, 1, 5, 4)
    assert_close(quadrature_weights(u, (False, True), "cell"), torch.full((20,), 0.05, dtype=torch.float64))
    trapezoid = torch.tensor([0.125, 0.25, 0.25, 0.25, 0.125]).double()
    assert_close(quadrature_weights(u, (False, True), "vertex"), trapezoid.repeat_interleave(4) / 4)


def test_gaussian_features_are_waves_of_the_place():
    features = GaussianFeatures((False, False), 6, scale=3.0).double()
    x = random(5, 2)
    angle = 2 * math.pi * x @ features.frequencies.T
    assert_close(features(x), torch.cat([angle.sin(), angle.cos()], -1))
    assert "frequencies" in features.state_dict()
    assert 0.5 < features.frequencies.std() / 3.0 < 2.0


def test_gaussian_features_close_around_periodic_axes():
    """Both ends of a period are one place; the two walls are not. Frequencies mean the same on both axes."""
    features = GaussianFeatures((False, True), 256, scale=3.0).double()
    place, around, across = torch.tensor([[0.0, 0.3], [0.0, 1.3], [1.0, 0.3]], dtype=torch.float64)
    assert_close(features(around), features(place), rtol=1e-12)
    assert (features(across) - features(place)).norm() > 0.5 * features(place).norm()
    jacobian = torch.autograd.functional.jacobian(features, torch.zeros(2, dtype=torch.float64))
    for axis in range(2):  # sine and cosine of an angle together change as fast as the angle
        assert 0.8 < (jacobian[:, axis].square().sum() / 128).sqrt() / (2 * math.pi * 3.0) < 1.25


# Axial ---------------------------------------------------------------------------------------------------------------


def test_learned_axial_mixing_is_a_kronecker_product():
    layer, v = AxialMix(3, (4, 5, 2)).double(), random(2, 3, 4, 5, 2)
    a, b, c = layer.matrices
    dense = torch.stack([torch.kron(a[i], torch.kron(b[i], c[i])) for i in range(3)])
    assert_close(layer(v).flatten(2), torch.einsum("cij,bcj->bci", dense, v.flatten(2)))


def axes_of(shape, seed=0):
    """Places, and weights that are not all the same."""
    return [torch.arange(n).double() / n for n in shape], [random(n, seed=seed + n).softmax(0) for n in shape]


@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 5)])
def test_chained_kernels_are_a_kronecker_product(shape):
    torch.manual_seed(0)
    layer = AxialAttention(4, 2, 3, len(shape)).double()
    v, (places, weights) = random(2, 4, *shape), axes_of(shape)
    kernels = layer.kernels(layer.to_field(v), places, weights)
    dense = kernels[0]
    for kernel in kernels[1:]:
        size = (dense.shape[-2] * kernel.shape[-2], dense.shape[-1] * kernel.shape[-1])
        dense = torch.einsum("bhij,bhkl->bhikjl", dense, kernel).reshape(2, 2, *size)
    value = layer.to_value(v).reshape(2, 2, 3, -1)
    mixed = torch.einsum("bhij,bhdj->bhdi", dense, value).reshape(2, 6, *shape)
    assert_close(layer(v, places, weights), layer.out(layer.norm(mixed)))


def test_only_parallel_kernels_pass_what_another_axis_stops():
    results = {}
    for combine in ("chained", "parallel"):
        torch.manual_seed(0)
        layer = AxialAttention(4, 2, 4, 2, combine=combine).double()
        layer.reduce[1].to_query.weight.data.zero_()  # no kernel along y
        layer.out = torch.nn.Identity()
        results[combine] = layer(random(2, 4, 6, 7), *axes_of((6, 7)))
    assert results["chained"].abs().max() < 1e-12
    assert results["parallel"].abs().max() > 0.1


@pytest.mark.parametrize("axis", [0, 1])
def test_axial_kernels_are_quadratures(axis):
    """Points given twice with half the weight change neither the averages nor what a kernel gives."""
    torch.manual_seed(0)
    layer, v = AxialAttention(4, 2, 4, 2).double(), random(2, 4, 6, 5)
    again = torch.tensor([0, 1, 2, 3, 4, 2])
    halved = torch.bincount(again)[again].double().reciprocal()
    places, weights = axes_of((6, 5))
    twice = [place[again] if a == axis else place for a, place in enumerate(places)]
    less = [weight[again] * halved if a == axis else weight for a, weight in enumerate(weights)]
    v, weights = v.movedim(2 + axis, 2)[:, :, :5].movedim(2, 2 + axis), list(weights)
    places[axis], weights[axis] = places[axis][:5], weights[axis][:5]
    once = layer.kernels(v, places, weights)
    doubled = layer.kernels(v.index_select(2 + axis, again), twice, less)
    assert_close(doubled[axis].sum(-1)[..., :5], once[axis].sum(-1), rtol=1e-13)
    assert_close(doubled[1 - axis], once[1 - axis], rtol=1e-13)


# Networks on coefficients --------------------------------------------------------------------------------------------


def test_spectral_mlp_without_its_nonlinearity_is_a_pointwise_map(monkeypatch):
    torch.manual_seed(0)
    layer = SpectralMLP(6, 2, threshold=0.0).double()
    monkeypatch.setattr("vcycle.layers.spectral_mlp.F.relu", lambda z: z)
    layer.weight1.data[1] = layer.weight2.data[1] = 0.0
    v = resample(random(2, 6, 7, 9), (10, 14), (True, True), "vertex")  # without the period of two points
    blocks = torch.block_diag(*(layer.weight1[0] @ layer.weight2[0]))
    assert_close(layer(v), v + torch.einsum("bixy,io->boxy", v, blocks))
    layer.weight1.data[1] = 1.0  # an imaginary part is a Hilbert transform, not pointwise
    assert (layer(v) - v - torch.einsum("bixy,io->boxy", v, blocks)).norm() > 0.1 * v.norm()


def test_a_high_threshold_leaves_the_identity():
    v = random(2, 6, 8, 9)
    assert_close(SpectralMLP(6, 2, threshold=1e6).double()(v), v)
    assert (SpectralMLP(6, 2).double()(v) - v).norm() > 0.01 * v.norm()


def test_a_mask_is_a_circular_convolution_that_the_field_chooses():
    torch.manual_seed(0)
    layer, v = SpectralMLP(2, 1, mixer="mask", threshold=0.0).double(), random(1, 2, 9, 7)
    coefficients = torch.fft.fftn(v, dim=(2, 3), norm="forward")
    half = torch.view_as_real(coefficients).permute(4, 2, 3, 0, 1)  # pair, x, y, batch, channel
    w1, w2 = (torch.view_as_complex(w[:, 0].permute(1, 2, 0).contiguous()) for w in (layer.weight1, layer.weight2))
    hidden = torch.view_as_complex(half.permute(1, 2, 3, 4, 0).contiguous()) @ w1
    hidden = torch.complex(hidden.real.relu(), hidden.imag.relu()) @ w2
    mask = hidden.permute(2, 3, 0, 1)[..., :4]  # the rest follows from reality
    kernel = torch.fft.irfftn(mask, s=(9, 7), dim=(2, 3), norm="forward")
    i, j = torch.meshgrid(torch.arange(9), torch.arange(7), indexing="ij")
    expected = torch.zeros_like(v)
    for x in range(9):
        for y in range(7):
            expected[:, :, x, y] = (kernel[:, :, (x - i) % 9, (y - j) % 7] * v).sum((2, 3)) / 63
    assert_close(layer(v) - v, expected)


def test_coefficients_do_not_depend_on_the_number_of_points():
    torch.manual_seed(0)
    layer = SpectralMLP(4, 2, threshold=0.05, modes=(4,)).double()
    layer.bias1.data.normal_()
    v = resample(random(1, 4, 7), (16,), (True,), "vertex")
    fine = resample(v, (64,), (True,), "vertex")
    assert_close(layer(fine)[..., ::4], layer(v))


# Small parts ---------------------------------------------------------------------------------------------------------


def test_channel_norm_is_layer_norm_at_every_point():
    norm, v = ChannelNorm(5).double(), random(2, 5, 3, 4)
    expected = (v - v.mean(1, keepdim=True)) / (v.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    assert_close(norm(v), expected)


def test_channel_mlp_and_soft_gate_act_at_every_point():
    v, gate, mlp = random(2, 3, 4, 5), SoftGate(3, 2).double(), ChannelMLP(3, 7, 2, 2).double()
    assert torch.equal(gate(v), v)
    gate.scale.data[1] = 2.0
    assert_close(gate(v)[:, 1], 2 * v[:, 1])
    assert_close(mlp(v)[:, :, 2:3, 1:2], mlp(v[:, :, 2:3, 1:2]))


@pytest.mark.parametrize("both", [False, True])
def test_padding_touches_walls_alone_and_is_undone(both):
    v = random(1, 2, 4, 5)
    padded = pad_walls(v, (True, False), 3, both=both)
    assert padded.shape == (1, 2, 4, 11 if both else 8)
    assert_close(padded.sum(), v.sum())
    assert torch.equal(crop(padded, (4, 5), both=both), v)


def test_divisible_sizes():
    v = random(1, 1, 7, 8)
    assert divisible(v, 4, (True, False), "cell").shape == (1, 1, 8, 8)
    assert divisible(v, 4, (True, False), "cell", least=3).shape == (1, 1, 12, 12)
    assert torch.equal(divisible(v, 1, (True, False), "cell"), v)
    assert_close(resample(divisible(v, 5, (True, False), "cell"), (7, 8), (True, False), "cell"), v)
