"""What papers on mixing layers claim, as they claim it: trainings of a minute, with the errors that were measured."""

import math

import pytest
import torch
from torch import nn

from helpers import assert_close
from test_operator_learning import burgers, error, train
from vcycle.layers.attention import ATTENTION_KINDS, KernelAttention
from vcycle.layers.axial import AxialAttention
from vcycle.metrics import relative_l2
from vcycle.models import AFNO, FNO, AFFNet, DeepONet, DMDOperator, GalerkinTransformer, NeuralSpectral

RING = {"num_axes": 1, "boundary": "periodic", "centring": "vertex"}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def build(model, *channels, seed=0, **options):
    torch.manual_seed(seed)
    return model(*(channels or (1, 1)), **options)


def size(model):
    return sum(p.numel() for p in model.parameters())


def waves(samples, n, highest, num_axes=1, decay=0.0, dtype=torch.float32):
    """Periodic fields of unit deviation with Gaussian coefficients ``exp(-decay k^2)`` up to a wave number."""
    from vcycle.layers.transforms import resample

    few = 2 * highest + 1
    k = torch.fft.fftfreq(few, 1 / few).double()
    squares = sum(k.reshape(-1, *(1,) * (num_axes - 1 - axis)) ** 2 for axis in range(num_axes))
    axes = tuple(range(2, 2 + num_axes))
    spectrum = torch.fft.fftn(random(samples, 1, *(few,) * num_axes), dim=axes) * torch.exp(-decay * squares)
    u = resample(torch.fft.ifftn(spectrum, dim=axes).real, (n,) * num_axes, (True,) * num_axes, "vertex")
    return (u / u.std()).to(dtype)


# Exactly -------------------------------------------------------------------------------------------------------------


def flops(model, u):
    """Return the floating-point operations of a model's products, Fourier transforms not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(u)
    return counter.get_total_flops()


def test_steps_of_neural_spectral_methods_cost_the_same_on_every_grid():
    """16 times as many points: the same, but for the two transforms of the few channels outside; an FNO 16 times."""
    options = {"modes": 15, "width": 32, "boundary": "periodic"}
    coarse, fine = (random(1, 1, n, n, dtype=torch.float32) for n in (32, 128))
    model = build(NeuralSpectral, **options)
    assert flops(model, fine) < 1.1 * flops(model, coarse), (flops(model, fine), flops(model, coarse))
    on_points = build(FNO, modes=6, width=32, boundary="periodic")
    assert flops(on_points, fine) > 6 * flops(on_points, coarse), (flops(on_points, fine), flops(on_points, coarse))


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_attention_gives_points_in_another_order_in_that_order(kind):
    layer = build(KernelAttention, 8, 2, kind=kind, num_coordinates=2, gain=1.0).double()
    v, place, weights = random(2, 9, 8), random(9, 2, seed=1), random(9, seed=2).softmax(0)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    assert_close(layer(v[:, order], place[order], weights[order]), layer(v, place, weights)[:, order], rtol=1e-13)


@pytest.mark.parametrize("combine", ["chained", "parallel"])
def test_a_factor_of_all_kernels_does_not_pass_the_norm(combine):
    """Why FactFormer does without 1 / n: its normalisation takes out any common factor but for its epsilon."""
    layer, v = build(AxialAttention, 6, 2, 4, 2, combine=combine).double(), random(2, 6, 8, 7)
    layer.norm.eps = 0.0
    places = [torch.arange(n).double() / n for n in (8, 7)]
    weights = [torch.full((n,), 1 / n).double() for n in (8, 7)]
    expected, kernels = layer(v, places, weights), layer.kernels
    for factors in ((8.0, 7.0), (8.0, 1.0)):
        layer.kernels = lambda *given, factors=factors: [
            c * kernel for c, kernel in zip(factors, kernels(*given), strict=True)
        ]
        difference = (layer(v, places, weights) - expected).norm() / expected.norm()
        assert difference < 1e-12 if combine == "chained" else difference > 1e-3
    layer.kernels = lambda *given: [8.0 * kernel for kernel in kernels(*given)]
    assert_close(layer(v, places, weights), expected, rtol=1e-12)


def test_cost_of_axial_kernels_grows_with_the_points_times_the_sum_of_the_sides():
    """Per head and channel, products with kernels cost ``2 N (n_x + n_y)`` operations."""

    def mixing(n):
        """Operations beyond those that grow like the number of points."""
        layer = build(AxialAttention, 8, 2, 4, 2)
        places, weights = [torch.arange(n) / n] * 2, [torch.full((n,), 1 / n)] * 2
        return flops(lambda v: layer(v, places, weights), random(1, 8, n, n, dtype=torch.float32))

    sizes = (32, 64, 128)
    cubic = torch.linalg.solve(
        torch.tensor([[n**3, n**2, n] for n in sizes]).double(), torch.tensor([mixing(n) for n in sizes]).double()
    )
    assert_close(cubic[0], torch.tensor(2 * 2 * 8.0).double(), rtol=1e-6)


# AFFNet --------------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_masks_of_the_spectrum_learn_products_of_a_function_and_its_filter():
    """``u -> u u_x``: AFFNet against AFNO of more weights, 0.0235 to 0.0556, 1.5 times or more being claimed.

    The mask does most of it: in the place of AFNO's network of the coefficients, all else the same, it gets to 0.0287,
    1.9 times better (1.8 times at 24 channels, 0.0361 to 0.0665).
    """
    u = waves(320, 64, 6)
    k = torch.fft.rfftfreq(64, 1 / 64)
    v = u * torch.fft.irfft(1j * k * torch.fft.rfft(u), n=64)
    v = v / v.std()
    options = {"width": 32, "depth": 2, "patch": 1, "blocks": 2, "expansion": 1} | RING
    models = {mixer: build(AFNO, mixer=mixer, **options) for mixer in ("mlp", "mask")}
    models["affnet"] = build(AFFNet, width=24, depth=2, blocks=2, **RING)
    assert size(models["affnet"]) < size(models["mask"]) == size(models["mlp"])
    errors = {}
    for name, model in models.items():
        train(model, u[:256], v[:256], epochs=40, rate=5e-3 if name == "affnet" else 1e-2)
        errors[name] = error(model, u[256:], v[256:])
    assert errors["mlp"] > 1.5 * errors["affnet"], errors
    assert errors["mlp"] > 1.5 * errors["mask"], errors
    assert errors["affnet"] < 0.028, errors


# Galerkin ------------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_galerkin_attention_comes_near_an_fno_and_needs_its_small_diagonal_start():
    """256 samples of Burgers at 64 points, 20 epochs; two claims that hold only in part.

    At most the error of an FNO is claimed: 0.0078 was measured with 79,361 weights, 0.0061 by an FNO of 28,017 (at a
    rate of 2e-3 instead: 0.0097, 0.0078). Without the small start training should diverge or err three times as much:
    0.0118 (0.0156), one and a half times. Sums with quadrature weights keep it in bounds.
    """
    u, v = (field[..., ::4] for field in burgers(356))
    models = {"fno": build(FNO, modes=12, width=16, depth=4, **RING)}
    for name in ("small", "large"):
        models[name] = build(GalerkinTransformer, width=32, depth=3, heads=2, modes=12, **RING)
    for A in models["large"].A:
        for linear in (A.to_query, A.to_key, A.to_value):
            nn.init.xavier_uniform_(linear.weight, gain=1.0)
    errors = {}
    for name, model in models.items():
        train(model, u[:256], v[:256], epochs=20, rate=5e-3)
        errors[name] = error(model, u[256:], v[256:])
    assert errors["small"] < 0.0094, errors
    assert errors["small"] < 1.6 * errors["fno"], errors
    assert errors["large"] > 1.2 * errors["small"], errors


# Dynamic modes -------------------------------------------------------------------------------------------------------


def test_modes_of_heat_carry_over_to_other_initial_values():
    """A linear map of as many dimensions as there are modes: 1e-4 is claimed, rounding is left."""
    n, k = 32, torch.fft.rfftfreq(32, 1 / 32).double()
    start = torch.fft.rfft(waves(12, n, 5, dtype=torch.float64))
    states = torch.stack([torch.fft.irfft(start * torch.exp(-0.02 * k**2 * t), n=n) for t in range(21)], 1)
    model = build(DMDOperator, points=n, rank=11, **RING).double()
    model.fit_modes(states[:8, :6])
    for steps in (1, 5, 20):
        assert_close(model(states[8:, 0], steps=steps), states[8:, steps], rtol=1e-9)


def burgers_paths(samples, steps, n=64, viscosity=0.05, dt=2e-3):
    """Return solutions of Burgers' equation on the unit torus at every 0.02, ``(sample, 1 + steps, 1, n)``.

    From unit deviation and five waves; pseudo-spectral, integrating factor, Runge-Kutta 4.
    """
    k = torch.fft.rfftfreq(n, 1 / n).double()
    half = torch.exp(-viscosity * (2 * math.pi * k) ** 2 * dt / 2)
    slope = -1j * math.pi * k * (k < n / 3)

    def nonlinear(w):
        return slope * torch.fft.rfft(torch.fft.irfft(w, n=n).square())

    v = torch.fft.rfft(waves(samples, n, 5, decay=0.1).double())
    states = [v]
    for number in range(1, 10 * steps + 1):
        a = nonlinear(v)
        b = nonlinear(half * (v + dt / 2 * a))
        c = nonlinear(half * v + dt / 2 * b)
        d = nonlinear(half**2 * v + dt * half * c)
        v = half**2 * v + dt / 6 * (half**2 * a + 2 * half * (b + c) + d)
        if number % 10 == 0:
            states.append(v)
    return torch.fft.irfft(torch.stack(states, 1), n=n).float()


@pytest.mark.full
def test_corrected_modes_are_three_times_better_than_plain_ones_and_stay_bounded():
    """1600 paths of five steps, 24 modes: 0.231 by dynamic modes, 0.065 with corrections, means of the five steps.

    Of one step it is two times, of ten, twice what was learned, 2.3 times (0.375, 0.163). At no time at all the
    corrections harm, 0.15: amplitudes and modes are corrected for all times alike.
    """
    states = burgers_paths(1680, 10)
    train_set, test_set = states[:1600], states[1600:]
    model = build(DMDOperator, points=64, rank=24, width=128, **RING)
    model.fit_modes(train_set[:, :6])

    def errors():
        return [error(lambda u: model(u, steps=s), test_set[:, 0], test_set[:, s]) for s in range(1, 11)]  # noqa: B023

    plain, epochs = errors(), 40
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * 50)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(1600, generator=generator).split(32):
            steps = torch.randint(1, 6, (1,), generator=generator).item()
            optimiser.zero_grad()
            relative_l2(model(train_set[rows, 0], steps=steps), train_set[rows, steps]).backward()
            optimiser.step()
            schedule.step()
    corrected = errors()
    assert sum(corrected[:5]) < sum(plain[:5]) / 3, (plain, corrected)
    assert sum(corrected[:5]) < 5 * 0.077, corrected
    assert max(corrected) < 0.2, corrected
    with torch.no_grad():
        late = model(test_set[:, 0], steps=1000)
    assert late.square().mean() < 2 * test_set[:, 0].square().mean()


# DeepONet ------------------------------------------------------------------------------------------------------------


class Concatenated(nn.Module):
    """One network of all values of a function and a place, the control of the paper."""

    def __init__(self, points, width):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(points + 1, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def at(self, u, places):
        rows = torch.cat([u.expand(-1, len(places), -1), places.expand(len(u), -1, -1)], 2)
        return self.network(rows).transpose(1, 2)


@pytest.mark.full
def test_deeponet_learns_the_antiderivative_better_than_one_network_of_function_and_place():
    """500 functions of correlation length 0.2 at 100 points, 2500 steps, as many weights in both.

    2.2 % was measured, also between the points, and 6.7 % with one network: 3.1 times, not the 5 that are claimed.
    """
    k, x, between = torch.arange(20.0)[:, None], (torch.arange(100) + 0.5) / 100, torch.arange(1, 100) / 100
    amplitudes = random(700, 20, dtype=torch.float32) * torch.exp(-((math.pi * k.T * 0.2) ** 2) / 4)

    def antiderivative(t):
        waves = torch.cat([t[None], torch.sin(math.pi * k[1:] * t) / (math.pi * k[1:])])
        return (amplitudes @ waves)[:, None]

    u, v = (amplitudes @ torch.cos(math.pi * k * x))[:, None], antiderivative(x)
    torch.manual_seed(0)
    models = {
        "deeponet": DeepONet(1, 1, sensors=100, width=64, depth=2, terms=64, num_axes=1),
        "one": Concatenated(100, 110),
    }
    assert abs(size(models["one"]) / size(models["deeponet"]) - 1) < 0.1
    errors = {}
    for name, model in models.items():
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=2500)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2500):
            rows = torch.randint(0, 500, (32,), generator=generator)
            places = torch.randperm(100, generator=generator)[:25]
            optimiser.zero_grad()
            relative_l2(model.at(u[rows], x[places, None]), v[rows][..., places]).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            errors[name] = relative_l2(model.at(u[500:], x[:, None]), v[500:]).item()
            errors[name + " between"] = relative_l2(
                model.at(u[500:], between[:, None]), antiderivative(between)[500:]
            ).item()
    assert errors["deeponet"] < 0.026, errors
    assert errors["deeponet between"] < 1.5 * errors["deeponet"], errors
    assert errors["one"] > 2.5 * errors["deeponet"], errors
