"""Darcy and Poisson on vertex grids: eigenfunctions of the grid, order, plain assembly, balance."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from manufactured import direct, flux_divergence
from vcycle.grid import Grid
from vcycle.problems import Darcy, Poisson

PI = math.pi
MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))


def vertices(*shape, **arguments):
    return Grid(shape, centring="vertex", **arguments)


def on_face(values, face):
    return values.select("xyz".index(face[0]), 0 if face.endswith("low") else -1)


def face_data(problem, points, exact, coefficient):
    fluxes = flux_divergence(exact, coefficient, points)[0]
    data = {}
    for axis, pair in enumerate(problem.boundary.kinds):
        for end, sign, kind in zip(("low", "high"), (-1, 1), pair, strict=True):
            face = f"{'xyz'[axis]}_{end}"
            if kind == "dirichlet":
                data[face] = on_face(exact(*points), face)
            elif kind == "neumann":
                data[face] = sign * on_face(fluxes[axis], face)
    return data


def control_volumes(grid):
    weights = [np.where(p | (np.minimum(i, i[::-1]) > 0), h, h / 2) for i, h, p in parts(grid)]
    return math.prod(np.meshgrid(*weights, indexing="ij"))


def parts(grid):
    return [(np.arange(n), h, p) for n, h, p in zip(grid.shape, grid.spacing, grid.periodic, strict=True)]


@pytest.mark.parametrize("family", [Darcy, Poisson])
def test_eigenfunctions_of_the_grid_are_solutions(family):
    grid = vertices(7, 6, 9, extent=(1.0, 1.5, 0.7))
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
    assert_close(direct(problem.systems(fields)), torch.from_numpy(u), rtol=1e-11)


def smooth(x, y):
    return 1.5 + 0.8 * torch.sin(2 * x + 1) * torch.cos(2 * PI * y)


def exact(x, y):
    return torch.exp(x) * torch.cos(2 * PI * y) + torch.sin(3 * x)


@pytest.mark.parametrize(
    ("boundary", "periodic"),
    [
        ("dirichlet", False),
        ("neumann", False),
        (MIXED, False),
        ((("neumann", "dirichlet"), "periodic"), (False, True)),
    ],
)
def test_darcy_has_its_declared_order(boundary, periodic):
    sizes, errors = (24, 32, 48, 64), []
    for n in sizes:
        grid = vertices(n + 1, n + 1, periodic=periodic)
        points = [torch.from_numpy(x) for x in grid.mesh()]
        values = face_data(Darcy(grid, boundary, source=0.0), points, exact, smooth)
        source = flux_divergence(exact, smooth, points)[1]
        problem = Darcy(grid, boundary, source=source, boundary_values=values)
        systems = problem.systems({"coefficient": smooth(*points)[None, None]})
        difference = direct(systems) - exact(*points)
        if systems.singular:
            difference = difference - difference.mean()
        errors.append(float(difference.square().mean().sqrt()))
    assert_order(errors, sizes, Darcy.order)


def test_poisson_in_three_dimensions_has_its_declared_order():
    def wave(x, y, z):
        return torch.exp(x) * torch.cos(2 * y + z) + z**3

    def one(x, y, z):
        return torch.ones_like(x)

    sizes, errors = (6, 8, 12, 16), []
    for n in sizes:
        problem = Poisson(vertices(n + 1, n + 1, n + 1), (("dirichlet", "neumann"), "neumann", "dirichlet"))
        points = [torch.from_numpy(x) for x in problem.grid.mesh()]
        values = face_data(problem, points, wave, one)
        fields = {info.name: values[info.face][None, None] for info in problem.input_fields[1:]}
        fields["source"] = flux_divergence(wave, one, points)[1][None, None]
        errors.append(float((direct(problem.systems(fields)) - wave(*points)).square().mean().sqrt()))
    assert_order(errors, sizes, Poisson.order)


@pytest.mark.parametrize(
    ("grid", "boundary"),
    [
        (vertices(7, extent=1.3), (("neumann", "dirichlet"),)),
        (vertices(5, 6, extent=(1.0, 0.7)), MIXED),
        (vertices(4, 5, periodic=(True, False)), ("periodic", ("dirichlet", "neumann"))),
        (vertices(4, 3, 4), ("dirichlet", "neumann", ("neumann", "dirichlet"))),
    ],
)
def test_systems_equal_an_assembly_by_plain_loops(grid, boundary):
    """The energy of edges, each with the cross-section of its half of the control volumes; known values moved over."""
    values = {"x_high" if grid.num_axes == 1 else "y_low": 0.7}
    problem = Darcy(grid, boundary, source=1.3, boundary_values=values)
    fields = problem.sample(0, [1])
    a, volumes = fields["coefficient"][0, 0].numpy(), control_volumes(grid)
    flat = {index: number for number, index in enumerate(np.ndindex(*grid.shape))}
    matrix, rhs, fixed, known = (
        np.zeros((a.size, a.size)),
        1.3 * volumes.ravel(),
        np.zeros(a.size, bool),
        np.zeros(a.size),
    )
    for index, row in flat.items():
        for axis, h in enumerate(grid.spacing):
            there = list(index)
            there[axis] += 1
            if grid.periodic[axis]:
                there[axis] %= grid.shape[axis]
            if tuple(there) in flat:
                column = flat[tuple(there)]
                inside = list(index)
                inside[axis] = 1  # where the volume is whole along the axis
                edge = 2 / (1 / a[index] + 1 / a[tuple(there)]) * volumes[tuple(inside)] / h**2
                matrix[[row, column], [row, column]] += edge
                matrix[[row, column], [column, row]] -= edge
            for end, place in (("low", 0), ("high", grid.shape[axis] - 1)):
                kind = problem.boundary.kinds[axis][end == "high"]
                if index[axis] == place and kind != "periodic":
                    value = values.get(f"{'xyz'[axis]}_{end}", 0.0)
                    if kind == "dirichlet":
                        fixed[row], known[row] = True, value or known[row]
                    else:
                        rhs[row] += value * volumes[index] / (h / 2)
    rhs = np.where(fixed, 0, rhs - matrix @ np.where(fixed, known, 0))
    free = np.ix_(~fixed, ~fixed)
    assembled, b = problem.systems(fields).to_csr(0)
    dense = assembled.toarray()
    assert_close(dense[free], matrix[free], rtol=1e-13)
    assert_close(b[~fixed], rhs[~fixed], rtol=1e-12)
    assert not dense[np.ix_(fixed, ~fixed)].any()
    assert not dense[np.ix_(~fixed, fixed)].any()
    assert np.diag(dense).min() > 0
    assert_close(np.linalg.solve(dense, b)[fixed], known[fixed], rtol=1e-13)


@pytest.mark.parametrize("periodic", [(False, False), (True, False), (True, True)])
def test_singular_samples_are_solvable(periodic):
    grid = vertices(8, 9, extent=(1.0, 2.0), periodic=periodic)
    problem = Poisson(grid, "neumann")
    systems = problem.systems(problem.sample(0, range(3)))
    assert systems.singular
    assert (systems.rhs.sum((1, 2)).abs() <= 1e-13 * systems.rhs.abs().sum((1, 2))).all()
    assert float(systems.removed_mean.abs().max()) < 1e-12
    u = torch.stack([direct(systems, i) for i in range(3)])
    assert (systems.relative_residuals(u) < 1e-11).all()
    fields = problem.sample(0, [0])
    fields["source"] = fields["source"] + 0.01
    assert_close(problem.systems(fields).removed_mean, torch.tensor([0.01]).double(), rtol=1e-7)


def test_solvers_and_residuals_work_on_vertices():
    problem = Darcy(vertices(17, 17), MIXED, boundary_values={"x_low": 0.5})
    fields = problem.sample(0, range(2))
    expected = torch.stack([direct(problem.systems(fields), i) for i in range(2)])
    assert_close(problem.solve(fields, method="direct").solutions, expected, rtol=1e-10)
    assert_close(problem.solve(fields, method="cg", rtol=1e-10).solutions, expected, rtol=1e-7)
    assert_close(problem.solve(fields, rtol=1e-10).raise_if_failed().solutions, expected, rtol=1e-7)
    assert problem.residual(fields, expected.unsqueeze(1)).norm() < 1e-11 * problem.systems(fields).rhs.norm()
    a = fields["coefficient"][:1, :, :4, :4].clone().requires_grad_()
    small = Darcy(vertices(4, 4), MIXED, boundary_values={"x_low": 0.5})
    u = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: small.residual({"coefficient": a}, u), (a,), atol=1e-7)


def test_symmetries_and_refinement():
    assert set(Darcy(vertices(9, 9)).symmetries) == {"flip_x", "flip_y", "transpose"}
    assert set(Darcy(vertices(9, 9), boundary_values={"x_low": 1.0}).symmetries) == {"flip_y"}
    problem = Darcy(vertices(9, 7), MIXED, boundary_values={"x_low": 1.0})
    fine = problem.on_grid(problem.grid.refined())
    assert fine.grid.shape == (17, 13)
    assert fine.config()["boundary_values"] == {"x_low": 1.0}
    given = Darcy(vertices(9, 7), source=np.ones((9, 7)))
    with pytest.raises(ValueError, match="`source` and `boundary_values` must be constants"):
        given.on_grid(given.grid.refined())
