"""Fourier multipliers: exact semigroups, ranks, and symmetries."""

import math

import pytest
import torch

from helpers import assert_close
from vcycle.layers.factorised import FACTORISATIONS, FactorisedSpectralConv, read_ranks
from vcycle.layers.group import GroupPointwise, GroupSpectralConv, act, compose, inverse, transform
from vcycle.layers.spectral import RadialSpectralConv, SeparableSpectralConv, SpectralConv, multiply
from vcycle.layers.transforms import signed


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def frequencies_of(layer):
    return torch.stack(torch.meshgrid(*(torch.tensor(f) for f in layer.frequencies), indexing="ij")).double()


@pytest.mark.parametrize("shape", [(18,), (17, 14), (9, 10, 11)])
def test_heat_semigroup(shape):
    """A Gaussian multiplier evolves a band-limited function exactly as the heat equation does, in every corner."""
    layer, time = SpectralConv(1, 1, [4] * len(shape)).double(), 0.01
    decay = torch.exp(-time * (2 * math.pi) ** 2 * frequencies_of(layer).square().sum(0))
    layer.weight.data = torch.stack([decay, torch.zeros_like(decay)], -1)[None, None]
    x = torch.meshgrid(*(torch.arange(n).double() / n for n in shape), indexing="ij")
    start, end = torch.zeros(shape).double(), torch.zeros(shape).double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        k = torch.randint(-3, 4, (len(shape),), generator=generator).tolist()
        wave = torch.cos(2 * math.pi * sum(a * b for a, b in zip(k, x, strict=True)) + 0.3)
        start += wave
        end += math.exp(-time * (2 * math.pi) ** 2 * sum(a * a for a in k)) * wave
    assert_close(layer(start[None, None])[0, 0], end, rtol=1e-12)


def test_an_imaginary_multiplier_differentiates():
    layer = SpectralConv(1, 1, (4, 4)).double()
    k = frequencies_of(layer)
    layer.weight.data = torch.stack([torch.zeros_like(k[0]), 2 * math.pi * k[1]], -1)[None, None]
    x, y = torch.meshgrid(torch.arange(12).double() / 12, torch.arange(10).double() / 10, indexing="ij")
    phase = 2 * math.pi * (3 * y - 2 * x)
    assert_close(layer(phase.sin()[None, None])[0, 0], 6 * math.pi * phase.cos(), rtol=1e-12)


def test_multiply_is_the_complex_product_of_matrices_and_vectors():
    spectrum, weight = random(2, 3, 4, 5, 2), random(3, 6, 4, 5, 2, seed=1)
    expected = torch.einsum("bixy,ioxy->boxy", torch.view_as_complex(spectrum), torch.view_as_complex(weight))
    assert_close(torch.view_as_complex(multiply(spectrum, weight).contiguous()), expected, rtol=1e-14)


def test_other_number_of_points_out_is_the_same_function():
    layer = SpectralConv(1, 2, (3, 3), offset=0.5).double()

    def wave(nx, ny):
        x, y = ((torch.arange(n).double() + 0.5) / n for n in (nx, ny))
        return torch.cos(2 * math.pi * (2 * x[:, None] - y))[None, None]

    assert_close(layer(wave(16, 12), (9, 24)), layer(wave(9, 24)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_transformed_in_single(dtype):
    layer, v = SpectralConv(2, 2, (3, 3)), random(1, 2, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(v.to(dtype))
    assert result.dtype == dtype
    assert_close(result.float(), layer(v.to(dtype).float()).to(dtype).float(), rtol=1e-6)


def test_separable_convolution_is_the_sum_of_those_along_the_axes():
    layer, v = SeparableSpectralConv(2, 3, (3, 4)).double(), random(2, 2, 10, 12)
    along_y, along_x = SpectralConv(2, 3, [4]).double(), SpectralConv(2, 3, [3]).double()
    along_x.weight.data, along_y.weight.data = layer.weights[0].data, layer.weights[1].data
    expected = torch.stack([along_y(v[:, :, i]) for i in range(10)], 2)
    expected = expected + torch.stack([along_x(v[..., j]) for j in range(12)], 3)
    assert_close(layer(v), expected)


# Factorised ----------------------------------------------------------------------------------------------------------


def test_full_tucker_from_the_higher_order_svd_is_the_dense_layer():
    dense, v = SpectralConv(3, 4, (2, 3)).double(), random(2, 3, 9, 10)
    layer = FactorisedSpectralConv(3, 4, (2, 3), rank=(3, 4, 4, 3)).double()
    core = dense.weight.data
    matrices = []
    for index in range(4):
        unfolded = dense.weight.data.movedim(index, 0).flatten(1)
        matrices.append(torch.linalg.svd(unfolded, full_matrices=False)[0])
        core = (core.movedim(index, -1) @ matrices[-1]).movedim(-1, index)
    for factor, value in zip(layer.factors, [core, *matrices], strict=True):
        factor.data = value.contiguous()
    assert_close(layer.multiplier(), dense.weight)
    assert_close(layer(v), dense(v))


def test_formats_are_their_definitions():
    def factors(name, ranks):
        torch.manual_seed(0)
        layer = FactorisedSpectralConv(3, 4, (2, 3), factorisation=name, rank=ranks).double()
        return layer, [f.data for f in layer.factors]

    layer, f = factors("tucker", (2, 3, 2, 1))
    assert_close(layer.multiplier(), torch.einsum("pqrsz,ip,oq,xr,ys->ioxyz", *f))
    layer, f = factors("cp", (5,))
    assert_close(layer.multiplier(), torch.einsum("ir,or,xr,yr,zr->ioxyz", *f))
    layer, f = factors("tensor-train", (2, 3, 4, 2))
    assert_close(layer.multiplier(), torch.einsum("aib,boc,cxd,dye,ezf->ioxyz", *f))


@pytest.mark.parametrize("name", FACTORISATIONS)
@pytest.mark.parametrize("rank", [0.02, 0.1, 0.5])
def test_rank_is_a_share_of_the_dense_weights_and_keeps_their_size(name, rank):
    torch.manual_seed(0)
    layer = FactorisedSpectralConv(16, 16, (6, 6), factorisation=name, rank=rank)
    dense = math.prod(layer.dense_shape)
    count = sum(f.numel() for f in layer.factors)
    assert 0.7 * rank * dense <= count <= rank * dense
    variance = SpectralConv(16, 16, (6, 6)).weight.var()
    assert 0.3 < layer.multiplier().var() / variance < 3


def test_ranks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"`rank` must have 4 numbers for 'tucker'. Got \(2, 2\)"):
        FactorisedSpectralConv(3, 4, (2, 3), rank=(2, 2))
    with pytest.raises(ValueError, match=r"`rank` must lie between 0 and 1. Got 1.5"):
        FactorisedSpectralConv(3, 4, (2, 3), rank=1.5)
    with pytest.raises(ValueError, match=r"`factorisation` must be one of 'tucker', 'cp', 'tensor-train'. Got 'tuker'"):
        FactorisedSpectralConv(3, 4, (2, 3), factorisation="tuker")
    assert read_ranks("cp", (3, 4, 2), 1) == (2,)  # 18 of 24 weights; three would have 27


# Groups --------------------------------------------------------------------------------------------------------------


def test_composition_is_that_of_the_action():
    v = random(1, 3, 3)
    for g in range(8):
        assert torch.equal(act(g, act(inverse(g), v)), v)
        for h in range(8):
            assert torch.equal(act(compose(g, h), v), act(g, act(h, v)))


@pytest.mark.parametrize("n", [12, 13, 6])
@pytest.mark.parametrize("order", [4, 8])
def test_group_layers_commute_with_the_group(order, n):
    torch.manual_seed(0)
    lift = GroupPointwise(2, 3, order, lifted=False).double()
    pointwise = GroupPointwise(3, 3, order).double()
    conv = GroupSpectralConv(3, 2, 4, order).double()
    u, v = random(2, 2, n, n), random(2, 3 * order, n, n, seed=1)
    for element in range(order):
        assert_close(lift(act(element, u)), transform(element, lift(u), order), rtol=1e-12)
        for layer in (pointwise, conv):
            expected = transform(element, layer(v), order)
            assert_close(layer(transform(element, v, order)), expected, rtol=1e-12)
    plain = SpectralConv(3 * order, 2 * order, (4, 4)).double()
    assert (plain(transform(1, v, order)) - transform(1, plain(v), order)).abs().max() > 0.1


def test_turned_kernels_are_real():
    """The multiplier at -k is the conjugate of that at k, also where both are stored, at frequency zero of an axis."""
    layer = GroupSpectralConv(1, 1, 3, 4).double()
    column = torch.view_as_complex(layer.multiplier()[..., 0, :].contiguous())
    assert_close(column, column.flip(-1).conj(), rtol=1e-15)


@pytest.mark.parametrize("n", [10, 11])
def test_radial_convolution_has_no_direction(n):
    layer, u = RadialSpectralConv(2, 3, 4, 2).double(), random(2, 2, n, n)
    for element in range(8):
        assert_close(layer(act(element, u)), act(element, layer(u)), rtol=1e-12)
    frequencies = frequencies_of(layer).square().sum(0)
    assert layer.inside[frequencies >= 16].abs().max() == 0
    assert layer.shell[frequencies == 5].unique().numel() == 1  # (1, 2), (2, 1), (-1, 2), (-2, 1)
    assert layer(u).std() > 0.05


def test_signed_frequencies():
    assert signed((2, 3)) == ((0, 1, -2, -1), (0, 1, 2))
    with pytest.raises(ValueError, match=r"`modes` must be at least 1. Got 0"):
        signed((2, 0))
