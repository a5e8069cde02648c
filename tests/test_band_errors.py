"""Relative errors by frequency band against closed forms: every mode of the target is off by a share of its own."""

import math

import pytest
import torch

from helpers import assert_close
from vcycle import metrics
from vcycle.boundary import Boundary
from vcycle.grid import Grid

SHARES = torch.tensor([0.01, 0.02, 0.04, 0.08, 0.16], dtype=torch.float64)
"""Error of the modes of each of the five usual bands, relative to these modes."""

MODES = {  # kinds of both axes, and half waves along x and y, one pair for each band and one more for the last
    "dirichlet": ("dirichlet", [(1, 1), (2, 3), (4, 6), (9, 9), (13, 14), (31, 2)]),
    "neumann": ("neumann", [(1, 0), (0, 3), (5, 6), (14, 0), (16, 0), (31, 2)]),
    "periodic": ("periodic", [(0, 0), (2, 2), (4, 6), (8, 10), (12, 12), (30, 2)]),
    "one kind a side": ((("dirichlet", "neumann"), ("periodic", "periodic")),
                        [(0.5, 0), (1.5, 2), (4.5, 6), (8.5, 10), (15.5, 4), (30.5, 2)]),
}  # fmt: skip


def wave(kinds, half_waves, t):
    """The mode of an axis; whole waves of a periodic axis at an arbitrary phase."""
    if kinds[0] == "periodic":
        return torch.cos(math.pi * half_waves * t + 0.3)
    return (torch.sin if kinds[0] == "dirichlet" else torch.cos)(math.pi * half_waves * t)


def off_by_shares(name, dtype=torch.float64):
    """A sum of modes of unequal sizes, and the same with every mode off by the share of its band."""
    kinds, modes = MODES[name]
    boundary = Boundary.of(kinds, 2)
    grid = Grid((32, 32), periodic=boundary.periodic)
    x, y = map(torch.from_numpy, grid.mesh())
    target, prediction = torch.zeros(2, 1, 1, 32, 32, dtype=torch.float64)
    for i, (k, m) in enumerate(modes):
        mode = 3.0**-i * wave(boundary.kinds[0], k, x) * wave(boundary.kinds[1], m, y)
        target = target + mode
        prediction = prediction + (1 + SHARES[min(i, 4)] * (-1) ** i) * mode
    return prediction.to(dtype), target.to(dtype), {"grid": grid, "boundary": boundary}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODES)
def test_each_band_has_the_error_of_its_modes(name, dtype):
    prediction, target, place = off_by_shares(name, dtype)
    rtol = 1e-10 if dtype == torch.float64 else 2e-3
    assert_close(metrics.band_errors(prediction, target, **place), SHARES, rtol=rtol)


@pytest.mark.parametrize("name", MODES)
def test_dyadic_bands_agree_with_the_split_of_the_whole_error(name):
    _, _, place = off_by_shares(name)
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 2, 32, 32, generator=generator, dtype=torch.float64)
    split = metrics.error_by_band(prediction, target, **place, reduction="none")
    content = metrics.error_by_band(torch.zeros_like(target), target, **place, reduction="none")
    errors = metrics.band_errors(prediction, target, **place, bands=split.edges.tolist(), reduction="none")
    assert_close(errors, (split.energy / content.energy).sqrt())


def test_a_sample_counts_by_its_own_error_whatever_its_size():
    prediction, target, place = off_by_shares("dirichlet")
    p = torch.cat([prediction, 1e4 * (2 * prediction - target)])  # twice the error
    t = torch.cat([target, 1e4 * target])
    expected = torch.stack([SHARES, 2 * SHARES])
    assert_close(metrics.band_errors(p, t, **place, reduction="none"), expected)
    assert_close(metrics.band_errors(p, t, **place), expected.mean(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_where_the_target_has_nothing_the_error_is_relative_to_all_of_it(dtype):
    grid = Grid((32, 32), periodic=True)
    x, _ = map(torch.from_numpy, grid.mesh())
    target = torch.sin(2 * math.pi * x)[None, None]  # its mean is rounding, not zero
    prediction = target + 0.1
    errors = metrics.band_errors(prediction.to(dtype), target.to(dtype), grid=grid, boundary="periodic")
    assert_close(errors[0], math.sqrt(0.01 / 0.5), rtol=1e-6)
    assert float(errors[1:].max()) < 1e-5


def test_what_lies_below_the_first_edge_is_left_out():
    prediction, target, place = off_by_shares("neumann")
    last = 3.0**-3, 3.0**-4, 3.0**-5  # amplitudes of (14, 0), (16, 0) and (31, 2), of norms 1/2, 1/2 and 1/4
    energies = [a**2 * n for a, n in zip(last, (0.5, 0.5, 0.25), strict=True)]
    error = sum(e * s**2 for e, s in zip(energies, SHARES[[3, 4, 4]], strict=True))
    expected = torch.stack([SHARES[2], (error / sum(energies)).sqrt()])
    assert_close(metrics.band_errors(prediction, target, **place, bands=(4, 8)), expected)


def test_band_errors_are_differentiable_also_where_the_error_vanishes():
    grid = Grid((6, 5))
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(2, 2, 1, 6, 5, generator=generator, dtype=torch.float64)
    options = {"grid": grid, "boundary": "dirichlet", "bands": (0, 3)}
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: metrics.band_errors(p, target, **options), (prediction,))
    exact = target.clone().requires_grad_()
    metrics.band_errors(exact, target, **options).sum().backward()
    assert torch.isfinite(exact.grad).all()


def test_wrong_bands_are_named():
    grid, u = Grid((4, 4)), torch.ones(1, 1, 4, 4)
    for bands in ((), (2, 2), (4, 2)):
        with pytest.raises(ValueError, match="`bands` must be increasing numbers, at least one"):
            metrics.band_errors(u, u, grid=grid, boundary="dirichlet", bands=bands)
    with pytest.raises(ValueError, match=r"highest frequency is 5\.657\. Got \(0, 2, 8\), with none from 8 on"):
        metrics.band_errors(u, u, grid=grid, boundary="dirichlet", bands=(0, 2, 8))
    with pytest.raises(ValueError, match=r"`target` must have shape \(any, any, 5, 4\)"):
        metrics.band_errors(u, u, grid=Grid((5, 4)), boundary="dirichlet")
