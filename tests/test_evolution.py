"""What all evolution families promise alike; each one's equation is in test_evolution_equations.py."""

import json

import numpy as np
import pytest
import torch

from helpers import assert_close
from vcycle.errors import SolveError
from vcycle.grid import Grid
from vcycle.problems.advection import Advection
from vcycle.problems.allen_cahn import AllenCahn
from vcycle.problems.burgers import Burgers
from vcycle.problems.evolution import Evolution
from vcycle.problems.heat import Heat
from vcycle.problems.korteweg_de_vries import KortewegDeVries
from vcycle.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from vcycle.problems.navier_stokes import NavierStokes


def periodic(*shape: int, extent: float = 1.0) -> Grid:
    return Grid(shape, extent, "vertex", True)


FAMILIES = {
    "heat-1": Heat(periodic(20)),
    "heat-2": Heat(periodic(12, 9)),
    "heat-3": Heat(periodic(6, 8, 5)),
    "advection-1": Advection(periodic(21), velocity=-0.7),
    "advection-2": Advection(periodic(12, 9), velocity=(0.3, -0.2)),
    "burgers-1": Burgers(periodic(32), times=(0.05, 0.15)),
    "burgers-2": Burgers(periodic(12, 10), times=(0.1, 0.2), scale=1.0),
    "burgers-3": Burgers(periodic(6, 7, 6), times=(0.1,), viscosity=0.2, scale=1.0),
    "korteweg-de-vries": KortewegDeVries(periodic(48, extent=32.0), times=(0.25, 0.5), scale=0.5),
    "kuramoto-sivashinsky": KuramotoSivashinsky(periodic(32, extent=22.0), times=(1.0, 3.0)),
    "allen-cahn-1": AllenCahn(periodic(48), times=(0.5, 1.0)),
    "allen-cahn-2": AllenCahn(periodic(18, 16), times=(0.5, 1.0), width=0.1),
    "navier-stokes": NavierStokes(periodic(18, 16), times=(0.5, 1.0), scale=2.0),
}
NONLINEAR = {name: problem for name, problem in FAMILIES.items() if problem.nonlinear() is not None}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def problem(request) -> Evolution:
    return request.param


def test_shapes_names_and_quality(problem):
    inputs = problem.sample(3, [0, 5])
    initial, made = inputs["initial"], problem.produce(inputs, rtol=1e-6)
    components = problem.input_fields[0].components
    assert initial.shape == (2, components, *problem.grid.shape)
    assert made.outputs["solution"].shape == (2, len(problem.times), components, *problem.grid.shape)
    assert made.outputs["solution"].dtype == torch.float64
    assert problem.outputs[0].sample_shape(problem.grid) == made.outputs["solution"].shape[1:]
    assert made.failures == {}
    assert list(made.quality) == [info.name for info in problem.quality]
    for info in problem.quality:
        assert made.quality[info.name].shape == (2,)
        assert str(made.quality[info.name].dtype) == f"torch.{info.dtype}"
    assert float(made.quality["step_error"].max()) <= 1e-6
    assert bool((made.seconds > 0).all())


def test_a_sample_is_the_same_bytes_whatever_shares_its_batch(problem):
    whole = problem.sample(0, list(range(7)))["initial"]
    together = problem.solve({"initial": whole}, rtol=1e-4)
    for rows in ([4], [6, 4], [1, 4, 5, 0, 2]):
        apart = problem.solve({"initial": whole[rows].clone()}, rtol=1e-4)
        assert torch.equal(apart.solutions, together.solutions[rows])
        for name, values in apart.quality.items():
            assert torch.equal(values, together.quality[name][rows]), name


def test_description_builds_the_problem_again(problem):
    config = json.loads(json.dumps(problem.config()))
    name, grid = config.pop("name"), Grid(**config.pop("grid"))
    again = type(problem)(grid, **config)
    assert name == problem.name
    assert again.config() == problem.config()
    inputs = problem.sample(1, [2])
    assert torch.equal(again.sample(1, [2])["initial"], inputs["initial"])
    assert torch.equal(again.solve(inputs).solutions, problem.solve(inputs).solutions)


def test_initial_states_of_a_coarse_grid_are_truncations(problem):
    fine = problem.on_grid(Grid(tuple(2 * n for n in problem.grid.shape), problem.grid.extent, "vertex", True))
    few, many = problem.sample(0, [1])["initial"], fine.sample(0, [1])["initial"]
    from test_etdrk4 import cut

    if problem.grid.num_axes < 3:
        modes = fine.space.modes(many)[0]
        assert_close(problem.space.modes(few)[0], cut(modes, fine.space.highest, problem.space.highest), 1e-12)
    assert fine.config() | {"grid": None} == problem.config() | {"grid": None}


@pytest.mark.parametrize("name", [name for name in NONLINEAR if name != "burgers-3"])
def test_step_error_is_about_fifteen_times_the_error_of_what_is_kept(name):
    problem = FAMILIES[name]
    inputs = problem.sample(0, [0])
    kept, fine = problem.solve(inputs, rtol=1e-6), problem.solve(inputs, rtol=1e-8)
    error = float((kept.solutions - fine.solutions).norm() / fine.solutions.norm())
    assert 0 < error < float(kept.quality["step_error"][0]) / 3
    assert kept.quality["steps"][0] < fine.quality["steps"][0]


@pytest.mark.parametrize("name", ["burgers-1", "burgers-2", "allen-cahn-1", "navier-stokes", "heat-2"])
def test_refined_is_the_finer_grid_seen_at_every_other_point(name):
    problem = FAMILIES[name]
    grid = problem.grid
    fine = problem.on_grid(Grid(tuple(2 * n for n in grid.shape), grid.extent, "vertex", True))
    config = problem.config() | {"refine": 2}
    refined = type(problem)(grid, **{key: value for key, value in config.items() if key not in ("name", "grid")})
    initial = problem.sample(0, [0])["initial"]
    seen = problem.space.values(problem.space.modes(initial))  # an even grid has a Nyquist mode to lose
    finer = fine.space.values(refined.space.modes(initial))
    found = refined.solve({"initial": initial}).solutions
    expected = fine.solve({"initial": finer}).solutions
    every_other = (..., *(slice(None, None, 2),) * grid.num_axes)
    assert_close(finer[every_other], seen)
    assert_close(found, expected[every_other], 1e-6)
    if name != "heat-2":
        assert float((found - problem.solve({"initial": initial}).solutions).norm() / found.norm()) > 1e-9


def test_residual_vanishes_for_what_was_solved_and_shows_one_wrong_state(problem):
    inputs = problem.sample(0, [0, 1])
    solved = problem.solve(inputs).solutions
    residual = problem.residual(inputs, solved)
    assert residual.shape == solved.shape
    assert float(residual.norm() / solved.norm()) < 3e-6
    wrong = solved.clone()
    wrong[1, -1] *= 1.01
    residual = problem.residual(inputs, wrong)
    assert_close(residual[1, -1], -0.01 * solved[1, -1], 1e-3)
    assert float(residual[0].norm() / solved[0].norm()) < 3e-6
    stacked = problem.residual(inputs["initial"], wrong.flatten(1, 2))
    assert torch.equal(stacked, residual.flatten(1, 2))


@pytest.mark.parametrize("name", ["advection-1", "burgers-1", "burgers-2", "allen-cahn-2", "navier-stokes"])
def test_residual_is_differentiable(name):
    problem = FAMILIES[name]
    initial = problem.sample(0, [0])["initial"].requires_grad_()
    solved = problem.solve({"initial": initial.detach()}).solutions.requires_grad_()
    towards = torch.randn_like(solved)
    (problem.residual({"initial": initial}, solved) * towards).sum().backward()
    change = torch.randn_like(initial)
    with torch.no_grad():
        ends = [problem.residual({"initial": initial + h * change}, solved) for h in (1e-5, -1e-5)]
    assert_close((initial.grad * change).sum(), ((ends[0] - ends[1]) / 2e-5 * towards).sum(), 1e-3)
    assert_close(solved.grad[:, -1], -towards[:, -1])


def test_there_are_no_linear_systems(problem):
    with pytest.raises(ValueError, match="this needs linear systems"):
        problem.systems(problem.sample(0, [0]))


def test_too_few_steps_fail_one_sample_and_name_it():
    problem = FAMILIES["burgers-1"]
    initial = problem.sample(0, [0, 1])["initial"]
    initial[1] *= 40
    result = problem.solve({"initial": initial}, max_steps=256)
    assert result.failed == [1]
    assert_close(result.solutions[:1], problem.solve({"initial": initial[:1]}).solutions)
    with pytest.raises(SolveError, match=r"sample 17: .* time steps leave a relative change of .* raise `max_steps`"):
        result.raise_if_failed([16, 17])


@pytest.mark.parametrize(
    ("family", "grid", "arguments", "message"),
    [
        (Heat, Grid((8, 8)), {}, "`grid` must have vertex centring"),
        (Heat, periodic(8), {"times": (1.0, 0.5)}, "`times` must be positive and increase"),
        (Heat, periodic(8), {"diffusivity": -1.0}, "`diffusivity` must be positive"),
        (Heat, periodic(8), {"scale": 0.0}, "`scale` must be positive"),
        (Heat, periodic(8), {"refine": 0}, "`refine` must be at least 1"),
        (Heat, periodic(8), {"alpha": 0.5}, "`alpha` must be more than 0.5"),
        (Advection, periodic(8), {"velocity": float("nan")}, "`velocity` must be finite"),
        (Advection, periodic(8, 8), {"velocity": (1.0, 2.0, 3.0)}, "`velocity` must be one value or one per axis"),
        (Burgers, periodic(8), {"viscosity": 0.0}, "`viscosity` must be positive"),
        (KortewegDeVries, periodic(8, 8), {}, "`grid` must have 1 axis. Got 2"),
        (KuramotoSivashinsky, periodic(8, 8), {}, "`grid` must have 1 axis. Got 2"),
        (AllenCahn, periodic(8), {"width": 0.0}, "`width` must be positive"),
        (NavierStokes, periodic(8), {}, "`grid` must have 2 axes. Got 1"),
        (NavierStokes, periodic(8, 8), {"forcing": -0.1}, "`forcing` must not be negative"),
    ],
)
def test_wrong_arguments_are_named(family, grid, arguments, message):
    with pytest.raises(ValueError, match=message):
        family(grid, **arguments)


def test_wrong_inputs_are_named():
    problem = FAMILIES["burgers-1"]
    with pytest.raises(ValueError, match=r"`inputs` field 'initial' must have shape \(sample, 1, 32\)"):
        problem.solve({"initial": torch.zeros(1, 1, 31, dtype=torch.float64)})
    with pytest.raises(ValueError, match="`initial` must be finite everywhere"):
        problem.solve({"initial": torch.full((1, 1, 32), np.nan, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"`outputs` must have shape \(sample, 2, 1, 32\)"):
        problem.residual(problem.sample(0, [0]), torch.zeros(1, 3, 1, 32))
    with pytest.raises(ValueError, match="`method` must be one of"):
        problem.produce(problem.sample(0, [0]), method="cg")


def test_rest_stays_at_rest():
    problem = FAMILIES["burgers-2"]
    result = problem.solve({"initial": torch.zeros(1, 2, 12, 10, dtype=torch.float64)})
    assert float(result.solutions.abs().max()) == 0
    assert float(result.quality["step_error"]) == 0


@pytest.mark.parametrize(("name", "axes"), [("heat-1", 1), ("heat-2", 2), ("allen-cahn-2", 2)])
def test_declared_symmetries_map_solutions_onto_solutions(name, axes):
    problem = FAMILIES[name]
    square = problem.on_grid(Grid((16,) * axes, problem.grid.extent, "vertex", True))
    initial = square.sample(0, [0])["initial"]
    solved = square.solve({"initial": initial}).solutions
    assert set(square.symmetries) == ({"flip_x"} if axes == 1 else {"flip_x", "flip_y", "transpose"})
    moves = {"flip_x": lambda u: u.flip(-axes), "flip_y": lambda u: u.flip(-1), "transpose": lambda u: u.mT}
    for symmetry in square.symmetries:
        move = moves[symmetry]
        assert_close(square.solve({"initial": move(initial)}).solutions, move(solved), 1e-10)
