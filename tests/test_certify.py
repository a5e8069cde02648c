"""The bracket against true errors from dense and direct solves, on errors chosen to break it."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.errors import SolveError
from vcycle.evaluation.certify import certify, complementary_energy
from vcycle.grid import Grid
from vcycle.models import MgNO
from vcycle.multigrid.classical import hierarchy, v_cycle
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems import Darcy, Helmholtz, Poisson
from vcycle.solvers.fast_poisson import solve_laplacian

MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))
ROUNDING = 1e-9  # of the reference solutions, relative to the error


def darcy(contrast, boundary="dirichlet", shape=(32, 32)):
    return Darcy(Grid(shape), boundary, values=(float(contrast), 1.0))


def true_error(problem, inputs, prediction):
    systems = problem.systems(inputs)
    exact = problem.solve(inputs, method="direct").solutions
    return systems.operator.energy(prediction[:, 0].double() - exact).sqrt()


def assert_enclosed(certificate, error):
    assert (certificate.lower <= error * (1 + ROUNDING)).all(), (certificate.lower / error).max()
    assert (error <= certificate.upper * (1 + ROUNDING)).all(), (error / certificate.upper).max()


def network_predictions(inputs, seed=0):
    """Predictions of a randomly initialised MgNO, scaled to the size of solutions: rough, smooth and wrong at walls."""
    torch.manual_seed(seed)
    model = MgNO(1, 1, levels=3, width=6, depth=2)
    with torch.no_grad():
        return model(inputs.float()) * 0.1


@pytest.mark.parametrize("boundary", ["dirichlet", MIXED], ids=["dirichlet", "mixed"])
@pytest.mark.parametrize(("contrast", "steps"), [(4, 0), (10, 0), (10, 3), (100, 2)])
def test_network_predictions_are_enclosed_sharply(boundary, contrast, steps):
    problem = darcy(contrast, boundary)
    inputs = problem.stacked(problem.sample(0, range(20)))
    prediction = network_predictions(inputs)
    certificate = certify(problem, inputs, prediction, steps=steps)
    assert_enclosed(certificate, true_error(problem, inputs, prediction))
    assert (certificate.upper / certificate.lower).max() <= 1.05


@pytest.mark.parametrize("steps", [0, 2])
def test_lowest_eigenvector_of_the_preconditioned_operator_is_enclosed(steps):
    """The error that conjugate gradients see least of: a lower bound from Lanczos values would fail here."""
    problem = darcy(100, shape=(16, 16))
    inputs = problem.stacked(problem.sample(1, range(10)))
    systems = problem.systems(inputs)
    exact, predictions = problem.solve(inputs, method="direct").solutions, []
    for i in range(10):
        one = systems.select([i])
        A = torch.from_numpy(one.to_csr(0)[0].toarray())
        levels = hierarchy(one.operator.select([0]))
        B = torch.stack([v_cycle(levels, e.reshape(1, 16, 16)).flatten() for e in torch.eye(256, dtype=torch.float64)])
        root = torch.linalg.cholesky(A)
        lowest = torch.linalg.eigh(root.T @ B @ root).eigenvectors[:, 0]  # B A similar to L' B L
        predictions.append(exact[i] + torch.linalg.solve(root.T, lowest).reshape(16, 16))
    prediction = torch.stack(predictions)[:, None]
    certificate = certify(problem, inputs, prediction, steps=steps)
    assert_enclosed(certificate, true_error(problem, inputs, prediction))


@pytest.mark.parametrize("kinds", ["neumann", "periodic"])
def test_singular_problems_are_enclosed_whatever_the_constant(kinds):
    problem = Poisson(Grid((16, 16), periodic=kinds == "periodic"), kinds)
    inputs = problem.stacked(problem.sample(0, range(5)))
    exact = problem.solve(inputs, method="direct").solutions[:, None]
    noise = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * exact.std()
    certificate = certify(problem, inputs, exact + noise)
    assert_enclosed(certificate, true_error(problem, inputs, exact + noise))
    assert_close(certify(problem, inputs, exact + noise + 7.0).upper, certificate.upper, rtol=1e-8)


@pytest.mark.parametrize("shape", [(64,), (8, 12, 16)], ids=["1d", "3d"])
def test_other_dimensions_are_enclosed(shape):
    problem = darcy(10, shape=shape)
    inputs = problem.stacked(problem.sample(0, range(4)))
    prediction = torch.zeros(4, 1, *shape)
    assert_enclosed(certify(problem, inputs, prediction), true_error(problem, inputs, prediction))


def test_complementary_energy_bounds_for_any_flux_and_is_sharp_for_the_best():
    problem = darcy(10, shape=(12, 16))
    systems = problem.systems(problem.sample(0, range(3)))
    solution = problem.solve(problem.sample(0, range(3)), method="direct").solutions
    energy = systems.operator.energy(solution)
    assert_close(complementary_energy(systems.operator, systems.rhs, solution), energy, rtol=1e-10)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        v = solution + 0.1 * torch.randn(solution.shape, dtype=torch.float64, generator=generator)
        assert (complementary_energy(systems.operator, systems.rhs, v) >= energy).all()


def test_more_steps_tighten_the_bracket_and_polish_reaches_the_solution():
    problem = darcy(100)
    inputs = problem.stacked(problem.sample(2, range(4)))
    prediction = torch.zeros(4, 1, 32, 32)
    certificates = [certify(problem, inputs, prediction, steps=k) for k in (0, 2, 4)]
    widths = [(c.upper / c.lower).max().item() for c in certificates]
    assert widths[0] > widths[1] > widths[2]
    polished = certify(problem, inputs, prediction, polish=True, rtol=1e-10)
    assert problem.systems(inputs).relative_residuals(polished.polished[:, 0]).max() <= 1e-10
    assert 3 <= polished.polish_steps <= 20


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("steps", [0, 2, 6])
def test_predictions_close_to_rounding_are_enclosed(size, steps):
    """The reference is refined with residuals in extended precision, so that its own error is far below 1e-10."""
    problem = darcy(4, shape=(size, size))
    inputs = problem.stacked(problem.sample(0, range(2)))
    systems = problem.systems(inputs)
    exact = problem.solve(inputs, method="direct").solutions.numpy().astype(np.longdouble)
    for i, u in enumerate(exact):
        A, b = systems.to_csr(i)
        factors = scipy.sparse.linalg.splu(A.tocsc())
        rows, columns, values = scipy.sparse.find(A)
        for _ in range(4):
            product = np.zeros(u.size, dtype=np.longdouble)
            np.add.at(product, rows, values.astype(np.longdouble) * u.ravel()[columns])
            u += factors.solve((b.astype(np.longdouble) - product).astype(float)).reshape(u.shape)
    noise = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for relative in (1e-4, 1e-6, 1e-8):
        prediction = torch.from_numpy((exact + relative * np.abs(exact).max() * noise.numpy()).astype(float))
        error = torch.from_numpy((prediction.numpy() - exact).astype(float))
        energy = systems.operator.energy(error).sqrt()
        certificate = certify(problem, inputs, prediction[:, None], steps=steps)
        assert (certificate.lower <= energy).all()
        assert (energy <= certificate.upper).all()
        assert (certificate.upper / certificate.lower).max() < 1.05


def test_polish_that_fails_says_so():
    problem = darcy(4, shape=(8, 8))
    inputs = problem.stacked(problem.sample(0, [0, 1]))
    with pytest.raises(
        SolveError, match=r"`polish` reached a relative residual of .* not `rtol` 1.0e-20. Give a larger"
    ):
        certify(problem, inputs, torch.zeros(2, 1, 8, 8), polish=True, rtol=1e-20)


def test_relative_error_only_where_walls_hold_nothing():
    problem = darcy(4)
    inputs = problem.stacked(problem.sample(0, range(3)))
    certificate = certify(problem, inputs, 0.9 * problem.solve(inputs).solutions[:, None])
    assert_close(
        certificate.relative_upper, torch.full((3,), 0.1 / 0.9 / (1 - 0.1 / 0.9), dtype=torch.float64), rtol=0.02
    )
    driven = Poisson(Grid((16, 16)))
    inputs = driven.stacked(driven.sample(0, range(3)))
    certificate = certify(driven, inputs, torch.zeros(3, 1, 16, 16), discretisation=True)
    assert certificate.relative_upper is None
    assert certificate.energy is None
    assert (certificate.discretisation < 0.05).all()
    assert "relative to the solution" not in str(certificate)
    zero = np.zeros((3, 1, 32, 32))
    assert "unbounded" in str(certify(problem, problem.stacked(problem.sample(0, range(3))).numpy(), zero))


def test_discretisation_error_falls_with_the_grid():
    errors = []
    for n in (16, 32):
        problem = Darcy(Grid((n, n)), coefficient="lognormal")
        inputs = problem.sample(0, range(4))
        errors.append(certify(problem, inputs, torch.zeros(4, 1, n, n), discretisation=True).discretisation.mean())
    assert 2.5 < errors[0] / errors[1] < 5.0


@pytest.mark.parametrize("kinds", ["dirichlet", "neumann", "periodic", MIXED, (("neumann", "dirichlet"), "periodic")])
def test_fast_solver_inverts_the_unit_laplacian(kinds):
    periodic = (False, True) if kinds[1] == "periodic" else kinds == "periodic"
    grid = Grid((12, 10), (1.0, 3.0), periodic=periodic)
    boundary = Boundary.on(grid, kinds)
    operator = laplacian(grid, boundary)
    w = torch.randn(2, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if not boundary.fixes_constant:
        w = w - w.mean((1, 2), keepdim=True)
    assert_close(solve_laplacian(grid, boundary, operator.apply(w)), w, rtol=1e-11)


def test_unusable_arguments_are_named():
    problem = darcy(4, shape=(8, 8))
    inputs = problem.stacked(problem.sample(0, [0]))
    with pytest.raises(ValueError, match=r"`prediction` must have shape \(1, 1, 8, 8\).* Got \(1, 8, 8\)"):
        certify(problem, inputs, torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match=r"`prediction` must be finite\. Got NaN"):
        certify(problem, inputs, torch.full((1, 1, 8, 8), torch.nan))
    with pytest.raises(ValueError, match=r"`steps` must be at least 0\. Got -1"):
        certify(problem, inputs, torch.zeros(1, 1, 8, 8), steps=-1)
    wave = Helmholtz(Grid((8, 8)))
    wanted = r"`problem` must be symmetric positive definite in divergence form.*'helmholtz'"
    with pytest.raises(ValueError, match=wanted):
        certify(wave, wave.sample(0, [0]), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("kinds", ["dirichlet", "neumann"])
@pytest.mark.parametrize("steps", [0, 2])
def test_grids_that_do_not_halve_are_enclosed(kinds, steps):
    """There the cycle is an exact solve: the bounds close in on the error up to rounding."""
    problem = darcy(10, shape=(33, 20)) if kinds == "dirichlet" else Poisson(Grid((33, 20)), kinds)
    inputs = problem.stacked(problem.sample(0, range(4)))
    exact = problem.solve(inputs, method="direct").solutions[:, None]
    noise = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * exact.std()
    certificate = certify(problem, inputs, exact + noise, steps=steps)
    assert_enclosed(certificate, true_error(problem, inputs, exact + noise))
    assert (certificate.upper / certificate.lower).max() <= 1.0 + 1e-6
