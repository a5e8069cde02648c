"""Spherical harmonics as matrices, convolutions that commute with rotations, and the operator SFNO."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from helpers import assert_close
from vcycle.layers.spherical import SphericalConv, colatitudes, harmonic_matrices, legendre
from vcycle.layers.transforms import offset_of
from vcycle.models import FNO, SFNO

DEGREES = 6
SHAPES = pytest.mark.parametrize(("shape", "centring"), [((13, 16), "vertex"), ((9, 12), "cell"), ((8, 21), "cell")])


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conv(centring="vertex", in_channels=2, out_channels=3, degrees=DEGREES):
    torch.manual_seed(0)
    return SphericalConv(in_channels, out_channels, degrees, centring).double()


def amplitudes(channels=2, degrees=DEGREES, seed=0):
    """Random ones of real functions, ``(m, l, 1, channel, 2)``."""
    m, l = torch.arange(degrees)[:, None], torch.arange(degrees)  # noqa: E741
    made = random(degrees, degrees, 1, channels, 2, seed=seed) * (l >= m)[:, :, None, None, None]
    made[0, ..., 1] = 0.0
    return made


def grid(shape, centring):
    """Unit vectors of the points, ``(point, 3)``."""
    theta = colatitudes(shape[0], centring)[:, None]
    phi = 2 * np.pi * (np.arange(shape[1]) + offset_of(centring)) / shape[1]
    parts = np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta) * np.ones_like(phi)
    return np.stack(parts, -1).reshape(-1, 3)


def evaluate(made, points, shape):
    """Values of functions at any points, ``(1, channel, *shape)``, by SciPy's harmonics."""
    from scipy.special import sph_harm_y

    theta, phi = np.arccos(np.clip(points[:, 2], -1, 1)), np.arctan2(points[:, 1], points[:, 0])
    complex_made, total = made[..., 0].numpy() + 1j * made[..., 1].numpy(), 0.0
    for m in range(len(made)):
        for l in range(m, made.shape[1]):  # noqa: E741
            twice = 1 if m == 0 else 2
            harmonic = (-1) ** m * sph_harm_y(l, m, theta, phi)
            total = total + twice * (complex_made[m, l, 0][:, None] * harmonic).real
    return torch.from_numpy(total).unflatten(1, shape)[None]


@SHAPES
def test_functions_of_given_amplitudes_are_those_of_scipy_and_are_found_again(shape, centring):
    layer, made = conv(centring), amplitudes()
    values = layer.values(made, shape)
    assert_close(values, evaluate(made, grid(shape, centring), shape))
    assert_close(layer.amplitudes(values), made)


def test_legendre_functions_are_those_of_torch_harmonics():
    theirs = pytest.importorskip("torch_harmonics.legendre")
    x = np.linspace(-0.99, 0.99, 7)
    expected = theirs.legpoly(40, 40, torch.from_numpy(x), csphase=False).transpose(1, 2)
    assert_close(torch.from_numpy(legendre(np.arccos(x), 40)), expected)


@SHAPES
def test_harmonics_are_orthonormal_in_the_grids_sums(shape, centring):
    analysis, synthesis = harmonic_matrices(shape[0], DEGREES, centring)
    for m in range(DEGREES):
        expected = np.diag((np.arange(DEGREES) >= m).astype(float))
        assert np.abs(analysis[m] @ synthesis[m] - expected).max() < 1e-13


@SHAPES
def test_degrees_that_the_grid_does_not_resolve_are_left_out(shape, centring):
    layer, made = conv(centring, degrees=30), amplitudes(degrees=30)
    resolved = shape[0] - (1 if centring == "vertex" else 0)
    kept = layer.amplitudes(layer.values(made, shape))
    assert kept[:, resolved:].abs().max() == 0
    assert kept[(shape[1] + 1) // 2 :].abs().max() == 0
    orders = torch.arange(30)[:, None] < (shape[1] + 1) // 2
    inside = ((torch.arange(30) < resolved) & orders)[:, :, None, None, None]
    assert_close(kept, made * inside, rtol=1e-10)


@SHAPES
def test_heat_flows_on_the_sphere(shape, centring):
    """Against the decay of every degree by itself, in SciPy's harmonics."""
    layer, time, made = conv(centring, 1, 1), 0.05, amplitudes(channels=1)
    l = torch.arange(DEGREES).double()  # noqa: E741
    decay = torch.exp(-l * (l + 1) * time)
    with torch.no_grad():
        layer.weight[0, 0] = decay
    points = grid(shape, centring)
    expected = evaluate(made * decay[:, None, None, None], points, shape)
    assert_close(layer(evaluate(made, points, shape)), expected)


@pytest.mark.parametrize("angles", [(0.3, 1.1, -0.7), (2.0, 0.4, 5.0), (0.0, math.pi / 2, 0.0)])
@SHAPES
def test_convolutions_commute_with_rotations(shape, centring, angles):
    layer, made = conv(centring), amplitudes()
    points = grid(shape, centring)
    turned = points @ Rotation.from_euler("zyz", angles).as_matrix()
    with torch.no_grad():
        turned_then_layer = layer(evaluate(made, turned, shape))
        result = layer.multiplied(made)
        assert_close(turned_then_layer, evaluate(result, turned, shape), rtol=1e-11)
        assert (turned_then_layer - evaluate(result, points, shape)).norm() > 0.1 * turned_then_layer.norm()
        # what complex weights would do: a quarter of a wave at every order, which knows the axis
        quarter = torch.stack([-made[..., 1], made[..., 0]], -1)
        quarter[0] = 0
        other = layer.amplitudes(evaluate(made, turned, shape))
        other = torch.stack([-other[..., 1], other[..., 0]], -1)
        other[0] = 0
        difference = layer.values(other, shape) - evaluate(quarter, turned, shape)
        assert difference.norm() > 0.1 * layer.values(other, shape).norm()


def test_sfno_commutes_with_rotations_as_far_as_the_grid_resolves_it():
    """An FNO of the same numbers, blind to coordinates too, does not."""
    shape, made = (33, 64), amplitudes(channels=1)
    points = grid(shape, "vertex")
    turned = points @ Rotation.from_euler("zyz", (0.3, 1.1, -0.7)).as_matrix()
    torch.manual_seed(0)
    model = SFNO(1, 1, modes=DEGREES, width=6, depth=2, position=False).double()
    wide = SphericalConv(1, 1, 28).double()
    fields = [evaluate(0.5 * made, where, shape) for where in (points, turned)]
    with torch.no_grad():
        straight, after = (model(field) for field in fields)
        expected = evaluate(wide.amplitudes(straight), turned, shape)
        assert_close(after, expected, rtol=1e-4)
        assert (after - straight).norm() > 0.1 * (after - after.mean()).norm()
        torch.manual_seed(0)
        plain = FNO(1, 1, modes=DEGREES, width=6, depth=2, boundary="periodic", centring="vertex").double()
        plain.P.weight[:, 1:] = 0
        straight, after = (plain(field) for field in fields)
        difference = after - evaluate(wide.amplitudes(straight), turned, shape)
        assert difference.norm() > 0.1 * (after - after.mean()).norm()


@pytest.mark.parametrize("position", [False, True])
@SHAPES
def test_sfno_commutes_with_shifts_of_the_longitude(shape, centring, position):
    torch.manual_seed(0)
    model, u = (
        SFNO(2, 3, modes=5, width=6, depth=2, position=position, centring=centring).double(),
        random(1, 2, *shape),
    )
    assert_close(model(u.roll(3, -1)), model(u).roll(3, -1), rtol=1e-12)
    turned = model(u.flip(2))
    assert ((turned - model(u).flip(2)).norm() < 1e-12 * turned.norm()) != position


@pytest.mark.parametrize("centring", ["vertex", "cell"])
def test_sfno_converges_as_the_grid_is_refined(centring):
    torch.manual_seed(0)
    model, made = SFNO(1, 1, modes=DEGREES, width=6, depth=2, centring=centring).double(), amplitudes(channels=1)
    wide = SphericalConv(1, 1, DEGREES, centring).double()
    found = []
    for n in (9, 17, 33):
        shape = (n, 2 * n)
        with torch.no_grad():
            found.append(wide.amplitudes(model(evaluate(0.5 * made, grid(shape, centring), shape))))
    errors = [((one - found[-1]).norm() / found[-1].norm()).item() for one in found[:-1]]
    assert errors[1] < 0.02 * errors[0] < 1e-4, errors  # faster than any power: smooth but for the nonlinearity


def test_sfno_takes_data_of_shallow_water():
    pytest.importorskip("torch_harmonics")
    from vcycle.grid import Grid
    from vcycle.problems.shallow_water import ShallowWater

    problem = ShallowWater(Grid((16, 32), **ShallowWater.usual_grid))
    initial = torch.as_tensor(problem.sample(0, [0])["initial"])
    model = SFNO(3, 3, modes=8, width=4, depth=1, boundary=problem.boundary, centring=problem.grid.centring)
    assert model(initial.float()).shape == (1, 3, 16, 32)
    layer, space = conv("vertex", 3, 3, problem.space.highest + 1), problem.space
    theirs = space.modes(initial)
    ours = torch.view_as_complex(layer.amplitudes(initial).contiguous()).permute(2, 3, 1, 0)
    assert_close(ours, theirs, rtol=1e-11)
