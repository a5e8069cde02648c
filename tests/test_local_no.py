"""Local kernels that mean the same on every grid, and the operators LocalNO and IFNO."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_order
from vcycle.layers.local import DifferenceConv, LocalIntegral, ball_functions, folded
from vcycle.layers.transforms import resample
from vcycle.models import FNO, IFNO, LocalNO


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def axis(n, centring="cell"):
    return (torch.arange(n).double() + (0.5 if centring == "cell" else 0.0)) / n


def build(model, *arguments, seed=0, **options):
    torch.manual_seed(seed)
    return model(*arguments, **options).double()


# Derivatives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize(("shape", "periodic"), [((8,), (True,)), ((6, 5), (True, False)), ((4, 5, 6), (False,) * 3)])
def test_differences_of_constants_vanish(shape, periodic, central):
    layer = build(DifferenceConv, 2, 3, periodic, central=central)
    assert layer(torch.ones(1, 2, *shape).double() * 7.0).abs().max() < 1e-12
    assert layer(random(1, 2, *shape)).abs().max() > 0.1


def test_differences_tend_to_the_derivative_with_first_order():
    """A stencil (0.1, 1.1) of sin(2 pi x): the error is that of its even part, 1.2 (2 pi)^2 h / 2."""
    layer = build(DifferenceConv, 1, 1, (True,))
    layer.weight.data = torch.tensor([[[0.1, 1.1]]]).double()
    errors = []
    for n in (32, 64, 128, 256):
        x = axis(n)
        exact = 2 * math.pi * torch.cos(2 * math.pi * x)
        errors.append(((layer(torch.sin(2 * math.pi * x)[None, None])[0, 0] - exact).norm() / exact.norm()).item())
    assert np.allclose(errors, [0.118, 0.059, 0.0295, 0.0147], rtol=0.01), errors
    assert_order(errors, (32, 64, 128, 256), 1.0, 0.02)


@pytest.mark.parametrize("centring", ["cell", "vertex"])
@pytest.mark.parametrize(("central", "order"), [(False, 1), (True, 2)])
def test_differences_in_the_plane_tend_to_directional_derivatives(central, order, centring):
    layer = build(DifferenceConv, 1, 1, (True, True), centring, central=central)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    along = [sum(w * s[a] for w, s in zip(layer.weight[0, 0].tolist(), steps, strict=True)) for a in (0, 1)]
    errors = []
    for n in (32, 64, 128):
        x, y = axis(n, centring)[:, None] * 2 * math.pi, axis(n, centring) * 4 * math.pi
        exact = 2 * math.pi * along[0] * x.cos() * y.cos() - 4 * math.pi * along[1] * x.sin() * y.sin()
        found = layer((x.sin() * y.cos())[None, None])[0, 0]
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert_order(errors, (32, 64, 128), order, 0.1)


def test_derivatives_of_linear_functions_are_exact_up_to_walls():
    layer, n = build(DifferenceConv, 1, 1, (False, False)), 9
    x, y = axis(n)[:, None], axis(n)
    found = layer((3 * x - 2 * y)[None, None])
    assert_close(found, found[:, :, 4:5, 4:5].expand_as(found))
    assert found.abs().min() > 0.01


# Integrals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.01, 0.11, 0.3, 0.7])
@pytest.mark.parametrize(("periodic", "centring"), [((True, True), "cell"), ((False, True), "vertex")])
def test_a_constant_is_multiplied_by_the_sum_of_the_weights_on_every_grid(radius, periodic, centring):
    layer = build(LocalIntegral, 2, 3, radius, periodic, centring)
    expected = layer.weight.sum((1, 2))
    for shape in ((2, 3), (8, 8), (16, 12), (31, 33)):
        constant = layer(torch.ones(1, 2, *shape).double())
        assert_close(constant, expected[None, :, None, None].expand_as(constant))


@pytest.mark.parametrize(("rings", "directions", "count"), [(3, 4, 5), (2, 4, 4), (5, 3, 7), (1, 4, 1), (4, 1, 2)])
def test_functions_of_the_ball_are_counted_and_end_at_its_radius(rings, directions, count):
    points = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    made = ball_functions(points, 0.8, rings, directions)
    assert made.shape == (count, 200)
    distance = np.linalg.norm(points, axis=1)
    assert np.abs(made[:, distance > 0.8]).max() == 0
    if rings % 2:
        assert np.allclose(made[:, distance < 0.8 * (rings - 1) / (rings + 1)].sum(0), 1.0)
    assert (made.max(1) > 0.5).all()


@pytest.mark.parametrize("num_axes", [1, 3])
def test_functions_of_the_ball_sum_to_one_on_the_line_and_in_space(num_axes):
    points = np.random.default_rng(0).uniform(-0.25, 0.25, (50, num_axes))
    made = ball_functions(points, 1.0, 3, 9)
    assert len(made) == 1 + 2 * num_axes
    assert np.allclose(made.sum(0), 1.0)


def test_integrals_tend_to_those_over_the_ball():
    """Against polar quadrature of the same functions, which knows no grid; a convolution of some points shrinks."""
    layer = build(LocalIntegral, 1, 1, 0.15, (True, True))

    def field(x, y):
        return np.exp(np.sin(2 * np.pi * x)) * np.cos(2 * np.pi * y + 0.3)

    r, angle = (np.arange(400) + 0.5) / 400 * 0.15, (np.arange(400) + 0.5) / 400 * 2 * np.pi
    r, angle = np.meshgrid(r, angle, indexing="ij")
    psi = ball_functions(np.stack([(r * np.cos(angle)).ravel(), (r * np.sin(angle)).ravel()], 1), 0.15, 3, 4)
    psi = psi * r.ravel() / (psi * r.ravel()).sum(1, keepdims=True)

    errors = []
    for n in (12, 24, 48, 96):
        x = (np.arange(n) + 0.5) / n
        found = layer(torch.from_numpy(field(x[:, None], x))[None, None])[0, 0, n // 4, n // 2].item()
        at = (x[n // 4] + r * np.cos(angle)).ravel(), (x[n // 2] + r * np.sin(angle)).ravel()
        errors.append(abs(found - float(layer.weight[0, 0].detach().numpy() @ psi @ field(*at))))
    assert errors[1] < 0.5 * errors[0]
    assert errors[3] < 0.1 * errors[1] < 0.01, errors


def test_walls_reflect():
    assert folded(torch.arange(-4, 7), 3, "cell").tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    assert folded(torch.arange(-4, 7), 3, "vertex").tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    layer, v = build(LocalIntegral, 1, 1, 0.3, (False,), "cell"), random(1, 1, 10)
    twice = build(LocalIntegral, 1, 1, 0.15, (True,), "cell")
    assert_close(twice(torch.cat([v, v.flip(-1)], -1))[..., :10], layer(v))


# LocalNO -------------------------------------------------------------------------------------------------------------

OPTIONS = {"modes": 4, "width": 6, "depth": 2, "radius": 0.1, "padding": 0.5}


def on_cells(model, n, periodic):
    coarse = random(1, 2, 5, 5)
    with torch.no_grad():
        return torch.nn.functional.avg_pool2d(model(resample(coarse, (n, n), (periodic,) * 2, "cell")), n // 8)


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
@pytest.mark.parametrize(("central", "falls"), [(False, 0.45), (True, 0.27)])
def test_local_no_converges_as_the_grid_is_refined(boundary, central, falls):
    model = build(LocalNO, 2, 3, boundary=boundary, central=central, differences="all", **OPTIONS)
    outputs = [on_cells(model, n, boundary == "periodic") for n in (16, 32, 64, 128)]
    errors = [((output - outputs[-1]).norm() / outputs[-1].norm()).item() for output in outputs[:-1]]
    assert errors[1] < falls * errors[0], errors
    assert errors[2] < falls * errors[1], errors
    assert errors[2] < 0.01, errors


def test_local_summands_are_where_they_are_asked_for():
    model = build(LocalNO, 1, 1, modes=3, width=4, depth=3)
    assert (list(model.D), list(model.I)) == (["2"], ["0", "1", "2"])
    v = random(1, 4, 8, 9)
    with torch.no_grad():
        bare = build(LocalNO, 1, 1, modes=3, width=4, depth=3, differences="none", integrals="none")
        bare.load_state_dict({k: w for k, w in model.state_dict().items() if k[0] not in "DI"})
        for layer in range(3):
            expected = bare.summands(layer, v) + model.I[str(layer)](v)
            expected = expected + model.D["2"](v) if layer == 2 else expected
            assert_close(model.summands(layer, v), expected)
    with pytest.raises(ValueError, match=r"`differences` must be one of 'all', 'last', 'none'. Got 'first'"):
        LocalNO(1, 1, differences="first")
    with pytest.raises(ValueError, match=r"`radius` must be positive and finite. Got 0"):
        LocalNO(1, 1, radius=0)


@pytest.mark.full
def test_local_no_learns_a_front_better_than_an_fno_of_its_size():
    """One step of advection of steep fronts: what lies beyond the modes passes through the local kernels."""

    def data(count, seed):
        generator = torch.Generator().manual_seed(seed)
        centre, width = (
            torch.rand(count, 1, generator=generator),
            0.15 + 0.2 * torch.rand(count, 1, generator=generator),
        )
        x = axis(128).float()

        def front(x):
            away = (x - centre + 0.5) % 1 - 0.5
            return (away.abs() < width).float()[:, None] - 0.4

        return front(x), front(x - 2 / 128)

    def error_of(model):
        inputs, outputs = data(64, 0)
        optimiser = torch.optim.AdamW(model.parameters(), 4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=240)
        for step in range(240):
            batch = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
            loss = (model(inputs[batch]) - outputs[batch]).norm() / outputs[batch].norm()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        inputs, outputs = data(64, 1)
        with torch.no_grad():
            return ((model(inputs) - outputs).norm() / outputs.norm()).item()

    common = {"modes": 12, "num_axes": 1, "boundary": "periodic", "depth": 2}
    torch.manual_seed(0)
    local = LocalNO(1, 1, width=16, radius=0.03, differences="all", **common)
    torch.manual_seed(0)
    plain = FNO(1, 1, width=20, **common)
    counts = [sum(p.numel() for p in model.parameters()) for model in (local, plain)]
    assert counts[1] > counts[0], counts
    errors = error_of(local), error_of(plain)
    assert errors[0] < 0.8 * errors[1], errors


# IFNO ----------------------------------------------------------------------------------------------------------------


def test_weights_of_an_ifno_do_not_grow_with_its_depth():
    counts = {depth: sum(p.numel() for p in IFNO(1, 1, depth=depth).parameters()) for depth in (1, 4, 20)}
    assert len(set(counts.values())) == 1
    four = FNO(1, 1, depth=4, padding=0.25)
    assert counts[4] < 0.3 * sum(p.numel() for p in four.parameters())


def test_an_ifno_of_many_steps_is_a_flow():
    reference = build(IFNO, 1, 2, modes=3, width=5, depth=512, boundary="periodic")
    reference.W.weight.data *= 4.0
    u, outputs = random(1, 1, 8, 9), {}
    for depth in (8, 16, 32, 512):
        model = build(IFNO, 1, 2, modes=3, width=5, depth=depth, boundary="periodic")
        model.load_state_dict(reference.state_dict())
        with torch.no_grad():
            outputs[depth] = model(u)
    errors = [(outputs[depth] - outputs[512]).norm().item() for depth in (8, 16, 32)]
    assert_order(errors, (8, 16, 32), 1.0, 0.15)
    assert errors[0] > 1e-3 * outputs[512].norm()


def test_an_ifno_whose_layer_is_zero_passes_what_was_lifted():
    model = build(IFNO, 1, 1, modes=3, width=4, boundary="periodic")
    for parameter in (*model.K.parameters(), *model.W.parameters()):
        parameter.data.zero_()
    u = random(1, 1, 8, 8)
    from vcycle.layers.coordinates import append_coordinates

    assert_close(model(u), model.Q(model.P(append_coordinates(u, "cell", (True, True)))))
