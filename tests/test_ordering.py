"""The greedy order against a search by hand."""

import numpy as np
import pytest
import torch

from vcycle.solvers import nearest_neighbour_order, ordering


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


def test_long_sequences_are_sorted_in_groups(monkeypatch):
    monkeypatch.setattr(ordering, "GROUP", 10)
    features = np.random.default_rng(0).standard_normal((25, 2))
    expected = [first + j for first in (0, 10, 20) for j in greedy_by_hand(features[first : first + 10])]
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
