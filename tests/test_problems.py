"""Problems against manufactured solutions, an assembly by plain loops, and known bounds."""

import json
import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from manufactured import direct, face_data, flux_divergence, l2_error, plain_assembly
from vcycle.fields import GaussianField
from vcycle.grid import Grid
from vcycle.problems import (
    PROBLEMS,
    ConvectionDiffusion,
    Darcy,
    FieldInfo,
    Helmholtz,
    Inclusions,
    Lognormal,
    Poisson,
    ReactionDiffusion,
    Thermal,
    Trigonometric,
    TwoPhase,
    from_config,
)
from vcycle.problems.coefficients import read_coefficient
from vcycle.problems.finite_volumes import load

PI = math.pi
MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))


def smooth_coefficient(x, y):
    return 1.5 + 0.8 * torch.sin(2 * x + 1) * torch.cos(3 * y) + 0.3 * x


def periodic_coefficient(x, y):
    return 1.5 + 0.5 * torch.sin(2 * PI * x) * torch.cos(2 * PI * y) + 0.4 * torch.cos(2 * PI * (x + y))


CASES = {
    "dirichlet zero": (
        "dirichlet",
        False,
        smooth_coefficient,
        lambda x, y: torch.sin(PI * x) * torch.sin(2 * PI * y) * torch.exp(x),
    ),
    "dirichlet": ("dirichlet", False, smooth_coefficient, lambda x, y: torch.exp(x) * torch.cos(2 * y) + x * y),
    "neumann": (
        "neumann",
        False,
        smooth_coefficient,
        lambda x, y: torch.cos(PI * x) * torch.cos(2 * PI * y) + x**2 + torch.sin(y),
    ),
    "periodic": (
        "periodic",
        True,
        periodic_coefficient,
        lambda x, y: torch.sin(2 * PI * x) + torch.cos(2 * PI * (x + y)) * torch.sin(2 * PI * y),
    ),
    "mixed": (MIXED, False, smooth_coefficient, lambda x, y: torch.sin(2 * x + 0.3) * torch.exp(-y) + torch.cos(4 * y)),
    "mixed periodic": (
        ("periodic", ("neumann", "dirichlet")),
        (True, False),
        lambda x, y: 1.2 + 0.5 * torch.sin(2 * PI * x) * torch.cos(y),
        lambda x, y: torch.cos(2 * PI * x) * torch.exp(y) + y**2,
    ),
}


def darcy_error(case, n):
    boundary, periodic, coefficient, exact = CASES[case]
    grid = Grid((n, n), periodic=periodic)
    points = [torch.from_numpy(x) for x in grid.mesh()]
    kinds = Darcy(grid, boundary, source=0.0).boundary
    _, source = flux_divergence(exact, coefficient, points)
    values = face_data(grid, kinds.kinds, exact, coefficient) if case != "dirichlet zero" else None
    problem = Darcy(grid, boundary, source=source, boundary_values=values)
    systems = problem.systems({"coefficient": coefficient(*points)[None, None]})
    return l2_error(direct(systems), exact(*points), singular=systems.singular)


@pytest.mark.parametrize("case", CASES)
def test_darcy_has_its_declared_order(case):
    sizes = (32, 64, 128, 256)
    assert_order([darcy_error(case, n) for n in sizes], sizes, Darcy.order)


def test_darcy_in_one_dimension_has_its_declared_order():
    def coefficient(x):
        return 1 + 0.6 * torch.sin(3 * x)

    def exact(x):
        return torch.exp(x) * torch.cos(3 * x)

    sizes, errors = (32, 64, 128, 256), []
    for n in sizes:
        grid = Grid(n, 1.5)
        points = [torch.from_numpy(x) for x in grid.mesh()]
        boundary = (("dirichlet", "neumann"),)
        values = face_data(grid, boundary, exact, coefficient)
        problem = Darcy(grid, boundary, source=flux_divergence(exact, coefficient, points)[1], boundary_values=values)
        errors.append(
            l2_error(
                direct(problem.systems({"coefficient": coefficient(*points)[None, None]})),
                exact(*points),
                singular=False,
            )
        )
    assert_order(errors, sizes, Darcy.order)


@pytest.mark.parametrize("boundary", ["neumann", (("dirichlet", "neumann"), "periodic", ("neumann", "dirichlet"))])
def test_poisson_in_three_dimensions_has_its_declared_order(boundary):
    def exact(x, y, z):
        return torch.sin(2 * x + z) * (1.5 + torch.cos(2 * PI * y)) + z**2

    sizes, errors = (8, 12, 16, 20), []
    for n in sizes:
        grid = Grid((n, n, n + 2), (1.0, 1.0, 1.3), periodic=(False, boundary != "neumann", False))
        problem = Poisson(grid, boundary)
        points = [torch.from_numpy(x) for x in grid.mesh()]
        data = face_data(grid, problem.boundary.kinds, exact, lambda x, y, z: torch.ones_like(x))
        inputs = {"source": flux_divergence(exact, lambda x, y, z: torch.ones_like(x), points)[1][None, None]}
        for info in problem.input_fields[1:]:
            inputs[info.name] = data[info.face][None, None]
        systems = problem.systems(inputs)
        errors.append(l2_error(direct(systems), exact(*points), singular=systems.singular))
    assert_order(errors, sizes, Poisson.order)


@pytest.mark.parametrize(("boundary", "wave_number"), [("dirichlet", 7.75), ("neumann", 7.75), ("dirichlet", 11.0)])
def test_helmholtz_has_its_declared_order(boundary, wave_number):
    if boundary == "dirichlet":

        def exact(x, y):
            return torch.sin(PI * x) * torch.sin(2 * PI * y) * torch.exp(x)
    else:

        def exact(x, y):
            return torch.cos(PI * x) * torch.cos(2 * PI * y) + torch.cos(3 * PI * x)

    sizes, errors = [n for n in (32, 64, 96, 128, 192, 256) if wave_number**2 / n <= 2], []
    for n in sizes:
        problem = Helmholtz(Grid((n, n)), boundary, wave_number=wave_number, source="random")
        points = [torch.from_numpy(x) for x in problem.grid.mesh()]
        speed = 1 + 0.15 * torch.sin(3 * points[0]) * torch.cos(2 * points[1])
        laplace = flux_divergence(exact, lambda x, y: torch.ones_like(x), points)[1]
        source = laplace - (wave_number / speed) ** 2 * exact(*points)
        systems = problem.systems({"wave_speed": speed[None, None], "source": source[None, None]})
        errors.append(l2_error(direct(systems), exact(*points), singular=False))
    assert len(sizes) >= 4
    assert_order(errors, sizes, Helmholtz.order)


GRIDS = {
    "1-D mixed": (Grid(9, 1.3), (("neumann", "dirichlet"),)),
    "2-D dirichlet": (Grid((5, 7), (1.0, 0.7)), "dirichlet"),
    "2-D mixed": (Grid((6, 4)), MIXED),
    "2-D half periodic": (Grid((6, 5), periodic=(False, True)), (("dirichlet", "neumann"), "periodic")),
    "2-D neumann": (Grid((6, 5)), "neumann"),
    "3-D mixed": (
        Grid((3, 4, 5), (1.0, 2.0, 0.5), periodic=(False, False, True)),
        ("dirichlet", "neumann", "periodic"),
    ),
}


SYMMETRIC = ("darcy", "poisson", "helmholtz", "reaction-diffusion")


def build(name, grid, boundary):
    if name == "convection-diffusion":
        return ConvectionDiffusion(grid, boundary, peclet=2.0, boundary_values={"x_high": 0.7})
    if name == "reaction-diffusion":
        return ReactionDiffusion(grid, boundary, coefficient="two-phase", boundary_values={"x_low": 0.4})
    if name != "darcy":
        return PROBLEMS[name](grid, boundary)
    singular = boundary == "neumann"
    return Darcy(grid, boundary, source=0.0 if singular else 1.3)


def parts_of(problem, fields):
    """Return a, the zero-order term, f and the values on faces, from the stored inputs of the first sample."""
    stored = {name: values[0, 0].numpy() for name, values in fields.items()}
    ones, zeros = np.ones(problem.grid.shape), np.zeros(problem.grid.shape)
    if problem.name == "darcy":
        return stored["coefficient"], zeros, ones * problem.config()["source"], {}
    if problem.name == "poisson":
        values = {name.split("_", 1)[1]: data for name, data in stored.items() if name != "source"}
        return ones, zeros, stored["source"], values
    if problem.name == "reaction-diffusion":
        return stored["coefficient"], stored["reaction"], ones, {"x_low": 0.4}
    position = problem.config()["source"]
    parts = zip(problem.grid.mesh(), position, problem.grid.extent, problem.grid.periodic, strict=True)
    offsets = [(abs(x - c * s), s, p) for x, c, s, p in parts]
    squares = sum(np.where(p & (d > s / 2), s - d, d) ** 2 for d, s, p in offsets)
    blob = np.exp(-squares / (2 * 0.05**2)) / (2 * PI * 0.05**2) ** (problem.grid.num_axes / 2)
    return ones, -((7.75 / stored["wave_speed"]) ** 2), blob, {}


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_systems_equal_an_assembly_by_plain_loops(name, case):
    grid, boundary = GRIDS[case]
    problem = build(name, grid, boundary)
    fields = problem.sample(3, [2])
    matrix, rhs = plain_assembly(grid, problem.boundary.kinds, *parts_of(problem, fields))
    systems = problem.systems(fields)
    assembled, b = systems.to_csr(0)
    assert_close(assembled.toarray(), matrix, rtol=1e-13)
    scale = max(np.abs(rhs).max(), np.abs(parts_of(problem, fields)[2]).max() * grid.cell_volume, 1e-300)
    assert np.abs(b - rhs).max() <= 1e-13 * scale
    from_stacked = problem.systems(problem.stacked(fields))
    assert_close(from_stacked.rhs, systems.rhs, rtol=1e-15)


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_operators_are_symmetric_and_definite_as_declared(name, case):
    problem = build(name, *GRIDS[case])
    systems = problem.systems(problem.sample(1, [0]))
    x, y = torch.randn(2, 1, *problem.grid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, right = (systems.operator.apply(x) * y).sum(), (x * systems.operator.apply(y)).sum()
    scale = systems.operator.apply(x).norm() * y.norm()
    assert abs(left - right) <= 1e-13 * scale
    eigenvalues = np.linalg.eigvalsh(systems.to_csr(0)[0].toarray())
    if systems.positive_definite:
        assert eigenvalues[1 if systems.singular else 0] > 1e-6 * eigenvalues[-1]
        assert (abs(eigenvalues[0]) < 1e-12 * eigenvalues[-1]) == systems.singular


def test_helmholtz_default_is_indefinite_and_rarely_resonant():
    problem = Helmholtz(Grid((20, 20)))
    systems = problem.systems(problem.sample(0, range(30)))
    eigenvalues = np.stack([np.linalg.eigvalsh(systems.to_csr(i)[0].toarray())[:6] * 20**2 for i in range(30)])
    assert ((eigenvalues < 0).sum(1) == 3).all()
    assert np.abs(eigenvalues).min() > 1.0  # the smallest eigenvalue of -Laplace is 19.7


def test_darcy_keeps_the_maximum_principle():
    problem = Darcy(Grid((32, 32)))
    systems = problem.systems(problem.sample(0, range(5)))
    for i in range(5):
        u = direct(systems, i)
        assert u.min() > 0
        assert u.max() <= 1 / (4 * PI * 3.0)  # Talenti: at most the disc of equal area filled with the smaller value
        assert u.max() >= 0.0736 / 12.0 * 0.99  # and at least the square filled with the larger one


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
def test_no_solution_is_refused_where_nothing_fixes_the_constant(boundary):
    grid = Grid((16, 16), periodic=boundary == "periodic")
    with pytest.raises(ValueError, match=r"zero sum where no face fixes the solution.*Got a sum of 1 of the magnitude"):
        Darcy(grid, boundary)
    x = grid.mesh()[0]
    with pytest.raises(ValueError, match="zero sum"):
        Darcy(grid, boundary, source=np.sin(2 * PI * x) + 0.01)
    problem = Darcy(grid, boundary, source=np.sin(2 * PI * x) + 0.002)
    systems = problem.systems(problem.sample(0, [0, 1]))
    assert systems.singular
    assert_close(systems.rhs[1] * 256, torch.from_numpy(np.sin(2 * PI * x)))  # the mean is gone, nothing else
    assert_close(systems.removed_mean, torch.full((2,), 0.002, dtype=torch.float64))
    assert_close(systems.select([1]).removed_mean, systems.removed_mean[1:])
    u = direct(systems, 1)
    residual = systems.relative_residuals(torch.stack([torch.zeros_like(u), u]))[1]
    assert residual < 1e-12


def test_neumann_fluxes_and_source_must_balance():
    grid = Grid((8, 8))
    Darcy(grid, "neumann", source=1.0, boundary_values={"x_low": -0.25, "x_high": -0.75})
    with pytest.raises(ValueError, match="zero sum"):
        Darcy(grid, "neumann", source=1.0, boundary_values={"x_low": 0.25, "x_high": 0.75})


@pytest.mark.parametrize("periodic", [(False, False), (True, False), (True, True)])
def test_singular_poisson_samples_are_solvable(periodic):
    problem = Poisson(Grid((12, 10), (1.0, 2.0), periodic=periodic), "neumann")
    systems = problem.systems(problem.sample(4, range(3)))
    assert systems.singular
    assert (systems.rhs.sum((1, 2)).abs() <= 1e-13 * systems.rhs.abs().sum((1, 2))).all()
    u = torch.stack([direct(systems, i) for i in range(3)])
    assert (systems.relative_residuals(u) < 1e-12).all()


def test_removed_mean_is_of_source_and_fluxes_per_sample_and_volume():
    problem = Poisson(Grid((12, 10), (1.0, 2.0)), "neumann")
    fields = problem.sample(4, range(3))
    shifts = torch.tensor([0.0, 0.02, -0.03], dtype=torch.float64)
    fields["source"] = fields["source"] + shifts.reshape(3, 1, 1, 1)
    fields["flux_x_high"] = fields["flux_x_high"] + 0.01  # over a box that is 1 long: as much as 0.01 in the source
    assert_close(problem.systems(fields).removed_mean, shifts + 0.01, rtol=1e-10)
    assert Poisson(Grid((12, 10))).systems(Poisson(Grid((12, 10))).sample(0, [0])).removed_mean is None


def test_poisson_boundary_values_agree_at_corners():
    fields = Poisson(Grid((64, 64))).sample(0, [0])
    near_corner = [fields["value_x_low"][0, 0, 0], fields["value_y_low"][0, 0, 0]]
    spread = fields["value_x_low"].std()
    assert abs(near_corner[0] - near_corner[1]) < 0.1 * spread
    assert abs(fields["value_x_low"][0, 0, 0] - fields["value_x_low"][0, 0, -1]) > 0.1 * spread


@pytest.mark.parametrize(
    "problem",
    [
        Darcy(Grid((32, 32))),
        Darcy(Grid((24, 32)), MIXED, values=(10.0, 1.0)),
        Darcy(Grid((32, 32)), coefficient=TwoPhase(high=1e4, low=1.0)),
        Darcy(Grid((32, 32)), coefficient=Lognormal(sigma=12.0)),
        Poisson(Grid((32, 32))),
        Helmholtz(Grid((32, 32))),
    ],
    ids=["contrast 4", "contrast 10", "contrast 1e4", "lognormal", "poisson", "helmholtz"],
)
def test_residual_of_a_direct_solution(problem):
    fields = problem.sample(0, range(3))
    systems = problem.systems(fields)
    u = torch.stack([direct(systems, i) for i in range(3)])
    residual = problem.residual(fields, u.unsqueeze(1))
    assert residual.shape == (3, 1, *problem.grid.shape)
    relative = residual.flatten(1).norm(dim=1) / systems.rhs.flatten(1).norm(dim=1)
    coefficient = fields.get("coefficient", torch.ones(1))
    for i in range(3):
        magnitude = abs(systems.to_csr(i)[0]) @ np.abs(u[i].numpy().ravel())
        floor = 100 * np.finfo(float).eps * np.linalg.norm(magnitude) / float(systems.rhs[i].norm())
        assert relative[i] <= (1e-10 if coefficient.max() <= 10 * coefficient.min() else floor)
    assert (
        problem.residual(fields, 1.01 * u.unsqueeze(1)).flatten(1).norm(dim=1)
        > 0.009 * systems.rhs.flatten(1).norm(dim=1)
    ).all()


@pytest.mark.parametrize("name", [*SYMMETRIC, "convection-diffusion"])
def test_residual_gradient_by_finite_differences(name):
    problem = build(name, Grid((4, 5)), MIXED)
    fields = {key: values.clone().requires_grad_() for key, values in problem.sample(0, range(2)).items()}
    u = torch.randn(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def residual(outputs, *values):
        return problem.residual(dict(zip(fields, values, strict=True)), outputs)

    assert torch.autograd.gradcheck(residual, (u, *fields.values()), atol=1e-7, rtol=1e-5)


PROBLEM_CASES = [
    Darcy(Grid((8, 6)), MIXED, coefficient=TwoPhase(tau=2.0), values=(10.0, 1.0)),
    Darcy(
        Grid((8, 6)), coefficient="lognormal", boundary_values={"y_low": 2.0, "x_high": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    ),
    Darcy(Grid((50, 30)), coefficient=Trigonometric(levels=3)),
    Darcy(Grid((8, 6), periodic=(True, False)), coefficient=Inclusions(num=3), source=np.arange(48.0).reshape(8, 6)),
    Poisson(Grid((8, 6)), MIXED, alpha=3.0, tau=2.0, source_scale=4.0),
    Poisson(Grid(12), "neumann"),
    Helmholtz(Grid((8, 6)), "neumann", wave_number=3.0, variation=0.1, source_width=0.2),
    Helmholtz(Grid((4, 6, 5)), source="random"),
    Helmholtz(Grid((8, 6)), ("absorbing", "neumann"), speed="tanh", source="none", boundary_values={"y_low": range(8)}),
    ReactionDiffusion(Grid((8, 6)), MIXED, reaction="inclusions", coefficient="lognormal", source=np.ones((8, 6))),
    ReactionDiffusion(Grid((4, 6, 5)), "neumann"),
    ConvectionDiffusion(Grid((12, 10)), MIXED, boundary_values={"x_low": range(10)}),
    ConvectionDiffusion(Grid((6, 4, 5)), flow="uniform", peclet=1.0, coefficient="two-phase"),
    Thermal(Grid((20, 4), (1.0, 1.6)), variation=0.5),
    Thermal(Grid((4, 4, 6)), heated="y_high", cooled="x_low", slot=((0.25, 0.5), (0.5, 0.75), (0.5, 1 - 1 / 3))),
]


@pytest.mark.parametrize("problem", PROBLEM_CASES, ids=lambda p: p.name)
def test_config_survives_json_and_builds_the_same_problem(problem):
    rebuilt = from_config(json.loads(json.dumps(problem.config())))
    assert type(rebuilt) is type(problem)
    assert rebuilt.config() == problem.config()
    assert rebuilt.symmetries == problem.symmetries
    fields, again = problem.sample(2, [1, 4]), rebuilt.sample(2, [1, 4])
    assert all(torch.equal(fields[name], again[name]) for name in problem.input_names)
    assert torch.equal(problem.systems(fields).rhs, rebuilt.systems(again).rhs)


@pytest.mark.parametrize("problem", PROBLEM_CASES, ids=lambda p: p.name)
def test_a_sample_depends_on_seed_and_index_only(problem):
    ten, one = problem.sample(11, range(10)), problem.sample(11, [5])
    other = problem.sample(12, [5])
    for info in problem.input_fields:
        assert one[info.name].shape == (1, 1, *info.space_shape(problem.grid))
        assert one[info.name].dtype == torch.float64
        assert torch.equal(one[info.name][0], ten[info.name][5])
        assert not torch.equal(one[info.name], other[info.name])


def pooled(values, shape):
    for axis, size in enumerate(shape, start=1):
        values = values.unflatten(axis, (size, values.shape[axis] // size)).sum(axis + 1)
    return values


@pytest.mark.parametrize("problem", PROBLEM_CASES, ids=lambda p: p.name)
def test_a_problem_on_a_finer_grid_is_the_same_problem(problem):
    fine = problem.on_grid(problem.grid.refined(3))
    assert type(fine) is type(problem)
    assert fine.grid == problem.grid.refined(3)
    assert {**fine.config(), **constants(problem)} == {**problem.config(), "grid": fine.config()["grid"]}
    back = fine.on_grid(problem.grid)
    assert back.config() == problem.config()


def constants(problem):
    return {key: problem.config()[key] for key in ("source", "boundary_values") if key in problem.config()}


def test_constant_arrays_keep_their_integrals_on_other_grids():
    rng = np.random.default_rng(0)
    source, flux = rng.normal(size=(6, 4)), rng.normal(size=4)
    given = {"source": source, "boundary_values": {"x_high": flux, "y_low": 2.0}}
    problem = Darcy(Grid((6, 4), (1.0, 3.0)), ("neumann", ("neumann", "dirichlet")), **given)
    for shape in ((12, 12), (6, 8), (3, 2), (12, 2)):
        other = problem.on_grid(Grid(shape, (1.0, 3.0)))
        here, there = (p.systems(torch.ones(1, 1, *p.grid.shape)).rhs for p in (problem, other))
        common = tuple(np.minimum(shape, (6, 4)))
        assert_close(pooled(there, common), pooled(here, common))


def test_a_mean_that_was_subtracted_stays_subtracted_on_a_finer_grid():
    grid = Grid((16, 16), periodic=True)
    source = np.sin(2 * PI * grid.mesh()[0])
    fine = Darcy(grid, "periodic", source=source + 0.004).on_grid(grid.refined())  # 0.004 is too much for 32 cells
    systems = fine.systems(fine.sample(0, [0]))
    assert_close(systems.rhs[0] * 1024, source.repeat(2, 0).repeat(2, 1))


def test_grids_of_another_box_are_refused():
    problem = Darcy(Grid((8, 6)), source=np.ones((8, 6)))
    for grid, message in {
        Grid((8, 6), (1.0, 2.0)): r"`grid` must be of the same box, with extent \(1.0, 1.0\). Got \(1.0, 2.0\)",
        Grid((8, 6), periodic=True): "with periodic",
        Grid((8, 6, 2)): "with extent",
        Grid((12, 6)): "`source` is given on 8 cells, so the grid must have a multiple of that. Got 12",
    }.items():
        with pytest.raises(ValueError, match=message):
            problem.on_grid(grid)


def test_drawn_coefficients_are_those_of_their_family():
    grid = Grid((24, 20))
    generator = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(3,)))
    field = GaussianField(grid, alpha=2.0, tau=3.0).sample(generator)
    for family, expected in {
        TwoPhase(high=7.0, low=2.0): np.where(field >= 0, 7.0, 2.0),
        Lognormal(median=2.0, sigma=1.5): 2.0 * np.exp(1.5 * field),
    }.items():
        assert_close(Darcy(grid, coefficient=family).sample(5, [3])["coefficient"][0, 0], expected)
    discs = Darcy(grid, coefficient="inclusions", values=(8.0, 2.0)).sample(5, [3])["coefficient"]
    assert discs.unique().tolist() == [2.0, 8.0]


def test_wave_speeds_vary_as_asked_and_stay_positive():
    speeds = Helmholtz(Grid((32, 32)), variation=0.1).sample(0, range(10))["wave_speed"]
    assert_close(speeds.mean((1, 2, 3)), torch.ones(10, dtype=torch.float64))
    assert_close(speeds.std((1, 2, 3), correction=0), torch.full((10,), 0.1, dtype=torch.float64))
    assert float(Helmholtz(Grid((32, 32)), variation=2.0).sample(0, [0])["wave_speed"].min()) == 0.25


def test_coarse_samples_truncate_fine_ones():
    """The mean over all cells of a smooth field hardly changes with the grid; an unrelated draw would."""
    for family, name in ((Poisson, "source"), (Poisson, "value_y_high"), (Helmholtz, "wave_speed")):
        coarse, fine = (family(Grid((n, n)), alpha=4.0).sample(0, [3])[name] for n in (16, 32))
        means = fine.unflatten(2, (16, 2)).mean(3)
        means = means.unflatten(-1, (16, 2)).mean(-1) if name != "value_y_high" else means
        assert_close(coarse, means, rtol=0.02)
    blobs = [Helmholtz(Grid((n, n)), source="random", source_width=0.2).sample(0, [3])["source"] for n in (16, 32)]
    assert_close(blobs[0], blobs[1].unflatten(2, (16, 2)).mean(3).unflatten(-1, (16, 2)).mean(-1), rtol=0.02)


def moved(symmetry, values):
    return values.transpose(2, 3) if symmetry == "transpose" else values.flip(2 + "xyz".index(symmetry[-1]))


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (Darcy(Grid((16, 16))), {"transpose", "flip_x", "flip_y"}),
        (Darcy(Grid((16, 12))), {"flip_x", "flip_y"}),
        (Darcy(Grid((16, 16), (1.0, 2.0))), {"flip_x", "flip_y"}),
        (Darcy(Grid((16, 16)), ("dirichlet", "neumann")), {"flip_x", "flip_y"}),
        (Darcy(Grid((16, 16)), (("dirichlet", "neumann"), ("dirichlet", "neumann"))), {"transpose"}),
        (Darcy(Grid((16, 16)), MIXED), set()),
        (Darcy(Grid((16, 16)), boundary_values={"x_low": 1.0}), {"flip_y"}),
        (Darcy(Grid((16, 16)), boundary_values={"x_low": 1.0, "y_low": 1.0}), {"transpose"}),
        (Darcy(Grid((16, 16)), boundary_values={"x_low": range(16), "y_low": range(16)}), {"transpose"}),
        (Darcy(Grid((16, 16)), source=np.arange(256.0).reshape(16, 16)), set()),
        (Darcy(Grid((16, 16)), source=np.add.outer(np.arange(16.0), np.arange(16.0))), {"transpose"}),
        # a source that mirrors what the face brings where a = 1, and only there
        (
            Darcy(Grid((16, 16)), source=np.eye(16)[15:].T * np.full(16, 512.0), boundary_values={"x_low": 1.0}),
            {"flip_y"},
        ),
        (Helmholtz(Grid((16, 16))), set()),
        (Helmholtz(Grid((16, 16)), source=(0.5, 0.5)), {"transpose", "flip_x", "flip_y"}),
        (Helmholtz(Grid((16, 16)), source=(0.3, 0.5)), {"flip_y"}),
        (Helmholtz(Grid((16, 16)), source="random"), {"transpose", "flip_x", "flip_y"}),
    ],
)
def test_symmetries_are_those_that_map_solutions_to_solutions(problem, expected):
    assert set(problem.symmetries) == expected
    fields = problem.sample(0, [0])
    u = direct(problem.systems(fields))[None, None]
    square = problem.grid.shape[0] == problem.grid.shape[1]
    for symmetry in ("flip_x", "flip_y", *(["transpose"] if square else [])):
        there = {name: moved(symmetry, values) for name, values in fields.items()}
        residual = problem.residual(there, moved(symmetry, u)).norm() / problem.systems(there).rhs.norm()
        assert (residual < 1e-10) == (symmetry in expected), (symmetry, residual)


def test_solve_returns_the_direct_solution():
    problem = Darcy(Grid((16, 16)))
    fields = problem.sample(0, range(2))
    systems = problem.systems(fields)
    solutions = problem.solve(fields, method="direct").solutions
    assert_close(solutions, torch.stack([direct(systems, i) for i in range(2)]), rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: Helmholtz(Grid((8, 8), centring="vertex")), "`grid` must have cell centring"),
        (lambda g: Darcy(g, "robin"), "`boundary` must be one of 'dirichlet', 'neumann', 'periodic'. Got 'robin'"),
        (lambda g: Darcy(g, "periodic"), "`grid.periodic` must be True"),
        (lambda g: Darcy(g, coefficient="two-phases"), "`coefficient` must be one of .* Did you mean 'two-phase'"),
        (lambda g: Darcy(g, coefficient={"name": "two-phase", "hihg": 1.0}), "Did you mean 'high'"),
        (lambda g: Darcy(g, coefficient="trigonometric"), "at least 379 x 190 intervals"),
        (lambda g: Darcy(g, coefficient=TwoPhase(alpha=0.5)), "`alpha` must be more than 1.0"),
        (
            lambda g: Darcy(g, coefficient="lognormal", values=(1.0, 2.0)),
            "`values` must be None for the lognormal family",
        ),
        (lambda g: Darcy(g, values=(1.0,)), "`values` must be two numbers"),
        (lambda g: Darcy(g, values=(-1.0, 2.0)), "`high` must be positive"),
        (lambda g: Darcy(g, source=np.ones((8, 7))), r"`source` must have shape \(8, 8\)"),
        (lambda g: Darcy(g, source=math.nan), "`source` must be finite"),
        (lambda g: Darcy(g, boundary_values={"z_low": 1.0}), "`boundary_values` must be one of 'x_low'"),
        (lambda g: Darcy(g, boundary_values={"x_low": [1.0]}), r"`boundary_values\['x_low'\]` must have shape \(8\)"),
        (lambda g: Poisson(g, alpha=1.0), "`alpha` must be more than 1.0"),
        (lambda g: Poisson(g, source_scale=0.0), "`source_scale` must be positive"),
        (lambda g: Helmholtz(g, wave_number=-1.0), "`wave_number` must be positive"),
        (lambda g: Helmholtz(g, source="everywhere"), "`source` must be one of 'random'"),
        (lambda g: Helmholtz(g, source=(0.5, 1.5)), "`source` must be 'random', 'none' or 2 fractions"),
        (lambda g: from_config({"name": "dracy"}), "`name` must be one of .* Did you mean 'darcy'"),
        (lambda g: from_config({"name": "darcy"}), "`config` must have a grid"),
        (lambda g: from_config({"name": "darcy", "grid": g, "bondary": "neumann"}), "Did you mean 'boundary'"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(Grid((8, 8)))


def test_wrong_inputs_are_refused():
    grid = Grid((8, 8))
    problem = Darcy(grid)
    good = problem.sample(0, [0])["coefficient"]
    for bad in (-good, torch.full_like(good, math.nan), torch.full_like(good, math.inf)):
        with pytest.raises(ValueError, match="`coefficient` must be positive and finite everywhere"):
            problem.systems({"coefficient": bad})
    with pytest.raises(ValueError, match="`wave_speed` must be positive and finite everywhere"):
        Helmholtz(grid).systems({"wave_speed": -good})
    with pytest.raises(ValueError, match="Missing: coefficient"):
        problem.systems({"permeability": good})
    with pytest.raises(ValueError, match=r"must have shape \(sample, 1, 8, 8\)"):
        problem.systems(good[..., :7])
    with pytest.raises(TypeError, match="`coefficient` must be a name, a description or a coefficient family"):
        read_coefficient(3)
    operator = problem.systems({"coefficient": good}).operator
    with pytest.raises(ValueError, match="`face_values` must be one of 'x_low'"):
        load(operator, good.squeeze(1), face_values={"top": good})


def test_numpy_arrays_stand_for_tensors():
    problem = Poisson(Grid((4, 6)), MIXED)
    fields = problem.sample(0, [0, 1])
    arrays = {name: values.numpy()[::-1][::-1].astype(">f8") for name, values in fields.items()}
    for inputs in (arrays, problem.stacked(fields).numpy()[:, ::-1][:, ::-1]):
        named = problem.named(inputs)
        assert all(torch.equal(named[name], values) for name, values in fields.items())
    outputs = problem.solve(arrays).solutions.unsqueeze(1)
    assert torch.equal(problem.residual(arrays, outputs.numpy()), problem.residual(fields, outputs))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "`inputs` must be real numbers: an array or tensor .* Got NoneType"),
        (np.ones((1, 1, 4, 6)) + 1j, "`inputs` must be real numbers: .* Got complex128"),
        ({"coefficient": "x"}, r"`inputs\['coefficient'\]` must be real numbers: .* Got str"),
        (
            {"coefficient": torch.ones(1, 1, 4, 6) + 1j},
            r"`inputs\['coefficient'\]` must be real numbers: .* torch.complex64",
        ),
    ],
)
def test_inputs_that_are_no_real_numbers_are_named(inputs, message):
    with pytest.raises(TypeError, match=message):
        Darcy(Grid((4, 6))).named(inputs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "a b/c"}, ValueError, "`name` must be words of letters, digits and _. Got 'a b/c'"),
        ({"name": "a", "unit": 1}, TypeError, "`unit` must be a text. Got int"),
        ({"name": "a", "components": 0}, ValueError, "`components` must be at least 1"),
        ({"name": "a", "face": "left"}, ValueError, "`face` must be one of 'x_low', .* Got 'left'"),
    ],
)
def test_fields_that_cannot_be_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        FieldInfo(**arguments)


def test_boundary_values_are_given_by_face():
    with pytest.raises(TypeError, match=r"`boundary_values` must be a mapping from faces to values. Got list"):
        Darcy(Grid((4, 6)), boundary_values=[1.0])
