"""Shallow water on the sphere, and the spherical harmonics under it, against closed forms and torch-harmonics."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

import vcycle as vc
from helpers import assert_close, assert_order
from vcycle.grid import Grid
from vcycle.problems.shallow_water import ShallowWater
from vcycle.solvers.sphere import MISSING, SphereSpace

pytest.importorskip("torch_harmonics")


def sphere(nlat: int, nlon: int) -> Grid:
    return Grid((nlat, nlon), **ShallowWater.usual_grid)


SPACE = SphereSpace(sphere(32, 64))
ALONE = {"rotation": 0.0, "hyperdiffusion": 0.0}
HARMONICS = [(0, 0), (1, 0), (1, 1), (5, 2), (20, 7), (21, 0), (21, 20), (21, 21)]


def one(space: SphereSpace, degree: int, order: int, value: complex = 1.0) -> torch.Tensor:
    modes = torch.zeros(space.shape, dtype=torch.complex128)
    modes[degree, order] = value
    return modes


def smooth(problem: ShallowWater) -> torch.Tensor:
    """Amplitudes of a state whose spectrum falls by 1e-5 to degree 10."""
    made, generator = torch.zeros(1, 3, *problem.space.shape, dtype=torch.complex128), np.random.default_rng(3)
    for component, size in enumerate((0.1, 0.5, 0.2)):
        for degree in range(1, min(problem.space.highest, 6) + 1):
            normal = generator.standard_normal((degree + 1, 2)) * size * math.exp(-degree)
            normal[0, 1] = 0.0
            made[0, component, degree, : degree + 1] = torch.view_as_complex(torch.from_numpy(normal))
    return made


# ---------------------------------------------------------------------------------------------------------- the space


@pytest.mark.parametrize(
    ("shape", "highest"), [((32, 64), 21), ((33, 64), 21), ((17, 40), 11), ((6, 32), 3), ((5, 7), 2)]
)
def test_truncation_keeps_a_third_of_the_longitudes_and_products_exact(shape, highest):
    space = SphereSpace(sphere(*shape))
    assert space.highest == highest
    assert 2 * space.product_shape[0] - 1 >= 3 * highest
    assert space.product_shape[1] >= 3 * highest + 1


@pytest.mark.parametrize(("degree", "order"), HARMONICS)
def test_harmonics_are_those_of_scipy_and_found_exactly(degree, order):
    theta, phi = SPACE.grid.mesh()
    sign, both = (-1) ** order, 1 if order == 0 else 2  # no Condon-Shortley phase; order m stands for -m, too
    values = torch.from_numpy(sign * both * sph_harm_y(degree, order, theta, phi).real)
    modes = one(SPACE, degree, order)
    assert_close(SPACE.values(modes), values)
    assert_close(SPACE.modes(values), modes, 1e-12)
    product = SPACE.product_values(modes.unsqueeze(0))
    assert_close(SPACE.product_modes(product)[0], modes, 1e-12)
    assert_close(SPACE.mean_square(modes[None, None])[0], SPACE.mean(product[0] ** 2))
    assert_close(SPACE.mean_square(modes[None, None])[0], torch.tensor(both / (4 * math.pi), dtype=torch.float64))


@pytest.mark.parametrize(("degree", "order"), HARMONICS[1:])
def test_divergence_of_the_gradient_is_the_laplacian(degree, order):
    modes = one(SPACE, degree, order, 0.6 if order == 0 else 0.6 - 0.8j)
    gradient = SPACE.gradient_values(modes.unsqueeze(0))
    divergence, curl = SPACE.divergence_and_curl(gradient)
    assert_close(divergence[0], -degree * (degree + 1) * modes, 1e-10)
    assert float(curl.abs().max()) < 1e-10
    turned = torch.stack([-gradient[:, 1], gradient[:, 0]], 1)  # to the left: south becomes east
    divergence, curl = SPACE.divergence_and_curl(turned)
    assert_close(curl[0], -degree * (degree + 1) * modes, 1e-10)
    assert float(divergence.abs().max()) < 1e-10


def test_gradient_is_the_difference_of_values():
    modes = smooth(ShallowWater(SPACE.grid))[0, 1]
    gradient = SPACE.gradient_values(modes.unsqueeze(0))[0]
    rows = SPACE.product_values(modes.unsqueeze(0))[0]
    frequencies = torch.fft.rfftfreq(rows.shape[1], 1 / rows.shape[1], dtype=torch.float64)
    along = torch.fft.irfft(1j * frequencies * torch.fft.rfft(rows), n=rows.shape[1])
    assert_close(gradient[1], along / torch.sin(SPACE.colatitudes), 1e-10)
    theta, h = SPACE.colatitudes.squeeze(1).numpy(), 1e-5
    polar = torch.zeros(len(theta), dtype=torch.float64)
    for degree in range(1, 7):
        size = float(modes[degree, 0].real)
        values = [sph_harm_y(degree, 0, theta + side * h, 0.0).real for side in (-1, 1)]
        polar += torch.from_numpy(size * (values[1] - values[0]) / (2 * h))
    assert_close(gradient[0].mean(1), polar, 1e-8)


def test_vorticity_and_divergence_come_back_from_their_velocity():
    vorticity, divergence = smooth(ShallowWater(SPACE.grid))[0, 1:]
    back_divergence, back_vorticity = SPACE.divergence_and_curl(SPACE.velocity_values(vorticity, divergence)[None])
    assert_close(back_vorticity[0], vorticity, 1e-10)
    assert_close(back_divergence[0], divergence, 1e-10)
    solid = SPACE.velocity_values(one(SPACE, 1, 0, 2 * math.sqrt(4 * math.pi / 3)), one(SPACE, 1, 0, 0.0))
    assert_close(solid[1], torch.sin(SPACE.colatitudes).expand(SPACE.product_shape))  # eastward, where north is left
    assert float(solid[0].abs().max()) < 1e-14


def test_refined_space_holds_more_and_gives_values_at_the_same_points():
    refined = SphereSpace(SPACE.grid, refine=2)
    assert refined.highest == 41  # of 63 colatitudes
    modes = torch.randn(3, *SPACE.shape, dtype=torch.complex128).tril()
    modes[..., 0] = modes[..., 0].real.to(torch.complex128)
    values = SPACE.values(modes)
    assert_close(refined.modes(values)[:, :22, :22], modes, 1e-11)
    assert float(refined.modes(values)[:, 22:].abs().max()) == 0.0
    assert_close(refined.values(refined.modes(values)), values, 1e-11)
    theta, phi = SPACE.grid.mesh()
    expected = torch.from_numpy(2 * sph_harm_y(41, 40, theta, phi).real)
    assert_close(refined.values(one(refined, 41, 40)), expected)  # beyond the grid's own longitudes


@pytest.mark.parametrize(
    "grid",
    [Grid((32, 64), 1.0, "vertex", True), Grid((32, 64), (math.pi, 2 * math.pi), "cell", (False, True)), Grid(8)],
)
def test_other_grids_are_refused(grid):
    with pytest.raises(ValueError, match="`grid` must have vertex centring"):
        ShallowWater(grid)


def test_too_small_a_grid_is_refused():
    with pytest.raises(ValueError, match="at least 3 colatitudes and 4 longitudes"):
        ShallowWater(sphere(3, 3))


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_harmonics", None)
    problem = ShallowWater(sphere(9, 18))  # a description needs no transform
    with pytest.raises(ModuleNotFoundError, match=r"vcycle\[sphere\]") as caught:
        problem.sample(0, [0])
    assert str(caught.value) == MISSING


# ------------------------------------------------------------------------------------------------------- the equation


def test_zonal_flow_in_balance_stays_steady():
    """Williamson et al. (1992), test case 2, without tilt."""
    problem = ShallowWater(sphere(17, 34), times=(2.0, 4.0), hyperdiffusion=0.0)
    speed, cosine = 0.12, torch.from_numpy(np.cos(problem.grid.mesh()[0]))
    eta = -(problem.rotation * speed + speed**2 / 2) * (cosine**2 - 1 / 3)
    initial = torch.stack([eta, 2 * speed * cosine, torch.zeros_like(eta)]).unsqueeze(0)
    found = problem.solve({"initial": initial}, rtol=1e-9)
    assert found.failures == {}
    for state in found.solutions[0]:
        assert float((state - initial[0]).abs().max()) < 1e-11
    wrong = initial.clone()
    wrong[:, 0] *= 1.01
    moved = problem.solve({"initial": wrong}).solutions
    assert float((moved - wrong).abs().max()) > 1e-5


def test_solid_rotation_about_a_tilted_axis_is_steady_without_rotation():
    """Orders up to 2, flow over both poles: eta = -(speed^2 / 2) (n . r)^2, vorticity = 2 speed (n . r)."""
    problem = ShallowWater(sphere(17, 34), times=(3.0,), **ALONE)
    theta, phi = (torch.from_numpy(c) for c in problem.grid.mesh())
    along = math.cos(1.1) * torch.cos(theta) + math.sin(1.1) * torch.sin(theta) * torch.cos(phi - 0.4)
    speed = 0.3
    initial = torch.stack([-(speed**2) / 2 * along**2, 2 * speed * along, torch.zeros_like(along)]).unsqueeze(0)
    found = problem.solve({"initial": initial}, rtol=1e-9)
    assert float((found.solutions[0, 0] - initial[0]).abs().max()) < 1e-10


@pytest.mark.parametrize(("degree", "order"), [(1, 1), (4, 2), (7, 0)])
def test_small_gravity_waves_have_the_frequency_of_their_degree(degree, order):
    """Without rotation eta = a cos(w t) Y, divergence = a w sin(w t) Y with w^2 = l (l + 1)."""
    time, size = 1.7, 1e-7
    problem = ShallowWater(sphere(17, 34), times=(time,), **ALONE)
    shape = one(problem.space, degree, order, size)
    initial = torch.stack([shape, 0 * shape, 0 * shape])
    found = problem.solve({"initial": problem.space.values(initial).unsqueeze(0)}, rtol=1e-6).solutions[0, 0]
    frequency = math.sqrt(degree * (degree + 1))
    wave = problem.space.values(shape)
    assert_close(found[0], math.cos(frequency * time) * wave, 1e-6)  # the rest is of the size squared
    assert_close(found[2], frequency * math.sin(frequency * time) * wave, 1e-6)


def test_hyperdiffusion_alone_decays_as_its_power():
    problem = ShallowWater(sphere(17, 34), rotation=0.0, hyperdiffusion=1e-6, times=(0.5,))
    small = 1e-9 * one(problem.space, 8, 3)
    initial = problem.space.values(torch.stack([0 * small, small, 0 * small])).unsqueeze(0)
    found = problem.solve({"initial": initial}, rtol=1e-8).solutions[0, 0]
    assert_close(found[1], math.exp(-1e-6 * 72**4 * 0.5) * initial[0, 1], 1e-7)


def test_rate_of_change_is_that_of_torch_harmonics():
    """Its solver for the same equations, at a resolution where its products alias nothing; float32 inside."""
    examples = pytest.importorskip("torch_harmonics.examples")
    solver = examples.ShallowWaterSolver(
        40, 80, 0.1, lmax=22, mmax=22, grid="legendre-gauss", radius=1.0, omega=1.3, gravity=1.0, havg=1.0
    )
    problem = ShallowWater(sphere(32, 64), rotation=1.3, hyperdiffusion=0.0)
    state = smooth(problem)[0]
    with_mean = state + torch.stack([one(SPACE, 0, 0, math.sqrt(4 * math.pi)), *(0 * state[1:])])
    expected = solver.dudtspec(with_mean)
    found = problem.nonlinear()(state.unsqueeze(0))[0]
    for component in range(3):
        assert_close(found[component], expected[component], 1e-6)


def test_mass_is_kept_to_rounding_and_energy_to_the_fourth_order_in_time():
    problem = ShallowWater(sphere(21, 42), hyperdiffusion=0.0)
    initial, method = smooth(problem), problem.integrator()
    energy, drifts, counts = problem.energy(initial), [], (20, 40, 80)
    ends = [method.integrate(initial, (1.0,), (count,))[:, 0] for count in (*counts, 640)]
    exact = problem.energy(ends[-1])
    assert float((exact - energy).abs() / energy) < 1e-9  # what leaves the truncation
    drifts = [float((problem.energy(end) - exact).abs() / energy) for end in ends[:-1]]
    assert_order(drifts, counts, 5.0, 0.4)  # fourth order at least: of an energy the leading term drops out
    assert max(drifts) < 1e-4
    for end in ends:
        assert float((end[0, 0, 0, 0] - initial[0, 0, 0, 0]).abs()) < 1e-12


def test_order_in_time_is_four():
    problem = ShallowWater(sphere(21, 42), hyperdiffusion=1e-9)
    initial, method, counts = smooth(problem), problem.integrator(), (20, 40, 80)
    exact = method.integrate(initial, (1.0,), (640,))
    norm = problem.space.mean_square(exact[:, 0]).sqrt()
    ends = [method.integrate(initial, (1.0,), (count,)) for count in counts]
    errors = [float(problem.space.mean_square((end - exact)[:, 0]).sqrt() / norm) for end in ends]
    assert_order(errors, counts, 4.0, 0.25)


# ------------------------------------------------------------------------------------------------------- as a problem


def test_quality_shapes_and_config():
    problem = ShallowWater(sphere(17, 34), times=(0.5, 1.0))
    inputs = problem.sample(3, [0, 5])
    made = problem.produce(inputs)
    assert inputs["initial"].shape == (2, 3, 17, 34)
    assert made.outputs["solution"].shape == (2, 2, 3, 17, 34)
    assert made.failures == {}
    assert list(made.quality) == [info.name for info in problem.quality]
    assert float(made.quality["mass_drift"].max()) < 1e-12
    assert 0 < float(made.quality["energy_drift"].max()) < 0.1
    config = json.loads(json.dumps(problem.config()))
    assert config.pop("name") == "shallow-water"
    again = ShallowWater(Grid(**config.pop("grid")), **config)
    assert again.config() == problem.config()
    assert torch.equal(again.sample(3, [5])["initial"], inputs["initial"][1:])


def test_a_sample_is_the_same_bytes_whatever_shares_its_batch():
    problem = ShallowWater(sphere(13, 26), times=(0.3, 0.6))
    whole = problem.sample(0, list(range(6)))["initial"]
    together = problem.solve({"initial": whole}, rtol=1e-4)
    for rows in ([4], [5, 4], [1, 4, 5, 0, 2]):
        apart = problem.solve({"initial": whole[rows].clone()}, rtol=1e-4)
        assert torch.equal(apart.solutions, together.solutions[rows])
        for name, values in apart.quality.items():
            assert torch.equal(values, together.quality[name][rows]), name


def test_mass_and_energy_drift_notice_what_they_measure():
    problem = ShallowWater(sphere(13, 26))
    initial = smooth(problem)
    later = initial.clone()
    later[0, 0, 0, 0] += 0.01 * math.sqrt(4 * math.pi)
    drifts = problem.measure(initial, torch.stack([initial, later], 1))
    assert_close(drifts["mass_drift"], torch.tensor([0.01], dtype=torch.float64))
    doubled = problem.measure(initial * 1e-6, (initial * 2e-6).unsqueeze(1))
    assert_close(doubled["energy_drift"], torch.tensor([3.0], dtype=torch.float64), 1e-5)  # almost quadratic


def test_initial_flow_is_in_balance_and_the_jet_that_of_galewsky():
    problem = ShallowWater(sphere(65, 130), vorticity=0.2, elevation=0.0)
    state = problem.space.modes(problem.sample(1, [0])["initial"])
    change = problem.nonlinear()(state)[0]
    assert float(change[2].abs().max()) < 1e-10 < float(change[1].abs().max())
    east = problem.space.velocity_values(problem._jet_flow, 0 * problem._jet_flow)[1]
    latitude = math.pi / 2 - problem.space.colatitudes.squeeze(1)
    assert abs(float(east.max()) - 1.0) < 0.03  # at degree 42
    outside = (latitude < math.pi / 7 - 0.1) | (latitude > math.pi / 2 - math.pi / 7 + 0.1)
    assert float(east[outside].abs().max()) < 0.02
    middle = float(latitude[east[:, 0].argmax()])
    assert abs(middle - math.pi / 4) < 0.03


def test_random_fields_have_the_spectrum_asked_for_and_coarse_ones_are_truncations():
    coarse, fine = (ShallowWater(sphere(*shape), jet=0.0, alpha=3.0) for shape in ((17, 34), (33, 66)))
    few, many = (p.space.modes(p.sample(2, [7])["initial"])[0, 1] for p in (coarse, fine))
    size = coarse.space.highest + 1
    assert_close(many[:size, :size], few, 1e-10)
    fields = coarse.space.modes(coarse.sample(0, list(range(300)))["initial"])[:, 1]
    l = torch.arange(1.0, 2000, dtype=torch.float64)  # noqa: E741
    weight = (l * (l + 1) + 25) ** -3.0
    expected = 0.3**2 * 4 * math.pi * weight / ((2 * l + 1) * weight).sum()  # of one amplitude
    for degree in (1, 3, 6):
        measured = (fields[:, degree, 1 : degree + 1].abs() ** 2).mean()
        assert float(measured / expected[degree - 1]) == pytest.approx(1.0, abs=0.25)


def test_a_depth_below_zero_is_refused():
    problem = ShallowWater(sphere(13, 26))
    initial = problem.sample(0, [0])["initial"]
    initial[0, 0, 3, 3] = -1.5
    with pytest.raises(ValueError, match=r"above -1, where the depth is zero. Got -1.5"):
        problem.solve({"initial": initial})


def test_generate_gives_what_is_produced():
    problem = ShallowWater(sphere(32, 64), times=(0.25,))
    dataset = vc.generate(problem, num_samples=2, progress=False)
    again = problem.produce(problem.sample(0, [0, 1]))
    assert len(dataset) == 2
    assert dataset.grid == problem.grid
    assert torch.equal(torch.from_numpy(dataset.array("output_solution")), again.outputs["solution"])
    assert torch.equal(torch.as_tensor(dataset.array("solver_energy_drift")), again.quality["energy_drift"])
    assert float(dataset.array("solver_mass_drift").max()) < 1e-12
