"""Reaction and diffusion: closed forms, manufactured solutions, balances, and what is refused."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from manufactured import direct, face_data, flux_divergence, l2_error
from vcycle.grid import Grid
from vcycle.problems import Darcy, Lognormal, ReactionDiffusion

PI = math.pi
MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))


def test_a_layer_in_closed_form():
    """1-D, ``-u'' + c u = 1``, zero at both ends: ``(1 - cosh(s (x - 1/2)) / cosh(s / 2)) / c`` with ``s^2 = c``."""
    c, sizes, errors = 400.0, (64, 128, 256, 512), []
    for n in sizes:
        problem = ReactionDiffusion(Grid(n))
        u = direct(problem.systems({"reaction": torch.full((1, 1, n), c).double()}))
        s, x = math.sqrt(c), torch.from_numpy(problem.grid.coordinates()[0])
        errors.append(float((u - (1 - torch.cosh(s * (x - 0.5)) / math.cosh(s / 2)) / c).square().mean().sqrt()))
    assert_order(errors, sizes, ReactionDiffusion.order)


def exact(x, y):
    return torch.exp(x) * torch.cos(2 * y) + torch.sin(3 * x + y)


def rate(x, y):
    return 20 * (1 + torch.sin(4 * x) * torch.cos(3 * y))


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", MIXED])
@pytest.mark.parametrize("varies", [False, True])
def test_order_on_manufactured_solutions(boundary, varies):
    def coefficient(x, y):
        return 1.5 + 0.8 * torch.sin(2 * x + 1) * torch.cos(3 * y) if varies else torch.ones_like(x)

    sizes, errors = (24, 32, 48, 64), []
    for n in sizes:
        grid = Grid((n, n))
        points = [torch.from_numpy(x) for x in grid.mesh()]
        kinds = Darcy(grid, boundary, source=0.0).boundary.kinds
        values = face_data(grid, kinds, exact, coefficient)
        source = flux_divergence(exact, coefficient, points)[1] + rate(*points) * exact(*points)
        problem = ReactionDiffusion(
            grid, boundary, coefficient="lognormal" if varies else None, source=source, boundary_values=values
        )
        fields = {"reaction": rate(*points)[None, None], "coefficient": coefficient(*points)[None, None]}
        errors.append(l2_error(direct(problem.systems(fields)), exact(*points), singular=False))
    assert_order(errors, sizes, ReactionDiffusion.order)


def test_what_enters_an_insulated_box_reacts():
    problem = ReactionDiffusion(Grid((12, 10), (1.0, 2.0)), "neumann", source=1.3, boundary_values={"x_low": 0.4})
    fields = problem.sample(0, range(3))
    systems = problem.systems(fields)
    assert not systems.singular
    for i in range(3):
        reacted = (fields["reaction"][i, 0] * direct(systems, i)).sum() * problem.grid.cell_volume
        assert_close(reacted, torch.tensor(1.3 * 2.0 + 0.4 * 2.0, dtype=torch.float64), rtol=1e-11)


def test_multigrid_applies():
    problem = ReactionDiffusion(Grid((32, 32)), "neumann", coefficient="two-phase")
    fields = problem.sample(0, range(3))
    by_cycles = problem.solve(fields, method="multigrid", rtol=1e-10).raise_if_failed()
    assert int(by_cycles.iterations.max()) < 20
    assert_close(by_cycles.solutions, problem.solve(fields, method="direct").solutions, rtol=1e-8)


def test_without_a_reaction_it_is_darcy_flow():
    grid = Grid((8, 6))
    problem = ReactionDiffusion(grid, MIXED, coefficient="two-phase", boundary_values={"x_low": 2.0})
    fields = problem.sample(0, [0])
    fields["reaction"] = torch.zeros_like(fields["reaction"])
    there = Darcy(grid, MIXED, boundary_values={"x_low": 2.0}).systems(fields)
    here = problem.systems(fields)
    assert_close(here.to_csr(0)[0].toarray(), there.to_csr(0)[0].toarray(), rtol=1e-14)
    assert torch.equal(here.rhs, there.rhs)


def test_draws_are_independent_and_those_of_their_families():
    grid = Grid((16, 16))
    problem = ReactionDiffusion(grid, coefficient="lognormal")
    fields = problem.sample(0, range(200))
    logs = {name: torch.log(values).flatten(1) for name, values in fields.items()}
    assert_close(logs["reaction"].mean(), torch.tensor(math.log(30.0)).double(), rtol=0.01)
    centred = {name: values - values.mean() for name, values in logs.items()}
    correlation = (centred["reaction"] * centred["coefficient"]).mean()
    assert abs(correlation) < 0.1 * centred["reaction"].std() * centred["coefficient"].std()
    alone = ReactionDiffusion(grid).sample(0, [7])["reaction"]
    assert torch.equal(alone[0], fields["reaction"][7])
    assert ReactionDiffusion(grid).input_names == ("reaction",)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"flip_x", "flip_y", "transpose"}),
        ({"boundary_values": {"x_low": 1.0}}, {"flip_y"}),
        ({"boundary": "neumann", "source": np.add.outer(np.arange(8.0), np.arange(8.0))}, {"transpose"}),
    ],
)
def test_symmetries_and_walls(arguments, expected):
    problem = ReactionDiffusion(Grid((8, 8)), **arguments)
    assert set(problem.symmetries) == expected
    assert problem.zero_on_walls == ("boundary_values" not in arguments)


def test_wrong_inputs_and_arguments_are_refused():
    grid = Grid((8, 8))
    problem = ReactionDiffusion(grid, "neumann")
    zero = torch.zeros(2, 1, 8, 8).double()
    zero[0] = 1.0
    with pytest.raises(ValueError, match="`reaction` must be positive somewhere where no face fixes the solution"):
        problem.systems({"reaction": zero})
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`reaction` must not be negative or infinite anywhere"):
            problem.systems({"reaction": torch.full((1, 1, 8, 8), bad).double()})
    with pytest.raises(ValueError, match=r"`coefficient` must be one of .* Did you mean 'lognormal'"):
        ReactionDiffusion(grid, reaction="lognormall")
    with pytest.raises(ValueError, match="`median` must be positive"):
        ReactionDiffusion(grid, coefficient=Lognormal(median=0.0))
