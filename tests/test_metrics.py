"""Metrics against closed forms, numpy, scipy.fft and the finite-volume energy."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from helpers import assert_close, assert_order
from vcycle import metrics
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import laplacian

KINDS = {
    "dirichlet": (("dirichlet", "dirichlet"), ("dirichlet", "dirichlet")),
    "neumann": (("neumann", "neumann"), ("neumann", "neumann")),
    "periodic": (("periodic", "periodic"), ("periodic", "periodic")),
    "mixed": (("dirichlet", "neumann"), ("periodic", "periodic")),
}


def on(name: str, shape: tuple[int, int], extent=(1.0, 2.0)) -> tuple[Grid, Boundary]:
    boundary = Boundary(KINDS[name])
    return Grid(shape, extent, periodic=boundary.periodic), boundary


def fields(grid: Grid, seed: int, batch: int = 3, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *grid.shape, generator=generator, dtype=torch.float64)


def every_metric(grid: Grid, boundary: Boundary) -> dict:
    place = {"grid": grid, "boundary": boundary}
    return {
        "l2": metrics.relative_l2,
        "h1": lambda p, t, **kw: metrics.relative_h1(p, t, **place, **kw),
        "spectral": metrics.truncated_spectral_h1,
        "boundary": lambda p, t, **kw: metrics.boundary_error(p, t, **place, **kw),
        "bands": lambda p, t, **kw: metrics.error_by_band(p, t, **place, **kw).energy,
    }


def test_relative_l2_is_the_mean_of_each_samples_own_error():
    grid, _ = on("dirichlet", (6, 4))
    prediction, target = fields(grid, 0), fields(grid, 1) * torch.tensor([1.0, 10.0, 1e-3]).reshape(3, 1, 1, 1)
    p, t = prediction.numpy(), target.numpy()
    expected = np.mean([np.linalg.norm((p[i] - t[i]).ravel()) / np.linalg.norm(t[i].ravel()) for i in range(3)])
    assert_close(metrics.relative_l2(prediction, target), expected)


@pytest.mark.parametrize("name", KINDS)
def test_h1_is_the_energy_of_the_finite_volume_laplacian(name):
    grid, boundary = on(name, (6, 5))
    prediction, target = fields(grid, 0, channels=1), fields(grid, 1, channels=1)

    def squared(u):
        return laplacian(grid, boundary).energy(u.squeeze(1)) + grid.cell_volume * u.square().flatten(1).sum(1)

    expected = (squared(prediction - target) / squared(target)).sqrt()
    assert_close(metrics.relative_h1(prediction, target, grid=grid, boundary=boundary, reduction="none"), expected)


def test_h1_converges_to_the_integral_at_second_order():
    # e = sin(pi x) sin(2 pi y): |e|^2 = 1/4, |grad e|^2 = 5 pi^2 / 4; target sin(pi x) sin(pi y): 1/4, 2 pi^2 / 4
    exact = math.sqrt((1 + 5 * math.pi**2) / (1 + 2 * math.pi**2))
    errors, sizes = [], (16, 32, 64)
    for n in sizes:
        grid = Grid((n, n))
        x, y = map(torch.from_numpy, grid.mesh())
        target = (torch.sin(math.pi * x) * torch.sin(math.pi * y))[None, None]
        error = (torch.sin(math.pi * x) * torch.sin(2 * math.pi * y))[None, None]
        value = metrics.relative_h1(target + error, target, grid=grid, boundary="dirichlet")
        errors.append(abs(value.item() - exact))
    assert_order(errors, sizes, 2.0)


def test_h1_on_vertices_is_exact_for_linear_functions():
    # e = x on the unit square: |e|^2 by the trapezoidal rule, |grad e|^2 = 1; target 1: norm 1
    grid = Grid((5, 7), centring="vertex")
    x = torch.from_numpy(grid.mesh()[0])[None, None]
    target = torch.ones_like(x)
    trapezoid = np.trapezoid(grid.coordinates()[0] ** 2, grid.coordinates()[0])
    value = metrics.relative_h1(target + x, target, grid=grid, boundary="neumann")
    assert_close(value, math.sqrt(trapezoid + 1.0))


def test_h1_leaves_the_targets_walls_out_where_values_are_given_there():
    grid = Grid((8,))
    target = torch.ones(1, 1, 8, dtype=torch.float64)
    error = torch.full_like(target, 0.5)
    value = metrics.relative_h1(target + error, target, grid=grid, boundary="dirichlet", zero_on_walls=False)
    # |e|^2 = 1/4 and at each wall (0.5 / (h/2))^2 * h/2 = 4; the target's gradient is zero
    assert_close(value, math.sqrt(0.25 + 2 * 4.0))


@pytest.mark.parametrize("shape", [(50, 47), (64,), (44, 6, 5)])
def test_truncated_spectral_h1_is_the_papers(shape):
    rng = np.random.default_rng(0)
    p, t = rng.standard_normal((2, 3, 2, *shape))
    weight = np.ones(shape)
    for axis, n in enumerate(shape):
        k = np.abs(np.fft.fftfreq(n) * n).round()
        k[k >= 20] = 0
        weight = weight + (k**2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    axes = tuple(range(2, 2 + len(shape)))

    def norms(u):
        return np.linalg.norm((np.fft.fftn(u, axes=axes, norm="ortho") * np.sqrt(weight)).reshape(3, -1), axis=1)

    expected = np.mean(norms(p - t) / norms(t))
    assert_close(metrics.truncated_spectral_h1(torch.from_numpy(p), torch.from_numpy(t)), expected)


def test_spectral_and_true_h1_agree_up_to_two_pi_on_smooth_periodic_fields():
    grid = Grid((32, 32), 2 * math.pi, periodic=True)
    x, y = map(torch.from_numpy, grid.mesh())
    target, error = torch.cos(x)[None, None], torch.sin(2 * x + y)[None, None]
    spectral = metrics.truncated_spectral_h1(target + error, target)
    assert_close(spectral, math.sqrt(6 / 2))
    true = metrics.relative_h1(target + error, target, grid=grid, boundary="periodic")
    assert_close(true, math.sqrt(6 / 2), rtol=1e-2)  # second order in the spacing


def test_boundary_error_sees_the_outermost_layer_only():
    grid, boundary = on("dirichlet", (5, 6))
    prediction, target = fields(grid, 0), fields(grid, 1)
    layer = np.ones(grid.shape, bool)
    layer[1:-1, 1:-1] = False
    p, t = prediction.numpy()[:, :, layer].reshape(3, -1), target.numpy()[:, :, layer].reshape(3, -1)
    expected = np.mean(np.linalg.norm(p - t, axis=1) / np.linalg.norm(t, axis=1))
    assert_close(metrics.boundary_error(prediction, target, grid=grid, boundary=boundary), expected)


def test_boundary_error_has_no_layer_on_periodic_axes():
    grid, boundary = on("mixed", (5, 6))
    target = torch.ones(1, 1, 5, 6, dtype=torch.float64)
    prediction = target.clone()
    prediction[..., 0, :] += 0.5
    prediction[..., 2, 0] += 9.0  # beside the seam of the periodic axis, and not at a wall
    assert_close(metrics.boundary_error(prediction, target, grid=grid, boundary=boundary), 0.5 * math.sqrt(0.5))


TRANSFORMS = {
    "dirichlet": (lambda u, axis: scipy.fft.dst(u, type=2, axis=axis, norm="ortho"), lambda n: np.arange(1, n + 1.0)),
    "neumann": (lambda u, axis: scipy.fft.dct(u, type=2, axis=axis, norm="ortho"), lambda n: np.arange(n) + 0.0),
    "dirichlet-neumann": (
        lambda u, axis: scipy.fft.dst(u, type=4, axis=axis, norm="ortho"),
        lambda n: np.arange(n) + 0.5,
    ),
    "neumann-dirichlet": (
        lambda u, axis: scipy.fft.dct(u, type=4, axis=axis, norm="ortho"),
        lambda n: np.arange(n) + 0.5,
    ),
    "periodic": (
        lambda u, axis: scipy.fft.fft(u, axis=axis, norm="ortho"),
        lambda n: 2 * np.abs(scipy.fft.fftfreq(n) * n),
    ),
}


@pytest.mark.parametrize("first", TRANSFORMS)
@pytest.mark.parametrize("second", TRANSFORMS)
def test_bands_equal_those_of_fast_transforms(first, second):
    pairs = tuple((name.split("-")[0], name.split("-")[-1]) for name in (first, second))
    grid = Grid((7, 10), periodic=tuple(low == "periodic" for low, _ in pairs))
    prediction, target = fields(grid, 0), fields(grid, 1)
    e = (prediction - target).numpy()
    squared = np.zeros(grid.shape)
    for axis, name in enumerate((first, second)):
        transform, frequencies = TRANSFORMS[name]
        e = transform(e, axis + 2)
        squared += (frequencies(grid.shape[axis]) ** 2).reshape([-1 if a == axis else 1 for a in range(2)])
    band = np.floor(np.log2(np.maximum(np.sqrt(squared), 1))).astype(int)
    power = (np.abs(e) ** 2).sum(1)
    norm = target.square().flatten(1).sum(1).numpy()
    expected = np.mean([[power[i][band == b].sum() / norm[i] for b in range(band.max() + 1)] for i in range(3)], axis=0)
    result = metrics.error_by_band(prediction, target, grid=grid, boundary=Boundary(pairs))
    assert_close(result.energy, expected)
    assert result.edges.tolist() == [0.0, *(2.0**b for b in range(1, band.max() + 1))]


@pytest.mark.parametrize("centring", ["cell", "vertex"])
@pytest.mark.parametrize("name", KINDS)
def test_bands_sum_to_the_squared_error(name, centring):
    boundary = Boundary(KINDS[name])
    grid = Grid((9, 12), centring=centring, periodic=boundary.periodic)
    prediction, target = fields(grid, 0), fields(grid, 1)
    energy = metrics.error_by_band(prediction, target, grid=grid, boundary=boundary, reduction="none").energy
    assert_close(energy.sum(1), metrics.relative_l2(prediction, target, reduction="none") ** 2)


def test_a_single_mode_falls_into_its_band():
    grid = Grid((32, 32))
    x, y = map(torch.from_numpy, grid.mesh())
    target = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    mode = 2 * torch.sin(3 * math.pi * x) * torch.sin(5 * math.pi * y)  # |k| = 5.83 half waves, norm 1
    energy = metrics.error_by_band(target + mode, target, grid=grid, boundary="dirichlet").energy
    assert_close(energy, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("metric", ["l2", "h1", "spectral", "boundary", "bands"])
def test_split_batches_give_the_metric_of_the_whole(metric):
    grid, boundary = on("mixed", (6, 8))
    function = every_metric(grid, boundary)[metric]
    prediction, target = fields(grid, 0, batch=5), fields(grid, 1, batch=5)
    split = torch.cat([function(prediction[i : i + 2], target[i : i + 2], reduction="none") for i in (0, 2, 4)])
    assert_close(split.mean(0), function(prediction, target))


@pytest.mark.parametrize("metric", ["l2", "h1", "spectral", "boundary", "bands"])
def test_a_zero_target_gives_the_absolute_error(metric):
    grid, boundary = on("dirichlet", (6, 8))
    function = every_metric(grid, boundary)[metric]
    prediction = fields(grid, 0)
    zero, some = torch.zeros_like(prediction), fields(grid, 1)
    ratio = function(prediction * 3, zero) / function(prediction, zero)
    assert_close(ratio, torch.full_like(ratio, 9.0 if metric == "bands" else 3.0))
    if metric == "l2":
        assert_close(function(prediction, zero), prediction.flatten(1).norm(dim=1).mean())
    assert_close(function(some, some), torch.zeros_like(ratio))


@pytest.mark.parametrize("metric", ["l2", "h1", "spectral", "boundary", "bands"])
def test_metrics_are_differentiable_also_where_the_error_vanishes(metric):
    grid, boundary = on("mixed", (4, 3))
    function = every_metric(grid, boundary)[metric]
    prediction, target = fields(grid, 0, batch=2).requires_grad_(), fields(grid, 1, batch=2)
    assert torch.autograd.gradcheck(lambda p: function(p, target), (prediction,))
    exact = target.clone().requires_grad_()
    function(exact, target).sum().backward()
    assert torch.isfinite(exact.grad).all()


def test_wrong_arguments_are_named():
    grid, boundary = on("periodic", (4, 4))
    u = fields(grid, 0)
    with pytest.raises(ValueError, match=r"`prediction` must have shape \(3, 2, 4, 4\), that is that of the target"):
        metrics.relative_l2(u[:1], u)
    with pytest.raises(ValueError, match=r"`reduction` must be one of 'mean', 'none'. Got 'sum'"):
        metrics.relative_l2(u, u, reduction="sum")
    with pytest.raises(ValueError, match=r"`prediction` must have shape"):
        metrics.truncated_spectral_h1(u[:, :1], u)
    for function in (metrics.relative_h1, metrics.boundary_error, metrics.error_by_band):
        with pytest.raises(ValueError, match=r"`target` must have shape \(any, any, 5, 4\)"):
            function(u, u, grid=Grid((5, 4), periodic=True), boundary=boundary)
    with pytest.raises(ValueError, match=r"`boundary` must have a wall on some axis\. Got 'periodic'"):
        metrics.boundary_error(u, u, grid=grid, boundary=boundary)
