"""Convection and diffusion: layers and manufactured solutions, plain assembly, incompressible flows, maxima."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from manufactured import direct, face_data, flux_divergence, l2_error, plain_assembly
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems import ConvectionDiffusion, Darcy
from vcycle.problems.convection_diffusion import curl, face_fluxes, with_transport

PI = math.pi
MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))
VALUES = {"x_low": 0.4, "x_high": -0.7}


@pytest.mark.parametrize("flow", ["recirculating", "uniform"])
@pytest.mark.parametrize(
    ("grid", "boundary"),
    [
        (Grid(9, 1.3), (("dirichlet", "neumann"),)),
        (Grid((6, 7), (1.0, 0.7)), MIXED),
        (Grid((6, 5), periodic=(False, True)), (("neumann", "dirichlet"), "periodic")),
        (Grid((3, 4, 5), (1.0, 2.0, 0.5), periodic=(False, False, True)), ("dirichlet", "neumann", "periodic")),
    ],
)
def test_systems_equal_an_assembly_by_plain_loops(grid, boundary, flow):
    flow = "uniform" if grid.num_axes == 1 else flow
    problem = ConvectionDiffusion(
        grid, boundary, flow=flow, peclet=3.0, coefficient="two-phase", boundary_values=VALUES, source=1.3
    )
    fields = problem.sample(0, [1])
    rng = np.random.default_rng(0)
    for name in problem.input_names[:-1]:  # any velocity, so that no component is alike in two cells
        fields[name] += torch.from_numpy(rng.uniform(-2, 2, fields[name].shape))
    stored = [values[0, 0].numpy() for values in fields.values()]
    ones, zeros = np.ones(grid.shape), np.zeros(grid.shape)
    parts = (stored[-1], zeros, 1.3 * ones, VALUES, stored[:-1])
    matrix, rhs = plain_assembly(grid, problem.boundary.kinds, *parts, walls_closed=flow == "recirculating")
    systems = problem.systems(fields)
    assembled, b = systems.to_csr(0)
    assert_close(assembled.toarray(), matrix, rtol=1e-13)
    assert_close(b, rhs, rtol=1e-13)
    assert abs(matrix - matrix.T).max() > 0.001 * abs(matrix).max()
    assert not systems.symmetric


@pytest.mark.parametrize("sign", [1, -1])
def test_boundary_layers_have_the_declared_order(sign):
    """1-D, ``-u'' + Pe u' = 0`` between 0 and 1: ``(exp(Pe x) - 1) / (exp(Pe) - 1)``, or its mirror image."""
    peclet, sizes, errors = 40.0, (128, 256, 512, 1024), []
    for n in sizes:
        end = "x_high" if sign > 0 else "x_low"
        problem = ConvectionDiffusion(Grid(n), peclet=peclet, source=0.0, boundary_values={end: 1.0})
        u = direct(problem.systems({"velocity_x": torch.full((1, 1, n), sign * peclet).double()}))
        x = problem.grid.coordinates()[0]
        exact = np.expm1(peclet * (x if sign > 0 else 1 - x)) / math.expm1(peclet)
        errors.append(float((u - torch.from_numpy(exact)).square().mean().sqrt()))
    assert_order(errors, sizes, ConvectionDiffusion.order)


def coefficient(x, y):
    return 1.5 + 0.8 * torch.sin(2 * x + 1) * torch.cos(2 * PI * y)


def exact(x, y):
    return torch.exp(x) * torch.cos(2 * PI * y) + torch.sin(3 * x)


def velocity(x, y):
    """Return three times the curl of ``sin(2 x + 0.3) cos(2 pi y)``."""
    stream = torch.sin(2 * x + 0.3) * torch.cos(2 * PI * y)
    along_y = torch.autograd.grad(stream.sum(), y, create_graph=True)[0]
    along_x = torch.autograd.grad(stream.sum(), x, create_graph=True)[0]
    return [3 * along_y.detach(), -3 * along_x.detach()]


@pytest.mark.parametrize(
    ("boundary", "periodic"),
    [("dirichlet", False), (MIXED, False), ((("neumann", "dirichlet"), "periodic"), (False, True))],
)
def test_order_on_manufactured_solutions(boundary, periodic):
    sizes, errors = (24, 32, 48, 64), []
    for n in sizes:
        grid = Grid((n, n), periodic=periodic)
        points = [torch.from_numpy(x).requires_grad_() for x in grid.mesh()]
        b = velocity(*points)
        slopes = torch.autograd.grad(exact(*points).sum(), points)
        points = [p.detach() for p in points]
        source = flux_divergence(exact, coefficient, points)[1] + sum(v * s for v, s in zip(b, slopes, strict=True))
        kinds = Darcy(grid, boundary, source=0.0).boundary.kinds
        values = face_data(grid, kinds, exact, coefficient)
        problem = ConvectionDiffusion(
            grid, boundary, flow="uniform", coefficient="lognormal", source=source, boundary_values=values
        )
        fields = {"velocity_x": b[0], "velocity_y": b[1], "coefficient": coefficient(*points)}
        systems = problem.systems({name: values[None, None] for name, values in fields.items()})
        errors.append(l2_error(direct(systems), exact(*points), singular=False))
    assert_order(errors, sizes, ConvectionDiffusion.order)


def test_the_curl_has_order_two():
    sizes, errors = (16, 32, 64), []
    for n in sizes:
        grid = Grid((n, n + 2, n), (1.0, 1.5, 2.0), periodic=(False, False, True))
        x, y, z = grid.mesh()
        a, b, c = PI, PI / 1.5, PI
        potential = {
            0: np.sin(b * y) * np.cos(c * z) * (1 + x),
            2: np.sin(a * x) * np.sin(b * y) * (2 + np.sin(c * z)),
        }
        expected = [
            b * np.sin(a * x) * np.cos(b * y) * (2 + np.sin(c * z)),
            -c * np.sin(b * y) * np.sin(c * z) * (1 + x) - a * np.cos(a * x) * np.sin(b * y) * (2 + np.sin(c * z)),
            -b * np.cos(b * y) * np.cos(c * z) * (1 + x),
        ]
        flow = curl(grid, potential)
        errors.append(math.sqrt(sum(np.mean((v - w) ** 2) for v, w in zip(flow, expected, strict=True))))
    assert_order(errors, sizes, 2)


@pytest.mark.parametrize(
    "grid",
    [
        Grid((12, 14), (1.0, 1.5)),
        Grid((12, 14), periodic=(True, False)),
        Grid((8, 6, 7)),
        Grid((8, 6, 7), periodic=(False, True, False)),
    ],
)
def test_drawn_flows_are_free_of_divergence_in_the_discrete_sense(grid):
    problem = ConvectionDiffusion(grid, "dirichlet", peclet=8.0, tau=10.0)
    fields = problem.sample(3, [0])
    velocities = [fields[name].squeeze(1) for name in problem.input_names]
    insulated = Darcy(grid, "neumann", source=0.0).boundary
    through = face_fluxes(grid, insulated, velocities, walls_closed=True)
    matrix = with_transport(laplacian(grid, insulated), through).to_csr(0).toarray()
    scale = max(float(flux.abs().max()) for flux in through)
    assert abs(matrix.sum(1)).max() < 1e-12 * abs(matrix).max()  # constants are solutions
    assert abs(matrix.sum(0)).max() < 1e-12 * scale  # and nothing is lost: the flow has no sources
    assert scale > 0
    transport = matrix - laplacian(grid, insulated).to_csr(0).toarray()
    assert abs(transport + transport.T).max() < 1e-12 * abs(transport).max()  # so that energy is kept too


@pytest.mark.parametrize("flow", ["recirculating", "uniform"])
def test_solutions_keep_the_maximum_principle_up_to_the_largest_peclet_number(flow):
    grid, on_face = Grid((16, 16)), {"x_low": np.linspace(0.2, 1.0, 16), "y_high": 0.3}
    problem = ConvectionDiffusion(grid, MIXED, flow=flow, peclet=32.0, source=0.0, boundary_values=on_face)
    systems = problem.systems(problem.sample(0, range(4)))
    for i in range(4):
        matrix = systems.to_csr(i)[0].toarray()
        off_diagonal = matrix - np.diag(np.diag(matrix))
        assert off_diagonal.max() <= 1e-13
        assert matrix.sum(1).min() >= -1e-12 * abs(matrix).max()
        u = direct(systems, i)
        assert u.min() >= 0.2 - 1e-12
        assert u.max() <= 1.0 + 1e-12


def test_speeds_are_those_of_the_peclet_number():
    grid = Grid((24, 20), (2.0, 1.0))
    drawn = ConvectionDiffusion(grid, peclet=15.0).sample(0, range(3))
    speed = (drawn["velocity_x"] ** 2 + drawn["velocity_y"] ** 2).sqrt()
    assert_close(speed.amax((1, 2, 3)), torch.full((3,), 15.0 / 2).double())
    drawn = ConvectionDiffusion(grid, flow="uniform", peclet=15.0).sample(0, range(400))
    vectors = torch.stack([drawn["velocity_x"], drawn["velocity_y"]])[..., 0, 0, 0]
    assert torch.equal(drawn["velocity_x"], drawn["velocity_x"][..., :1, :1].expand(400, 1, 24, 20))
    lengths = vectors.norm(dim=0)
    assert 0.97 * 7.5 < float(lengths.max()) <= 7.5
    assert_close((lengths**2).mean(), 7.5**2 / 2, rtol=0.1)  # uniform in the disc
    assert float(vectors.mean(1).norm()) < 0.1 * 7.5


def test_iterative_solvers_agree_with_sparse_lu():
    problem = ConvectionDiffusion(Grid((16, 16)), coefficient="lognormal")
    fields = problem.sample(0, range(2))
    expected = problem.solve(fields, method="direct", rtol=1e-12).solutions
    assert_close(problem.solve(fields, method="gmres", rtol=1e-10).raise_if_failed().solutions, expected, rtol=1e-7)
    assert_close(problem.solve(fields).raise_if_failed().solutions, expected, rtol=1e-6)
    assert problem.residual(fields, expected.unsqueeze(1)).norm() < 1e-11 * problem.systems(fields).rhs.norm()


def test_a_coefficient_that_the_grid_does_not_resolve_is_refused():
    problem = ConvectionDiffusion(Grid((16, 16)), peclet=32.0, coefficient="lognormal")
    fields = problem.sample(0, [0])
    fields["coefficient"] = torch.ones_like(fields["coefficient"])
    problem.systems(fields)
    fields["coefficient"][..., 4:8, 4:8] = 0.1
    with pytest.raises(ValueError, match=r"`grid` must have cells with \|b\| h / a at most 2 for central differences"):
        problem.systems(fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: ConvectionDiffusion(g, peclet=20.0), r"take 1.25 times as many per axis, or .* Got 2.5"),
        (lambda g: ConvectionDiffusion(g, "neumann"), "`boundary` must have a Dirichlet face. Got neumann"),
        (lambda g: ConvectionDiffusion(g, flow="curly"), "`flow` must be one of 'recirculating', 'uniform'"),
        (lambda g: ConvectionDiffusion(Grid(40), flow="recirculating"), "`flow` must be 'uniform' on one axis"),
        (lambda g: ConvectionDiffusion(g, peclet=0.0), "`peclet` must be positive"),
        (lambda g: ConvectionDiffusion(g, peclet=1.0, alpha=1.0), "`alpha` must be more than 1.0"),
        (lambda g: ConvectionDiffusion(g, peclet=1.0, source=np.ones(3)), r"`source` must have shape \(8, 8\)"),
        (lambda g: ConvectionDiffusion(Grid((8, 8), centring="vertex")), "`grid` must have cell centring"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(Grid((8, 8)))
