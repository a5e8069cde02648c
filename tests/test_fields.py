"""Random fields against explicit sums of eigenfunctions, written down here independently of the fast transforms."""

import itertools
import math
from functools import reduce
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import assert_close
from vcycle.fields import (
    BASES,
    GaussianField,
    _axes,
    inclusions,
    lognormal,
    trigonometric,
    trigonometric_shape,
    two_phase,
)
from vcycle.grid import Grid

CENTRINGS = ("cell", "vertex")


def eigenfunctions(basis, x, num_modes, length):
    """Values of the first modes of one axis at x, orthonormal on [0, length], and their eigenvalues."""
    columns, eigenvalues = [], []
    for k in range(num_modes):
        if basis == "neumann":
            column, wave = np.cos(k * np.pi * x / length), k * np.pi / length
        elif basis == "dirichlet":
            column, wave = np.sin((k + 1) * np.pi * x / length), (k + 1) * np.pi / length
        else:
            wave = 2 * np.pi * ((k + 1) // 2) / length
            column = np.cos(wave * x) if k % 2 or k == 0 else np.sin(wave * x)
        columns.append(column * math.sqrt((2 if wave > 0 else 1) / length))
        eigenvalues.append(wave**2)
    return np.stack(columns, -1), np.array(eigenvalues)


def num_modes(basis, n, centring):
    if basis == "periodic":
        return n if n % 2 else n - 1
    return n - 2 if (basis, centring) == ("dirichlet", "vertex") else n


def apply_per_axis(matrices, array):
    for axis, matrix in enumerate(matrices):
        array = np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)
    return array


def make_grid(shape, basis, centring):
    extent = (1.0, 1.7, 0.6)[: len(shape)]
    return Grid(shape, extent, centring, periodic=basis == "periodic")


def matrices(grid, basis):
    parts = zip(grid.coordinates(), grid.shape, grid.extent, strict=True)
    return [eigenfunctions(basis, x, num_modes(basis, n, grid.centring), s) for x, n, s in parts]


def analytic_variances(grid, basis, alpha, tau):
    eigenvalues = reduce(np.add.outer, [values for _, values in matrices(grid, basis)])
    variances = tau ** (2 * alpha - grid.num_axes) / (eigenvalues + tau**2) ** alpha
    variances[eigenvalues == 0] = 0
    return variances


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("shape", "alpha"), [((24,), 1.0), ((17, 12), 2.0), ((8, 6, 7), 2.5)])
def test_shell_mean_variances_follow_the_analytic_spectrum(shape, alpha, basis, centring):
    grid = make_grid(shape, basis, centring)
    field = GaussianField(grid, alpha=alpha, tau=3.0, basis=basis)
    inverses = [np.linalg.pinv(matrix) for matrix, _ in matrices(grid, basis)]
    generator = np.random.default_rng(1)
    num_draws = {1: 12800, 2: 1600, 3: 1600}[len(shape)]
    squares = sum(apply_per_axis(inverses, field.sample(generator)) ** 2 for _ in range(num_draws)) / num_draws
    expected = analytic_variances(grid, basis, alpha, 3.0)
    shells = np.maximum.reduce(np.indices(expected.shape))
    checked = 0
    for shell in range(1, shells.max() + 1):
        inside = shells == shell
        if inside.sum() * num_draws >= 12800:
            ratio = np.mean(squares[inside] / expected[inside])
            assert abs(ratio - 1) <= 0.05, f"shell {shell}: {ratio:.4f}"
            checked += 1
    assert checked >= 3
    if basis != "dirichlet":
        assert squares.ravel()[0] < 1e-20  # the constant mode is dropped


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    ("coarse", "fine"),
    [((12,), (31,)), ((8, 8), (32, 32)), ((10, 17), (24, 40)), ((16, 9), (17, 30)), ((4, 6, 5), (9, 12, 10))],
)
def test_coarse_draw_is_the_spectral_truncation_of_the_fine_draw(coarse, fine, basis, centring):
    grids = [make_grid(shape, basis, centring) for shape in (coarse, fine)]
    draws = [GaussianField(g, alpha=2.0, tau=3.0, basis=basis).sample(np.random.default_rng(7)) for g in grids]
    coefficients = apply_per_axis([np.linalg.pinv(matrix) for matrix, _ in matrices(grids[1], basis)], draws[1])
    on_coarse = [matrix for matrix, _ in matrices(grids[0], basis)]
    kept = coefficients[tuple(slice(0, matrix.shape[1]) for matrix in on_coarse)]
    assert_close(draws[0], apply_per_axis(on_coarse, kept), rtol=1e-12)


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("intervals", [6, 7])
def test_values_are_the_sum_of_modes_whatever_the_grid_closes(intervals, basis, periodic, centring):
    closed_vertices = centring == "vertex" and not periodic
    shape = (intervals + 1, intervals + 3) if closed_vertices else (intervals, intervals + 2)
    grid = Grid(shape, (1.3, 0.8), centring, periodic)
    field = GaussianField(grid, alpha=2.0, tau=3.0, basis=basis)
    coefficients = np.random.default_rng(0).standard_normal(field.eigenvalues.shape)
    parts = list(zip(grid.coordinates(), coefficients.shape, grid.extent, strict=True))
    explicit = [eigenfunctions(basis, x, n, s) for x, n, s in parts]
    assert_close(field.values(coefficients), apply_per_axis([matrix for matrix, _ in explicit], coefficients))
    assert_close(field.eigenvalues, np.add.outer(explicit[0][1], explicit[1][1]))


@pytest.mark.parametrize("basis", [*BASES, ("periodic", "neumann", "dirichlet")])
@pytest.mark.parametrize("shape", [(6,), (6, 7), (4, 5, 6)])
def test_trace_is_the_sum_of_modes_on_the_face(shape, basis):
    bases = (basis if isinstance(basis, tuple) else (basis,) * 3)[: len(shape)]
    grid = Grid(shape, (1.3, 0.8, 2.0)[: len(shape)])
    field = GaussianField(grid, alpha=2.0, tau=3.0, basis=bases)
    coefficients = np.random.default_rng(0).standard_normal(field.eigenvalues.shape)
    for axis, (end, factor) in itertools.product(range(len(shape)), [("low", 0.0), ("high", 1.0)]):
        coordinates = [*grid.coordinates()]
        coordinates[axis] = np.array([factor * grid.extent[axis]])
        parts = zip(bases, coordinates, coefficients.shape, grid.extent, strict=True)
        explicit = apply_per_axis([eigenfunctions(b, x, n, s)[0] for b, x, n, s in parts], coefficients)
        trace = field.trace(coefficients, f"{grid.axis_names[axis]}_{end}")
        np.testing.assert_allclose(trace, explicit.squeeze(axis), atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_point_covariances_are_the_direct_sum_of_modes(basis):
    grid = Grid((16, 12), (1.0, 0.8), periodic=basis == "periodic")
    field = GaussianField(grid, alpha=2.0, tau=4.0, basis=basis)
    num_draws, generator = 6000, np.random.default_rng(3)
    draws = np.stack([field.sample(generator) for _ in range(num_draws)])
    (along_x, _), (along_y, _) = matrices(grid, basis)
    variances = analytic_variances(grid, basis, 2.0, 4.0)

    def covariance(p, q):
        return np.einsum("ij,i,i,j,j->", variances, along_x[p[0]], along_x[q[0]], along_y[p[1]], along_y[q[1]])

    for p, q in [((5, 6), (5, 6)), ((5, 6), (7, 7)), ((3, 2), (9, 10))]:
        expected = covariance(p, q)
        # Isserlis: Var(g_p g_q) = C_pp C_qq + C_pq^2; four standard errors
        tolerance = 4 * math.sqrt((covariance(p, p) * covariance(q, q) + expected**2) / num_draws)
        assert tolerance < 0.1 * covariance(p, p)
        assert abs(np.mean(draws[:, *p] * draws[:, *q]) - expected) <= tolerance


def test_draws_depend_on_the_generator_only():
    grid = Grid((9, 14))
    field = GaussianField(grid, alpha=2.0, tau=3.0)
    first, second = field.sample(np.random.default_rng(5)), field.sample(np.random.default_rng(5))
    assert np.array_equal(first, second)
    assert not np.allclose(first, field.sample(np.random.default_rng(6)))
    again = GaussianField(grid, alpha=2.0, tau=3.0, basis=("neumann", "neumann"))
    assert np.array_equal(first, again.sample(np.random.default_rng(5)))


def test_mean_mode_adds_a_constant_of_the_analytic_variance():
    grid = Grid((8, 8), (2.0, 0.5))
    field = GaussianField(grid, alpha=2.0, tau=3.0, mean_mode=True)
    generator = np.random.default_rng(0)
    means = [field.sample(generator).mean() for _ in range(12800)]
    expected = 3.0 ** (2 * 2.0 - 2) / 3.0 ** (2 * 2.0) / 1.0  # the constant function is 1 / sqrt(volume), volume 1
    assert abs(np.var(means) / expected - 1) <= 0.05


def test_natural_field_is_periodic_where_the_grid_is():
    field = GaussianField.natural(Grid((8, 9), periodic=(True, False)), alpha=2.0, tau=3.0)
    assert field.basis == ("periodic", "neumann")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.0}, "`alpha` must be more than 1.0 on 2 axes. Got 1.0"),
        ({"alpha": -2.0}, "`alpha` must be positive"),
        ({"tau": 0.0}, "`tau` must be positive"),
        ({"basis": "neuman"}, "`basis` must be one of .* Did you mean 'neumann'"),
        ({"basis": ("neumann",)}, "`basis` must be one value or one per axis"),
        ({"basis": "dirichlet", "mean_mode": True}, "`mean_mode` must be False for a Dirichlet basis"),
    ],
)
def test_gaussian_field_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianField(Grid((8, 8)), **{"alpha": 2.0, "tau": 3.0, **arguments})


def test_gaussian_field_refuses_grids_and_faces():
    with pytest.raises(ValueError, match="interior vertex"):
        GaussianField(Grid((2, 8), centring="vertex"), alpha=2.0, tau=3.0, basis="dirichlet")
    field = GaussianField(Grid((8, 8)), alpha=2.0, tau=3.0)
    with pytest.raises(ValueError, match=r"`face` must be one of 'x_low'.*Got 'z_low'"):
        field.trace(field.coefficients(np.random.default_rng(0)), "z_low")
    for evaluate in (field.values, lambda coefficients: field.trace(coefficients, "x_low")):
        with pytest.raises(ValueError, match=r"`coefficients` must have shape \(8, 8\), that is one per mode"):
            evaluate(np.zeros((8, 7)))


def test_two_phase_and_lognormal():
    field = np.array([[-1.0, 0.0], [1e-9, -1e-9]])
    assert np.array_equal(two_phase(field), [[3.0, 12.0], [12.0, 3.0]])
    assert np.array_equal(two_phase(field, high=2.0, low=1.0), [[1.0, 2.0], [2.0, 1.0]])
    assert_close(lognormal(field, median=2.0, sigma=0.5), 2.0 * np.sqrt(np.exp(field)))
    with pytest.raises(ValueError, match="`low` must be positive"):
        two_phase(field, low=0.0)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        lognormal(field, sigma=-1.0)


def test_trigonometric_is_the_pinned_product():
    grid = Grid((50, 30), (1.0, 0.9))
    coefficient = trigonometric(grid, np.random.default_rng(2), levels=3)
    u = np.random.default_rng(2).random(3)
    for i, j in [(0, 0), (13, 7), (49, 29)]:
        x, y, expected = (i + 0.5) / 50, (j + 0.5) * 0.9 / 30, 1.0
        for k in (1, 2, 3):
            a = 2 ** (k - 1) + u[k - 1] * (1.5 * 2 ** (k - 1) - 2 ** (k - 1))
            expected *= (1 + 0.5 * math.cos(a * math.pi * (x + y))) * (1 + 0.5 * math.sin(a * math.pi * (y - 3 * x)))
        assert coefficient[i, j] == pytest.approx(expected, rel=1e-12)


def test_trigonometric_shape_is_what_the_spectrum_needs():
    fastest = SimpleNamespace(random=np.ones)  # every a_k at its upper end: periodic on a square of side 4
    coefficient = trigonometric(Grid((256, 256), 4.0, periodic=True), fastest, levels=3)
    spectrum = np.abs(np.fft.fft2(coefficient)) / coefficient.size
    waves = np.abs(np.fft.fftfreq(256, 1 / 256))
    for axis, needed in enumerate(trigonometric_shape((4.0, 4.0), levels=3)):
        highest = waves[spectrum.max(1 - axis) > 1e-12].max()  # cycles on a side: resolved by more than 2 points each
        assert needed == 2 * highest + 1
    assert trigonometric_shape((1.0, 1.0)) == (379, 190)


def test_trigonometric_refuses():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"at least 379 x 190 intervals to resolve 6 levels.*Got 256 x 256"):
        trigonometric(Grid((256, 256)), generator)
    assert trigonometric(Grid((32, 32)), generator, allow_unresolved=True).min() > 0
    with pytest.raises(ValueError, match="`grid` must have 2 axes"):
        trigonometric(Grid(64), generator, levels=1)
    with pytest.raises(ValueError, match="`levels` must be at least 1"):
        trigonometric_shape((1.0, 1.0), levels=0)


def covered_by(grid, centres, radii):
    """Mark the points in some ball, by loops over points and periodic images."""
    covered = np.zeros(grid.shape, bool)
    shifts = [(-s, 0.0, s) if p else (0.0,) for s, p in zip(grid.extent, grid.periodic, strict=True)]
    for index in np.ndindex(*grid.shape):
        point = np.array([x[i] for x, i in zip(grid.coordinates(), index, strict=True)])
        for centre, radius in zip(centres, radii, strict=True):
            covered[index] |= any(
                np.linalg.norm(point - centre - shift) <= radius for shift in itertools.product(*shifts)
            )
    return covered


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(40,), (20, 26), (8, 9, 10)])
def test_inclusions_mark_the_points_inside_the_balls(shape, periodic):
    grid = Grid(shape, (1.0, 1.4, 0.8)[: len(shape)], periodic=periodic)
    arguments = {"inside": 5.0, "outside": 2.0, "num": 4, "radius": (0.1, 0.2)}
    drawn = inclusions(grid, np.random.default_rng(4), **arguments)
    generator, centres, radii = np.random.default_rng(4), [], []
    for _ in range(4):
        centres.append(generator.random(len(shape)) * grid.extent)
        radii.append(generator.uniform(0.1, 0.2))
    covered = covered_by(grid, centres, radii)
    assert 0 < covered.sum() < covered.size
    assert np.array_equal(drawn, np.where(covered, 5.0, 2.0))


@pytest.mark.parametrize("periodic", [False, True])
def test_balls_without_overlap_cover_the_sum_of_their_areas(periodic):
    grid = Grid((400, 400), periodic=periodic)
    arguments = {"num": 9, "radius": (0.1, 0.1)}
    share = [
        (inclusions(grid, np.random.default_rng(seed), overlapping=False, **arguments) == 10.0).mean()
        for seed in range(4)
    ]
    area = 9 * math.pi * 0.1**2
    if periodic:
        np.testing.assert_allclose(share, area, rtol=0.01)
    else:
        assert max(share) <= 1.01 * area
        assert min(share) > 0.5 * area


def test_inclusions_refuse():
    generator, grid = np.random.default_rng(0), Grid((8, 8))
    with pytest.raises(ValueError, match="`num` must be small enough"):
        inclusions(grid, generator, num=20, radius=(0.3, 0.4), overlapping=False)
    with pytest.raises(ValueError, match="`radius` must be the smallest and the largest"):
        inclusions(grid, generator, radius=(0.2, 0.1))
    with pytest.raises(ValueError, match="`inside` must be positive"):
        inclusions(grid, generator, inside=-1.0)
    with pytest.raises(ValueError, match="`num` must be at least 1"):
        inclusions(grid, generator, num=0)


@pytest.mark.parametrize("shape", [(9,), (16, 12), (6, 8, 5)])
@pytest.mark.parametrize("basis", ["neumann", "dirichlet", "periodic"])
def test_a_draw_is_its_coefficients_summed_axis_by_axis_to_the_last_bit(shape, basis):
    grid = Grid(shape, centring="cell", periodic=basis == "periodic")
    field = GaussianField(grid, alpha=2.0, tau=3.0, basis=basis)
    coefficients = field.coefficients(np.random.default_rng(5))
    summed = coefficients * reduce(np.multiply.outer, [axis.scales for axis in _axes(field)])
    for number, axis in enumerate(_axes(field)):
        summed = axis.to_points(summed, number)
    before = coefficients.copy()
    assert field.values(coefficients).tobytes() == summed.tobytes()
    assert np.array_equal(coefficients, before)  # and the caller's array stays what it is
    assert field.sample(np.random.default_rng(5)).tobytes() == summed.tobytes()


DRAWN = (0.3117631603661218, 0.24666253655867554, 0.11632160751619358)


def test_draws_stay_what_stored_data_were_made_from():
    """Values that version 0.1.0 drew; the last digits may differ between processors."""
    field = GaussianField.natural(Grid((16, 16)), alpha=2.0, tau=3.0)
    values = field.sample(np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,))))
    assert_close(values[0, :3], np.array(DRAWN), rtol=1e-12)
