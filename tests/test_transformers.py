"""Transformers on patches, windows and axes: what their papers promise exactly, and that they learn."""

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_close, assert_order
from vcycle.layers.positions import GaussianFeatures
from vcycle.layers.transforms import resample
from vcycle.layers.window import WindowAttention
from vcycle.models import AFNO, DPOT, FactFormer, IFactFormer, ScOT


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(model, *arguments, seed=0, **options):
    torch.manual_seed(seed)
    return model(*(arguments or (2, 3)), **options).double()


def size(model, *arguments, **options):
    """Number of weights, without having them."""
    with torch.device("meta"):
        return sum(p.numel() for p in model(*arguments, **options).parameters())


# Places --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [AFNO, DPOT, FactFormer, IFactFormer])
def test_features_of_places_close_around_the_periodic_axis_alone(model):
    layers = build(model, boundary=("dirichlet", "periodic")).modules()
    features = [layer for layer in layers if isinstance(layer, GaussianFeatures)]
    place, around, across = torch.tensor([[0.0, 0.3], [0.0, 1.3], [1.0, 0.3]], dtype=torch.float64)
    assert features
    for layer in features:
        assert_close(layer(around), layer(place), rtol=1e-12)
        assert (layer(across) - layer(place)).norm() > 0.1 * layer(place).norm()


# DPOT ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"width": 512, "depth": 4, "blocks": 4}, 7),
        ({"width": 1024, "depth": 6, "blocks": 8}, 30),
        ({"width": 1024, "depth": 12, "blocks": 8, "expansion": 4}, 122),
        ({"width": 1536, "depth": 24, "blocks": 16, "expansion": 4}, 509),
    ],
)
def test_dpot_has_the_published_sizes(options, millions):
    assert size(DPOT, 40, 4, times=10, patch=8, **options) == pytest.approx(1e6 * millions, rel=0.055)


def test_dpot_mixer_is_a_network_on_the_forward_normalised_spectrum():
    from vcycle.models.dpot import FourierMixer

    torch.manual_seed(0)
    mixer, v = FourierMixer(6, 3).double(), random(2, 6, 7, 5)
    with torch.no_grad():
        for bias in (mixer.bias1, mixer.bias2):
            bias.normal_()
    z = torch.fft.fft2(v, norm="forward").unflatten(1, (3, 2))
    (w1, w2), (b1, b2) = (
        [torch.complex(*parts) for parts in pair]
        for pair in ((mixer.weight1, mixer.weight2), (mixer.bias1[:, :, 0], mixer.bias2[:, :, 0]))
    )
    z = torch.einsum("bkixy,kio->bkoxy", z, w1) + b1[..., None, None]
    z = torch.complex(F.gelu(z.real), F.gelu(z.imag))
    z = torch.einsum("bkixy,kio->bkoxy", z, w2) + b2[..., None, None]
    half = z.flatten(1, 2)[..., :3]  # the other half of a real function's spectrum is its conjugate
    assert_close(mixer(v), v + torch.fft.irfft2(half, s=(7, 5), norm="forward"), rtol=1e-12)


def test_dpot_gathers_times_with_their_weights():
    from vcycle.models.dpot import TimeAggregator

    torch.manual_seed(0)
    gather, v = TimeAggregator(4, 3).double(), random(2, 3, 4, 5)
    with torch.no_grad():
        gather.frequencies.normal_()
    expected = sum(
        torch.einsum("oc,bcx->box", gather.weight[i], v[:, i] * torch.cos(gather.frequencies * t)[:, None])
        for i, t in enumerate((0.0, 0.5, 1.0))
    )
    assert_close(gather(v), expected, rtol=1e-13)


def test_dpot_reads_channels_time_by_time():
    """What a frame's tokens are depends on that frame and its time alone; the gathering is where they meet."""
    model, u = build(DPOT, 6, 1, times=3, width=8, depth=1), random(2, 6, 8, 6)
    tokens = model._tokens(u)
    assert tokens.shape == (2, 3, 8, 4, 3)
    changed = u.clone()
    changed[:, 2:4] += 1.0
    again = model._tokens(changed)
    assert_close(again[:, [0, 2]], tokens[:, [0, 2]])
    assert (again[:, 1] - tokens[:, 1]).norm() > 1e-2 * tokens.norm()
    same = model._tokens(u[:, :2].repeat(1, 3, 1, 1))
    assert (same[:, 1] - same[:, 0]).norm() > 1e-3 * same.norm()  # the clock is an input
    with pytest.raises(ValueError, match=r"`times` must divide `in_channels` = 6. Got 4"):
        DPOT(6, 1, times=4)


def test_dpot_blocks_without_their_last_map_are_the_identity():
    shallow, deep = (build(DPOT, width=8, depth=depth) for depth in (1, 3))
    with torch.no_grad():
        for model in (shallow, deep):
            for M in model.M:
                M[2].weight.zero_()
                M[2].bias.zero_()
    outer = {key: value for key, value in shallow.state_dict().items() if key.split(".")[0] not in ("S", "M", "norms")}
    deep.load_state_dict(outer, strict=False)
    u = random(1, 2, 8, 8)
    assert torch.equal(deep(u), shallow(u))


# scOT ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "millions"),
    [({"width": 48, "depth": 4}, 21), ({"width": 96, "depth": 8}, 158), ({"width": 192, "depth": 8}, 629)],
)
def test_scot_has_the_published_sizes(options, millions):
    assert size(ScOT, 4, 4, stages=4, window=16, patch=4, **options) == pytest.approx(1e6 * millions, rel=0.02)


def attention(window, shift, periodic, width=6, heads=2):
    torch.manual_seed(0)
    layer = WindowAttention(width, heads, window, shift, periodic).double()
    with torch.no_grad():
        layer.sharpness.copy_(torch.tensor([1.0, 9.0]).log().reshape(2, 1, 1))  # the second lies within the limit too
        layer.bias[2].weight.mul_(10.0)
    return layer


def window_of(i, n, window, shift, closed):
    if n <= window:
        return 0
    return ((i - shift) % n) // window if closed else (i - shift) // window


@pytest.mark.parametrize("shape", [(8, 12), (9, 10), (3, 11)])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_window_attention_is_the_sum_over_the_points_of_a_window(shape, shift):
    """Against a loop over all pairs of points, in which windows, offsets and the walls are spelt out."""
    periodic, window = (True, False), 4
    layer, v = attention(window, shift, periodic), random(1, 6, *shape)
    place = [(i, j) for i in range(shape[0]) for j in range(shape[1])]
    key = [tuple(map(window_of, p, shape, (window,) * 2, (shift,) * 2, periodic)) for p in place]
    tokens = v[0].flatten(1).T
    query, keys, value = (m(tokens).reshape(-1, 2, 3) for m in (layer.to_query, layer.to_key, layer.to_value))
    query, keys = (part / part.norm(dim=-1, keepdim=True) for part in (query, keys))
    mixed = torch.empty_like(query)
    for i, here in enumerate(place):
        members = [j for j in range(len(place)) if key[j] == key[i]]
        offsets = torch.tensor([[a - b for a, b in zip(here, place[j], strict=True)] for j in members]).double()
        for axis, n in enumerate(shape):  # the nearer way around where windows close
            if periodic[axis] and n > window:
                offsets[:, axis] = (offsets[:, axis] + n / 2) % n - n / 2
        scaled = offsets * 8 / torch.tensor([min(n, window) - 1 for n in shape])
        bias = 16 * layer.bias(scaled.sign() * (1 + scaled.abs()).log2() / 3).sigmoid()
        scores = layer.sharpness.exp().flatten() * torch.einsum("hd,jhd->jh", query[i], keys[members]) + bias
        mixed[i] = torch.einsum("jh,jhd->hd", scores.softmax(0), value[members])
    expected = layer.out(mixed.flatten(1)).T.unflatten(1, shape)[None]
    assert_close(layer(v), expected, rtol=1e-12)


def test_windows_do_not_leak():
    v = random(1, 6, 8, 8)
    changed = v.clone()
    changed[..., :4, :4] += 1.0
    straight, shifted = (attention(4, shift, (False, False)) for shift in (0, 2))
    moved = (straight(changed) - straight(v)).abs().amax((0, 1)) > 1e-12
    assert moved[:4, :4].all()
    assert not moved[4:].any()
    assert not moved[:, 4:].any()
    moved = (shifted(changed) - shifted(v)).abs().amax((0, 1)) > 1e-12
    assert moved[:6, :6].all()  # the next window, which the first reaches into
    assert not moved[6:].any()
    assert not moved[:, 6:].any()


def test_windows_around_a_periodic_axis_commute_with_shifts_by_a_window():
    layer, v = attention(4, 2, (True, True)), random(1, 6, 8, 12)
    assert_close(layer(v.roll((4, 8), (2, 3))), layer(v).roll((4, 8), (2, 3)), rtol=1e-12)
    walls = attention(4, 2, (False, False))
    assert (walls(v.roll((4, 8), (2, 3))) - walls(v).roll((4, 8), (2, 3))).norm() > 1e-3 * v.norm()


@pytest.mark.parametrize("shape", [(8,), (4, 6), (2, 4, 6)])
def test_unfolding_undoes_folding(shape):
    from vcycle.models.scot import fold, unfold

    v = random(2, 3, *shape)
    assert fold(v).shape == (2, 3 * 2 ** len(shape), *(n // 2 for n in shape))
    assert torch.equal(unfold(fold(v)), v)
    assert_close(fold(v).unflatten(1, (3, -1)).mean(2), F.interpolate(v, scale_factor=0.5, mode="area"))


SCOT = {"width": 8, "depth": 2, "stages": 2, "heads": 2, "window": 4, "num_parameters": 1}


def test_scot_without_the_conditions_weights_does_not_depend_on_time():
    model, u = build(ScOT, **SCOT), random(2, 2, 16, 8)
    times = torch.tensor([[0.2], [0.9]]).double(), torch.tensor([[0.2], [0.4]]).double()
    first, second = (model(u, t) for t in times)
    assert_close(second[:1], first[:1])
    assert (second[1] - first[1]).norm() > 1e-3 * first[1].norm()
    with torch.no_grad():
        model.condition.network[2].weight.zero_()
    assert torch.equal(model(u, times[0]), model(u, times[1]))


def test_scot_without_coordinates_cannot_tell_windows_of_a_torus_apart():
    """A constant input has the same answer in all of them: no fixed force can be learnt."""
    options = SCOT | {
        "num_parameters": 0,
        "patch": 1,
        "boundary": "periodic",
    }  # 8 points in a window of the coarser grid
    constant = torch.ones(1, 2, 16, 24, dtype=torch.float64)

    def spread(**further):
        windows = build(ScOT, **options, **further)(constant).unflatten(3, (3, 8)).unflatten(2, (2, 8))
        return (windows - windows[:, :, :1, :, :1]).abs().max().item()

    assert spread() < 1e-12
    assert spread(coordinates=True) > 0.01


def test_scot_skips_start_as_the_identity():
    model, v = build(ScOT, **SCOT), random(1, 8, 8, 8)
    change = model.skips[0][0](v, None) - v
    assert 1e-8 * v.norm() < change.norm() < 1e-5 * v.norm()


def test_scot_conditions_every_norm_with_channels_of_its_own():
    from vcycle.models.scot import ConditionalNorm

    norms = [m for m in build(ScOT, **SCOT).modules() if isinstance(m, ConditionalNorm)]
    taken = sorted((norm.first, norm.first + norm.channels) for norm in norms)
    assert [first for first, _ in taken] == [0] + [last for _, last in taken[:-1]]
    assert build(ScOT, **SCOT).condition.channels == taken[-1][1]


# IFactFormer ---------------------------------------------------------------------------------------------------------

IFACT = {"width": 6, "heads": 2, "head_size": 4}


def test_ifactformer_iterations_cost_no_weights():
    counts = {size(IFactFormer, 2, 3, depth=depth, **IFACT) for depth in (1, 4, 10)}
    assert len(counts) == 1
    assert size(FactFormer, 2, 3, depth=4, **IFACT) > 2 * counts.pop()


def test_ifactformer_whose_block_gives_nothing_is_lifting_and_projection():
    model, u = build(IFactFormer, depth=3, **IFACT), random(1, 2, 8, 6)
    x, y = torch.meshgrid(*((torch.arange(n).double() + 0.5) / n for n in (8, 6)), indexing="ij")
    features = model.features(torch.stack([x, y], -1))
    without = model.Q(model.P(u) + model.E(features).permute(2, 0, 1))
    assert (model(u) - without).norm() > 1e-2 * without.norm()
    with torch.no_grad():
        model.A.out[2].weight.zero_()
        model.A.out[2].bias.zero_()
    assert_close(model(u), without, rtol=1e-12)


def test_ifactformer_iterations_are_eulers_method():
    """With more and smaller steps of one block, the output tends to a flow's at first order."""
    outputs, u = [], random(1, 2, 8, 6)
    for depth in (8, 16, 32, 512):
        model = build(IFactFormer, depth=depth, **IFACT)
        with torch.no_grad():
            outputs.append(model(u))
    errors = [(output - outputs[-1]).norm().item() for output in outputs[:-1]]
    assert errors[0] > 1e-6 * outputs[-1].norm()
    assert_order(errors, (8, 16, 32), 1.0)


@pytest.mark.parametrize("combine", ["parallel", "chained"])
def test_an_axis_without_kernel_ends_the_chain_and_not_the_parallel(combine, monkeypatch):
    from vcycle.layers.axial import AxialAttention

    torch.manual_seed(0)
    layer = AxialAttention(6, 2, 4, 2, combine=combine).double()
    kernels = layer.kernels
    monkeypatch.setattr(layer, "kernels", lambda *a: [kernels(*a)[0], torch.zeros(1, 2, 6, 6).double()])
    places = [(torch.arange(n).double() + 0.5) / n for n in (8, 6)]
    weights = [torch.full((n,), 1 / n).double() for n in (8, 6)]
    first, second = (layer(random(1, 6, 8, 6, seed=seed), places, weights) for seed in (0, 1))
    if combine == "parallel":
        assert (first - second).norm() > 1e-2 * first.norm()
    else:
        assert torch.equal(first, second)


def test_ifactformer_on_a_finer_grid_converges_to_second_order():
    model, outputs = build(IFactFormer, boundary="neumann", depth=2, **IFACT), []
    for n in (16, 32, 64, 128):
        u = resample(random(1, 2, 5, 5), (n, n), (False, False), "cell")
        with torch.no_grad():
            outputs.append(F.avg_pool2d(model(u), n // 8))
    errors = [(output - outputs[-1]).norm() / outputs[-1].norm() for output in outputs[:-1]]
    assert errors[2] < 0.25 * errors[1] < 0.08 * errors[0] < 0.002, errors
