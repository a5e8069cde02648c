"""Operators learn: trainings of seconds to a minute, with the errors that were measured when the test was written."""

import math

import pytest
import torch
from torch import Tensor, nn

from helpers import assert_close
from vcycle.layers.group import act
from vcycle.layers.transforms import resample
from vcycle.metrics import relative_l2
from vcycle.models import FNO, GFNO, MODELS


def burgers(samples: int, viscosity: float = 0.1, n: int = 256, steps: int = 256) -> tuple[Tensor, Tensor]:
    """Return initial values of Burgers' equation on the unit torus and the solution at time 1, of unit deviation.

    Initial spectrum ``25 / ((2 pi k)^2 + 25)``, deviation 1.3; pseudo-spectral, integrating factor, Runge-Kutta 4.
    """
    generator = torch.Generator().manual_seed(0)
    k = torch.fft.rfftfreq(n, 1 / n).double()
    noise = torch.randn(samples, len(k), 2, dtype=torch.float64, generator=generator)
    spectrum = torch.view_as_complex(noise) * 25 / ((2 * math.pi * k) ** 2 + 25) * (k > 0) * (k < 64)
    start = torch.fft.irfft(spectrum, n=n)
    start = start * 1.3 / start.std()
    v, step = torch.fft.rfft(start), 1 / steps
    half = torch.exp(-viscosity * (2 * math.pi * k) ** 2 * step / 2)
    slope = -1j * math.pi * k * (k < n / 3)

    def nonlinear(w):
        return slope * torch.fft.rfft(torch.fft.irfft(w, n=n).square())

    for _ in range(steps):
        a = nonlinear(v)
        b = nonlinear(half * (v + step / 2 * a))
        c = nonlinear(half * v + step / 2 * b)
        d = nonlinear(half**2 * v + step * half * c)
        v = half**2 * v + step / 6 * (half**2 * a + 2 * half * (b + c) + d)
    end = torch.fft.irfft(v, n=n)
    return start[:, None].float(), (end / end.std())[:, None].float()


def train(model: nn.Module, inputs: Tensor, targets: Tensor, *, epochs: int, batch: int = 16, rate: float = 2e-3):
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    steps = epochs * math.ceil(len(inputs) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(batch):
            optimiser.zero_grad()
            relative_l2(model(inputs[rows]), targets[rows]).backward()
            optimiser.step()
            schedule.step()


def build(name, *channels, seed=0, **options):
    torch.manual_seed(seed)
    return MODELS[name](*(channels or (1, 1)), **options)


def error(model, inputs, targets):
    with torch.no_grad():
        return relative_l2(model(inputs), targets).item()


def error_of_the_best_linear_map(inputs, targets, *, split):
    a, b = inputs[:, 0].double(), targets[:, 0].double()
    n = a.shape[1]
    ridge = torch.cat([a[:split], 1e-2 * torch.eye(n).double()]), torch.cat([b[:split], torch.zeros(n, n).double()])
    return relative_l2((a[split:] @ torch.linalg.lstsq(*ridge)[0])[:, None], b[split:, None]).item()


def test_an_fno_learns_more_than_any_linear_map_in_seconds():
    u, v = (field[..., ::8] for field in burgers(160, steps=128))
    model = build("fno", num_axes=1, boundary="periodic", centring="vertex", modes=8, width=12, depth=3)
    train(model, u[:128], v[:128], epochs=10, rate=5e-3)
    assert error(model, u[128:], v[128:]) < 0.5 * error_of_the_best_linear_map(u, v, split=128)


@pytest.mark.full
def test_fno_solves_burgers_on_grids_it_has_not_seen():
    """500 samples at 128 points, 40 epochs: 0.209 % was measured, 0.212 at 256 and 0.215 at 512.

    Asked: below 2 %, and within a tenth of that on four times as many points, where local kernels err five times more.
    """
    u, v = burgers(600, n=512)
    x, y = u[:500, :, ::4], v[:500, :, ::4]
    options = {"num_axes": 1, "boundary": "periodic", "centring": "vertex"}
    fno = build("fno", modes=16, width=24, depth=4, **options)
    train(fno, x, y, epochs=40, batch=20)
    seen, *finer = (error(fno, u[500:, :, ::s], v[500:, :, ::s]) for s in (4, 2, 1))
    assert seen < 0.02
    assert max(abs(one / seen - 1) for one in finer) < 0.1
    local = build("resnet", width=24, depth=4, **options)
    train(local, x, y, epochs=10, batch=20)
    assert error(local, u[500:], v[500:]) > 5 * finer[-1]


RATES = {
    "affnet": 1e-2,
    "afno": 1e-2,
    "dmd": 3e-3,
    "dpot": 5e-3,
    "gno": 5e-3,
    "lno": 5e-3,
    "mg_tfno": 5e-3,
    "multipole_gno": 5e-3,
    "neural_spectral": 1e-2,
    "spectral_refiner": 5e-3,
    "srno": 5e-3,
}
MEASURED = {
    "affnet": ({"width": 32, "depth": 3, "blocks": 4}, 0.0630),
    "afno": ({"width": 32, "depth": 3, "blocks": 4, "expansion": 2}, 0.0377),
    "deeponet": ({"sensors": 64, "width": 64, "depth": 2, "terms": 32}, 0.151),
    "dmd": ({"points": 64, "rank": 16}, 0.0584),
    "dpot": ({"width": 32, "depth": 3, "blocks": 4, "expansion": 2}, 0.0397),
    "factformer": ({"width": 32, "depth": 3, "heads": 2, "head_size": 16}, 0.0249),
    "ffno": ({"modes": 12, "width": 16, "depth": 4}, 0.0142),
    "fno": ({"modes": 12, "width": 16, "depth": 4}, 0.0078),
    "galerkin_transformer": ({"width": 32, "depth": 3, "heads": 2, "modes": 12}, 0.0097),
    "gno": ({"width": 20, "depth": 4, "radius": 8.5 / 64, "hidden": 12}, 0.0692),
    "ifactformer": ({"width": 32, "depth": 4, "heads": 2, "head_size": 16}, 0.0344),
    "implicit_fno": ({"modes": 12, "width": 24, "depth": 4}, 0.0208),
    "lno": ({"width": 24, "depth": 4, "rank": 8, "hidden": 32}, 0.0288),
    "local_no": ({"modes": 12, "width": 16, "depth": 3, "radius": 0.0625, "central": True}, 0.0166),
    "lordnet": ({"points": 64, "width": 16, "depth": 3}, 0.0550),
    "lsm": ({"width": 16, "depth": 2, "heads": 4, "bases": 6}, 0.0366),
    "mg_tfno": ({"modes": 12, "width": 24, "depth": 3, "rank": 0.3, "margin": 0.5}, 0.0159),
    "mgno": ({"levels": 5, "width": 16, "depth": 3, "input_bias": True}, 0.0207),
    "monet": ({"width": 24, "depth": 2, "levels": 3}, 0.178),
    "multipole_gno": ({"width": 16, "depth": 2, "levels": 5, "radius": 2.5 / 64, "hidden": 12}, 0.0858),
    "neural_spectral": ({"modes": 25, "width": 16, "depth": 3}, 0.0352),
    "resnet": ({"width": 24, "depth": 4}, 0.0807),
    "scot": ({"width": 24, "depth": 2, "stages": 3, "heads": 3}, 0.0838),
    "spectral_refiner": ({"modes": 12, "time_modes": 2, "width": 16, "depth": 3}, 0.0349),
    "srno": ({"width": 32, "depth": 2, "features": 16, "encoder_depth": 4}, 0.177),
    "t1": ({"modes": 24, "width": 16, "depth": 3}, 0.0690),
    "tfno": ({"modes": 12, "width": 24, "depth": 3}, 0.0159),
    "unet": ({"width": 12, "depth": 3}, 0.0292),
    "uno": ({"modes": 12, "width": 16, "depth": 2}, 0.0066),
}
"""Options and relative L2 error of every model that exists in one dimension; a linear map gets to 0.219."""

FINER = {"multipole_gno": 1.8}
"""Where the claim to keep an error on four times as many points holds less well: the coarsest of five grids has 4
points where it was trained and 16 there, and what its balls average changes. 1.47 was measured."""


KEEPS = {"affnet"}
"""Models that keep their error on four times as many points here without claiming it in general."""
ELSEWHERE = {"dsno", "published_factformer", "published_galerkin_transformer"}
"""Trajectories are learnt in test_dsno.py; published variants are held to their authors' code."""


def test_every_one_dimensional_model_is_measured_or_named():
    assert MEASURED.keys() | ELSEWHERE == {name for name, model in MODELS.items() if 1 in getattr(model, "axes", ())}
    assert not MEASURED.keys() & ELSEWHERE


@pytest.mark.full
@pytest.mark.parametrize("name", MEASURED)
def test_error_on_burgers_is_what_was_measured(name):
    """256 samples at 64 points, 20 epochs; models that claim it keep their error on four times as many points.

    Those that do not claim it lose it: 0.079 (afno), 0.65 (mgno), 0.58 (lsm), 0.75 (resnet), 0.70 (unet) at 256 points.
    """
    options, measured = MEASURED[name]
    u, v = burgers(356)
    model = build(name, num_axes=1, boundary="periodic", centring="vertex", **options)
    if name == "dmd":
        model.fit_modes(torch.stack([u[:256, :, ::4], v[:256, :, ::4]], 1))  # 0.189 before the training
    train(model, u[:256, :, ::4], v[:256, :, ::4], epochs=20, rate=RATES.get(name, 2e-3))
    trained = error(model, u[256:, :, ::4], v[256:, :, ::4])
    assert trained < 1.5 * measured
    if MODELS[name].resolution_free:
        assert error(model, u[256:], v[256:]) < FINER.get(name, 1.1) * trained
    elif name not in KEEPS:
        assert error(model, u[256:], v[256:]) > 1.5 * trained


@pytest.mark.full
def test_tensor_weights_cost_little_accuracy():
    """A tenth of the spectral weights: 1.3 times the error of the same network with all of them was measured."""
    options = {"num_axes": 1, "boundary": "periodic", "centring": "vertex", "modes": 12, "width": 24, "depth": 3}
    u, v = (field[..., ::4] for field in burgers(356))
    errors = {}
    for rank in (0.1, 1.0):
        model = build("tfno", rank=rank, **options)
        train(model, u[:256], v[:256], epochs=20)
        errors[rank] = error(model, u[256:], v[256:])
    assert errors[0.1] < 1.6 * errors[1.0]


@pytest.mark.full
def test_afno_mixes_tokens():
    """A square, then a smoothing: 0.042 was measured, and 0.873 where a high threshold keeps tokens apart.

    Asked: five times less error than a network of the tokens alone; 20 was reached, with one token a point, one block
    and rough fields. With features of the place that jump where the axis closes it was 4.6, 0.190 against 0.874.
    """
    noise = torch.randn(356, 1, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = resample(noise, (64,), (True,), "vertex")
    u = (u / u.std()).float()
    k = torch.fft.rfftfreq(64, 1 / 64)
    v = torch.fft.irfft(torch.fft.rfft(u.square() - 1) * torch.exp(-0.3 * k**2), n=64)
    v = v / v.std()
    errors = {}
    for threshold in (1e-3, 1e9):
        options = {"width": 64, "depth": 3, "blocks": 1, "expansion": 2, "patch": 1, "threshold": threshold}
        model = build("afno", num_axes=1, boundary="periodic", centring="vertex", **options)
        train(model, u[:256], v[:256], epochs=40, rate=8e-3)
        errors[threshold] = error(model, u[256:], v[256:])
    assert errors[1e-3] < 0.08
    assert errors[1e-3] < errors[1e9] / 10


def directed(samples: int, n: int = 16) -> tuple[Tensor, Tensor]:
    """Return fields that vary along x alone or nearly so, and the solution of ``u - 0.01 Laplace u = f + f^2``."""
    k = torch.fft.fftfreq(n, 1 / n)
    kx, ky = k[:, None], torch.fft.rfftfreq(n, 1 / n)
    noise = torch.view_as_complex(torch.randn(samples, n, n // 2 + 1, 2, generator=torch.Generator().manual_seed(0)))
    f = torch.fft.irfft2(noise * torch.exp(-(kx**2) / 8 - 4 * ky**2), s=(n, n), norm="forward")
    f = f / f.std()
    symbol = 1 / (1 + 0.01 * (2 * math.pi) ** 2 * (kx**2 + ky**2))
    u = torch.fft.irfft2(torch.fft.rfft2(f + f.square()) * symbol, s=(n, n))
    return f[:, None], (u / u.std())[:, None]


@pytest.mark.full
def test_only_an_equivariant_operator_knows_what_it_learnt_when_turned():
    """Trained on fields along x, tested on fields along y: the same error for the group, many times as much without."""
    f, u = directed(260)
    ratios = {}
    for model, options in ((GFNO, {"width": 6}), (FNO, {"width": 12, "padding": 0})):
        torch.manual_seed(0)
        operator = model(1, 1, modes=5, depth=3, boundary="periodic", centring="vertex", **options)
        train(operator, f[:200], u[:200], epochs=25, rate=5e-3)
        straight, turned = error(operator, f[200:], u[200:]), error(operator, act(1, f[200:]), act(1, u[200:]))
        assert straight < 0.15  # 0.074 for the group, 0.024 without
        ratios[model] = turned / straight
    assert_close(ratios[GFNO], 1.0, rtol=1e-4)
    assert ratios[FNO] > 5  # 0.37 when turned
