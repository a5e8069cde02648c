import pytest
import torch

from helpers import assert_close, assert_order


@pytest.mark.parametrize("wrong", [2.0, -1.0, 1.0 + 1e-11, float("nan")])
def test_assert_close_fails_on_wrong_values(wrong):
    expected = torch.ones(3, dtype=torch.float64)
    assert_close(expected.clone(), expected)
    with pytest.raises(AssertionError):
        assert_close(expected * wrong, expected)


@pytest.mark.parametrize("order", [1.0, 1.7, 2.3, 3.0])
def test_assert_order_fails_on_wrong_orders(order):
    sizes = [32, 64, 128]
    assert_order([n**-2.0 for n in sizes], sizes, expected=2)
    with pytest.raises(AssertionError):
        assert_order([n**-order for n in sizes], sizes, expected=2)
