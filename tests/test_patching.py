"""Domains in patches with their surroundings, and the operator made of them."""

import pytest
import torch

from helpers import assert_close
from vcycle.layers.patching import Patching
from vcycle.layers.transforms import resample
from vcycle.models import MGTFNO, TFNO


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def first_block(patching, channels):
    return lambda u: patching.stitch(patching.split(u)[:, :channels], u.shape[2:])


@pytest.mark.parametrize("centring", ["cell", "vertex"])
@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize(("shape", "periodic"), [((8,), (True,)), ((8, 12), (True, False)), ((4, 8, 4), (False,) * 3)])
def test_patches_put_together_are_the_field(shape, periodic, levels, centring):
    patching, u = Patching(levels, 0.25, periodic, centring), random(3, 2, *shape)
    patches = patching.split(u)
    sizes = [n // 2**levels + 2 * max(1, round(n / 2**levels / 4)) for n in shape]
    assert patches.shape == (3 * 2 ** (levels * len(shape)), 2 * (levels + 1), *sizes)
    assert torch.equal(first_block(patching, 2)(u), u)
    assert patching.split(u[:0]).shape == (0, *patches.shape[1:])


@pytest.mark.parametrize("margin", [0.25, 0.5])
def test_blocks_are_what_lies_around_the_patch_on_coarser_grids(margin):
    """Against plain indices: block j of patch p begins half a window, in its own spacing, before the patch's centre."""
    levels, shape = 2, (16, 24)
    patching, u = Patching(levels, margin, (True, True), "vertex"), random(2, 3, *shape)
    patches = patching.split(u).unflatten(0, (2, 4, 4)).unflatten(3, (3, 3))
    for level in range(3):
        for p in [(0, 0), (1, 2), (3, 1)]:
            lines = []
            for n, index in zip(shape, p, strict=True):
                size, extra = n // 4, max(1, round(margin * n / 4))
                centre, half = index * size + size / 2, size / 2 + extra
                lines.append([int(centre + (i - half) * 2**level) % n for i in range(size + 2 * extra)])
            expected = u[:, :, lines[0]][:, :, :, lines[1]]
            assert torch.equal(patches[:, *p, level], expected), (level, p)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("periodic", [False, True])
def test_windows_in_cells_are_centred_on_their_patch(periodic, size):
    patching, n = Patching(2, 0.25, (periodic,)), 4 * size
    x = (torch.arange(n).double() + 0.5) / n
    blocks = patching.split(x[None, None])  # (patch, level, point)
    for p in range(4):
        for level in range(3):
            half = size / 2 + 2
            places = (p + 0.5) / 4 + (torch.arange(size + 4).double() + 0.5 - half) * 2**level / n
            # where no cell of the window or of its mean lies beyond a wall
            inside = (places > (2**level) / n) & (places < 1 - (2**level) / n)
            assert inside.sum() > 2
            assert_close(blocks[p, level][inside], places[inside].double())
    assert blocks.min() > 0
    assert blocks.max() < 1


def test_the_coarsest_window_sees_the_whole_domain():
    patching, u = Patching(2, 0.0, (True, True), "vertex"), torch.zeros(1, 1, 16, 16)
    u[0, 0, 10, 10] = 1.0  # on the lattice of the coarsest windows, which is the same for all patches
    seen = patching.split(u)[:, -1].flatten(1).amax(1)
    assert (seen == 1).all()


@pytest.mark.parametrize("shape", [(8, 8), (9, 11)])
def test_sizes_that_do_not_halve_are_resampled(shape):
    patching = Patching(1, 0.25, (True, False))
    u = resample(random(2, 1, 5, 5), shape, (True, False), "cell")
    assert_close(patching.around(lambda patches: patches[:, :1], u), u)
    with pytest.raises(ValueError, match=r"`u` must have a multiple of 2 points per axis. Got 9"):
        patching.split(random(1, 1, 9, 8))


def test_mg_tfno_without_cuts_is_a_tfno_and_shares_its_weights_among_patches():
    for levels in (0, 1, 2):
        torch.manual_seed(0)
        model = MGTFNO(2, 1, levels=levels, modes=3, width=6, depth=2, rank=0.3)
        rest = sum(p.numel() for p in model.parameters()) - model.network.P[0].weight.numel()
        torch.manual_seed(0)
        plain = TFNO(2, 1, modes=3, width=6, depth=2, rank=0.3)
        assert rest == sum(p.numel() for p in plain.parameters()) - plain.P[0].weight.numel()


def test_patches_of_mg_tfno_see_beyond_themselves():
    torch.manual_seed(0)
    model = MGTFNO(1, 1, levels=1, modes=3, width=6, depth=2, rank=0.3, boundary="periodic", centring="vertex").double()
    u = random(1, 1, 16, 16)
    changed = u.clone()
    changed[..., 12, 12] += 1.0
    with torch.no_grad():
        difference = (model(changed) - model(u)).abs()[0, 0]
    assert difference[:8, :8].max() > 1e-6  # the patch farthest from the change


def test_a_shift_by_a_patch_shifts_what_mg_tfno_gives():
    torch.manual_seed(0)
    model = MGTFNO(1, 1, levels=1, modes=3, width=6, depth=2, rank=0.3, boundary="periodic").double()
    with torch.no_grad():
        model.network.P[0].weight[:, [1, 2, 3, 4, 6, 7, 8, 9]] = 0  # the coordinates, at both resolutions
    u = random(1, 1, 16, 8)
    assert_close(model(u.roll((8, 4), (2, 3))), model(u).roll((8, 4), (2, 3)))
