"""The honest table: its errors against independent solves, and the arithmetic of its verdict."""

import math
import sys

import pytest
import torch

import vcycle as vc
from helpers import assert_close
from vcycle.evaluation.benchmark import Benchmark, Row, _coarsely_stepped, benchmark
from vcycle.evaluation.regrid import interpolated
from vcycle.metrics import relative_l2


class StandIn:
    """An operator without scalar parameters that answers by a function."""

    def __init__(self, answer):
        self.answer = answer

    def parameters_of(self, dataset):
        return None

    def predict(self, inputs, parameters=None):
        return self.answer(inputs)


@pytest.fixture(scope="module")
def table():
    problem = vc.problems.Darcy(vc.Grid((16, 16)))
    data = vc.generate(problem, num_samples=6, seed=0, rtol=1e-10, progress=False)
    operator = StandIn(lambda inputs: 1.05 * data.outputs[: len(inputs)].float())
    return problem, data, benchmark(problem, operator, data, repeats=1)


def test_errors_are_those_of_each_way(table):
    result = table[2]
    errors = {row.name: row.error for row in result.rows}
    assert errors["operator"] == pytest.approx(0.05, rel=1e-5)
    assert errors["solver, rtol 1e-06"] < 1e-5
    assert errors["CG, 1 V-cycle"] > errors["CG, 2 V-cycles"] > errors["CG, 3 V-cycles"] > errors["solver, rtol 1e-06"]
    assert 1e-3 < errors["solver on 8 x 8, interpolated"] < errors["solver on 4 x 4, interpolated"] < 0.5
    assert all(row.cpu_ms > 0 for row in result.rows)


def test_one_v_cycle_is_one_step_of_conjugate_gradients(table):
    from vcycle.multigrid.classical import hierarchy, v_cycle

    problem, data, result = table
    systems = problem.systems(data.inputs)
    z = v_cycle(hierarchy(systems.operator), systems.rhs)
    step = (systems.rhs * z).flatten(1).sum(1) / systems.operator.energy(z)
    expected = relative_l2((step[:, None, None] * z)[:, None], data.outputs).mean().item()
    assert {row.name: row.error for row in result.rows}["CG, 1 V-cycle"] == pytest.approx(expected, rel=1e-3)


def test_coarse_solution_of_a_smooth_problem_is_second_order():
    errors = []
    for n in (16, 32):
        problem = vc.problems.Darcy(vc.Grid((n, n)), values=(1.0, 1.0 + 1e-12))
        data = vc.generate(problem, num_samples=1, seed=0, progress=False)
        operator = StandIn(lambda inputs: torch.zeros_like(inputs))
        rows = benchmark(problem, operator, data, repeats=1).rows
        errors.append(next(row.error for row in rows if row.name.startswith(f"solver on {n // 2} x")))
    assert 3.3 < errors[0] / errors[1] < 4.7


@pytest.mark.parametrize("kinds", ["dirichlet", (("dirichlet", "neumann"), ("neumann", "dirichlet"))])
def test_coarse_rivals_know_the_boundary_values(kinds):
    problem = vc.problems.Poisson(vc.Grid((32, 32)), kinds)
    data = vc.generate(problem, num_samples=4, seed=0, progress=False)
    operator = StandIn(lambda inputs: torch.zeros(len(inputs), 1, 32, 32))
    rows = {row.name: row.error for row in benchmark(problem, operator, data, repeats=1).rows}
    assert rows["solver on 16 x 16, interpolated"] < 0.04
    assert rows["solver on 16 x 16, interpolated"] < rows["solver on 8 x 8, interpolated"] < 0.15


def test_interpolation_is_exact_for_linear_functions_up_to_the_walls():
    coarse, fine = vc.Grid((4, 6)), vc.Grid((8, 12))
    linear = [1.0 + 2 * torch.from_numpy(x) - 3 * torch.from_numpy(y) for x, y in (coarse.mesh(), fine.mesh())]
    driven = vc.problems.Poisson(coarse)
    assert_close(interpolated(linear[0][None, None], driven), linear[1][None, None])
    zero = vc.problems.Darcy(vc.Grid((4, 4)), (("dirichlet", "neumann"), "neumann"))
    ramp = [torch.from_numpy(vc.Grid((n, n)).mesh()[0]) for n in (4, 8)]
    assert_close(interpolated(ramp[0][None, None], zero), ramp[1][None, None])
    periodic = vc.problems.Poisson(vc.Grid((64, 64), periodic=True), "periodic")
    wave = [torch.cos(2 * math.pi * torch.from_numpy(vc.Grid((n, n), periodic=True).mesh()[1])) for n in (64, 128)]
    assert (interpolated(wave[0][None, None], periodic) - wave[1]).abs().max() < 2e-3


def test_verdict_and_break_even():
    slow = Row("solver", 1e-6, 9.0)
    cheap = Row("coarse", 0.2, 0.1)
    wins = Benchmark([Row("operator", 0.02, 1.0), slow, cheap], 4, data_seconds=20.0, training_seconds=60.0)
    assert wins.rival is slow  # the cheap one is less accurate
    assert wins.break_even == pytest.approx(10_000)
    assert "The operator wins: at 2.00% it is 9.0 times faster than solver" in wins.verdict
    assert "after 10,000 samples" in wins.verdict
    loses = Benchmark([Row("operator", 0.3, 1.0), slow, cheap], 4, data_seconds=1.0, training_seconds=1.0)
    assert loses.rival is cheap
    assert math.isinf(loses.break_even)
    assert "The solver wins: coarse reaches 20.00% in 10.0 times less CPU time" in loses.verdict
    assert "Paid back: never." in loses.cost
    assert loses.to_dict()["break_even"] is None
    alone = Benchmark([Row("operator", 1e-9, 1.0), slow], 4, data_seconds=1.0, training_seconds=1.0)
    assert alone.break_even is None
    assert "No classical row reaches" in alone.verdict
    assert "No winner: with an error of 95.00%" in Benchmark([Row("operator", 0.95, 0.1), slow], 4).verdict


def test_helmholtz_has_no_v_cycle_rows():
    problem = vc.problems.Helmholtz(vc.Grid((16, 16)), resolution_tolerance=None)
    data = vc.generate(problem, num_samples=2, seed=0, progress=False)
    operator = StandIn(lambda inputs: torch.zeros_like(inputs))
    names = [row.name for row in benchmark(problem, operator, data, repeats=1).rows]
    assert not any("V-cycle" in name for name in names)
    assert "solver on 8 x 8, interpolated" in names


@pytest.mark.parametrize("shape", [(15,), (9, 15), (32,)])
def test_grids_that_do_not_halve_or_have_one_axis_have_no_v_cycle_rows(shape):
    problem = vc.problems.Darcy(vc.Grid(shape))
    data = vc.generate(problem, num_samples=2, seed=0, progress=False)
    operator = StandIn(lambda inputs: torch.zeros_like(inputs))
    names = [row.name for row in benchmark(problem, operator, data, repeats=1).rows]
    assert not any("V-cycle" in name for name in names)
    assert len(names) == (4 if shape == (32,) else 2)


def test_unusable_arguments_are_named(table):
    problem, data, _ = table
    operator = StandIn(lambda inputs: inputs)
    with pytest.raises(ValueError, match=r"`repeats` must be at least 1. Got 0"):
        benchmark(problem, operator, data, repeats=0)
    other = vc.problems.Darcy(vc.Grid((8, 8)))
    with pytest.raises(ValueError, match=r"`test` must be on the problem's grid \(8, 8\). Got \(16, 16\)"):
        benchmark(other, operator, data)


def test_evolutions_are_stepped_as_far_as_a_row_of_the_data():
    grid = vc.Grid((32,), 1.0, "vertex", periodic=True)
    problem = vc.problems.Burgers(grid, times=(0.5, 1.0), viscosity=0.05)
    data = vc.generate(problem, num_samples=3, seed=0, progress=False)
    operator = StandIn(lambda inputs: torch.zeros_like(inputs))
    for test in (data.steps(), data):  # one step, or both times at once
        rows = {row.name: row.error for row in benchmark(problem, operator, test, repeats=1).rows[1:]}
        names = ["solver, rtol 1e-06", "solver, rtol 1e-03"]
        assert list(rows) == names + [f"solver on {n}, rtol 1e-03, interpolated" for n in (16, 8)]
        assert rows[names[0]] < 1e-6
        assert rows[names[0]] <= rows[names[1]] < 1e-3
        errors = list(rows.values())[2:]
        assert errors == sorted(errors)
        assert 1e-6 < errors[0] < 3e-3 < errors[1] < 0.1
        operator = StandIn(lambda inputs: torch.zeros(len(inputs), 2, 32))
    with pytest.raises(ValueError, match=r"`test` must have steps of one length to be timed against solvers\."):
        benchmark(problem, operator, data.steps(all_to_all=True), repeats=1)


def test_a_rival_that_blows_up_is_no_row(monkeypatch):
    problem = vc.problems.Heat(vc.Grid((16,), 1.0, "vertex", periodic=True), times=(0.1,))
    data = vc.generate(problem, num_samples=2, seed=0, progress=False)
    module = sys.modules["vcycle.evaluation.benchmark"]
    monkeypatch.setattr(module, "_coarsely_stepped", lambda *args: torch.full_like(data.outputs, math.nan))
    names = [row.name for row in benchmark(problem, StandIn(lambda inputs: inputs), data, repeats=1).rows]
    assert names == ["operator", "solver, rtol 1e-06", "solver, rtol 1e-03"]


def test_coarse_steps_of_what_a_coarse_grid_holds_are_exact():
    grid = vc.Grid((16, 16), 1.0, "vertex", periodic=True)
    problem = vc.problems.Heat(grid, times=(0.1,))
    x, y = (2 * math.pi * torch.from_numpy(axis) for axis in grid.mesh())
    wave = (torch.sin(x) * torch.cos(y))[None, None]
    found = _coarsely_stepped(problem.on_grid(vc.Grid((4, 4), 1.0, "vertex", periodic=True)), problem, wave)
    assert_close(found, problem.solve(wave).solutions.flatten(1, 2))


def test_numbers_are_repeated_in_words(table):
    text = str(table[2])
    assert "operator" in text
    assert "CPU ms / sample" in text
    assert_close(torch.tensor(table[2].rows[0].error), torch.tensor(0.05), rtol=1e-4)
