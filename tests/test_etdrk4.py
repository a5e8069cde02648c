import math

import mpmath
import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from vcycle.grid import Grid
from vcycle.solvers.etdrk4 import ETDRK4, StepHalving, coefficients, read_times
from vcycle.solvers.fourier import FourierSpace

REAL = torch.tensor([0.0, -1e-9, -1e-3, -0.4, -3.0, -50.0, -1e4, 2.0], dtype=torch.float64)
COMPLEX = torch.tensor([0.0, 1e-8j, -0.3j, 5j, -400j, -1 + 2j, -30 - 7j], dtype=torch.complex128)


def periodic(*shape: int, extent: float = 1.0) -> Grid:
    return Grid(shape, extent, "vertex", True)


def phi(order: int, z: complex) -> complex:
    """The phi function by its series or its definition, in 60 digits."""
    if abs(z) < 1:
        return sum(z**n / mpmath.factorial(n + order) for n in range(50))
    rest = sum(z**n / mpmath.factorial(n) for n in range(order))
    return (mpmath.exp(z) - rest) / z**order


@pytest.mark.parametrize("linear", [REAL, COMPLEX], ids=["real", "complex"])
def test_coefficients_are_the_phi_functions(linear):
    dt = 0.7
    c = coefficients(linear, dt)
    with mpmath.workdps(60):
        for position, value in enumerate(linear.tolist()):
            z = mpmath.mpmathify(value) * mpmath.mpf(dt)
            p1, p2, p3 = (phi(order, z) for order in (1, 2, 3))
            expected = {
                "whole": mpmath.exp(z),
                "half": mpmath.exp(z / 2),
                "stage": dt / 2 * phi(1, z / 2),
                "first": dt * (p1 - 3 * p2 + 4 * p3),
                "middle": dt * (2 * p2 - 4 * p3),
                "last": dt * (4 * p3 - p2),
            }
            for name, exact in expected.items():
                found = complex(getattr(c, name)[position])
                scale = max(abs(complex(exact)), 1e-12)
                assert abs(found - complex(exact)) <= 1e-12 * scale, (name, value)


def scalar(value: complex, nonlinear) -> tuple[ETDRK4, torch.Tensor]:
    return ETDRK4(torch.tensor([-1.0], dtype=torch.float64), nonlinear), torch.tensor(
        [[[value]]], dtype=torch.complex128
    )


def test_order_is_four_on_a_logistic_equation():
    method, start = scalar(0.2, lambda u: 3 * u - u * u)  # u' = 2 u - u^2 in all
    exact = 2 / (1 + (2 / 0.2 - 1) * math.exp(-2 * 2.0))
    counts = (8, 16, 32, 64, 128)
    ends = [method.integrate(start, (2.0,), (count,))[0, 0, 0, 0].real.item() for count in counts]
    assert_order([abs(end - exact) for end in ends], counts, 4.0)


def test_linear_part_alone_is_exact_in_one_step():
    linear = COMPLEX[3:]
    start = torch.randn(2, 1, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    found = ETDRK4(linear).step(start, 1.3)
    assert_close(found, torch.from_numpy(np.exp(linear.numpy() * 1.3) * start.numpy()), 1e-14)


def halving(method: ETDRK4, *, times=(1.0, 3.0), rtol=1e-8, max_steps=4096) -> StepHalving:
    return StepHalving(method, times, lambda u: u.abs().flatten(1).amax(1), rtol, max_steps)


def test_halving_stops_at_the_tolerance_and_says_how_far_the_last_halving_moved():
    method, start = scalar(0.2, lambda u: 3 * u - u * u)
    found = halving(method).run(start, torch.tensor([1.0]))
    steps = int(found.steps[0])
    assert found.failures == {}
    assert 1e-11 < float(found.step_errors[0]) <= 1e-8
    fine, coarse = (method.integrate(start, (1.0, 3.0), (n // 3, 2 * n // 3)) for n in (steps, steps // 2))
    assert torch.equal(found.states, fine)
    assert_close(found.step_errors, ((fine - coarse).abs() / fine.abs()).amax().reshape(1), 1e-9)


def test_halving_fails_one_sample_alone_where_it_needs_too_many_steps_or_stalls():
    method, _ = scalar(0.0, lambda u: 3 * u - u * u)
    start = torch.tensor([0.2, -0.5], dtype=torch.float64).reshape(2, 1, 1).to(torch.complex128)  # -0.5 blows up
    found = halving(method, rtol=1e-6, max_steps=512).run(start, torch.tensor([1.0, 1.0]))
    assert list(found.failures) == [1]
    assert "raise `max_steps` or `rtol`" in found.failures[1]
    assert math.isinf(found.step_errors[1])
    noise = torch.Generator().manual_seed(0)
    rounding, _ = scalar(0.0, lambda u: u + torch.randn(1, generator=noise, dtype=torch.float64) * 1e-7)
    found = halving(rounding, rtol=1e-12).run(start[:1], torch.tensor([1.0]))
    assert "no longer helps" in found.failures[0]


def test_halving_takes_whole_steps_between_uneven_times():
    search = halving(scalar(0.2, None)[0], times=(0.5, 0.6, 2.0))
    assert search.counts(0) == (5, 1, 14)
    assert search.counts(2) == (20, 4, 56)
    assert search.first_halvings(0.025) == 2
    assert search.first_halvings(1e-300) < 16
    assert search.first_halvings(math.inf) == 0


@pytest.mark.parametrize("times", [(), (0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf)])
def test_times_must_increase_from_above_zero(times):
    with pytest.raises(ValueError, match="`times`"):
        read_times(times)


# ------------------------------------------------------------------------------------------------------ Fourier space


@pytest.mark.parametrize("shape", [(16,), (15,), (12, 9), (7, 8), (6, 5, 8)])
@pytest.mark.parametrize("refine", [1, 2, 3])
def test_values_and_modes_are_inverse_but_for_the_nyquist_modes(shape, refine):
    space = FourierSpace(periodic(*shape, extent=2.0), refine=refine)
    values = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for axis, n in enumerate(shape, start=2):
        if n % 2 == 0:
            wave = (-1.0) ** torch.arange(n).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
            values = values - (values * wave).mean(axis, keepdim=True) * wave
    modes = space.modes(values)
    assert modes.shape == (2, 3, *space.shape)
    assert_close(space.values(modes), values)
    assert_close(space.mean_square(modes), (values**2).sum(1).flatten(1).mean(1))


@pytest.mark.parametrize("shape", [(16,), (9, 12), (6, 7, 8)])
def test_derivatives_are_those_of_trigonometric_functions(shape):
    grid = periodic(*shape, extent=3.0)
    space, mesh = FourierSpace(grid), [torch.from_numpy(c) for c in grid.mesh()]
    k = 2 * math.pi / 3.0
    phase = sum((axis + 1) * k * x for axis, x in enumerate(mesh)) if len(shape) < 3 else k * (mesh[0] + 2 * mesh[2])
    waves = [(axis + 1) * k for axis in range(len(shape))] if len(shape) < 3 else [k, 0.0, 2 * k]
    modes = space.modes(torch.sin(phase))
    for symbol, wave in zip(space.derivatives, waves, strict=True):
        found = space.values(symbol * modes)
        assert float((found - wave * torch.cos(phase)).abs().max()) < 1e-12
    assert_close(space.values(space.laplacian * modes), -sum(w**2 for w in waves) * torch.sin(phase))


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("shape", [(16,), (15,), (8, 10)])
def test_products_do_not_alias(shape, degree):
    """Against the product on a grid that holds all of its modes."""
    space = FourierSpace(periodic(*shape), degree=degree)
    values = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    modes = space.modes(values)
    fine = FourierSpace(periodic(*(8 * n for n in shape)))
    product = fine.modes(
        FourierSpace(periodic(*shape), refine=8)._summed(space_padded(space, modes), fine.grid.shape) ** degree
    )
    expected = cut(product, fine.highest, space.highest)
    assert_close(space.product_modes(space.product_values(modes) ** degree), expected, 1e-12)
    assert all(n % 2 == 0 and n > (degree + 1) * k for n, k in zip(space.product_shape, space.highest, strict=True))


def space_padded(space: FourierSpace, modes: torch.Tensor) -> torch.Tensor:
    return FourierSpace(space.grid, refine=8).modes(space.values(modes))


def cut(modes: torch.Tensor, highest, wanted) -> torch.Tensor:
    modes = modes[..., : wanted[-1] + 1]
    if len(wanted) == 2:
        modes = torch.cat([modes[:, : wanted[0] + 1], modes[:, 2 * highest[0] + 1 - wanted[0] :]], 1)
    return modes


@pytest.mark.parametrize("grid", [Grid((8,)), Grid((8,), 1.0, "vertex"), Grid((8, 8), 1.0, "vertex", (True, False))])
def test_space_wants_a_periodic_vertex_grid(grid):
    with pytest.raises(ValueError, match="vertex centring and be periodic"):
        FourierSpace(grid)


@pytest.mark.parametrize("shape", [(4096,), (12, 9), (5, 6, 7)])
def test_one_function_is_transformed_as_one_of_many(shape):
    space = FourierSpace(periodic(*shape))
    values = torch.randn(3, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    modes = space.modes(values)
    products = space.product_values(modes)
    assert torch.equal(space.modes(values[1:2]), modes[1:2])
    assert torch.equal(space.product_values(modes[1:2]), products[1:2])
    assert torch.equal(space.product_modes(products[1:2]), space.product_modes(products)[1:2])
    assert torch.equal(space.mean_square(modes[1:2]), space.mean_square(modes)[1:2])
