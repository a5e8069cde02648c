"""Gradients through a solve, against finite differences and a dense solve."""

import pytest
import torch

import vcycle as vc
from helpers import assert_close
from vcycle.grid import Grid
from vcycle.multigrid.stencil import Stencil
from vcycle.problems import Darcy, Helmholtz, Poisson
from vcycle.solvers.systems import LinearSystems


def weighted_loss(solutions: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(-1.0, 2.0, solutions.numel(), dtype=torch.float64).reshape(solutions.shape)
    return (weights * solutions + 0.5 * weights.cos() * solutions**2).sum()


def central_difference(loss, inputs: torch.Tensor, direction: torch.Tensor) -> float:
    step = 1e-4
    return float(loss(inputs + step * direction) - loss(inputs - step * direction)) / (2 * step)


@pytest.mark.parametrize("method", ["auto", "direct", "multigrid", "cg", "gmres", "gcrodr"])
def test_gradient_in_the_coefficient(method: str) -> None:
    problem = Darcy(Grid((8, 8)), coefficient="lognormal")
    inputs = problem.sample(0, range(3))["coefficient"]

    def loss(a: torch.Tensor) -> torch.Tensor:
        return weighted_loss(problem.solve({"coefficient": a}, rtol=1e-12, method=method).solutions)

    direction = torch.randn(inputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a = inputs.clone().requires_grad_()
    loss(a).backward()
    expected = central_difference(loss, inputs, direction)
    assert abs(float((a.grad * direction).sum()) - expected) <= 1e-6 * abs(expected)


@pytest.mark.parametrize("family", [Poisson, Helmholtz])
def test_gradient_in_the_other_inputs(family: type) -> None:
    problem = family(Grid((12, 12)))
    stacked = problem.stacked(problem.sample(0, range(2)))

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        return weighted_loss(problem.solve(inputs, rtol=1e-12).solutions)

    direction = torch.randn(stacked.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = stacked.clone().requires_grad_()
    loss(inputs).backward()
    expected = central_difference(loss, stacked, direction)
    assert abs(float((inputs.grad * direction).sum()) - expected) <= 1e-6 * abs(expected)


def test_gradient_where_constants_are_in_the_kernel() -> None:
    problem = Darcy(Grid((8, 8)), "neumann", source=torch.linspace(-1, 1, 64).reshape(8, 8).numpy())
    inputs = problem.sample(0, range(2))["coefficient"]

    def loss(a: torch.Tensor) -> torch.Tensor:
        return weighted_loss(problem.solve({"coefficient": a}, rtol=1e-12).solutions)

    direction = torch.randn(inputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a = inputs.clone().requires_grad_()
    loss(a).backward()
    expected = central_difference(loss, inputs, direction)
    assert abs(float((a.grad * direction).sum()) - expected) <= 1e-6 * abs(expected)


def test_nonsymmetric_complex_systems_agree_with_a_dense_solve() -> None:
    grid = Grid((4, 3))
    boundary = Darcy(grid).boundary
    generator = torch.Generator().manual_seed(0)

    def draw(batch: int) -> torch.Tensor:
        return torch.randn(batch, 4, 3, dtype=torch.complex128, generator=generator)

    parts = tuple((8.0 if i == 0 else 1.0) + draw(1) for i in range(5))
    rhs = draw(3).requires_grad_()
    parts = tuple(part.requires_grad_() for part in parts)
    stencil = Stencil(grid, boundary, parts[0], parts[1:3], parts[3:5])
    result = vc.solve_sequence(LinearSystems(stencil, rhs, positive_definite=False), rtol=1e-12)
    result.raise_if_failed()

    units = torch.eye(12, dtype=torch.complex128).reshape(12, 4, 3)
    dense = stencil.apply(units).reshape(12, 12).T
    reference = torch.linalg.solve(dense, rhs.reshape(3, 12).T).T.reshape(3, 4, 3)
    assert_close(result.solutions.detach(), reference.detach(), rtol=1e-12)
    gradients = [
        torch.autograd.grad(weighted_loss(torch.view_as_real(u)), (rhs, *parts)) for u in (result.solutions, reference)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        assert_close(mine, theirs, rtol=1e-10)


def test_no_graph_no_gradient() -> None:
    problem = Darcy(Grid((8, 8)))
    a = problem.sample(0, [0])["coefficient"].requires_grad_()
    assert problem.solve({"coefficient": a}).solutions.requires_grad
    with torch.no_grad():
        assert not problem.solve({"coefficient": a}).solutions.requires_grad
