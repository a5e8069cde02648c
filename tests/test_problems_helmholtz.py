"""Helmholtz: open boundaries against exact waves and plain assembly, media, samples that a grid does not resolve."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg as spla
import torch

from helpers import assert_close, assert_order
from manufactured import direct, plain_assembly
from vcycle.errors import SolveError
from vcycle.grid import Grid
from vcycle.problems import Helmholtz

PI = math.pi
OPEN = (("absorbing", "dirichlet"), ("neumann", "absorbing"))


@pytest.mark.parametrize(
    ("grid", "boundary"),
    [
        (Grid(9, 1.3), "absorbing"),
        (Grid((6, 5), (1.0, 0.7)), OPEN),
        (Grid((3, 4, 5), periodic=(False, True, False)), (("absorbing", "neumann"), "periodic", "absorbing")),
    ],
)
def test_absorbing_systems_equal_an_assembly_by_plain_loops(grid, boundary):
    problem = Helmholtz(grid, boundary, source="random")
    fields = problem.sample(1, [0])
    k = 7.75 / fields["wave_speed"][0, 0].numpy()
    ends = {f"{name}_{end}": (axis, i) for axis, name in enumerate("xyz") for end, i in (("low", 0), ("high", -1))}
    kinds = problem.boundary.kinds
    values = {f: 1j * k.take(i, a) for f, (a, i) in ends.items() if a < len(kinds) and kinds[a][i] == "absorbing"}
    matrix, rhs = plain_assembly(grid, kinds, np.ones(grid.shape), -(k**2), fields["source"][0, 0].numpy(), values)
    systems = problem.systems(fields)
    assembled, b = systems.to_csr(0)
    assert_close(assembled.toarray(), matrix, rtol=1e-13)
    assert_close(b, rhs, rtol=1e-13)
    assert np.abs(matrix.imag).max() > 0
    assert systems.symmetric
    assert not systems.positive_definite


def test_one_dimensional_waves_leave_the_box_with_declared_order():
    """With c = 1 the solution is the convolution of the source with ``i / (2 k) exp(i k |x|)``."""
    k, sizes, errors = 20.0, (128, 256, 512, 1024), []
    for n in sizes:
        problem = Helmholtz(Grid(n, 1.0), "absorbing", wave_number=k, source_width=0.1)
        s = (np.arange(8192) + 0.5) / 8192
        source = np.exp(-((s - 0.35) ** 2) / (2 * 0.1**2)) / math.sqrt(2 * PI * 0.1**2)
        x = problem.grid.coordinates()[0]
        exact = (np.exp(1j * k * np.abs(x[:, None] - s)) * source).mean(1) * 0.5j / k
        systems = problem.systems({"wave_speed": torch.ones(1, 1, n)})
        u = spla.spsolve(systems.to_csr(0)[0].tocsc(), systems.rhs[0].numpy())
        errors.append(float(np.sqrt(np.mean(np.abs(u - exact) ** 2))))
    assert_order(errors, sizes, Helmholtz.order)


def test_two_dimensional_absorbing_order_with_a_medium():
    """``exp(i k ((x - 1/2)^2 + (y - 1/2)^2))`` meets the condition on all four walls, on which c = 1."""
    k, sizes, errors = 6.0, (24, 32, 48, 64), []
    for n in sizes:
        problem = Helmholtz(Grid((n, n)), "absorbing", wave_number=k)
        x, y = problem.grid.mesh()
        speed = 1 + 0.2 * np.sin(PI * x) ** 2 * np.sin(PI * y) ** 2
        exact = np.exp(1j * k * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
        # of w = exp(i k (x - 1/2)^2): w'' = (2 i k - k^2 (2 x - 1)^2) w
        laplace = sum(2j * k - k**2 * (2 * t - 1) ** 2 for t in (x, y)) * exact
        source = -laplace - (k / speed) ** 2 * exact
        systems = problem.systems({"wave_speed": torch.from_numpy(speed)[None, None]})
        b = source * problem.grid.cell_volume
        u = spla.spsolve(systems.to_csr(0)[0].tocsc(), b.ravel(), permc_spec="MMD_AT_PLUS_A").reshape(b.shape)
        errors.append(float(np.sqrt(np.mean(np.abs(u - exact) ** 2))))
    assert_order(errors, sizes, Helmholtz.order)


def test_open_solutions_have_two_components_and_closed_ones_one():
    problem = Helmholtz(Grid((24, 20)), "absorbing")
    fields = problem.sample(0, range(2))
    made = problem.produce(fields, method="direct")
    u = made.outputs["solution"]
    assert problem.outputs[0].components == u.shape[1] == 2
    systems = problem.systems(fields)
    for i in range(2):
        matrix, b = systems.to_csr(i)
        assert_close(torch.complex(u[i, 0], u[i, 1]).flatten(), spla.spsolve(matrix.tocsc(), b), rtol=1e-10)
    assert problem.residual(fields, u).norm() < 1e-12 * systems.rhs.norm()
    assert problem.residual(fields, 1.01 * u).norm() > 0.009 * systems.rhs.norm()
    assert Helmholtz(Grid((8, 8))).outputs[0].components == 1


def test_absorbing_residual_gradient_by_finite_differences():
    problem = Helmholtz(Grid((3, 4)), OPEN)
    speed = problem.sample(0, [0])["wave_speed"].requires_grad_()
    u = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, u: problem.residual({"wave_speed": c}, u), (speed, u), atol=1e-6)


def test_faces_excite_a_wave_without_a_source():
    """1-D, c = 1: ``cos(k x) / (-k sin k)`` for unit flux at the high end and an insulated low end."""
    k, sizes, errors = 4.0, (64, 128, 256), []
    for n in sizes:
        problem = Helmholtz(Grid(n), "neumann", wave_number=k, source="none", boundary_values={"x_high": 1.0})
        u = direct(problem.systems({"wave_speed": torch.ones(1, 1, n)}))
        exact = np.cos(k * problem.grid.coordinates()[0]) / (-k * math.sin(k))
        errors.append(float((u - torch.from_numpy(exact)).square().mean().sqrt()))
    assert_order(errors, sizes, Helmholtz.order)
    assert not Helmholtz(Grid(8), source="none", boundary_values={"x_low": 1.0}).zero_on_walls
    assert Helmholtz(Grid(8), "neumann", source="none", boundary_values={"x_low": 1.0}).zero_on_walls


def test_tanh_media_have_the_variance_of_their_covariance():
    """The media of the MgNO paper, relative to 20: a has covariance (-Laplace + 9)^-2 without the constant mode."""
    problem = Helmholtz(
        Grid((16, 16)), "neumann", wave_number=50.0, speed="tanh", variation=0.05, resolution_tolerance=None
    )
    c = 20 * problem.sample(0, range(400))["wave_speed"]
    assert float((c - 20).abs().max()) < 1
    waves = (PI * np.arange(16)) ** 2
    variances = (np.add.outer(waves, waves) + 9.0) ** -2
    variances[0, 0] = 0
    assert_close(torch.atanh(c - 20).square().mean(), variances.sum(), rtol=0.1)


def change(problem, fields):
    """Return the relative change on a grid twice as fine, solved and averaged by loops of its own."""
    fine = Helmholtz(problem.grid.refined(), problem.boundary, resolution_tolerance=None)
    speed = fields["wave_speed"][0, 0].numpy()
    u = direct(problem.systems(fields)).numpy()
    v = direct(fine.systems({"wave_speed": torch.from_numpy(np.kron(speed, np.ones((2, 2))))[None, None]})).numpy()
    mean = (v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]) / 4
    return np.linalg.norm(u - mean) / np.linalg.norm(mean)


def test_samples_are_rejected_that_change_on_a_finer_grid():
    grid = Grid((32, 32))
    problem = Helmholtz(grid, resolution_tolerance=None)
    fields = problem.sample(0, range(3))
    outputs = problem.produce(fields, method="direct").outputs
    changes = [change(problem, {"wave_speed": fields["wave_speed"][i : i + 1]}) for i in range(3)]
    for tolerance in (*(1.01 * c for c in changes), *(0.99 * c for c in changes)):
        rejected = Helmholtz(grid, resolution_tolerance=tolerance).rejects(fields, outputs)
        assert rejected.tolist() == [c > tolerance for c in changes]


def test_a_resonance_of_the_grid_is_rejected():
    grid = Grid((40, 40))
    squares = [(2 * 40 * math.sin(m * PI / 80)) ** 2 for m in (1, 2)]
    resonance = math.sqrt(sum(squares))  # of the grid's Laplacian
    problem = Helmholtz(grid, wave_number=1.001 * resonance)
    fields = {"wave_speed": torch.ones(1, 1, 40, 40)}
    assert problem.rejects(fields, problem.produce(fields, method="direct").outputs).tolist() == [True]
    away = Helmholtz(grid, wave_number=1.1 * resonance)
    assert away.rejects(fields, away.produce(fields, method="direct").outputs).tolist() == [False]


def test_random_sources_and_open_boundaries_are_checked_too():
    problem = Helmholtz(Grid(100), "absorbing", source="random")
    fields = problem.sample(0, range(4))
    outputs = problem.produce(fields, method="direct").outputs
    assert problem.rejects(fields, outputs).tolist() == [False] * 4
    outputs["solution"][2, 1] *= 1.2  # the imaginary part counts
    assert problem.rejects(fields, outputs).tolist() == [False, False, True, False]


def test_a_grid_that_does_not_resolve_the_wave_says_so():
    problem = Helmholtz(Grid(16))
    fields = problem.sample(0, range(20))
    outputs = problem.produce(fields, method="direct").outputs
    with pytest.raises(SolveError, match=r"the grid does not resolve the wave: \d+ of 20 samples .* by more than 0.02"):
        problem.rejects(fields, outputs)


def test_tolerances_are_those_of_the_number_of_axes():
    assert Helmholtz(Grid((8, 8))).resolution_tolerance == 0.02
    assert Helmholtz(Grid(8)).can_reject
    box = Helmholtz(Grid((4, 4, 4)))
    assert box.resolution_tolerance is None
    assert not box.can_reject
    assert box.rejects(box.sample(0, [0]), {}) is None
    assert Helmholtz(Grid((4, 4, 4)), resolution_tolerance=0.1).can_reject


def test_open_symmetries_are_those_that_map_solutions_to_solutions():
    grid = Grid((12, 12))
    for problem, expected in {
        Helmholtz(grid, "absorbing", source=(0.5, 0.5)): {"flip_x", "flip_y", "transpose"},
        Helmholtz(grid, ("absorbing", "neumann"), source=(0.5, 0.5)): {"flip_x", "flip_y"},
        Helmholtz(grid, (("absorbing", "neumann"), "neumann"), source="random"): {"flip_y"},
        Helmholtz(grid, "neumann", source="none", boundary_values={"x_low": 1.0}): {"flip_y"},
    }.items():
        assert set(problem.symmetries) == expected
        fields = problem.sample(0, [0])
        u = problem.produce(fields, method="direct").outputs["solution"]
        for name, move in {
            "flip_x": lambda t: t.flip(2),
            "flip_y": lambda t: t.flip(3),
            "transpose": lambda t: t.mT,
        }.items():
            there = {key: move(values) for key, values in fields.items()}
            relative = problem.residual(there, move(u)).norm() / problem.systems(there).rhs.norm()
            assert (relative < 1e-10) == (name in expected), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"boundary": "robin"},
            "`boundary` must be one of 'dirichlet', 'neumann', 'absorbing', 'periodic'. Got 'robin'",
        ),
        ({"speed": "tangh"}, "`speed` must be one of 'gaussian', 'tanh'. Got 'tangh'. Did you mean 'tanh'"),
        ({"resolution_tolerance": 0.0}, "`resolution_tolerance` must be positive"),
        ({"resolution_tolerance": "no"}, "`resolution_tolerance` must be one of 'auto'"),
        ({"boundary": "absorbing", "boundary_values": {"x_low": 1.0}}, "must be on Dirichlet or Neumann faces"),
        ({"boundary_values": {"z_low": 1.0}}, "`boundary_values` must be one of 'x_low'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Helmholtz(Grid((8, 8)), **arguments)
