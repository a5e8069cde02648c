"""Arguments that are read and refused in one line."""

import math

import numpy as np
import pytest
import torch

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_integers_of_all_libraries_are_taken(value):
    number = _check.integer("n", value, 3)
    assert type(number) is int
    assert number == 3


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.True_, np.array([3, 4]), np.float32(3), torch.tensor(3.5)])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match=r"^`n` must be an integer. Got"):
        _check.integer("n", value, 0)


def test_small_integers_are_refused():
    with pytest.raises(ValueError, match=r"^`n` must be at least 4. Got 3.$"):
        _check.integer("n", np.int64(3), 4)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.float64(2), np.int16(2)])
def test_real_numbers_of_python_and_numpy_are_taken(value):
    number = _check.positive("x", value)
    assert type(number) is float
    assert number == 2.0


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (np.float32(-1), ValueError),
        (math.inf, ValueError),
        (np.float32("nan"), ValueError),
        (True, TypeError),
        (np.True_, TypeError),
        ("2", TypeError),
        (2 + 0j, TypeError),
        (None, TypeError),
    ],
)
def test_what_is_not_positive_is_refused(value, error):
    with pytest.raises(error, match=r"^`x` must be"):
        _check.positive("x", value)


def test_near_misses_are_hinted_at():
    assert _check.hint("epoch", ("epochs", "seed")) == " Did you mean 'epochs'?"
    assert _check.hint(3, ("epochs", "seed")) == ""
    with pytest.raises(ValueError, match=r"^`kind` must be one of 'one', 'two'. Got 'tow'. Did you mean 'two'\?$"):
        _check.choice("kind", "tow", ("one", "two"))
    for odd in ([], None, 3, ("one",)):
        with pytest.raises(ValueError, match=r"^`kind` must be one of"):
            _check.choice("kind", odd, {"one": 1})


@pytest.mark.parametrize(
    "kinds",
    [
        [("dirichlet", "neumann", "dirichlet"), "neumann"],
        [("dirichlet",), "neumann"],
        [["dirichlet"], "neumann"],
        [3, "neumann"],
        3,
        None,
        {"x": "neumann"},
    ],
)
def test_malformed_boundaries_are_one_line(kinds):
    with pytest.raises(ValueError, match=r"^`boundary` must be one kind or a \(low, high\) pair on axis x. Got .*\.$"):
        Boundary.of(kinds, 2)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["neumann"], r"^`boundary` must be one value or one per axis \(2\)"),
        ([("dirichlet", 3), "neumann"], "^`boundary` must be one of .* Got 3"),
        ([("dirichlet", []), "neumann"], r"^`boundary` must be one of .* Got \[\]"),
        ("neuman", "Did you mean 'neumann'"),
        ([("periodic", "neumann"), "neumann"], "^`boundary` must be periodic on both faces of axis x or on none"),
        (Boundary.of("neumann", 3), "^`boundary` must have 2 axes"),
    ],
)
def test_wrong_boundaries_are_one_line(kinds, message):
    with pytest.raises(ValueError, match=message):
        Boundary.of(kinds, 2)


def test_boundaries_come_back_from_their_description():
    boundary = Boundary.of([("dirichlet", "neumann"), "robin"], 2)
    assert Boundary.of(boundary.to_list(), 2) == boundary
    assert Boundary.of((["dirichlet", "neumann"], "robin"), 2) == boundary
    with pytest.raises(ValueError, match=r"`grid.periodic` must be True there"):
        Boundary.on(Grid((4, 4)), "periodic")


@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">f4", "<i4", ">u2", "?", "f2", np.longdouble])
def test_arrays_of_all_layouts_are_taken(dtype):
    array = np.arange(12).reshape(3, 4)[::-1, ::2].astype(dtype)
    tensor = _check.real_tensor("x", array, "an array")
    assert tensor.tolist() == array.tolist()
    assert _check.real_tensor("x", tensor, "an array") is tensor


def test_arrays_share_memory_unless_they_are_read_only():
    array = np.zeros(3)
    _check.real_tensor("x", array, "an array")[0] = 1
    assert array[0] == 1
    array.flags.writeable = False
    _check.real_tensor("x", array, "an array")[0] = 2
    assert array[0] == 1


@pytest.mark.parametrize("value", [None, "abc", {}, object(), [[1], [2, 3]], 1j, np.array(["a"]), torch.tensor(1j)])
def test_what_is_no_array_of_real_numbers_is_refused(value):
    with pytest.raises(TypeError, match=r"^`x` must be real numbers: an array. Got [\w.]+\.$"):
        _check.real_tensor("x", value, "an array")


def test_what_an_array_holds_is_named():
    for kind, array in {"str": np.array(["a"]), "object": np.array([None]), "complex64": np.zeros(1, "c8")}.items():
        with pytest.raises(TypeError, match=rf"Got {kind}\.$"):
            _check.real_tensor("x", array, "an array")


def test_missing_keys_are_named_beside_those_that_are_there():
    with pytest.raises(ValueError, match=r"^`x` must have b, c\. Got a\.$"):
        _check.keys("x", {"a": 1}, None, required=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"^`x` must have a\. Got nothing\.$"):
        _check.call("x", lambda a: a, {}, required=("a",))


def test_words_and_kinds():
    assert _check.word("name", "k_1") == "k_1"
    for odd in ("a b/c", "", "../a", "1a", 3, None, ["a"]):
        with pytest.raises(ValueError, match=r"^`name` must be words of letters, digits and _. Got "):
            _check.word("name", odd)
    _check.instance("grid", Grid(4), Grid, "a grid")
    with pytest.raises(TypeError, match=r"^`grid` must be a grid. Got tuple.$"):
        _check.instance("grid", (4,), Grid, "a grid")
