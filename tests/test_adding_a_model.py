"""The worked example of docs/adding-a-model.md runs, and passes what matters of the contract."""

import re
from pathlib import Path

import pytest

import test_contract as contract
from vcycle.models import MODELS

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-model.md"
TEXT = PAGE.read_text(encoding="utf-8")
CHECKS = [name for name in dir(contract.TestContract) if name.startswith("test_")]


@pytest.fixture
def smoother(monkeypatch):
    """Register the page's model as the page says."""
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 (the page is ours)
    (small,) = re.findall(r'`"smoother": (\{.*\})`', TEXT)
    (key, attribute) = re.findall(r'`"(\w+)": (\w+),`', TEXT)[0]
    monkeypatch.setitem(MODELS, key, names[attribute])
    monkeypatch.setitem(contract.SMALL, key, eval(small))  # noqa: S307 (the page is ours)
    return key


def test_page_is_short():
    assert len(TEXT.splitlines()) <= 60


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("check", CHECKS)
def test_example_fulfils_the_contract(smoother, check, num_axes, tmp_path):
    function = getattr(contract.TestContract, check)
    extra = {"tmp_path": tmp_path} if "tmp_path" in function.__code__.co_varnames else {}
    function(contract.TestContract(), smoother, num_axes, **extra)


@pytest.mark.parametrize(
    "check",
    [
        contract.test_weights_are_real_and_apart,
        contract.test_half_precision_autocast_trains_and_stays_near,
        contract.test_smallest_grid_and_no_sample,
        contract.test_weights_that_do_not_fit_are_named,
    ],
)
def test_example_fulfils_the_rest(smoother, check):
    check(smoother)


def test_example_can_be_trained_by_its_name(smoother):
    import vcycle as vc

    problem = vc.problems.Poisson(vc.Grid((8, 8)))
    data = vc.generate(problem, num_samples=8, seed=0)
    channels = data.inputs.shape[1], data.outputs.shape[1]
    model = MODELS[smoother](*channels, width=4, depth=1, boundary=problem.boundary, centring=problem.grid.centring)
    operator = vc.fit(model, data, epochs=1, seed=0, progress=False)
    assert vc.predict(operator, data.inputs).shape == data.outputs.shape
