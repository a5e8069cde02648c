"""Nearest-neighbour operators against dense matrices that loops over points assemble."""

import numpy as np
import pytest
import torch

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.multigrid.stencil import Stencil

GRIDS = {
    "1-D": Grid(7, 1.3),
    "1-D periodic": Grid(5, periodic=True),
    "1-D of two, periodic": Grid(2, periodic=True),
    "2-D": Grid((4, 5), (1.0, 0.7)),
    "2-D half periodic": Grid((4, 3), periodic=(False, True)),
    "2-D periodic": Grid((2, 4), periodic=True),
    "2-D vertices": Grid((4, 5), centring="vertex", periodic=(True, False)),
    "3-D mixed": Grid((3, 2, 4), periodic=(False, True, False)),
}
EVERY_GRID = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def stencil(grid, dtype, batch=3):
    """Return random entries, those beyond walls too: they are to be ignored."""
    parts = random(1 + 2 * grid.num_axes, batch, *grid.shape, dtype=dtype)
    axes = grid.num_axes
    return Stencil(grid, Boundary.on(grid, "dirichlet"), parts[0], tuple(parts[1 : 1 + axes]), tuple(parts[1 + axes :]))


def dense(operator, index):
    """Assemble by loops over points; entries of a pair that is met twice add up."""
    grid = operator.grid
    numbers = {point: number for number, point in enumerate(np.ndindex(*grid.shape))}
    matrix = np.zeros((len(numbers), len(numbers)), complex)
    for point, row in numbers.items():
        matrix[row, row] += operator.centre[index][point].item()
        for axis, size in enumerate(grid.shape):
            for step, side in ((-1, operator.lower), (1, operator.upper)):
                there = list(point)
                there[axis] += step
                if grid.periodic[axis]:
                    there[axis] %= size
                if tuple(there) in numbers:
                    matrix[row, numbers[tuple(there)]] += side[axis][index][point].item()
    return matrix


@EVERY_DTYPE
@EVERY_GRID
def test_matrices_and_products_are_those_of_the_loops(grid, dtype):
    operator = stencil(grid, dtype)
    u = random(3, *grid.shape, dtype=dtype, seed=1)
    product = operator.apply(u)
    for i in range(3):
        expected = dense(operator, i)
        assert operator.to_csr(i).dtype == operator.centre[i].numpy().dtype
        assert_close(operator.to_csr(i).toarray().astype(complex), expected, rtol=1e-15)
        assert_close(product[i].flatten().to(torch.complex128), expected @ u[i].flatten().numpy(), rtol=1e-14)
        assert_close(operator.diagonal()[i], operator.centre[i], rtol=1e-16)


@EVERY_DTYPE
@EVERY_GRID
def test_adjoints_are_conjugate_transposes(grid, dtype):
    operator = stencil(grid, dtype)
    for i in range(3):
        assert_close(operator.adjoint().to_csr(i).toarray(), operator.to_csr(i).toarray().conj().T, rtol=1e-15)
    twice = operator.adjoint().adjoint()
    assert_close(twice.to_csr(1).toarray(), operator.to_csr(1).toarray(), rtol=1e-15)


@EVERY_GRID
def test_selections_are_of_the_matrices(grid):
    operator = stencil(grid, torch.float64)
    for chosen, numbers in ((slice(1, 3), [1, 2]), ([2, 0], [2, 0]), (torch.tensor([1]), [1])):
        selected = operator.select(chosen)
        assert selected.batch == len(numbers)
        for place, number in enumerate(numbers):
            assert_close(selected.to_csr(place).toarray(), operator.to_csr(number).toarray(), rtol=1e-16)
    shared = stencil(grid, torch.float64, batch=1)
    assert shared.select([4]) is shared
    assert_close(shared.to_csr(4).toarray(), shared.to_csr(0).toarray(), rtol=1e-16)
    assert_close(shared.apply(random(2, *grid.shape))[1], shared.apply(random(2, *grid.shape)[1:])[0], rtol=1e-15)


def test_parts_build_the_operator_again():
    operator = stencil(GRIDS["3-D mixed"], torch.float64)
    assert len(operator.parts) == 7
    rebuilt = operator.with_parts(tuple(2 * part for part in operator.parts))
    assert_close(rebuilt.to_csr(2).toarray(), 2 * operator.to_csr(2).toarray(), rtol=1e-15)


@EVERY_DTYPE
def test_products_have_the_gradients_of_finite_differences(dtype):
    operator = stencil(GRIDS["2-D half periodic"], dtype, batch=2)
    parts = [part.clone().requires_grad_() for part in operator.parts]
    u = random(2, 4, 3, dtype=dtype, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, *parts: operator.with_parts(parts).apply(u), (u, *parts))


def test_fluxes_and_stencils_say_the_same_of_a_laplacian():
    grid = Grid((4, 5), periodic=(False, True))
    fluxes = laplacian(grid, Boundary.on(grid, ("dirichlet", "periodic")), coefficient=random(2, 4, 5).exp())
    fluxes = FaceFluxes(grid, fluxes.boundary, fluxes.faces, random(2, 4, 5, dtype=torch.complex128))
    matrices = [fluxes.to_csr(i).toarray() for i in range(2)]
    below = tuple(-face.narrow(axis + 1, 0, n) for axis, (face, n) in enumerate(zip(fluxes.faces, (4, 5), strict=True)))
    above = tuple(-face.narrow(axis + 1, 1, n) for axis, (face, n) in enumerate(zip(fluxes.faces, (4, 5), strict=True)))
    operator = Stencil(grid, fluxes.boundary, fluxes.diagonal(), below, above)
    for i, matrix in enumerate(matrices):
        assert_close(operator.to_csr(i).toarray(), matrix, rtol=1e-15)
        assert_close(matrix, matrix.T, rtol=1e-15)
        assert_close(fluxes.adjoint().to_csr(i).toarray(), matrix.conj().T, rtol=1e-15)
    u = random(2, 4, 5, dtype=torch.complex128, seed=1)
    assert_close(operator.apply(u), fluxes.apply(u), rtol=1e-14)


@pytest.mark.parametrize("name", list(GRIDS))
def test_the_symmetric_part_is_half_of_matrix_plus_transpose(name):
    operator = stencil(GRIDS[name], torch.float64)
    for index in range(operator.batch):
        matrix = operator.to_csr(index).toarray()
        assert_close(operator.symmetric_part().to_csr(index).toarray(), 0.5 * (matrix + matrix.T), rtol=1e-14)
