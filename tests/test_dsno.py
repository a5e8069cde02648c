"""Mixing in time, and whole trajectories in one pass: exact on series in time, and trained against closed forms."""

import math

import pytest
import torch
from torch import nn

import vcycle as vc
from helpers import assert_close
from test_operator_learning import train
from vcycle.layers.temporal import TimeConvolution, instants, time_features
from vcycle.metrics import relative_l2
from vcycle.models import DSNO, MODELS
from vcycle.training import fit


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer(channels=3, modes=2, seed=0):
    torch.manual_seed(seed)
    return TimeConvolution(channels, modes).double()


def model(*channels, seed=0, **options):
    torch.manual_seed(seed)
    small = {"modes": 3, "time_modes": 3, "width": 6, "depth": 2, "num_axes": 1, "boundary": "periodic"}
    return DSNO(*(channels or (1, 4)), **(small | options))


# Time convolution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [4, 5, 8])
def test_mixing_is_a_product_of_fourier_coefficients_in_time(times):
    v, mix, modes = random(2, times, 3, 4, 5), layer(), 2
    R = torch.view_as_complex(mix.R.weight.detach().contiguous())
    spectrum = torch.fft.rfft(v, dim=1)
    product = torch.zeros(2, times // 2 + 1, 3, 4, 5, dtype=torch.complex128)
    product[:, :modes] = torch.einsum("bkixy,iok->bkoxy", spectrum[:, :modes], R)
    mixed = torch.fft.irfft(product, n=times, dim=1)
    assert_close(mix(v), v + torch.where(mixed > 0, mixed, 0.01 * mixed), rtol=1e-12)
    assert (mix(v) - v).norm() > 0.01 * v.norm()


@pytest.mark.parametrize("modes", [1, 3])
def test_one_time_leaves_a_map_of_the_channels(modes):
    v, mix = random(2, 1, 3, 7), layer(modes=modes)
    mixed = torch.einsum("btix,io->btox", v, mix.R.weight[:, :, 0, 0])
    assert_close(mix(v), v + nn.functional.leaky_relu(mixed), rtol=1e-12)


def wave(times, phase=0.3):
    """A band-limited trajectory of three channels at four points, of 0, 1 and 2 periods."""
    t = instants(times, torch.zeros((), dtype=torch.float64))
    angle = 2 * math.pi * (t[:, None, None] * torch.arange(3)[None, :, None]) + phase * torch.arange(4)
    return (1 + angle.sin())[None]


@pytest.mark.parametrize(("times", "asked"), [(5, 10), (6, 12), (5, 7), (8, 5), (7, 7)])
def test_other_times_show_the_same_trajectory(times, asked):
    mix = layer(modes=3)
    assert_close(mix(wave(times), asked), mix(wave(asked)), rtol=1e-12)


@pytest.mark.parametrize("times", [1, 2, 4, 5])
def test_twice_the_times_have_the_same_states_at_the_old_ones(times):
    v, mix = random(2, times, 3, 4), layer(modes=4)  # not band-limited, and more modes than times
    assert_close(mix(v, 2 * times)[:, 1::2], mix(v), rtol=1e-12)
    assert_close(mix(v, 3 * times)[:, 2::3], mix(v), rtol=1e-12)
    assert_close(mix(v, 1), mix(v)[:, -1:], rtol=1e-12)


def test_points_and_samples_do_not_mix_and_no_sample_is_no_error():
    v, mix = random(2, 4, 3, 5), layer()
    changed = v.clone()
    changed[1] += 1.0
    changed[0, :, :, 2] += 1.0
    same = torch.ones(2, 5, dtype=torch.bool)
    same[1], same[0, 2] = False, False
    assert torch.equal((mix(v) == mix(changed)).all(1).all(1), same)
    assert mix(v[:0]).shape == (0, 4, 3, 5)
    assert mix(random(2, 4, 3)).shape == (2, 4, 3)


@pytest.mark.parametrize(("arguments", "message"), [((0, 2), "`channels`"), ((2, 0), "`modes`")])
def test_wrong_counts_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"{message} must be at least 1. Got 0"):
        TimeConvolution(*arguments)


def test_features_tell_all_times_apart():
    like = torch.zeros((), dtype=torch.float64)
    assert_close(instants(4, like), torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    expected = [0.5, 1.0, 0.0, 0.0, -1.0]  # t, sin(pi t), sin(2 pi t), cos(pi t), cos(2 pi t)
    assert_close(time_features(4, 2, like)[1], torch.tensor(expected, dtype=torch.float64))


# The model -----------------------------------------------------------------------------------------------------------


def test_channels_are_those_of_the_first_time_and_then_of_the_next():
    network = model(2, 6, times=3, num_axes=2)
    u = random(2, 2, 8, 6).float()
    states = network.trajectory(u)
    assert states.shape == (2, 3, 2, 8, 6)
    assert torch.equal(network(u), states.flatten(1, 2))
    assert model(1, 4).times == 4  # as suits states of one component
    assert model(2, 6, times=3).config()["times"] == 3
    with pytest.raises(ValueError, match=r"`times` must divide `out_channels` = 6. Got 4"):
        model(2, 6, times=4)
    with pytest.raises(ValueError, match="`time_modes` must be at least 1"):
        model(time_modes=0)
    with pytest.raises(ValueError, match="`times` must be at least 1"):
        model(times=0)


def test_weights_do_not_depend_on_the_number_of_times():
    count = [sum(p.numel() for p in model(1, times).parameters()) for times in (1, 4, 32)]
    assert count[0] == count[1] == count[2]


def test_without_clock_and_mixing_all_times_are_alike_and_each_alone_makes_them_differ():
    u = random(2, 1, 16).float()

    def spread(clock, mixing):
        network = model()
        with torch.no_grad():
            if not clock:
                network.clock.network[-1].weight.zero_()
            if not mixing:
                for T in network.T:
                    T.R.weight.zero_()
            states = network.trajectory(u)
        return (states - states.mean(1, keepdim=True)).norm() / states.norm()

    assert spread(clock=False, mixing=False) < 1e-6
    assert spread(clock=False, mixing=True) < 1e-6  # mixing alone sees a constant
    assert spread(clock=True, mixing=False) > 1e-3
    assert (spread(clock=True, mixing=True) - spread(clock=True, mixing=False)).abs() > 1e-5


def test_a_finer_trajectory_goes_through_the_states():
    network, u = model(1, 4, num_parameters=1).double(), random(2, 1, 16)
    p = random(2, 1, seed=1)
    states, finer = network.trajectory(u, p), network.trajectory(u, p, times=8)
    assert finer.shape == (2, 8, 1, 16)
    assert_close(finer[:, 1::2], states, rtol=1e-12)
    assert (finer[:, 2] - states[:, 0]).norm() > 1e-6
    with pytest.raises(ValueError, match="`times` must be at least 1"):
        network.trajectory(u, p, times=0)
    with pytest.raises(ValueError, match="`u` must have shape"):
        network.trajectory(random(2, 2, 16), p)


# Learning ------------------------------------------------------------------------------------------------------------


def test_fit_learns_the_stored_times_of_an_evolution():
    """Heat at 4 times from 48 samples: 2.6 % at worst, where the mean over time errs by 12 % and more at the ends."""
    grid = vc.Grid((32,), centring="vertex", periodic=True)
    problem = vc.problems.Heat(grid, times=(0.25, 0.5, 0.75, 1.0))
    data = vc.generate(problem, num_samples=64, seed=0, progress=False)
    train, test = data.split(test=16, seed=0)
    network = model(1, data.outputs.shape[1], modes=8, width=12, centring="vertex")
    operator = fit(network, train, epochs=30, batch_size=8, learning_rate=8e-3, loss="l2", progress=False)
    prediction = vc.predict(operator, test.inputs).double()
    errors = [relative_l2(prediction[:, [t]], test.outputs[:, [t]]).item() for t in range(4)]
    assert max(errors) < 0.05
    mean = test.outputs.mean(1, keepdim=True)
    assert min(relative_l2(mean, test.outputs[:, [t]]).item() for t in (0, 3)) > 0.12


class Unmixed(nn.Module):
    """What stands in the place of a time convolution that is taken out."""

    def forward(self, v, times=None):
        return v


def advected(samples, seed, times, n=16, highest=4, speed=3.0, diffusivity=0.002):
    """Waves that move and fade, by the closed form of each, of unit deviation at the start."""
    k = torch.fft.rfftfreq(n, 1 / n).double()
    noise = torch.view_as_complex(random(samples, len(k), 2, seed=seed))
    start = noise * (k > 0) * (k <= highest) / (1 + (k / 3) ** 2)
    t = instants(times, k)
    change = torch.exp((-diffusivity * (2 * math.pi * k) ** 2 - 2j * math.pi * k * speed) * t[:, None])
    u, states = torch.fft.irfft(start, n=n), torch.fft.irfft(start[:, None] * change, n=n)
    return (u / u.std())[:, None].float(), (states / u.std()).float()


@pytest.mark.full
def test_mixing_in_time_is_worth_its_place():
    """Waves that pass twelve times while 24 states are stored: 1.4 % with mixing, 2.8 % without.

    Where states change slowly (8 of them, a sixth of the speed) the clock alone does it: 1.5 % with, 1.4 % without.
    """
    times = 24
    inputs, targets = advected(192, 0, times)
    unseen, truth = advected(64, 1, times)
    errors = {}
    for mixed in (True, False):
        network = model(1, times, modes=5, time_modes=12, width=16)
        if not mixed:
            network.T = nn.ModuleList(Unmixed() for _ in network.T)
        train(network, inputs, targets, epochs=60, rate=4e-3)
        with torch.no_grad():
            states = network(unseen)
        errors[mixed] = [relative_l2(states[:, [t]], truth[:, [t]]).item() for t in range(times)]
    assert max(errors[True]) < 0.02
    assert sum(errors[False]) > 1.5 * sum(errors[True])


def test_model_is_known_by_its_name():
    assert MODELS["dsno"] is DSNO
