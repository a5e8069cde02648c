"""The contract that every model fulfils, and what each one promises beyond it."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.spectral import SpectralConv
from vcycle.models import FNO, MODELS, MgNO

SMALL = {
    "fno": {"modes": 3, "width": 6, "depth": 2, "padding": 2},
    "mgno": {"levels": 3, "width": 5, "depth": 2, "cycle": "V"},
}
SHAPES = {1: (16,), 2: (16, 12), 3: (8, 8, 12)}


def build(name, num_axes=2, seed=0, **options):
    torch.manual_seed(seed)
    return MODELS[name](2, 3, num_axes=num_axes, **(SMALL[name] | options))


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# MgNO ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "count"), [(3, 406_749), (4, 572_661), (5, 738_573), (6, 904_485)])
def test_mgno_has_the_published_number_of_parameters(depth, count):
    model = MgNO(1, 1, width=24, depth=depth, levels=6, boundary="zeros")
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("cycle", ["backslash", "V", "W", "F"])
@pytest.mark.parametrize(("shape", "num_axes"), [((32,), 1), ((16, 24), 2), ((8, 8, 16), 3)])
def test_periodic_mgno_commutes_with_shifts(cycle, shape, num_axes):
    model = build("mgno", num_axes, boundary="periodic", cycle=cycle).double()
    u, step = random(2, 2, *shape, dtype=torch.float64), 4  # 2^(levels - 1)
    assert model.is_equivariant(shape)
    for axis in range(num_axes):
        assert_close(model(u.roll(step, axis + 2)), model(u).roll(step, axis + 2), rtol=1e-12)


def test_mgno_says_where_shifts_are_not_exact():
    model = build("mgno", boundary="periodic").double()
    u = random(1, 2, 18, 16, dtype=torch.float64)
    assert not model.is_equivariant((18, 16))
    assert (model(u.roll(4, 2)) - model(u).roll(4, 2)).abs().max() > 1e-6
    half = build("mgno", boundary=("dirichlet", "periodic"))
    assert half.is_equivariant((18, 16))  # only the periodic axis counts
    assert not build("mgno", boundary="dirichlet").is_equivariant((16, 16))


@pytest.mark.parametrize("centring", ["cell", "vertex"])
@pytest.mark.parametrize("kind", ["dirichlet", "neumann"])
def test_mgno_at_a_wall_continues_as_the_reflected_field_does(kind, centring):
    """A grid with walls is half of a periodic one twice as long: exact ghosts make the layers agree."""
    from vcycle.models.mgno import TRANSFERS
    from vcycle.multigrid.layer import MultigridLayer
    from vcycle.multigrid.padding import Padding

    def layer(boundary):
        torch.manual_seed(0)
        padding = Padding.of(Boundary.of(boundary, 1), centring)
        made = MultigridLayer(1, 2, padding, smoothing=((1, 1), (2, 0)), transfers=TRANSFERS["centred"][centring])
        for parameter in made.parameters():  # stencils that reflection leaves as they are
            parameter.data = parameter.data + parameter.data.flip(-1)
        return made.double()

    u = random(1, 1, 16 if centring == "cell" else 17, dtype=torch.float64)
    sign = -1 if kind == "dirichlet" else 1
    inner = u
    if centring == "vertex":  # the outermost vertices are shared by the two halves; odd functions vanish there
        inner = u[..., 1:-1]
        u = F.pad(inner, (1, 1)) if kind == "dirichlet" else u
    doubled = torch.cat([u, sign * inner.flip(-1)], -1)
    size = u.shape[-1]
    assert_close(layer("periodic")(doubled)[..., :size], layer(kind)(u))


def test_mgno_refuses_grids_smaller_than_its_levels():
    with pytest.raises(ValueError, match=r"`u` must have at least 4 points per axis .* Got \(16, 3\)"):
        build("mgno")(random(1, 2, 16, 3))
    with pytest.raises(ValueError, match="`smoothing` must have 3 pairs"):
        build("mgno", smoothing=[[1, 0]])


# FNO -----------------------------------------------------------------------------------------------------------------


def test_spectral_convolution_reproduces_the_heat_semigroup():
    layer, time = SpectralConv(1, 1, (4, 4)).double(), 0.01
    k = torch.cat([torch.arange(0, 4), torch.arange(-4, 0)]).double()
    decay = torch.exp(-time * (2 * torch.pi) ** 2 * (k[:, None] ** 2 + k[None, :4] ** 2))
    layer.weight.data = torch.stack([decay, torch.zeros_like(decay)], -1)[None, None]
    x, y = (torch.from_numpy(c) for c in Grid((16, 18), centring="vertex", periodic=True).mesh())
    for kx, ky in [(0, 0), (-1, 2), (3, 1), (-3, 3), (2, 0)]:  # every corner of the kept modes
        wave = torch.cos(2 * torch.pi * (kx * x + ky * y) + 0.3)
        expected = math.exp(-time * (2 * math.pi) ** 2 * (kx**2 + ky**2)) * wave
        assert_close(layer(wave[None, None])[0, 0], expected, rtol=1e-12)


def test_spectral_convolution_drops_higher_modes_and_keeps_its_meaning_on_other_grids():
    layer = SpectralConv(1, 1, (3, 3)).double()

    def wave(n, k):
        x, y = (torch.from_numpy(c) for c in Grid((n, n), centring="vertex", periodic=True).mesh())
        return torch.cos(2 * torch.pi * (k * x + y))[None, None]

    assert layer(wave(16, 5)).abs().max() < 1e-14
    assert_close(layer(wave(32, 2))[..., ::2, ::2], layer(wave(16, 2)))
    assert layer(wave(4, 1)).shape == (1, 1, 4, 4)  # coarser than its modes


def test_fno_pads_only_what_does_not_close():
    assert build("fno", boundary="periodic").periodic == (True, True)
    model, u = build("fno", boundary="periodic").double(), random(1, 2, 16, 12, dtype=torch.float64)
    with torch.no_grad():
        model.P.weight[:, 2:] = 0  # without coordinates a periodic FNO commutes with every shift
    assert_close(model(u.roll(5, 2)), model(u).roll(5, 2), rtol=1e-12)
    walled = build("fno", boundary="dirichlet").double()
    assert (walled(u.roll(5, 2)) - walled(u).roll(5, 2)).abs().max() > 1e-6


def test_coordinates_are_those_of_the_grid():
    u = torch.zeros(2, 1, 4, 5)
    appended = append_coordinates(u, "vertex", (False, True))
    assert_close(appended[1, 1, :, 0], torch.tensor([0, 1 / 3, 2 / 3, 1.0]))
    assert_close(appended[1, 2, 0], torch.tensor([0, 0.2, 0.4, 0.6, 0.8]))


def test_both_models_take_a_boundary_object():
    boundary = Boundary.of("periodic", 1)
    for model in (MgNO(1, 1, boundary=boundary, levels=3, width=4), FNO(1, 1, boundary=boundary, modes=3, width=4)):
        assert model.num_axes == 1
        assert model(random(1, 1, 8)).shape == (1, 1, 8)
