"""Converted weights of neuraloperator's FNO and TFNO compute what they computed there."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_close
from vcycle.models import FNO, TFNO
from vcycle.models.convert_neuraloperator import convert_fno_weights, convert_tfno_weights, tucker_ranks

HERE = {"boundary": "periodic", "centring": "vertex", "width": 6, "depth": 3}
SHAPES = [(20,), (16, 20), (8, 12, 10)]


@pytest.fixture
def neuralop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("neuralop", reason="neuraloperator is not installed")
        import neuralop.models

        yield neuralop.models


class EverySecond:
    """Without channel networks neuraloperator applies every activation twice; the published FNO does once."""

    calls = 0

    def __call__(self, v):
        self.calls += 1
        return F.gelu(v) if self.calls % 2 else v


def options(num_axes, k=3):
    n_modes = (*(2 * k,) * (num_axes - 1), 2 * k - 2)
    return {"n_modes": n_modes, "in_channels": 2, "out_channels": 3, "hidden_channels": 6, "n_layers": 3}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_fno(neuralop, shape):
    torch.manual_seed(0)
    plain = {"lifting_channel_ratio": 0, "use_channel_mlp": False, "projection_channel_ratio": 128 / 6}
    theirs = neuralop.FNO(**options(len(shape)), **plain)
    theirs.fno_blocks.non_linearity = EverySecond()
    ours = FNO(2, 3, modes=3, num_axes=len(shape), padding=0, **HERE)
    ours.load_state_dict(convert_fno_weights(theirs.state_dict()))
    u = random(2, 2, *shape)
    with torch.no_grad():
        assert_close(ours(u), theirs(u))
    theirs.fno_blocks.non_linearity = F.gelu  # as it is shipped: another function
    with torch.no_grad():
        assert (ours(u) - theirs(u)).norm() > 1e-3 * ours(u).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_tfno(neuralop, shape):
    torch.manual_seed(0)
    theirs = neuralop.TFNO(**options(len(shape)), rank=0.4)
    state = theirs.state_dict()
    ranks = [2 * r for r in tucker_ranks(state)]
    ours = TFNO(2, 3, modes=3, num_axes=len(shape), rank=ranks, padding=0.0, **HERE)
    ours.load_state_dict(convert_tfno_weights(state))
    u = random(2, 2, *shape)
    with torch.no_grad():
        assert_close(ours(u), theirs(u))


def test_a_foreign_state_is_named():
    with pytest.raises(ValueError, match=r"`state` must hold .* It has no 'fno_blocks.convs.0.bias'"):
        convert_fno_weights({"a": torch.zeros(1)})
