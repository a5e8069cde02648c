"""Heat in a block with a slot: profiles in closed form, another discretisation, balances, and the order at corners."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

from helpers import assert_close, assert_order
from manufactured import direct
from vcycle.grid import Grid
from vcycle.problems import Thermal

PI = math.pi
EXTENT = (1.0, 1.6)


def block(times=1, **arguments):
    return Thermal(Grid((20 * times, 32 * times), EXTENT), **arguments)


def constant(problem, temperature, flux):
    values = {problem.heated: temperature, problem.cooled: flux}
    infos = problem.input_fields
    return {i.name: torch.full((1, 1, *i.space_shape(problem.grid)), values[i.face]).double() for i in infos}


def averaged(values, times):
    rows, columns = values.shape
    return values.reshape(rows // times, times, columns // times, times).mean((1, 3))


def test_the_slot_is_where_it_should_be():
    problem = block(2)
    x, y = problem.grid.mesh()
    assert np.array_equal(problem.mask, (abs(x - 0.5) < 0.05) & (abs(y - 0.8) < 0.4))
    assert problem.mask.sum() * problem.grid.cell_volume == pytest.approx(0.1 * 0.8)


@pytest.mark.parametrize(("heated", "cooled"), [("x_low", "x_high"), ("y_high", "y_low")])
def test_profiles_are_linear_without_a_slot(heated, cooled):
    problem = block(slot=(), heated=heated, cooled=cooled)
    assert not problem.mask.any()
    u = direct(problem.systems(constant(problem, 70.0, -30.0)))
    axis = problem.grid.axis_names.index(heated[0])
    distance = problem.grid.mesh()[axis]
    distance = distance if heated.endswith("low") else EXTENT[axis] - distance
    assert_close(u, 70.0 - 30.0 * distance, rtol=1e-12)


def test_order_without_a_slot_on_data_that_vary():
    """``cosh(w (x - 1/3)) cos(w y)`` with w = pi / 1.6 is harmonic and insulated at both ends of y."""
    w, sizes, errors = PI / 1.6, (16, 32, 64, 128), []
    for n in sizes:
        problem = Thermal(Grid((n, n), EXTENT), slot=())
        (x, y), along = problem.grid.mesh(), np.cos(w * problem.grid.coordinates()[1])
        data = {"temperature_x_low": math.cosh(w / 3) * along, "flux_x_high": w * math.sinh(w * 2 / 3) * along}
        u = direct(problem.systems({name: torch.from_numpy(v)[None, None] for name, v in data.items()}))
        errors.append(float((u - torch.from_numpy(np.cosh(w * (x - 1 / 3)) * np.cos(w * y))).square().mean().sqrt()))
    assert_order(errors, sizes, Thermal.order)


def test_order_at_the_corners_of_the_slot():
    solutions = {}
    for times in (1, 2, 4, 8):
        problem = block(times)
        solutions[times] = direct(problem.systems(constant(problem, 100.0, -50.0)))
    differences = []
    for times in (1, 2, 4):
        outside = torch.from_numpy(~block(times).mask)
        difference = solutions[times] - averaged(solutions[2 * times], 2)
        differences.append(float(difference[outside].square().mean().sqrt()))
    assert_order(differences, (1, 2, 4), Thermal.corner_order, tolerance=0.05)


def test_solutions_superpose():
    problem = block()
    one, other, both = (constant(problem, *numbers) for numbers in ((1.0, 0.0), (0.0, 1.0), (37.0, -81.0)))
    u1, u2, u = (direct(problem.systems(fields)) for fields in (one, other, both))
    assert_close(u, 37.0 * u1 - 81.0 * u2, rtol=1e-12)
    systems = problem.systems(problem.sample(0, range(5)))
    assert systems.operator.batch == 1
    fields = problem.sample(0, range(5))
    numbers = [fields[name][:, 0, 0].reshape(5, 1, 1) for name in problem.input_names]
    solved = problem.solve(fields, method="direct", rtol=1e-12).solutions
    assert_close(solved, numbers[0] * u1 + numbers[1] * u2, rtol=1e-10)


def test_heat_that_enters_leaves():
    problem = block(2, variation=0.5)
    fields = problem.sample(0, range(3))
    u = problem.solve(fields, method="direct", rtol=1e-13).solutions
    area = problem.grid.spacing[1]
    wall = fields["temperature_x_low"][:, 0]
    entering = ((wall - u[:, 0]) * 2 / problem.grid.spacing[0] * area).sum(1)
    assert_close(entering, -(fields["flux_x_high"][:, 0] * area).sum(1), rtol=1e-10)


def finite_elements(times):
    """Return the mean temperature of the cooled side by bilinear elements on the cells outside the slot, by loops."""
    mask = block(times).mask
    (rows, columns), (hx, hy) = mask.shape, block(times).grid.spacing
    r = hy / hx
    stiffness = (
        np.array(
            [  # corners (0, 0), (1, 0), (0, 1), (1, 1) of one cell
                [2 * r + 2 / r, 1 / r - 2 * r, r - 2 / r, -r - 1 / r],
                [1 / r - 2 * r, 2 * r + 2 / r, -r - 1 / r, r - 2 / r],
                [r - 2 / r, -r - 1 / r, 2 * r + 2 / r, 1 / r - 2 * r],
                [-r - 1 / r, r - 2 / r, 1 / r - 2 * r, 2 * r + 2 / r],
            ]
        )
        / 6
    )
    number = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    entries = []
    for i in range(rows):
        for j in range(columns):
            if not mask[i, j]:
                corners = number[i : i + 2, j : j + 2].T.ravel()
                entries += [(a, b, stiffness[p, q]) for p, a in enumerate(corners) for q, b in enumerate(corners)]
    a, b, values = zip(*entries, strict=True)
    matrix = sp.coo_matrix((values, (a, b)), shape=(number.size, number.size)).tocsr()
    load, along = np.zeros(number.size), np.full(columns + 1, hy)
    along[[0, -1]] = hy / 2
    load[number[-1]] = -50.0 * along
    u = np.full(number.size, 0.0)
    u[number[0]] = 100.0
    used = np.asarray(abs(matrix).sum(1)).ravel() > 0
    free = np.setdiff1d(np.flatnonzero(used), number[0])
    u[free] = spla.spsolve(matrix[free][:, free].tocsc(), (load - matrix @ u)[free])
    return (u[number[-1]] * along).sum() / 1.6


def test_finite_elements_agree_in_the_limit():
    volumes, elements = [], []
    for times in (1, 2, 4):
        problem = block(times)
        u = direct(problem.systems(constant(problem, 100.0, -50.0)))
        volumes.append(float(u[-1].mean()) - 50.0 * problem.grid.spacing[0] / 2)  # the wall is half a cell further
        elements.append(finite_elements(times))
    # a mean has twice the order of the energy: 4/3
    limits = [(2 ** (4 / 3) * v[2] - v[1]) / (2 ** (4 / 3) - 1) for v in (volumes, elements)]
    drop = 100.0 - limits[1]
    assert abs(limits[0] - limits[1]) < 1e-3 * drop
    assert abs(volumes[0] - elements[0]) > 3e-3 * drop  # which single grids do not
    assert drop > 52.0  # the slot adds to the resistance: 50 without


def test_cells_of_the_slot_hold_zero_and_touch_nothing():
    problem = Thermal(Grid((20, 8), EXTENT))
    systems = problem.systems(problem.sample(0, range(2)))
    solutions = problem.solve(problem.sample(0, range(2)), method="direct").solutions
    assert (solutions[:, problem.mask] == 0).all()
    matrix = systems.to_csr(0)[0]
    slot = np.flatnonzero(problem.mask.ravel())
    others = np.setdiff1d(np.arange(matrix.shape[0]), slot)
    assert abs(matrix[slot][:, others]).sum() == 0
    assert np.linalg.eigvalsh(matrix.toarray())[0] > 0
    rows = np.asarray(matrix[others].sum(1)).ravel()
    heated = np.zeros(problem.grid.shape)
    heated[0] = 2 * problem.grid.spacing[1] / problem.grid.spacing[0]
    assert_close(rows, heated.ravel()[others], rtol=1e-12)  # insulated but for the heated side


def test_multigrid_solves_around_the_slot():
    problem = block(2)
    fields = problem.sample(1, range(3))
    by_cycles = problem.solve(fields, method="multigrid", rtol=1e-10).raise_if_failed()
    assert int(by_cycles.iterations.max()) < 40
    assert_close(by_cycles.solutions, problem.solve(fields, method="direct").solutions, rtol=1e-8)


def test_draws_are_what_the_arguments_say():
    fields = block().sample(0, range(300))
    for name, mean in (("temperature_x_low", 50.0), ("flux_x_high", -50.0)):
        values = fields[name][:, 0]
        assert torch.equal(values, values[:, :1].expand_as(values))
        assert abs(float(values[:, 0].mean()) - mean) < 5
        assert (values * mean >= 0).all()
        assert 95 < float(values.abs().max()) < 100
    varied = block(variation=0.3).sample(0, range(300))["temperature_x_low"][:, 0]
    ratio = varied / fields["temperature_x_low"][:, 0]
    assert 0.7 <= float(ratio.min()) < 0.8
    assert 1.2 < float(ratio.max()) <= 1.3
    assert float(ratio.std(1).median()) > 0.05


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (block(), {"flip_y"}),
        (block(slot=((0.45, 0.55), (0.25, 0.5))), set()),
        (block(heated="y_low"), set()),
        (Thermal(Grid((20, 20)), heated="y_low", cooled="y_high"), {"flip_x"}),
        (Thermal(Grid((20, 4, 4), (1.0, 1.6, 1.6))), {"flip_y", "flip_z", "transpose_yz"}),
    ],
)
def test_symmetries_are_those_that_map_solutions_to_solutions(problem, expected):
    assert set(problem.symmetries) == expected
    fields = problem.sample(0, [0])
    u = problem.solve(fields, method="direct", rtol=1e-12).solutions
    for symmetry in expected:
        moved = u.transpose(2, 3) if symmetry == "transpose_yz" else u.flip(1 + "xyz".index(symmetry[-1]))
        assert problem.residual(fields, moved[None]).norm() < 1e-10 * problem.systems(fields).rhs.norm()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Thermal(Grid((30, 32), EXTENT)),
            r"`grid` must have cell faces on the walls of the slot, 0.45 and 0.55 of axis x: a multiple of 20. Got 30",
        ),
        (lambda: Thermal(Grid((20, 30), EXTENT)), "axis y: a multiple of 4. Got 30"),
        (lambda: Thermal(Grid((20, 32), centring="vertex")), "`grid` must have cell centring and 2 or 3 axes"),
        (lambda: Thermal(Grid((20, 32), periodic=(False, True))), "none of them periodic"),
        (lambda: Thermal(Grid(20)), "Got 1 axes"),
        (lambda: block(heated="left"), "`heated` must be one of 'x_low', 'x_high', 'y_low', 'y_high'"),
        (lambda: block(cooled="x_low"), "`cooled` must be another face than `heated`. Got 'x_low' for both"),
        (lambda: block(slot=((0.5, 0.4), (0.25, 0.5))), "`slot` must be empty or 2 pairs of increasing fractions"),
        (lambda: block(slot=((0.4, 0.5),)), "`slot` must be empty or 2 pairs"),
        (lambda: block(variation=1.0), "`variation` must be less than 1. Got 1.0"),
        (lambda: block(variation=-0.1), "`variation` must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
