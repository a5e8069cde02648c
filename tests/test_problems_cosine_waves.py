"""Waves between Neumann walls by cosines: against closed forms, dense matrices, finite volumes, published media."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from vcycle.errors import SolveError
from vcycle.grid import Grid
from vcycle.problems import Helmholtz, from_config

PI = math.pi
STRIP = {"y_high": {"value": 1.0, "between": (0.35, 0.65)}}


def cavity(shape, **settings):
    usual = {"source": "none", "speed": "tanh", "variation": 0.05, "boundary_values": STRIP}
    return Helmholtz(Grid(shape), "neumann", **(usual | {"discretisation": "cosines"} | settings))


def exact(problem, k, num=4000):
    """Sum the series of cosines for c = 1, over y in closed form, at the cells' centres."""
    x, y = problem.grid.coordinates()
    m = np.arange(num)
    norm = np.where(m > 0, 2.0, 1.0)
    half = np.where(m > 0, m * PI, 1.0)
    flux = norm * np.where(m > 0, (np.sin(0.65 * half) - np.sin(0.35 * half)) / half, 0.3)
    q = np.sqrt((m * PI) ** 2 - k**2 + 0j)[:, None]  # -X_yy + q^2 X = 0, X_y(0) = 0, X_y(1) = 1
    in_y = (np.exp(q * (y - 1)) + np.exp(-q * (y + 1))) / (q * (1 - np.exp(-2 * q)))
    return np.real(np.cos(np.outer(x, m) * PI) @ (flux[:, None] * in_y))


def test_constant_media_meet_the_exact_series_with_the_order_of_the_flux():
    """At 40 cells a wave of k = 50 has five points; finite volumes are off by more than 100 % there."""
    sizes, errors = (20, 40, 80, 160), []
    for n in sizes:
        problem = cavity((n, n), wave_number=50.0)
        u = problem.solve({"wave_speed": torch.ones(1, 1, n, n)}, rtol=1e-11).raise_if_failed().solutions[0].numpy()
        true = exact(problem, 50.0)
        errors.append(float(np.linalg.norm(u - true) / np.linalg.norm(true)))
    assert errors[1] < 0.02
    assert errors[2] < 0.006
    assert_order(errors[1:], sizes[1:], 1.5)


def test_smooth_solutions_of_a_medium_are_met_faster_than_any_power():
    """``u = cos(2 pi x) cos(3 pi y) exp(cos(pi x))`` in a medium, with the source that makes it so."""
    errors = []
    for n in (8, 16, 32):
        problem = Helmholtz(Grid((n, n + 2)), "neumann", source="random", discretisation="cosines", wave_number=9.0)
        x, y = problem.grid.mesh()
        c = 1 + 0.1 * np.cos(PI * x) * np.cos(2 * PI * y)
        e, two, three = np.exp(np.cos(PI * x)), np.cos(2 * PI * x), np.cos(3 * PI * y)
        u = two * three * e
        slope = -PI * np.sin(PI * x)
        xx = e * (two * (slope**2 - PI**2 * np.cos(PI * x)) - 4 * PI * np.sin(2 * PI * x) * slope - 4 * PI**2 * two)
        f = -(xx * three - 9 * PI**2 * u) - (9.0 / c) ** 2 * u
        fields = {"wave_speed": torch.from_numpy(c)[None, None], "source": torch.from_numpy(f)[None, None]}
        found = problem.solve(fields, rtol=1e-12).raise_if_failed().solutions[0].numpy()
        errors.append(float(np.abs(found - u).max()))
    assert errors[2] < 1e-9
    assert errors[1] < 1e-3 * errors[0]


@pytest.mark.parametrize(("shape", "extent"), [((9,), 1.3), ((6, 5), (1.0, 0.7)), ((3, 4, 5), 1.0)])
def test_solutions_equal_those_of_the_dense_matrix(shape, extent):
    problem = Helmholtz(Grid(shape, extent), "neumann", source="random", discretisation="cosines", wave_number=5.0)
    fields = problem.sample(1, [0, 1])
    result = problem.solve(fields, rtol=1e-12).raise_if_failed()
    systems = problem.systems(fields)
    for index in (0, 1):
        matrix, b = systems.to_csr(index)
        dense = matrix.toarray()
        assert_close(dense, dense.T, rtol=1e-13)
        assert_close(result.solutions[index].numpy().ravel(), np.linalg.solve(dense, b), rtol=1e-9)
        applied = systems.operator.apply(result.solutions)[index].numpy().ravel()
        assert_close(applied, dense @ result.solutions[index].numpy().ravel(), rtol=1e-11)


def test_finite_volumes_converge_to_what_cosines_find():
    medium = cavity((20, 20), wave_number=7.75, variation=0.3).sample(0, [0])["wave_speed"]
    near = cavity((160, 160), wave_number=7.75)
    near = near.solve({"wave_speed": blocks(medium, 8)}).raise_if_failed().solutions[0]
    errors = []
    for n in (40, 80, 160):
        volumes = cavity((n, n), wave_number=7.75, discretisation="finite-volumes", resolution_tolerance=None)
        u = volumes.solve({"wave_speed": blocks(medium, n // 20)}, method="direct").solutions[0]
        fine = near.unflatten(0, (n, -1)).unflatten(2, (n, -1)).mean((1, 3))
        errors.append(float((u - fine).norm() / fine.norm()))
    assert errors[2] < 0.005
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def blocks(values, times):
    return values.repeat_interleave(times, 2).repeat_interleave(times, 3)


def test_residual_passes_gradients_on_and_vanishes():
    problem = cavity((12, 10), wave_number=6.0)
    fields = problem.sample(2, [0, 1])
    u = problem.produce(fields, rtol=1e-11)
    assert not u.failures
    speed = fields["wave_speed"].clone().requires_grad_()
    missed = problem.residual({"wave_speed": speed}, u.outputs["solution"])
    assert float(missed.detach().abs().max()) < 1e-10 * float(problem.systems(fields).rhs.norm())
    missed.square().sum().add(missed.sum()).backward()
    assert float(speed.grad.abs().min()) > 0


def test_draws_have_the_first_modes_alone_whatever_the_grid():
    problem = cavity((32, 32), modes=100, variation=0.05)
    speed = problem.sample(3, [0])["wave_speed"][0, 0].numpy()
    g = np.arctanh((speed - 1) / 0.05)
    cosines = np.cos(PI * np.outer(np.arange(32), (np.arange(32) + 0.5) / 32))
    modes = np.abs(cosines @ g @ cosines.T) > 1e-9
    squares = np.add.outer(np.arange(32) ** 2, np.arange(32) ** 2)
    assert modes.sum() == 100
    assert squares[modes].max() <= squares[~modes & (squares > 0)].min()
    # the covariance (-Laplace + 9)^(-2) of the published media: its variance, over many draws
    many = cavity((16, 16), modes=100).sample(0, range(400))["wave_speed"].numpy()
    variance = np.arctanh((many - 1) / 0.05).var(axis=0).mean()
    expected = np.sort(((PI**2 * squares + 9.0) ** -2.0).ravel())[::-1][1:101].sum()
    assert abs(variance / expected - 1) < 0.1


def test_strips_give_cells_their_share():
    volumes = cavity((8, 6), discretisation="finite-volumes", resolution_tolerance=None)
    rhs = volumes.systems({"wave_speed": torch.ones(1, 1, 8, 6)}).rhs[0]
    assert_close(rhs[:, -1] * 8, torch.tensor([0, 0, 0.2, 1, 1, 0.2, 0, 0], dtype=torch.float64), rtol=1e-12)
    assert float(rhs[:, :-1].abs().max()) == 0
    waves = cavity((8, 6)).systems({"wave_speed": torch.ones(1, 1, 8, 6)}).rhs[0]
    assert_close(waves.sum(), torch.tensor(0.3, dtype=torch.float64), rtol=1e-12)


def test_same_family_from_its_description_and_on_another_grid():
    problem = cavity((20, 20), wave_number=50.0, modes=30)
    again = from_config(problem.config())
    assert again.config() == problem.config()
    fine = problem.on_grid(Grid((40, 40)))
    assert (fine.discretisation, fine.modes) == ("cosines", 30)
    fields = problem.sample(5, [1])
    assert torch.equal(again.solve(fields).solutions, problem.solve(fields).solutions)


def test_a_grid_that_does_not_resolve_the_wave_is_refused_and_one_that_does_is_not():
    coarse, fine = (cavity((n, n), wave_number=50.0, modes=100) for n in (10, 40))
    inputs = coarse.sample(0, range(16))
    with pytest.raises(SolveError, match="does not resolve the wave"):
        coarse.rejects(inputs, coarse.produce(inputs).outputs)
    inputs = fine.sample(0, range(8))
    assert int(fine.rejects(inputs, fine.produce(inputs).outputs).sum()) <= 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`boundary` must be 'neumann'"):
        Helmholtz(Grid((8, 8)), "dirichlet", discretisation="cosines")
    with pytest.raises(ValueError, match="`discretisation`"):
        cavity((8, 8), discretisation="sines")
    with pytest.raises(ValueError, match="two increasing fractions"):
        cavity((8, 8), boundary_values={"y_high": {"value": 1.0, "between": (0.6, 0.3)}})
    with pytest.raises(ValueError, match="between"):
        cavity((8, 8), boundary_values={"y_high": {"value": 1.0}})
    with pytest.raises(ValueError, match="`modes`"):
        cavity((8, 8), modes=0)
    with pytest.raises(ValueError, match="`method`"):
        cavity((8, 8)).solve({"wave_speed": torch.ones(1, 1, 8, 8)}, method="direct")
