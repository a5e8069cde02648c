"""The batched solver in PyTorch: the compiled solver's answers, for all systems side by side."""

from dataclasses import replace

import pytest
import torch

import vcycle as vc
from helpers import assert_close
from test_multigrid_solver import KINDS, dense_solutions, make_systems
from vcycle.solvers import batched, multigrid


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shape", [(16, 32), (12, 20), (8, 4, 8)], ids=str)
def test_agrees_with_the_compiled_solver(shape, kinds):
    systems = make_systems(shape, kinds, num=3)
    solves, compiled = batched.solve_all(systems, rtol=1e-8), multigrid.solve_all(systems, rtol=1e-8)
    assert (systems.relative_residuals(solves.solutions) <= 1e-8).all()
    assert_close(solves.solutions, compiled.solutions, rtol=1e-6)
    if multigrid.plain_fits(systems):
        assert (solves.iterations - compiled.iterations).abs().max() <= 1


def test_reaction_and_tight_tolerance():
    systems = make_systems((16, 16), "neumann", reaction=0.05)
    solves = batched.solve_all(systems, rtol=1e-12)
    assert (systems.relative_residuals(solves.solutions) <= 1e-12).all()
    assert_close(solves.solutions, dense_solutions(systems), rtol=1e-9)


def test_one_matrix_for_all():
    systems = make_systems((16, 16), num=3)
    shared = replace(systems, operator=systems.operator.select(slice(0, 1)))
    assert_close(batched.solve_all(shared, rtol=1e-11).solutions, dense_solutions(shared), rtol=1e-8)


def test_each_system_stops_on_its_own():
    """A zero, a system that is not definite, an easy and a hard one: none of them sees the others."""
    systems = make_systems((16, 16), num=4, contrast=1e3)
    faces = tuple(face.clone() for face in systems.operator.faces)
    for face in faces:
        face[1] *= -1
        face[2] = laplacian_like(face[2])
    rhs = systems.rhs.clone()
    rhs[0] = 0.0
    mixed = replace(systems, operator=replace(systems.operator, faces=faces), rhs=rhs)
    solves = batched.solve_all(mixed, rtol=1e-10)
    assert solves.iterations[0] == 0
    assert (solves.solutions[0] == 0).all()
    assert solves.solutions.isfinite().all()
    residuals = mixed.relative_residuals(solves.solutions)
    assert (residuals[[2, 3]] <= 1e-10).all()
    assert residuals[1] > 1e-3
    for index in (2, 3):
        alone = batched.solve_all(mixed.select([index]), rtol=1e-10)
        assert_close(solves.solutions[index], alone.solutions[0], rtol=1e-9)
        assert solves.iterations[index] == alone.iterations[0]
    assert solves.iterations[2] != solves.iterations[3]


def laplacian_like(face: torch.Tensor) -> torch.Tensor:
    """Faces of a constant coefficient, walls twice."""
    flat = torch.ones_like(face)
    axis = 0 if face.shape[0] > face.shape[1] else 1
    flat.select(axis, 0).mul_(2.0)
    flat.select(axis, -1).mul_(2.0)
    return flat


def test_stops_after_the_most_steps():
    systems = make_systems((16, 16))
    solves = batched.solve_all(systems, rtol=1e-10, max_steps=2)
    assert solves.iterations.tolist() == [2, 2]
    residuals = systems.relative_residuals(solves.solutions)
    assert (residuals > 1e-10).all()
    assert (residuals < 0.1).all()


def test_no_systems():
    solves = batched.solve_all(make_systems((8, 8)).select([]), rtol=1e-8)
    assert solves.solutions.shape == (0, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    systems = make_systems((32, 32), contrast=4.0, num=5)
    operator = systems.operator.with_parts(tuple(part.cuda() for part in systems.operator.parts))
    solves = batched.solve_all(replace(systems, operator=operator, rhs=systems.rhs.cuda()), rtol=1e-10)
    assert solves.solutions.is_cuda
    assert_close(solves.solutions.cpu(), dense_solutions(systems), rtol=1e-8)


def test_wrong_arguments():
    systems = make_systems((8, 8))
    with pytest.raises(ValueError, match="`rtol` must be positive"):
        batched.solve_all(systems, rtol=-1.0)
    with pytest.raises(ValueError, match="`systems` must be real, positive definite face fluxes"):
        batched.solve_all(replace(systems, positive_definite=False), rtol=1e-8)


@pytest.mark.parametrize("shape", [(31, 29), (33, 33)])
def test_grids_that_hardly_halve_end_in_a_sparse_level(shape):
    problem = vc.problems.Darcy(vc.Grid(shape))
    systems = problem.systems(problem.sample(0, range(2)))
    result = vc.solve_sequence(systems, method="batched").raise_if_failed()
    assert systems.relative_residuals(result.solutions).max() <= 1e-8
