"""Darcy and Poisson in three dimensions: discrete eigenfunctions in closed form, order, coefficients, a series."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from manufactured import face_data, flux_divergence, l2_error
from vcycle.grid import Grid
from vcycle.problems import COEFFICIENTS, Darcy, Poisson

PI = math.pi
MIXED = (("dirichlet", "neumann"), "periodic", ("neumann", "dirichlet"))


def solved(systems):
    from vcycle.solvers import solve_sequence

    return solve_sequence(systems, rtol=1e-11).raise_if_failed().solutions


@pytest.mark.parametrize("family", [Darcy, Poisson])
def test_eigenfunctions_of_the_grid_are_solutions(family):
    """On cells with half-cell Dirichlet distances sines are discrete eigenfunctions, as cosines are with Neumann."""
    grid = Grid((8, 6, 10), (1.0, 1.5, 0.7))
    modes = zip(grid.mesh(), grid.extent, grid.spacing, (1, 2, 3), (np.sin, np.cos, np.sin), strict=True)
    u, eigenvalue = np.ones(grid.shape), 0.0
    for x, length, h, m, function in modes:
        u = u * function(m * PI * x / length)
        eigenvalue += (2 / h * math.sin(m * PI * h / (2 * length))) ** 2
    boundary = ("dirichlet", "neumann", "dirichlet")
    if family is Darcy:
        problem = Darcy(grid, boundary, source=2.5 * eigenvalue * u)
        fields = {"coefficient": torch.full((1, 1, *grid.shape), 2.5, dtype=torch.float64)}
    else:
        problem = Poisson(grid, boundary)
        fields = {i.name: torch.zeros(1, 1, *i.space_shape(grid)).double() for i in problem.input_fields}
        fields["source"] = torch.from_numpy(eigenvalue * u)[None, None]
    assert_close(solved(problem.systems(fields))[0], torch.from_numpy(u), rtol=1e-10)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", MIXED], ids=["dirichlet", "neumann", "mixed"])
def test_darcy_has_its_declared_order(boundary):
    def coefficient(x, y, z):
        return 1.5 + 0.8 * torch.sin(2 * x + z) * torch.cos(2 * PI * y)

    def exact(x, y, z):
        return torch.sin(2 * x + z) * (1.5 + torch.cos(2 * PI * y)) + z**2

    sizes, errors = (8, 12, 16, 24), []
    for n in sizes:
        grid = Grid((n, n, n), (1.0, 1.0, 1.3), periodic=(False, boundary is MIXED, False))
        points = [torch.from_numpy(x) for x in grid.mesh()]
        kinds = Darcy(grid, boundary, source=0.0).boundary.kinds
        values = face_data(grid, kinds, exact, coefficient)
        source = flux_divergence(exact, coefficient, points)[1]
        problem = Darcy(grid, boundary, source=source, boundary_values=values)
        systems = problem.systems({"coefficient": coefficient(*points)[None, None]})
        errors.append(l2_error(solved(systems)[0], exact(*points), singular=systems.singular))
    assert_order(errors, sizes, Darcy.order)


def test_poisson_with_dirichlet_values_has_its_declared_order():
    def exact(x, y, z):
        return torch.exp(x) * torch.cos(2 * y + z) + z**3

    def one(x, y, z):
        return torch.ones_like(x)

    sizes, errors = (8, 12, 16, 24), []
    for n in sizes:
        problem = Poisson(Grid((n, n, n), (1.0, 0.8, 1.3)))
        points = [torch.from_numpy(x) for x in problem.grid.mesh()]
        values = face_data(problem.grid, problem.boundary.kinds, exact, one)
        fields = {f"value_{face}": value[None, None] for face, value in values.items()}
        fields["source"] = flux_divergence(exact, one, points)[1][None, None]
        errors.append(l2_error(solved(problem.systems(fields))[0], exact(*points), singular=False))
    assert_order(errors, sizes, Poisson.order)


def test_the_largest_value_in_a_cube_is_that_of_the_series():
    """Unit source, zero walls: at the centre ``sum of +-64 / (pi^5 k m n (k^2 + m^2 + n^2))`` over odd numbers."""
    odd = np.arange(1, 120, 2)
    k, m, n = np.meshgrid(odd, odd, odd, indexing="ij")
    signs = (-1.0) ** ((k + m + n - 3) // 2)
    series = float((64 * signs / (PI**5 * k * m * n * (k**2 + m**2 + n**2))).sum())
    errors, sizes = [], (9, 15, 27)
    for size in sizes:  # odd, so that one cell has its centre there
        problem = Darcy(Grid((size,) * 3))
        u = solved(problem.systems({"coefficient": torch.ones(1, 1, size, size, size).double()}))[0]
        errors.append(abs(float(u[size // 2, size // 2, size // 2]) - series))
    assert_order(errors, sizes, 2, tolerance=0.25)


@pytest.mark.parametrize("name", [name for name in COEFFICIENTS if name != "trigonometric"])
def test_coefficient_families_exist_in_three_dimensions(name):
    grid = Grid((8, 8, 8), periodic=(False, True, False))
    problem = Darcy(grid, MIXED, coefficient=name)
    fields = problem.sample(0, range(2))
    a = fields["coefficient"]
    assert a.shape == (2, 1, 8, 8, 8)
    assert (a.amax((1, 2, 3, 4)) > 1.5 * a.amin((1, 2, 3, 4))).all()
    assert not torch.equal(a[0], a[1])
    u = problem.solve(fields).raise_if_failed().solutions
    by_lu = problem.solve(fields, method="direct").solutions
    assert_close(u, by_lu, rtol=1e-6)
    assert (u > 0).all()  # the maximum principle, for a positive source


def test_the_trigonometric_family_says_that_it_is_of_the_plane():
    with pytest.raises(ValueError, match="`grid` must have 2 axes for the trigonometric coefficient"):
        Darcy(Grid((8, 8, 8)), coefficient="trigonometric")
