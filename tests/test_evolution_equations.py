"""Each family's equation: closed forms, conserved quantities, the order in time, and other people's integrators."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from helpers import assert_close, assert_order
from vcycle.grid import Grid
from vcycle.problems.advection import Advection
from vcycle.problems.allen_cahn import AllenCahn
from vcycle.problems.burgers import Burgers
from vcycle.problems.evolution import Evolution
from vcycle.problems.heat import Heat
from vcycle.problems.korteweg_de_vries import KortewegDeVries
from vcycle.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from vcycle.problems.navier_stokes import NavierStokes

TAU = 2 * math.pi


def periodic(*shape: int, extent=1.0) -> Grid:
    return Grid(shape, extent, "vertex", True)


def mesh(grid: Grid) -> list[torch.Tensor]:
    return [torch.from_numpy(c) for c in grid.mesh()]


def solved(problem: Evolution, initial: torch.Tensor, rtol: float = 1e-6) -> torch.Tensor:
    """The solution from ``(component, *space)``, without the sample axis."""
    result = problem.solve({"initial": initial.unsqueeze(0)}, rtol=rtol)
    assert result.failures == {}
    return result.solutions[0]


# ------------------------------------------------------------------------------------------------------- closed forms


def test_heat_is_its_closed_form():
    problem = Heat(periodic(16, 12, extent=(1.0, 2.0)), times=(0.3, 2.0), diffusivity=0.02)
    x, y = mesh(problem.grid)
    for initial, rate in (
        (torch.sin(TAU * x), TAU**2),
        (torch.cos(2 * TAU * x - TAU * y / 2), 4 * TAU**2 + TAU**2 / 4),
        (torch.ones_like(x), 0.0),
    ):
        found = solved(problem, initial.unsqueeze(0))
        for moment, t in enumerate((0.3, 2.0)):
            assert_close(found[moment, 0], initial * math.exp(-0.02 * rate * t), 1e-12)


def test_heat_spreads_a_gaussian():
    problem = Heat(periodic(128), times=(0.1,), diffusivity=0.01)
    (x,) = mesh(problem.grid)

    def gaussian(variance: float) -> torch.Tensor:
        return sum(torch.exp(-((x - 0.5 + k) ** 2) / (2 * variance)) for k in range(-4, 5)) / math.sqrt(TAU * variance)

    assert_close(solved(problem, gaussian(0.001).unsqueeze(0))[0, 0], gaussian(0.001 + 2 * 0.01 * 0.1), 1e-12)


def test_advection_moves_by_whole_points_and_by_closed_form():
    problem = Advection(periodic(15, 9, extent=(3.0, 0.9)), times=(0.4, 1.1), velocity=(0.5, -0.25))
    initial = problem.sample(0, [0])["initial"][0]
    assert_close(solved(problem, initial)[0, 0], initial[0].roll((1, -1), (0, 1)), 1e-12)
    x, y = mesh(problem.grid)
    wave = [TAU * (2 * (x - 0.5 * t) / 3.0 + 3 * (y + 0.25 * t) / 0.9) for t in (0.0, 0.4, 1.1)]
    found = solved(problem, torch.sin(wave[0]).unsqueeze(0))
    assert_close(found[:, 0], torch.stack([torch.sin(w) for w in wave[1:]]), 1e-12)


def test_burgers_is_cole_and_hopfs_solution():
    viscosity, k = 0.05, TAU
    problem = Burgers(periodic(64), times=(0.2, 0.7), viscosity=viscosity)
    (x,) = mesh(problem.grid)

    def exact(t: float) -> torch.Tensor:  # u = -2 viscosity phi_x / phi where phi solves the heat equation
        decay = 0.9 * math.exp(-viscosity * k**2 * t)
        return 2 * viscosity * decay * k * torch.sin(k * x) / (1 + decay * torch.cos(k * x))

    found = solved(problem, exact(0.0).unsqueeze(0), 1e-9)
    assert_close(found[:, 0], torch.stack([exact(0.2), exact(0.7)]), 1e-9)


@pytest.mark.parametrize("axes", [2, 3])
def test_burgers_in_more_dimensions_along_one_direction_is_burgers_in_one(axes):
    n, direction = 24 if axes == 2 else 12, [1, 2, -1][:axes]
    problem = Burgers(periodic(*(n,) * axes), times=(0.3,), viscosity=0.1)
    points = mesh(problem.grid)
    phase = TAU * sum(d * x for d, x in zip(direction, points, strict=True))

    def exact(t: float) -> torch.Tensor:  # u = d w(d . x) / |d|^2 turns (u . grad) u into d w w' / |d|^2
        rate = 0.1 * sum(d * d for d in direction)
        decay = 0.2 * math.exp(-rate * TAU**2 * t)
        w = 2 * rate * decay * TAU * torch.sin(phase) / (1 + decay * torch.cos(phase))
        return torch.stack([d * w / sum(e * e for e in direction) for d in direction])

    tolerance = 1e-6 if axes == 2 else 1e-3  # the grid is coarse for the direction's second harmonics
    assert_close(solved(problem, exact(0.0), 1e-7)[0], exact(0.3), tolerance)


def test_burgers_with_two_components_moves_each_by_both():
    """A shear: u is constant, v(x) is carried by u and diffuses; wrong indices of (u . grad) v would show."""
    problem = Burgers(periodic(16, 12), times=(0.5,), viscosity=0.01)
    x, _ = mesh(problem.grid)
    initial = torch.stack([torch.full_like(x, 0.7), torch.sin(TAU * x)])
    expected = torch.stack([torch.full_like(x, 0.7), torch.sin(TAU * (x - 0.35)) * math.exp(-0.01 * TAU**2 * 0.5)])
    assert_close(solved(problem, initial, 1e-8)[0], expected, 1e-8)


def test_korteweg_de_vries_carries_a_soliton():
    problem = KortewegDeVries(periodic(128, extent=30.0), times=(0.3, 0.6))
    (x,) = mesh(problem.grid)
    exact = [2 / torch.cosh(x - 13.0 - 4.0 * t) ** 2 for t in (0.0, 0.3, 0.6)]
    found = problem.solve({"initial": exact[0].reshape(1, 1, -1)}, rtol=1e-7)
    assert_close(found.solutions[0, :, 0], torch.stack(exact[1:]), 1e-7)
    for name in ("mass_drift", "energy_drift", "hamiltonian_drift"):
        assert float(found.quality[name]) < 1e-7, name


def test_allen_cahn_without_gradients_is_an_ordinary_equation():
    problem = AllenCahn(periodic(8, 8), times=(0.5, 1.5))
    starts = torch.tensor([0.1, -0.6, 1.3], dtype=torch.float64).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    found = problem.solve({"initial": starts}, rtol=1e-8).solutions
    for moment, t in enumerate((0.5, 1.5)):
        assert_close(found[:, moment], starts * math.exp(t) / (1 + starts**2 * math.expm1(2 * t)).sqrt(), 1e-8)


def test_allen_cahn_keeps_two_interfaces_in_place():
    problem = AllenCahn(periodic(128), times=(1.0,), width=0.03)
    (x,) = mesh(problem.grid)
    initial = torch.tanh((0.25 - (x - 0.5).abs()) / (math.sqrt(2) * 0.03))
    assert float((solved(problem, initial.unsqueeze(0))[0, 0] - initial).abs().max()) < 1e-3


def test_navier_stokes_decays_as_taylor_and_green_found():
    problem = NavierStokes(periodic(16, 16), times=(0.5, 3.0), viscosity=0.01, forcing=0.0)
    x, y = mesh(problem.grid)
    initial = torch.cos(2 * TAU * x) * torch.cos(2 * TAU * y)
    found = solved(problem, initial.unsqueeze(0))
    for moment, t in enumerate((0.5, 3.0)):
        assert_close(found[moment, 0], initial * math.exp(-0.01 * 8 * TAU**2 * t), 1e-12)


# ------------------------------------------------------------------------------- independent integrators and formulas


def reference_vorticity_rate(w: np.ndarray, viscosity: float, forcing: float) -> np.ndarray:
    """The textbook form ``-u w_x - v w_y`` with NumPy, by multiplication on twice the points."""
    n = w.shape[0]
    k = np.fft.fftfreq(n, 1 / n) * TAU
    kx, ky = k[:, None], k[None, :]
    square = kx**2 + ky**2
    w_hat = np.fft.fft2(w)
    keep = (np.abs(kx) < np.pi * n) & (np.abs(ky) < np.pi * n)
    psi = np.divide(w_hat, square, out=np.zeros_like(w_hat), where=square > 0)

    def fine(symbol: np.ndarray, field: np.ndarray) -> np.ndarray:
        padded = np.zeros((2 * n, 2 * n), complex)
        positions = np.fft.fftfreq(n, 1 / n).astype(int)
        padded[np.ix_(positions, positions)] = symbol * field * keep
        return 4 * np.fft.ifft2(padded).real

    advected = fine(1j * ky, psi) * fine(1j * kx, w_hat) + fine(-1j * kx, psi) * fine(1j * ky, w_hat)
    positions = np.fft.fftfreq(n, 1 / n).astype(int)
    back = np.fft.fft2(advected)[np.ix_(positions, positions)] / 4 * keep
    x = np.arange(n) / n
    phase = TAU * (x[:, None] + x[None, :])
    diffusion = np.fft.ifft2(-viscosity * square * w_hat * keep).real
    return diffusion - np.fft.ifft2(back).real + forcing * (np.sin(phase) + np.cos(phase))


def test_navier_stokes_term_is_the_textbook_form():
    problem = NavierStokes(periodic(16, 16), viscosity=2e-3, scale=3.0)
    w = problem.space.values(problem.space.modes(problem.sample(0, [0])["initial"]))
    expected = reference_vorticity_rate(w[0, 0].numpy(), 2e-3, 0.1)
    assert_close(problem.time_derivative(w)[0, 0], torch.from_numpy(expected), 1e-12)


def right_hand_side(problem: Evolution, shape):
    """The family's own, for SciPy: columns are states."""

    def rate(_: float, columns: np.ndarray) -> np.ndarray:
        states = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(columns.T))).reshape(-1, *shape)
        return problem.time_derivative(states).reshape(len(states), -1).numpy().T.reshape(columns.shape)

    return rate


def by_scipy(problem: Evolution, initial: torch.Tensor, method: str) -> torch.Tensor:
    found = solve_ivp(
        right_hand_side(problem, initial.shape),
        (0.0, problem.times[-1]),
        initial.numpy().ravel(),
        method=method,
        t_eval=problem.times,
        rtol=1e-10,
        atol=1e-12,
        vectorized=True,
    )
    assert found.success
    return torch.from_numpy(found.y.T).reshape(-1, *initial.shape)


@pytest.mark.parametrize("method", ["DOP853"])
@pytest.mark.parametrize(
    "problem",
    [
        Burgers(periodic(32), times=(0.1, 0.3), viscosity=0.05),
        Burgers(periodic(12, 12), times=(0.1,), viscosity=0.05),
        AllenCahn(periodic(32), times=(1.0,), width=0.05),
        KuramotoSivashinsky(periodic(24, extent=22.0), times=(1.0, 2.0)),
        KortewegDeVries(periodic(32, extent=32.0), times=(0.3,)),
        NavierStokes(periodic(16, 16), times=(1.0,), viscosity=1e-3, scale=5.0),
    ],
    ids=lambda value: value.name if isinstance(value, Evolution) else value,
)
def test_scipy_agrees(problem, method):
    initial = problem.space.values(problem.space.modes(problem.sample(0, [0])["initial"]))[0]
    assert_close(solved(problem, initial, 1e-7), by_scipy(problem, initial, method), 1e-7)


# ------------------------------------------------------------------------------------------- conserved and lost in time


def means(problem: Evolution, *factors: torch.Tensor) -> torch.Tensor:
    """Mean over the box of the product of states, on a grid where nothing aliases; one value per sample."""
    product = 1.0
    for factor in factors:
        product = product * problem.space.product_values(problem.space.modes(factor))
    return product.flatten(2).mean(2).sum(1)


def slopes(problem: Evolution, u: torch.Tensor, order: int = 1) -> list[torch.Tensor]:
    modes = problem.space.modes(u)
    return [problem.space.values(symbol**order * modes) for symbol in problem.space.derivatives]


def start(problem: Evolution) -> torch.Tensor:
    return problem.space.values(problem.space.modes(problem.sample(0, [0, 1, 2])["initial"]))


def assert_balanced(problem: Evolution, gained: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> None:
    assert float(((gained - expected).abs() / scale).max()) < 1e-12, problem.name


def test_burgers_loses_the_energy_that_viscosity_takes():
    problem = Burgers(periodic(33))
    u = start(problem)
    (u_x,) = slopes(problem, u)
    rate = problem.time_derivative(u)
    lost = problem.viscosity * means(problem, u_x, u_x)
    assert_balanced(problem, means(problem, u, rate), -lost, lost)
    assert_balanced(problem, means(problem, rate), torch.zeros(3), lost)


def test_kuramoto_sivashinsky_gains_at_long_and_loses_at_short_waves():
    problem = KuramotoSivashinsky(periodic(33, extent=22.0), hyperviscosity=0.7)
    u = start(problem)
    (u_x,), (u_xx,) = slopes(problem, u), slopes(problem, u, 2)
    gained, lost = means(problem, u_x, u_x), 0.7 * means(problem, u_xx, u_xx)
    assert_balanced(problem, means(problem, u, problem.time_derivative(u)), gained - lost, gained + lost)


def test_korteweg_de_vries_keeps_mass_energy_and_hamiltonian():
    problem = KortewegDeVries(periodic(33, extent=20.0), steepening=4.0, dispersion=0.5)
    u = start(problem)
    rate, (u_x,), (rate_x,) = (
        problem.time_derivative(u),
        slopes(problem, u),
        slopes(problem, problem.time_derivative(u)),
    )
    size = means(problem, rate, rate)
    assert_balanced(problem, means(problem, u, rate), torch.zeros(3), size)
    assert_balanced(problem, means(problem, rate), torch.zeros(3), size)
    steep = 4.0 / 2 * means(problem, u, u, rate)
    assert float(steep.abs().max()) > 1e-3
    assert_balanced(problem, 0.5 * means(problem, u_x, rate_x), steep, steep.abs())


def test_allen_cahn_loses_free_energy_at_the_square_of_its_speed():
    problem = AllenCahn(periodic(20, 15), width=0.1)
    u = start(problem)
    rate = problem.time_derivative(u)
    bent = sum(means(problem, s, r) for s, r in zip(slopes(problem, u), slopes(problem, rate), strict=True))
    gained = problem.width**2 * bent + means(problem, u, u, u, rate) - means(problem, u, rate)
    assert_balanced(problem, gained, -means(problem, rate, rate), means(problem, rate, rate))
    assert bool((problem.solve(problem.sample(0, [0, 1])).quality["energy_rise"] < 0).all())


def test_navier_stokes_balances_enstrophy_and_energy():
    problem = NavierStokes(periodic(20, 15), viscosity=1e-3, scale=5.0)
    w = start(problem)
    rate, force = problem.time_derivative(w), problem.space.values(problem.force()).expand_as(w)
    lost = problem.viscosity * sum(means(problem, s, s) for s in slopes(problem, w))
    given = means(problem, w, force)
    assert_balanced(problem, means(problem, w, rate), given - lost, lost)
    square = -problem.space.laplacian
    square[0, 0] = 1.0
    psi = problem.space.values(problem.space.modes(w) / square)
    lost, given = problem.viscosity * means(problem, w, w), means(problem, psi, force)
    assert_balanced(problem, means(problem, psi, rate), given - lost, lost)
    assert float(given.abs().min() / lost.min()) > 1e-3


# ----------------------------------------------------------------------------------------------------------- the order


def measured(problem: Evolution, initial: torch.Tensor, end: float, counts: list[int]) -> list[float]:
    states = [problem.step(initial, end / count, count=count) for count in (*counts, 4 * counts[-1])]
    return [float((state - states[-1]).norm() / states[-1].norm()) for state in states[:-1]]


def test_burgers_is_of_order_four():
    problem = Burgers(periodic(96), viscosity=0.01)
    (x,) = mesh(problem.grid)
    counts = [40, 80, 160]
    assert_order(measured(problem, torch.sin(TAU * x).reshape(1, 1, -1), 0.2, counts), counts, 4.0)


def test_korteweg_de_vries_is_of_order_four():
    problem = KortewegDeVries(periodic(48, extent=30.0))
    (x,) = mesh(problem.grid)
    counts = [80, 160, 320]
    assert_order(measured(problem, torch.cos(TAU * x / 30).reshape(1, 1, -1), 0.5, counts), counts, 4.0)


def test_allen_cahn_is_of_order_four():
    problem = AllenCahn(periodic(48), width=0.05)
    (x,) = mesh(problem.grid)
    counts = [16, 32, 64]
    initial = (0.5 * torch.sin(TAU * x) + 0.3 * torch.cos(2 * TAU * x)).reshape(1, 1, -1)
    assert_order(measured(problem, initial, 2.0, counts), counts, 4.0)
