"""The greedy order against a search by hand, the Hilbert curve against its definition, Fourier features by Parseval."""

import numpy as np
import pytest
import torch

from helpers import assert_close
from vcycle.solvers import _hilbert, nearest_neighbour_order, ordering
from vcycle.solvers.ordering import fourier_features, order_of, space_filling_order


def greedy_by_hand(features: np.ndarray) -> list[int]:
    order, left = [0], list(range(1, len(features)))
    while left:
        nearest = min(left, key=lambda j: (np.linalg.norm(features[order[-1]] - features[j]), j))
        left.remove(nearest)
        order.append(nearest)
    return order


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize(("num", "p"), [(1, 3), (2, 1), (30, 1), (40, 7), (25, 300)])
def test_equals_a_search_by_hand(num, p, offset):
    features = np.random.default_rng(num).standard_normal((num, p)) + offset
    assert nearest_neighbour_order(torch.from_numpy(features)).tolist() == greedy_by_hand(features)


def test_ties_go_to_the_first():
    assert nearest_neighbour_order(torch.tensor([[0.0], [1.0], [-1.0], [0.0]])).tolist() == [0, 3, 1, 2]


def test_long_sequences_are_sorted_in_groups_of_neighbours(monkeypatch):
    monkeypatch.setattr(ordering, "EXACT", 20)
    monkeypatch.setattr(ordering, "GROUP", 13)
    rng = np.random.default_rng(0)
    near, far = rng.uniform(0, 1, (12, 2)), rng.uniform(50, 51, (13, 2))
    features = np.concatenate([near, far])[rng.permutation(25)]
    first = features[0, 0] < 25
    expected = []
    here = 0
    for low in (first, not first):  # system 0's cluster, then the other, from its point nearest to the end of the first
        cluster = np.flatnonzero((features[:, 0] < 25) == low)
        if expected:
            here = cluster[np.linalg.norm(features[cluster] - features[expected[-1]], axis=1).argmin()]
        ranked = np.concatenate([[here], cluster[cluster != here]])
        expected += [ranked[j] for j in greedy_by_hand(features[ranked])]
    assert nearest_neighbour_order(torch.from_numpy(features)).tolist() == expected


def test_empty():
    assert nearest_neighbour_order(torch.zeros(0, 3)).tolist() == []


def test_sorting_shortens_the_way():
    features = torch.from_numpy(np.random.default_rng(0).uniform(size=(100, 2)))
    length = [
        features[order].diff(dim=0).norm(dim=1).sum()
        for order in (torch.arange(100), nearest_neighbour_order(features))
    ]
    assert length[1] < length[0] / 3


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(3), r"`features` must have shape \(num, p\). Got \(3,\)."),
        (torch.full((2, 1), torch.nan), "`features` must be finite"),
    ],
)
def test_wrong_features(features, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbour_order(features)


def length(features, order) -> float:
    return features[order].diff(dim=0).norm(dim=1).sum().item()


@pytest.mark.parametrize(("axes", "bits"), [(1, 6), (2, 4), (3, 3), (4, 2), (7, 1)])
def test_hilbert_curve_visits_every_cell_once_in_unit_steps(axes, bits):
    cells = np.stack(np.meshgrid(*[np.arange(2**bits)] * axes, indexing="ij"), axis=-1).reshape(-1, axes)
    positions = _hilbert.positions(np.ascontiguousarray(cells, np.int64), bits)
    assert sorted(positions) == list(range(2 ** (axes * bits)))
    assert (np.abs(np.diff(cells[np.argsort(positions)], axis=0)).sum(1) == 1).all()


def test_hilbert_order_of_a_line_is_the_line():
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 1)))
    features = values * torch.tensor([[3.0, -4.0]], dtype=torch.float64) + 7
    order = space_filling_order(features)
    ranks = values.flatten().argsort()
    assert order.tolist() in (ranks.tolist(), ranks.flip(0).tolist())


@pytest.mark.parametrize("num", [0, 1, 2, 9])
@pytest.mark.parametrize("order", [space_filling_order, order_of])
def test_every_order_is_a_permutation(order, num):
    features = torch.from_numpy(np.random.default_rng(num).standard_normal((num, 12)))
    assert sorted(order(features).tolist()) == list(range(num))
    assert sorted(order(torch.zeros(num, 3)).tolist()) == list(range(num))


def test_orders_of_a_smooth_family_beat_chance(monkeypatch):
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 16)) / np.arange(1, 17))
    by_chance = length(features, torch.arange(4000))
    curve = length(features, space_filling_order(features))
    exact = length(features, nearest_neighbour_order(features))
    monkeypatch.setattr(ordering, "GROUPED", 100)
    on_the_curve = length(features, order_of(features))
    monkeypatch.setattr(ordering, "EXACT", 100)
    monkeypatch.setattr(ordering, "GROUP", 500)
    grouped = length(features, nearest_neighbour_order(features))
    assert curve < 0.5 * by_chance
    assert exact < grouped < 1.2 * exact
    assert exact < on_the_curve < curve


def test_order_of_chooses_by_number(monkeypatch):
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 4)))
    assert order_of(features).tolist() == greedy_by_hand(features.numpy())
    monkeypatch.setattr(ordering, "GROUPED", 30)
    monkeypatch.setattr(ordering, "CELL", 1)
    assert torch.equal(order_of(features), space_filling_order(features))


@pytest.mark.parametrize("shape", [(8,), (9,), (6, 8), (5, 4, 6)])
def test_fourier_features_keep_distances(shape):
    fields = torch.from_numpy(np.random.default_rng(0).standard_normal((3, *shape)))
    spectrum = np.fft.fftn(fields.numpy(), axes=range(1, fields.dim()), norm="ortho")
    for modes in (1, 2, min(shape) // 2 + 1):
        features = fourier_features(fields, modes)
        low = spectrum[0] - spectrum[1]
        for axis, size in enumerate(shape):
            frequencies = np.abs(np.fft.fftfreq(size, 1 / size)).round()
            low = np.compress(frequencies < modes, low, axis=axis)
        assert_close((features[0] - features[1]).norm(), np.linalg.norm(low))
    reduced = fourier_features(fields, 2, size=2)  # three points span a plane
    assert_close(torch.cdist(reduced, reduced), torch.cdist(fourier_features(fields, 2), fourier_features(fields, 2)))


def test_wrong_fields():
    with pytest.raises(ValueError, match=r"`fields` must have shape \(num, \*space\). Got \(3,\)."):
        fourier_features(torch.zeros(3), 1)
    with pytest.raises(ValueError, match=r"`modes` must be at most 5 for fields of shape \(8, 9\)\. Got 6\."):
        fourier_features(torch.zeros(2, 8, 9), 6)
