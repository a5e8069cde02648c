"""Derivatives of series, residuals in coefficients, and the operator NSM."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close
from vcycle.grid import Grid
from vcycle.layers.derivatives import chebyshev_derivative, chebyshev_integral, fourier_derivative
from vcycle.layers.transforms import chebyshev_nodes, chebyshev_series, fourier_series, resample
from vcycle.models import NeuralSpectral
from vcycle.objectives.parseval import PeriodicPoissonLoss


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("modes", [1, 2, 7, 20])
def test_derivative_of_the_integral_is_the_function_and_integrals_start_from_zero(modes):
    integral = chebyshev_integral(modes)
    assert np.abs(chebyshev_derivative(modes + 1) @ integral - np.eye(modes)).max() < 1e-11
    at_zero = np.where(np.arange(modes + 1) == 0, 1.0, math.sqrt(2)) * (-1.0) ** np.arange(modes + 1)
    assert np.abs(at_zero @ integral).max() < 1e-14


def test_derivatives_of_series_are_those_of_the_functions():
    n, x = 24, chebyshev_nodes(24)
    analysis, synthesis = chebyshev_series(n, n)
    found = synthesis[:, :-1] @ chebyshev_derivative(n) @ analysis @ np.exp(2 * x)
    assert np.abs(found - 2 * np.exp(2 * x)).max() < 1e-9
    x = np.arange(31) / 31
    analysis, synthesis = fourier_series(31, 31, 0.0)
    found = synthesis @ fourier_derivative(31) @ analysis @ np.exp(np.sin(2 * np.pi * x))
    assert np.abs(found - 2 * np.pi * np.cos(2 * np.pi * x) * np.exp(np.sin(2 * np.pi * x))).max() < 1e-9
    squared = fourier_derivative(5) @ fourier_derivative(5)
    assert np.allclose(np.diag(squared), -((2 * np.pi * np.array([0, 1, 1, 2, 2])) ** 2))
    with pytest.raises(ValueError, match=r"`modes` must be odd"):
        fourier_derivative(4)


@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_residual_of_the_known_solution_vanishes(centring):
    grid = Grid((15, 16), extent=(1.0, 2.0), periodic=True, centring=centring)
    x, y = (torch.from_numpy(axis) for axis in grid.mesh())
    one, two = (2 * math.pi * x).sin() * (math.pi * y).cos(), (4 * math.pi * y + 6 * math.pi * x).cos()
    source = one + 3 * two
    weights = (2 * math.pi) ** 2 + math.pi**2, (6 * math.pi) ** 2 + (4 * math.pi) ** 2
    solution = one / weights[0] + 3 * two / weights[1]
    loss = PeriodicPoissonLoss(grid)
    assert loss.coefficients(solution[None, None], source[None, None]).abs().max() < 1e-10
    assert loss(solution[None, None] + 5.0, source[None, None] + 7.0) < 1e-20  # constants do not count
    wrong = loss(solution[None, None] * 1.1, source[None, None])
    assert_close(wrong, 0.01 * source.square().mean())  # Parseval
    with pytest.raises(ValueError, match=r"`grid` must be periodic on all axes"):
        PeriodicPoissonLoss(Grid((8, 8)))


@pytest.mark.parametrize("boundary", ["dirichlet", (("dirichlet", "neumann"), "periodic"), ("neumann", "dirichlet")])
def test_dirichlet_faces_are_zero_whatever_the_weights(boundary):
    torch.manual_seed(0)
    options = {"modes": 5, "width": 6, "depth": 2, "boundary": boundary, "centring": "vertex"}
    model, u = NeuralSpectral(2, 3, hard_boundary=True, **options).double(), random(1, 2, 9, 11)
    output, kinds = model(u), model.kinds.kinds
    for axis, pair in enumerate(kinds):
        for end, kind in zip((0, -1), pair, strict=True):
            face = output.select(axis + 2, end).abs().max()
            assert (face < 1e-12) == (kind == "dirichlet"), (axis, end)
    free = NeuralSpectral(2, 3, **options).double()
    free.load_state_dict(model.state_dict())
    assert_close(free(u) * model.mollifier(u), output)
    assert model.mollifier(u).expand(9, 11)[1:-1, 1:-1].min() > 0.05


def test_coefficients_and_values_are_inverse_and_output_has_its_modes():
    model = NeuralSpectral(1, 1, modes=6, boundary=("periodic", "neumann"), centring="vertex").double()
    z = random(1, 3, 6, 6)
    for shape in ((9, 9), (16, 12)):
        assert_close(model.coefficients(model.values(z, shape, "vertex"), "vertex"), z)
    output = model(random(1, 1, 16, 12))
    assert_close(model.values(model.coefficients(output, "vertex"), (16, 12), "vertex"), output)


def test_the_network_does_not_see_the_grid():
    """Functions of few modes give the same output on every grid, coordinates aside."""
    torch.manual_seed(0)
    model = NeuralSpectral(1, 1, modes=7, width=6, depth=2, boundary="periodic").double()
    with torch.no_grad():
        model.P.weight[:, 1:] = 0
        coarse, fine = (resample(random(1, 1, 5, 5), (n, n), (True, True), "cell") for n in (9, 24))
        assert_close(resample(model(coarse), (24, 24), (True, True), "cell"), model(fine))


@pytest.mark.full
def test_poisson_is_learned_without_solutions():
    """Sources of few modes on 16 x 16 points; judged by the solution, not by the residual."""
    torch.manual_seed(0)
    grid = Grid((16, 16), periodic=True)
    loss, model = PeriodicPoissonLoss(grid), NeuralSpectral(1, 1, modes=7, width=8, depth=1, boundary="periodic")
    frequency = torch.fft.fftfreq(16, 1 / 16)
    weight = (2 * math.pi) ** 2 * (frequency[:, None] ** 2 + torch.fft.rfftfreq(16, 1 / 16) ** 2)

    def draw(seed):
        source = resample(random(16, 1, 5, 5, seed=seed), (16, 16), (True, True), "cell").float()
        source = source - source.mean((2, 3), keepdim=True)
        return source, torch.fft.irfft2(torch.fft.rfft2(source) / weight.clamp_min(1.0), s=(16, 16))

    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1500)
    for step in range(1500):
        source = draw(step + 1)[0]
        value = loss(model(source) * 0.05, source)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    source, exact = draw(0)
    with torch.no_grad():
        found = model(source) * 0.05
        found = found - found.mean((2, 3), keepdim=True)
    assert (found - exact).norm() < 0.1 * exact.norm(), (found - exact).norm() / exact.norm()
