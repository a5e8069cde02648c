"""What papers on transformers claim of rollouts, lead times, pre-training and new grids, with what was measured."""

import copy
import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vcycle as vc
from vcycle.data import Dataset
from vcycle.layers.axial import AxialAttention
from vcycle.layers.transforms import resample
from vcycle.metrics import relative_l2
from vcycle.models import DPOT, FNO, SRNO, FactFormer, IFactFormer, ScOT
from vcycle.objectives import RelativeL2
from vcycle.training.samples import Batch
from vcycle.training.strategies import Moment, Strategies

BOX = {"boundary": "periodic", "centring": "vertex"}
STEP, SPIN_UP = 0.25, 4


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(model, *channels, seed=0, **options):
    torch.manual_seed(seed)
    return model(*(channels or (1, 1)), **(BOX | options))


def size(model):
    return sum(p.numel() for p in model.parameters())


@cache
def turbulence(samples: int, viscosity: float, steps: int, n: int = 32) -> Tensor:
    """Return decaying vorticity ``(sample, 1 + steps, 1, n, n)`` on the unit torus, every quarter of a unit of time.

    The first comes four steps after random states of deviation 2 and spectrum ``exp(-(|k| / 4)^2)``; pseudo-spectral,
    integrating factor, Runge-Kutta 4.
    """
    ky, kx = torch.fft.fftfreq(n, 1 / n).double()[:, None], torch.fft.rfftfreq(n, 1 / n).double()
    squares, keep = kx**2 + ky**2, (kx < n / 3) & (ky.abs() < n / 3)
    w = torch.fft.irfft2(torch.fft.rfft2(random(samples, n, n)) * torch.exp(-squares / 16) * (squares > 0), s=(n, n))
    modes = torch.fft.rfft2(2 * w / w.std()) * keep
    substeps = 5
    dt, turn = STEP / substeps, 2j * math.pi
    half = torch.exp(-viscosity * (2 * math.pi) ** 2 * squares * dt / 2)
    stream = keep / ((2 * math.pi) ** 2 * squares).clamp_min(1e-9) * (squares > 0)

    def values(z):
        return torch.fft.irfft2(z, s=(n, n))

    def advection(z):
        psi = stream * z
        u, v = values(turn * ky * psi), -values(turn * kx * psi)
        return -1 * keep * torch.fft.rfft2(u * values(turn * kx * z) + v * values(turn * ky * z))

    states = []
    for step in range(1, substeps * (SPIN_UP + steps) + 1):
        a = advection(modes)
        b = advection(half * (modes + dt / 2 * a))
        c = advection(half * modes + dt / 2 * b)
        d = advection(half**2 * modes + dt * half * c)
        modes = half**2 * modes + dt / 6 * (half**2 * a + 2 * half * (b + c) + d)
        if step % substeps == 0:
            states.append(values(modes))
    return torch.stack(states[SPIN_UP - 1 :], 1)[:, :, None].float()


def train_steps(model, states, *, epochs, rate, noise=None, batch=16):
    """Train on all pairs of neighbouring states, in random order."""
    strategies = Strategies(noise=noise)
    inputs, targets = states[:, :-1].flatten(0, 1), states[:, 1:].flatten(0, 1)
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    batches = math.ceil(len(inputs) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for index, rows in enumerate(torch.randperm(len(inputs), generator=generator).split(batch)):
            optimiser.zero_grad()
            moment = Moment(epoch, index, batches)
            strategies.loss(model, Batch(inputs[rows], targets[rows]), RelativeL2(), moment).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def train_draws(model, draw, count, *, steps, batch=32, rate=2e-3):
    """Train on ``draw(rows)``, which gives inputs, outputs and parameters of rows below ``count``."""
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        inputs, targets, parameters = draw(torch.randint(0, count, (batch,), generator=generator))
        optimiser.zero_grad()
        relative_l2(model(inputs, parameters), targets).backward()
        optimiser.step()
        schedule.step()
    model.eval()


def one_step(model, states):
    with torch.no_grad():
        return relative_l2(model(states[:, :-1].flatten(0, 1)), states[:, 1:].flatten(0, 1)).item()


def rollout(model, states):
    """Return the relative L2 errors by step of rollouts from the first state, and the rollouts."""
    with torch.no_grad():
        u, errors, path = states[:, 0], [], []
        for step in range(1, states.shape[1]):
            u = model(u)
            path.append(u)
            errors.append(relative_l2(u, states[:, step]).item())
    return errors, torch.stack(path, 1)


# DPOT ----------------------------------------------------------------------------------------------------------------


FACTORED = {"width": 32, "depth": 3, "heads": 2, "head_size": 16}
NO_EPSILON = 1e-12
"""Of the norms behind kernels with quadrature weights, whose sums are so small that the usual 1e-5 would be a scale."""
DENOISING = {"width": 48, "depth": 3, "blocks": 4, "expansion": 2}


@cache
def denoiser(noise: float | None) -> DPOT:
    """Return a DPOT trained on 40 trajectories of viscosity 2e-3, with some noise or None."""
    states = turbulence(48, 2e-3, 10)[:40]
    return train_steps(build(DPOT, **DENOISING), states, epochs=12, rate=3e-3, noise=noise)


def test_a_loss_without_noise_is_the_loss_of_the_next_state():
    states = turbulence(3, 2e-3, 2)
    model, batch = build(DPOT, **DENOISING), Batch(states[:, 0], states[:, 1])
    expected = relative_l2(model(states[:, 0]), states[:, 1])
    assert torch.equal(Strategies().loss(model, batch, RelativeL2(), Moment(0, 0, 1)), expected)
    noisy = Strategies(noise=1.0).loss(model, batch, RelativeL2(), Moment(0, 0, 1))
    assert not torch.equal(noisy, expected)


@pytest.mark.full
def test_noise_neither_helps_nor_harms_rollouts_of_dpot_that_do_not_diverge():
    """The claim is that noise helps. After ten steps: 0.608 with noise of 0.003, 0.609 without, 0.610 with 0.02.

    One step: 0.1226, 0.1227, 0.1228. In 40 short trajectories of a flow that decays nothing grows that noise could
    teach to damp.
    """
    states = turbulence(48, 2e-3, 10)[40:]
    models = denoiser(None), denoiser(0.003)
    without, noisy = (one_step(model, states) for model in models)
    assert without < 0.147
    assert abs(noisy / without - 1) < 0.1
    without, noisy = (rollout(model, states)[0][-1] for model in models)
    assert abs(noisy / without - 1) < 0.1


@pytest.mark.full
def test_a_dpot_trained_on_one_flow_learns_another_from_few_trajectories():
    """Half the viscosity, 32 trajectories, 6 epochs: 0.153 was measured, 0.221 from scratch, 0.169 before any.

    With a tenth of the viscosity, 0.292 and 0.354, the claimed factor of 1.3 is not reached.
    """
    states = turbulence(40, 1e-3, 10)
    tuned, scratch = copy.deepcopy(denoiser(None)).train(), build(DPOT, **DENOISING)
    errors = {"before": one_step(tuned, states[32:])}
    for name, model in (("tuned", tuned), ("scratch", scratch)):
        train_steps(model, states[:32], epochs=6, rate=2e-3)
        errors[name] = one_step(model, states[32:])
    assert errors["tuned"] < 0.184, errors
    assert errors["scratch"] > 1.3 * errors["tuned"], errors


@pytest.mark.full
def test_factformer_does_not_reach_an_fno_on_400_steps_of_turbulence():
    """At most the error of a larger FNO is claimed, after ten steps: 0.59 was measured, and 0.19 by the FNO.

    One step: 0.117 (68,481 weights), 0.039 (265,601), and 0.142 if nothing moved. Kernels see averages over an axis
    alone, which say little of a flow without a mean direction.
    """
    states = turbulence(48, 2e-3, 10)
    factformer, fno = build(FactFormer, **FACTORED), build(FNO, modes=8, width=16, depth=4)
    for A in factformer.A:
        A.norm.eps = NO_EPSILON
    assert size(factformer) < size(fno)
    test, errors = states[40:], {}
    for model in (factformer, fno):
        train_steps(model, states[:40], epochs=10, rate=3e-3)
        errors[model.name] = one_step(model, test), rollout(model, test)[0][-1]
    still = relative_l2(test[:, :-1].flatten(0, 1), test[:, 1:].flatten(0, 1)).item()
    assert errors["factformer"][0] < 0.9 * still, (errors, still)
    assert errors["factformer"][1] < 0.75, errors
    assert errors["fno"][1] < 0.23, errors


# scOT ----------------------------------------------------------------------------------------------------------------


def advected(n, times):
    """Return solutions of ``u_t + 0.7 u_x = 0.01 u_xx`` on the unit torus, 72 samples, ``(sample, time, 1, n)``."""
    k = torch.fft.rfftfreq(n, 1 / n).double()
    noise = torch.view_as_complex(random(72, len(k), 2))
    rates = 2j * math.pi * k * 0.7 + 0.01 * (2 * math.pi * k) ** 2
    modes = torch.stack([noise * torch.exp(-((k / 3) ** 2) - rates * t) for t in times], 1)
    return torch.fft.irfft(modes, n=n, norm="forward")[:, :, None] / 2


@pytest.mark.full
def test_pairs_of_all_times_teach_scot_lead_times_that_it_has_not_seen():
    """64 trajectories of 7 states. After 0.15 to 0.45, at half steps: 0.062 was measured, 0.92 from neighbours alone.

    At whole steps, which were seen, 0.057; one step is the one thing that neighbours teach better, 0.034 to 0.050.
    Measured a second time: 0.076, 0.94, 0.074, and 0.037 to 0.074.
    """
    times = tuple(0.1 * i for i in range(7))
    states, grid = advected(32, times)[:64], vc.Grid((32,), centring="vertex", periodic=True)
    data = Dataset.from_arrays(states[:, 0], states[:, 1:], grid=grid, boundary="periodic", times=times[1:])
    errors = {}
    for name, pairs in (("all", data.steps(all_to_all=True)), ("neighbours", data.steps(lead_times=(times[1],)))):
        model = build(ScOT, num_axes=1, num_parameters=1, width=16, depth=2, stages=2, heads=2, window=8)
        u, v, lead = (part.float() for part in (pairs.inputs, pairs.outputs, pairs.parameters))
        train_draws(model, lambda rows: (u[rows], v[rows], lead[rows]), len(u), steps=1000)  # noqa: B023  # used here

        def after(*leads, model=model):
            exact = advected(32, (0.0, *leads))[64:].float()
            with torch.no_grad():
                found = torch.stack([model(exact[:, 0], torch.full((8, 1), t)) for t in leads], 1)
            return relative_l2(found.flatten(0, 1), exact[:, 1:].flatten(0, 1)).item()

        errors[name] = after(0.15, 0.25, 0.35, 0.45), after(0.1, 0.2, 0.3, 0.5), after(0.1)
    assert errors["all"][0] < 0.09, errors
    assert errors["all"][0] < 1.5 * errors["all"][1], errors
    assert errors["neighbours"][0] > 1.3 * errors["all"][0], errors
    assert errors["neighbours"][2] < errors["all"][2], errors


# SRNO ----------------------------------------------------------------------------------------------------------------


def enlarged(modes, n):
    """Return functions of 7 x 7 waves in n x n cells."""
    return resample(modes, (n, n), (True, True), "cell").float()


@pytest.mark.full
def test_srno_is_better_than_cubic_interpolation_also_at_a_factor_it_has_not_seen():
    """From 8 x 8, trained at factors 2, 4, 8: 0.012, 0.018, 0.025 were measured, 0.023 at 6; cubic 0.20 at all.

    Between small factors it is worse, 0.063 at 3.
    """
    model = build(SRNO, centring="cell", width=32, depth=2, features=24, encoder_depth=3, heads=4)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=450)
    for step in range(450):
        modes, n = random(8, 1, 7, 7, seed=step), (16, 32, 16, 32, 64)[step % 5]
        optimiser.zero_grad()
        relative_l2(model(enlarged(modes, 8), shape=(n, n)), enlarged(modes, n)).backward()
        optimiser.step()
        schedule.step()
    modes = random(32, 1, 7, 7, seed=10**6)
    coarse = enlarged(modes, 8)
    around = F.pad(coarse, (4,) * 4, mode="circular")
    for factor, measured in ((2, 0.012), (4, 0.018), (8, 0.025), (6, 0.023), (3, 0.063)):
        fine, inside = enlarged(modes, 8 * factor), slice(4 * factor, -4 * factor)
        cubic = F.interpolate(around, scale_factor=factor, mode="bicubic")[..., inside, inside]
        with torch.no_grad():
            error = relative_l2(model(coarse, shape=fine.shape[2:]), fine).item()
        assert error < 1.3 * measured, (factor, error)
        assert relative_l2(cubic, fine) > 2 * error, (factor, error)


# IFactFormer ---------------------------------------------------------------------------------------------------------


def energy(states):
    """Return half the mean square velocity of vorticity ``(sample, time, 1, n, n)``, averaged over samples."""
    n = states.shape[-1]
    squares = torch.fft.fftfreq(n, 1 / n)[:, None] ** 2 + torch.fft.rfftfreq(n, 1 / n) ** 2
    psi = torch.fft.rfft2(states) / (squares.clamp_min(1.0).sqrt() * 2 * math.pi)
    return torch.fft.irfft2(psi, s=(n, n)).square().mean((0, 2, 3, 4)) / 2


@pytest.mark.full
def test_rollouts_of_ifactformer_stay_bounded_in_parallel_and_chained_alike():
    """50 steps of decaying turbulence; two claims that do not hold at this size.

    Energy within 10 % is claimed: it falls 48 % too low (39 % chained) and stays bounded. The chained form's error is
    to grow twice as fast at equal errors of one step: one step 0.0378 and 0.0397 (0.054 if nothing moved), 50 steps
    0.90 and 1.08.
    """
    states, found = turbulence(24, 2e-3, 50), {}
    for combine in ("parallel", "chained"):
        model = build(IFactFormer, width=32, depth=4, heads=2, head_size=16)
        if combine == "chained":
            model.A = AxialAttention(32, 2, 16, 2, combine="chained")
        model.A.norm.eps = NO_EPSILON
        train_steps(model, states[:16], epochs=5, rate=4e-3)
        errors, path = rollout(model, states[16:])
        ratio = energy(path) / energy(states[16:, 1:])
        found[combine] = one_step(model, states[16:]), errors[-1], ratio.min().item(), ratio.max().item()
    for first, last, lowest, highest in found.values():
        assert first < 0.047, found
        assert last < 1.4, found
        assert 0.4 < lowest < highest < 1.1, found
    assert 0.8 < found["chained"][1] / found["parallel"][1] < 1.5, found
