"""What each operator promises beyond the contract: exact symmetries and limits, resolution, and that it learns."""

import math

import pytest
import torch

from helpers import assert_close
from vcycle.grid import Grid
from vcycle.layers.group import act
from vcycle.layers.positions import squared_distance
from vcycle.layers.transforms import resample
from vcycle.models import AFNO, FFNO, FNO, GFNO, LSM, MODELS, T1, TFNO, UNO, FactFormer, GalerkinTransformer, UNet


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(model, *arguments, seed=0, **options):
    torch.manual_seed(seed)
    return model(*(arguments or (2, 3)), **options).double()


def smooth(*shape, channels=2, periodic=True, centring="cell", seed=0):
    """A random field of few modes, the same function on every grid."""
    coarse = random(1, channels, *(5 for _ in shape), seed=seed)
    return resample(coarse, shape, (periodic,) * len(shape), centring)


# Resolution ----------------------------------------------------------------------------------------------------------

FREE = {
    "deeponet": {"sensors": 5, "width": 8, "depth": 2, "terms": 4},
    "dmd": {"points": 4, "rank": 4, "width": 6, "depth": 1},
    "dsno": {"times": 1, "modes": 4, "time_modes": 1, "width": 6, "depth": 2, "padding": 0.5},
    "factformer": {"width": 6, "depth": 2, "heads": 2, "head_size": 4},
    "ffno": {"modes": 4, "width": 6, "depth": 2, "padding": 0.5},
    "fno": {"modes": 4, "width": 6, "depth": 2, "padding": 0.5},
    "galerkin_transformer": {"width": 8, "depth": 2, "heads": 2, "modes": 4, "padding": 0.5},
    "gfno": {"modes": 4, "width": 3, "depth": 2, "position": False, "padding": 0.5},
    "ifactformer": {"width": 6, "depth": 2, "heads": 2, "head_size": 4},
    "implicit_fno": {"modes": 4, "width": 6, "depth": 2, "padding": 0.5},
    "lno": {"width": 6, "depth": 2, "rank": 2, "hidden": 6},
    "local_no": {"modes": 4, "width": 6, "depth": 2, "radius": 0.1, "central": True, "padding": 0.5},
    "lordnet": {"points": 8, "width": 6, "depth": 1},
    "mg_tfno": {"modes": 4, "width": 6, "depth": 2, "rank": 0.3},
    "neural_spectral": {"modes": 5, "width": 6, "depth": 2},
    "published_factformer": {"width": 8, "depth": 2, "heads": 2, "head_size": 4},
    "sfno": {"modes": 4, "width": 6, "depth": 2, "centring": "cell"},
    "spectral_refiner": {"modes": 4, "time_modes": 2, "width": 6, "depth": 2, "padding": 0.5},
    "t1": {"modes": 6, "width": 6, "depth": 2},
    "tfno": {"modes": 4, "width": 6, "depth": 2, "rank": 0.3, "padding": 0.5},
    "uno": {"modes": 4, "width": 4, "depth": 1, "padding": 0.5},
}
BALLS = {
    "gno": {"width": 5, "depth": 2, "radius": 0.2, "hidden": 4},
    "multipole_gno": {"width": 5, "depth": 2, "levels": 2, "radius": 0.15, "hidden": 4},
}
"""Models whose neighbourhoods are balls: which points lie in one jumps from grid to grid, so that there is no order."""


def test_every_resolution_free_model_is_held_to_it():
    assert FREE.keys() | BALLS.keys() == {
        name for name, model in MODELS.items() if getattr(model, "resolution_free", False)
    }


def on_cells(model, n, periodic):
    """The output for one and the same input function on n x n points, as averages over an 8 x 8 grid."""
    with torch.no_grad():
        return torch.nn.functional.avg_pool2d(model(smooth(n, n, periodic=periodic)), n // 8)


@pytest.mark.parametrize(
    ("boundary", "centring"), [("dirichlet", "cell"), ("dirichlet", "vertex"), ("periodic", "vertex")]
)
def test_squared_distance_is_that_of_places_in_the_box(boundary, centring):
    """One in a corner of the box; periodic vertices lie half a spacing off, so that they are symmetric."""
    grid = Grid((5, 9), centring=centring, periodic=boundary == "periodic")
    x, y = (2 * line - line[0] - line[-1] for line in grid.coordinates())
    found = squared_distance(random(1, 1, 5, 9), grid.periodic, centring)[0, 0]
    assert_close(found, torch.as_tensor((x[:, None] ** 2 + y**2) / 2))


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
@pytest.mark.parametrize("name", FREE)
def test_refining_the_grid_converges_to_second_order(name, boundary):
    model = build(MODELS[name], num_axes=2, boundary=boundary, **FREE[name])
    outputs = [on_cells(model, n, boundary == "periodic") for n in (16, 32, 64, 128)]
    errors = [(output - outputs[-1]).norm() / outputs[-1].norm() for output in outputs[:-1]]
    assert errors[2] < 0.25 * errors[1] < 0.08 * errors[0] < 0.002, errors  # 20/64 and 5/20 of what falls as 63:15:3


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
@pytest.mark.parametrize("name", BALLS)
def test_refining_the_grid_of_a_sum_over_balls_converges(name, boundary):
    model = build(MODELS[name], num_axes=2, boundary=boundary, **BALLS[name])
    outputs = [on_cells(model, n, boundary == "periodic") for n in (16, 32, 64, 128)]
    errors = [(output - outputs[-1]).norm() / outputs[-1].norm() for output in outputs[:-1]]
    assert errors[2] < 0.2 * errors[0] < 0.002, errors


def test_padding_by_a_number_of_points_ties_an_fno_to_its_grid():
    model = build(FNO, boundary="neumann", **(FREE["fno"] | {"padding": 8}))
    outputs = [on_cells(model, n, periodic=False) for n in (16, 32, 64)]
    assert (outputs[1] - outputs[2]).norm() > 0.1 * outputs[2].norm()


@pytest.mark.parametrize("name", ["fno", "tfno", "ffno", "gfno", "uno"])
def test_periodic_spectral_models_without_coordinates_commute_with_shifts(name):
    model = build(MODELS[name], boundary="periodic", **FREE[name])
    with torch.no_grad():
        for key, weight in model.P.named_parameters():
            if key in ("weight", "0.weight") and name != "gfno":
                weight[:, 2:] = 0
    u, step = random(1, 2, 16, 12), 2  # twice the finest spacing, for the halved grid of the U
    assert_close(model(u.roll(step, 2)), model(u).roll(step, 2), rtol=1e-12)
    assert_close(model(u.roll(step, 3)), model(u).roll(step, 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"width": 4, "depth": 2}),
        ("resnet", {"width": 4, "depth": 2}),
        ("monet", {"width": 4, "levels": 3}),
        ("multipole_gno", {"width": 4, "hidden": 4, "levels": 3, "radius": 0.1}),
    ],
)
def test_networks_on_several_grids_know_no_seam_around_a_torus(name, options):
    """Without coordinates they commute with shifts by the spacing of their coarsest grid."""
    model = build(MODELS[name], boundary="periodic", **options)
    with torch.no_grad():
        lifted = [model.P.conv if hasattr(model.P, "conv") else model.P]
        if name == "multipole_gno":
            lifted += [part for kernel in model.K for part in (kernel.here, kernel.there)]
        for part in lifted:
            part.weight[:, 2:] = 0
    u, step = random(1, 2, 16, 24), 4
    assert_close(model(u.roll(step, 2)), model(u).roll(step, 2), rtol=1e-12)
    assert_close(model(u.roll(step, 3)), model(u).roll(step, 3), rtol=1e-12)


# FNO and its kin -----------------------------------------------------------------------------------------------------


def test_one_layer_of_an_fno_is_its_multiplier():
    """With the pointwise maps passing the input alone, what remains is the heat semigroup that the weights spell."""
    time, fno = 0.01, build(FNO, 1, 1, modes=5, width=1, depth=1, boundary="periodic", centring="vertex")
    fno.Q = torch.nn.Identity()
    k = torch.meshgrid(*(torch.tensor(f).double() for f in fno.K[0].frequencies), indexing="ij")
    with torch.no_grad():
        for parameter in fno.parameters():
            parameter.zero_()
        fno.P.weight[:, 0] = 1.0
        fno.K[0].weight[0, 0, ..., 0] = torch.exp(-time * (2 * math.pi) ** 2 * (k[0] ** 2 + k[1] ** 2))
    u = smooth(16, 15, channels=1, centring="vertex")
    kx, ky = torch.fft.fftfreq(16, 1 / 16).double(), torch.fft.fftfreq(15, 1 / 15).double()
    decay = torch.exp(-time * (2 * math.pi) ** 2 * (kx[:, None] ** 2 + ky**2))
    assert_close(fno(u), torch.fft.ifft2(decay * torch.fft.fft2(u)).real, rtol=1e-12)


def test_share_of_padding_keeps_the_period_on_every_grid():
    from vcycle.layers.domain import pad_walls

    for centring, sizes in {"cell": (16, 32, 64), "vertex": (17, 33, 65)}.items():
        padded = [pad_walls(torch.zeros(1, 1, n), (False,), 0.25, centring).shape[-1] for n in sizes]
        assert [p / (n if centring == "cell" else n - 1) for p, n in zip(padded, sizes, strict=True)] == [1.25] * 3
    with pytest.raises(ValueError, match=r"`padding` must not be negative or infinite. Got -0.1"):
        FNO(1, 1, padding=-0.1)
    with pytest.raises(ValueError, match=r"`padding` must be at least 0. Got -1"):
        FNO(1, 1, padding=-1)


def test_tfno_has_its_share_of_the_weights():
    dense = sum(K.weight.numel() for K in FNO(1, 1, modes=12, width=32).K)
    for factorisation in ("tucker", "cp", "tensor-train"):
        model = TFNO(1, 1, modes=12, width=32, factorisation=factorisation, rank=0.05)
        spectral = sum(p.numel() for K in model.K for p in K.parameters())
        assert 0.035 * dense < spectral < 0.05 * dense


def test_ffno_grows_with_the_number_of_axes():
    def spectral(num_axes):
        model = FFNO(1, 1, modes=8, width=4, depth=3, num_axes=num_axes)
        return sum(p.numel() for K in model.K for p in K.parameters())

    assert [spectral(d) for d in (1, 2, 3)] == [3 * 4 * 4 * 8 * 2 * d for d in (1, 2, 3)]
    assert sum(p.numel() for p in FFNO(1, 1, modes=8, width=4, depth=3, shared=True).K.parameters()) == 4 * 4 * 8 * 4


def test_uno_layers_go_down_and_up():
    model = UNO(1, 1, modes=8, width=4, depth=2)
    assert model.steps == [(0, 0), (0, 1), (1, 2), (2, 1), (1, 0)]
    assert [tuple(K.weight.shape[:4]) for K in model.K] == [
        (4, 4, 16, 8),
        (4, 8, 16, 8),
        (8, 16, 8, 4),
        (16, 8, 8, 4),
        (16, 4, 16, 8),
    ]


# G-FNO ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["periodic", "dirichlet"])
@pytest.mark.parametrize("n", [16, 15])
@pytest.mark.parametrize("reflections", [False, True])
def test_gfno_commutes_with_its_group(reflections, n, boundary):
    model = build(GFNO, modes=4, width=3, depth=2, reflections=reflections, boundary=boundary)
    u = random(2, 2, n, n)
    for element in range(8 if reflections else 4):
        assert_close(model(act(element, u)), act(element, model(u)), rtol=1e-12)
    if not reflections:
        assert (model(act(4, u)) - act(4, model(u))).norm() > 0.01 * model(u).norm()
    plain = build(FNO, modes=4, width=6, depth=2, boundary=boundary)
    assert (plain(act(1, u)) - act(1, plain(u))).norm() > 0.1 * plain(u).norm()


# Transformers --------------------------------------------------------------------------------------------------------


def test_attention_of_the_galerkin_transformer_is_a_quadrature():
    """Twice the points change the output by quadrature error alone; attention that sums would double."""
    model = build(GalerkinTransformer, 1, 1, num_axes=1, width=8, heads=2, modes=3, boundary="periodic")
    for A in model.A:
        for linear in (A.to_query, A.to_key, A.to_value):
            linear.weight.data = linear.weight.data * 30.0  # so that attention matters
    u, twice = smooth(40, channels=1, centring="cell"), smooth(80, channels=1, centring="cell")
    assert_close(model(twice).unflatten(-1, (40, 2)).mean(-1), model(u), rtol=0.02)
    for A in model.A:
        A.integrate = lambda q, k, v, w, A=A: type(A).integrate(A, q, k, v, torch.ones_like(w))
    assert (model(twice).unflatten(-1, (40, 2)).mean(-1) - model(u)).norm() > 0.2 * model(u).norm()


@pytest.mark.parametrize("attention", ["galerkin", "fourier", "softmax"])
def test_kinds_of_attention_are_different_models(attention):
    u = random(1, 2, 8, 9)
    models = [build(GalerkinTransformer, width=8, heads=2, modes=3, attention=a) for a in (attention, "galerkin")]
    outputs = [model(u) for model in models]
    assert outputs[0].isfinite().all()
    assert (attention == "galerkin") == bool((outputs[0] - outputs[1]).norm() < 1e-12)


def test_factformer_costs_the_sum_of_the_sides():
    """Its kernels are one matrix per axis and head, never one of all points."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(n):
        model = FactFormer(1, 1, width=4, depth=1, heads=1, head_size=4)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 1, n, n))
        return counter.get_total_flops()

    assert flops(128) < 8.5 * flops(64)  # n^2 points times 2 n; attention of all points would be 16


# AFNO, LSM, T1 -------------------------------------------------------------------------------------------------------


def test_afno_with_a_high_threshold_sees_patches_alone():
    model = build(AFNO, width=8, blocks=2, patch=4, threshold=1e6)
    u = random(1, 2, 16, 16)
    changed = u.clone()
    changed[..., :4, :4] += 1.0
    difference = (model(changed) - model(u)).abs().sum((0, 1)) > 1e-12
    assert difference[:4, :4].all()
    assert difference.sum() == 16
    low = build(AFNO, width=8, blocks=2, patch=4, threshold=0.0)
    assert ((low(changed) - low(u)).abs().sum((0, 1)) > 1e-12).all()


def test_tokens_of_lsm_do_not_see_the_order_of_a_patch():
    from vcycle.layers.latent import LatentSpectralBlock

    torch.manual_seed(0)
    block = LatentSpectralBlock(4, 3, 5, 2, 4, 2).double()
    x = random(1, 4, 8, 8)
    shuffled, order = x.clone(), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled[..., :4, :4] = x[..., :4, :4].flatten(2)[..., order].unflatten(2, (4, 4))
    expected = block(x)
    expected[..., :4, :4] = expected[..., :4, :4].flatten(2)[..., order].unflatten(2, (4, 4))
    assert_close(block(shuffled), expected, rtol=1e-13)
    block.weight.data.zero_()
    tokens = random(2, 3, 2)
    assert torch.equal(block.solve(tokens), tokens)


def test_the_map_of_lsms_tokens_is_a_series_of_waves():
    from vcycle.layers.latent import LatentSpectralBlock

    block, t = LatentSpectralBlock(4, 3, 5, 2, 4, 2).double(), random(2, 3, 2)
    expected = t.clone()
    for m in range(5):
        angle = math.pi * m * t / 5
        expected = expected + block.weight[..., m] * angle.sin() + block.weight[..., 5 + m] * angle.cos()
    assert_close(block.solve(t), expected)


def test_patches_are_put_back_where_they_were():
    from vcycle.layers.latent import LatentSpectralBlock

    for shape in ((8,), (8, 12), (4, 8, 12)):
        block, x = LatentSpectralBlock(4, 3, 5, 2, 4, len(shape)), random(2, 4, *shape)
        assert torch.equal(block._together(block._patches(x), [n // 4 for n in shape]), x)
        first = block._patches(x)[1, 0, 1, :, 0]  # head 1 begins with channel 2
        assert torch.equal(first, x[1, 2][(slice(0, 4),) * len(shape)].flatten())


def test_lsm_without_its_blocks_is_the_unet_between():
    lsm = build(LSM, width=8, depth=1, heads=2, patch=2)
    unet = build(UNet, width=8, depth=1)
    with torch.no_grad():
        for block in lsm.body.blocks:
            block.to_query.weight.zero_()
            block.to_query.bias.zero_()
            block.tokens.zero_()
            block.weight.zero_()
            block.to_key_value.weight[len(block.to_key_value.weight) // 2 :] = 0
            block.to_key_value.bias[len(block.to_key_value.bias) // 2 :] = 0
    shared = {k: v for k, v in unet.body.state_dict().items() if not k.startswith("blocks")}
    lsm.body.load_state_dict(shared, strict=False)
    v = random(1, 8, 8, 12)
    assert_close(lsm.body(v), unet.body(v))


def test_t1_transforms_are_inverse_and_output_has_its_modes():
    model = build(T1, modes=6, boundary=("periodic", "neumann"))
    z = random(1, 3, 6, 6)
    for shape in ((9, 9), (16, 12)):
        assert_close(model.coefficients(model.evaluate(z, shape)), z)
    output = model(random(1, 2, 16, 12))
    assert_close(model.evaluate(model.coefficients(output), (16, 12)), output)


def test_t1_layers_keep_the_variance_of_coefficients():
    for modes in (8, 16, 24):
        torch.manual_seed(0)
        z = torch.randn(4, 16, modes, modes)
        A = T1(1, 1, modes=modes, width=16, depth=1).A[0]
        variance = torch.einsum("bi...,io...->bo...", z, A).var().item()
        assert 0.8 < variance < 1.25
