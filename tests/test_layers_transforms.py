"""Series on grids against their definitions, PyTorch's transforms and SciPy's."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from helpers import assert_close
from vcycle.grid import Grid
from vcycle.layers import transforms
from vcycle.layers.transforms import (
    along,
    chebyshev_nodes,
    chebyshev_series,
    cosine_series,
    fourier_analysis,
    fourier_series,
    fourier_synthesis,
    resample,
    resample_linearly,
    signed,
    symmetric,
)

SHAPES = [(16,), (15,), (12, 9), (9, 16), (6, 8, 10), (7, 5, 9)]


def tensors(matrices):
    return [torch.from_numpy(np.ascontiguousarray(m)) for m in matrices]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("choose", [signed, symmetric])
def test_fourier_coefficients_are_those_of_the_fast_transform(shape, choose):
    v, frequencies = random(2, 3, *shape), choose([2] * len(shape))
    spectrum = torch.view_as_complex(fourier_analysis(v, frequencies).contiguous())
    expected = torch.fft.fftn(v, dim=tuple(range(2, v.ndim)), norm="forward")
    for axis, kept in enumerate(frequencies):
        expected = expected.index_select(axis + 2, torch.tensor(kept) % shape[axis])
    assert_close(spectrum, expected, rtol=1e-14)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(15,), (9, 7), (5, 7, 9)])
def test_all_resolved_frequencies_give_the_function_back(shape, offset):
    v, frequencies = random(2, 2, *shape), symmetric([n // 2 + 1 for n in shape])
    assert_close(fourier_synthesis(fourier_analysis(v, frequencies, offset), frequencies, shape, offset), v)


def test_frequencies_that_a_grid_does_not_resolve_are_zero():
    frequencies = symmetric((6, 6))
    spectrum = fourier_analysis(random(1, 1, 8, 7), frequencies)
    assert spectrum.shape == (1, 1, 11, 6, 2)
    assert spectrum[:, :, [0, 1, 9, 10]].abs().max() == 0  # |k| of 4 and 5 on 8 points
    assert spectrum[..., 4:, :].abs().max() == 0
    assert spectrum[:, :, 2:9, :4].abs().min() >= 0
    assert spectrum[:, :, 2, 3].abs().max() > 1e-3


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("n", [8, 9])
def test_real_fourier_series_is_orthonormal_and_complete(n, offset):
    analysis, synthesis = tensors(fourier_series(n, n, offset))
    expected = torch.eye(n, dtype=torch.float64)
    if n == 8 and offset:
        expected[-1, -1] = 0.0  # the last cosine vanishes in all cells
    assert_close(analysis @ synthesis, expected)
    x = (torch.arange(n, dtype=torch.float64) + offset) / n
    assert_close(synthesis[:, 3], math.sqrt(2) * torch.cos(4 * math.pi * x))
    assert_close(synthesis[:, 4], math.sqrt(2) * torch.sin(4 * math.pi * x))


@pytest.mark.parametrize("n", [8, 9])
def test_cosine_series_are_scipys(n):
    v = random(n)
    in_cells = torch.from_numpy(scipy.fft.dct(v.numpy(), type=2, norm="ortho")) / math.sqrt(n)
    assert_close(tensors(cosine_series(n, n, 0.5))[0] @ v, in_cells)
    analysis, synthesis = tensors(cosine_series(n, n, 0.0))
    assert_close(synthesis @ (analysis @ v), v)
    by_scipy = torch.from_numpy(scipy.fft.dct(v.numpy(), type=1)) / (2 * (n - 1))
    assert_close((analysis @ v)[[0, -1]], by_scipy[[0, -1]])
    assert_close((analysis @ v)[1:-1], math.sqrt(2) * by_scipy[1:-1])


def test_parseval_holds_for_cosines():
    """The mean square in space is the sum of squared coefficients: a loss may be taken on either side."""
    v = random(4, 16)
    coefficients = v @ tensors(cosine_series(16, 16, 0.5))[0].T
    assert_close(coefficients.square().sum(-1), v.square().mean(-1))


def test_chebyshev_series_are_numpys():
    nodes = chebyshev_nodes(12)
    coefficients = random(7)
    analysis, synthesis = tensors(chebyshev_series(12, 7))
    scale = np.r_[1.0, np.full(6, math.sqrt(2))]
    expected = np.polynomial.chebyshev.chebval(2 * nodes - 1, scale * coefficients.numpy())
    assert_close(synthesis @ coefficients, torch.from_numpy(expected))
    assert_close(analysis @ synthesis, torch.eye(7, dtype=torch.float64))
    assert (np.diff(nodes) > 0).all()


@pytest.mark.parametrize("centring", ["cell", "vertex"])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("n", "m"), [(12, 20), (20, 12), (13, 8), (9, 31)])
def test_resampling_is_exact_for_what_both_grids_resolve(centring, periodic, n, m):
    def wave(size):
        x = torch.from_numpy(Grid((size,), centring=centring, periodic=periodic).coordinates()[0])
        if periodic:
            return (1 + torch.cos(2 * math.pi * x) - 0.5 * torch.sin(6 * math.pi * x))[None, None]
        return (1 + torch.cos(math.pi * x) - 0.5 * torch.cos(6 * math.pi * x))[None, None]

    assert_close(resample(wave(n), (m,), (periodic,), centring), wave(m))


def test_resampling_to_a_coarse_grid_does_not_alias():
    x = torch.arange(32, dtype=torch.float64) / 32
    fast = torch.cos(2 * math.pi * 9 * x)[None, None]
    assert resample(fast, (16,), (True,), "vertex").abs().max() < 1e-14
    assert fast[..., ::2].abs().max() == 1.0  # taking every second point does


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize(("centring", "offset"), [("vertex", 0), ("cell", 1)])
@pytest.mark.parametrize("periodic", [True, False])
def test_refinement_interpolates_and_comes_back(n, centring, offset, periodic):
    """Three times as many points: cells keep their centres, every third one; also waves of period two."""
    u = random(2, 1, n)
    m = 3 * n if periodic or centring == "cell" else 3 * n - 2
    fine = resample(u, (m,), (periodic,), centring)
    assert_close(fine[..., offset::3], u, rtol=1e-12)
    assert_close(resample(fine, (n,), (periodic,), centring), u, rtol=1e-12)


@pytest.mark.parametrize("resampling", [resample, resample_linearly])
def test_resampling_keeps_single_precision_where_products_are_in_half(resampling):
    v = torch.randn(2, 1, 9, 12, generator=torch.Generator().manual_seed(0))
    plain = resampling(v, (14, 8), (True, False), "cell")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resampling(v, (14, 8), (True, False), "cell"), plain)
        half = resampling(v.bfloat16(), (14, 8), (True, False), "cell")
    assert half.dtype == torch.bfloat16
    assert (half - plain).norm() < 4e-3 * plain.norm()  # what rounding the input and the output costs


def test_along_multiplies_the_axis_that_is_named():
    v, matrix = random(2, 3, 4, 5), random(6, 4, seed=1)
    assert_close(along(matrix, v, 2), torch.einsum("ij,bcjy->bciy", matrix, v))


def test_matrices_of_inference_mode_can_be_used_in_training():
    transforms._kept.cache_clear()
    v, frequencies = random(1, 1, 10), signed([3])
    with torch.inference_mode():
        fourier_analysis(v, frequencies)
    v.requires_grad_()
    fourier_analysis(v, frequencies).sum().backward()
    assert v.grad is not None
