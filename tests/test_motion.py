"""Attention between two fields: what is found, and where."""

import pytest
import torch

from helpers import assert_close
from vcycle.layers.motion import CrossFieldAttention


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_point_is_found_where_the_shift_took_it():
    """Features that no two points share, moved by three points: sharp attention reads the displacement exactly."""
    n, shift = 12, 3
    layer = CrossFieldAttention(n, 1, 1, kind="softmax").double()
    with torch.no_grad():
        for linear in (layer.to_query, layer.to_key):
            linear.weight.copy_(100 * torch.eye(n))
            linear.bias.zero_()
    v, x = torch.eye(n, dtype=torch.float64)[None], torch.arange(n, dtype=torch.float64)[:, None] / n
    found, displacement = layer.matched(v, v.roll(shift, 1), x, torch.full((n,), 1 / n))
    target = (torch.arange(n) + shift) % n
    assert_close(displacement, (layer.place(x[target]) - layer.place(x))[None], rtol=1e-12)
    assert_close(found, layer.to_value(v), rtol=1e-12)  # the same thing, at another place
    assert layer.matched(v, v, x, torch.full((n,), 1 / n))[1].abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["galerkin", "softmax"])
def test_points_given_twice_with_half_the_weight_change_nothing(kind):
    torch.manual_seed(0)
    layer = CrossFieldAttention(8, 2, 2, kind=kind).double()
    v, source, x, weights = random(2, 7, 8), random(2, 7, 8, seed=1), random(7, 2, seed=2), random(7, seed=3).softmax(0)
    once = layer(v, source, x, weights)
    twice = layer(*(part.repeat(1, 2, 1) for part in (v, source)), x.repeat(2, 1), weights.repeat(2) / 2)
    for a, b in zip(once, twice, strict=True):
        assert_close(b[:, :7], a, rtol=1e-10)
        assert (a[:, 1:] - a[:, :1]).abs().max() > 1e-3


def test_galerkin_attention_is_the_sum_that_is_written_down():
    torch.manual_seed(0)
    layer = CrossFieldAttention(6, 1, 2).double()
    v, source, x, weights = random(1, 5, 6), random(1, 5, 6, seed=1), random(5, 2, seed=2), random(5, seed=3).softmax(0)
    query, key, place = layer.to_query(v)[0], layer.norms[0][0](layer.to_key(source))[0], layer.place(x)
    expected = [sum(weights[j] * (query[i] @ key[j]) * place[j] for j in range(5)) - place[i] for i in range(5)]
    assert_close(layer.matched(v, source, x, weights)[1][0], torch.stack(expected), rtol=1e-12)
    with pytest.raises(ValueError, match=r"`kind` must be one of 'galerkin', 'softmax'"):
        CrossFieldAttention(6, 1, 2, kind="fourier")
