"""docs/support.md says what the models can do today."""

import sys
from pathlib import Path

import pytest

from vcycle.models import MODELS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import support


def test_every_model_has_its_row():
    remedy = "run `python benchmarks/support.py --export`"
    assert list(support.read()) == sorted(MODELS), remedy


@pytest.mark.parametrize("name", MODELS)
def test_row_says_what_the_model_does(name):
    """All but the programs, which test_contract.py records."""
    written = support.read()[name]
    for column, found in support.cheap(name, support.small(name)).items():
        assert written[column] == found, f"{column}: run `python benchmarks/support.py {name}`"


def test_what_does_not_work_is_not_reported_as_working():
    def build(num_axes, **options):
        return lambda u: u[:, :1] + 1 / 0 if num_axes == 1 else u.new_zeros(len(u), 3, *u.shape[2:])

    assert support.tried(lambda: build(2)(support.fields(1, 2, 4)).shape == (1, 2, 4)) == support.NO
    assert support.tried(lambda: support.small("fno")(2, width=0) is None) == support.NO
    assert not support.near(support.fields(3), support.fields(3) * 1.1, 1e-3)
