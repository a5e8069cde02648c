"""What `auto` chooses, and that what it chooses solves."""

import math

import pytest
import torch

import vcycle as vc
from vcycle.problems import ConvectionDiffusion, Darcy, Helmholtz, Poisson, ReactionDiffusion, Thermal
from vcycle.solvers.choice import choose, num_below_zero

GRID, SMALL, BOX = vc.Grid((96, 96)), vc.Grid((32, 32)), vc.Grid((20, 20, 20))

CHOICES = [
    (Darcy(SMALL), "multigrid"),
    (Darcy(vc.Grid((64,))), "direct"),
    (Poisson(SMALL), "multigrid"),
    (ReactionDiffusion(SMALL), "multigrid"),
    (Thermal(vc.Grid((20, 32), extent=(1.0, 1.6))), "direct"),
    (ConvectionDiffusion(SMALL), "direct"),
    (ConvectionDiffusion(GRID), "gmres"),
    (ConvectionDiffusion(BOX, peclet=10.0), "gmres"),
    (Helmholtz(SMALL, resolution_tolerance=None), "direct"),
    (Helmholtz(GRID), "gmres"),
    (Helmholtz(GRID, wave_number=40.0), "direct"),
    (Helmholtz(GRID, "absorbing"), "gmres"),
    (Helmholtz(BOX), "gmres"),
]


@pytest.mark.parametrize(("problem", "method"), CHOICES, ids=[f"{p.name}-{p.grid.shape}" for p, _ in CHOICES])
def test_method_follows_what_the_systems_are(problem, method):
    systems = problem.systems(problem.sample(0, range(2)))
    assert choose(systems).method == method
    result = vc.solve_sequence(systems).raise_if_failed()
    assert systems.relative_residuals(result.solutions).max() <= 1e-8
    assert bool((result.iterations > 0).all()) == (method != "direct")


@pytest.mark.parametrize("shape", [(24, 24), (12, 12, 12)])
def test_number_of_negative_eigenvalues_is_near_the_true_one(shape):
    grid = vc.Grid(shape)
    problem = Helmholtz(grid, "neumann", wave_number=16.0, variation=1e-6, resolution_tolerance=None)
    systems = problem.systems(problem.sample(0, [0]))
    values = torch.linalg.eigvalsh(torch.from_numpy(systems.operator.to_csr().toarray()))
    exact = int((values < 0).sum())
    assert math.isclose(num_below_zero(systems), exact, rel_tol=0.6)  # Weyl's law leaves out the walls' share
    assert exact > 10
    assert num_below_zero(Darcy(grid).systems(Darcy(grid).sample(0, [0]))) == 0.0


def test_what_gmres_leaves_goes_to_direct():
    problem = Helmholtz(GRID)
    inputs = problem.sample(0, range(2))
    result = vc.solve_sequence(problem.systems(inputs), max_steps=2).raise_if_failed()
    assert (result.iterations == 2).all()
    assert result.relative_residuals.max() <= 1e-10
