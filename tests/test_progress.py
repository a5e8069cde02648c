"""Bars of long work: on standard error, when asked for, and never of short work."""

import sys

import pytest
import torch

import vcycle as vc
from vcycle import _progress, recipes
from vcycle.cli import main
from vcycle.data import check
from vcycle.evaluation import certify, evaluate
from vcycle.models import ResNet


@pytest.fixture(scope="module")
def data():
    return vc.generate(vc.problems.Darcy(vc.Grid((8, 8))), num_samples=7, progress=False)


@pytest.fixture(scope="module")
def operator(data):
    return vc.fit(ResNet(1, 1, width=4, depth=1, boundary="dirichlet"), data, epochs=1, progress=False)


@pytest.fixture
def at_once(monkeypatch):
    """Bars appear without delay, as they do in long work."""
    monkeypatch.setattr(_progress, "DELAY", 0.0)


def bars(capsys):
    """Return the names of the bars that were shown."""
    printed = capsys.readouterr()
    return sorted({line.split(":")[0] for line in printed.err.replace("\r", "\n").splitlines() if "%|" in line})


def work(name, data, operator, **settings):
    if name == "check":
        check(data, **settings)
    elif name == "evaluate":
        evaluate(operator, data, **settings)
    else:
        problem, prediction = data.problem, operator.predict(data.inputs)
        certify(problem, data.inputs, prediction, polish=True, discretisation=True, **settings)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("check", ["read", "residuals"]),
        ("evaluate", ["measure", "predict"]),
        ("certify", ["bounds", "finer grid", "polish"]),
    ],
)
def test_functions_show_bars_when_asked(name, expected, data, operator, at_once, capsys):
    work(name, data, operator)
    assert bars(capsys) == []
    work(name, data, operator, progress=True)
    assert bars(capsys) == expected


@pytest.mark.parametrize("name", ["check", "evaluate", "certify"])
def test_short_work_shows_nothing(name, data, operator, capsys):
    work(name, data, operator, progress=True)
    assert bars(capsys) == []


def test_commands_show_bars(data, operator, at_once, capsys, tmp_path):
    path, run = str(data.save(tmp_path / "data.zarr").path), str(operator.save(tmp_path / "run"))
    out = {suffix: str(tmp_path / f"out.{suffix}") for suffix in ("npy", "zarr", "h5")}
    evolving = recipes.build_problem("heat", (8, 8), {"times": [0.1, 0.2]})
    vc.generate(evolving, num_samples=3, out=tmp_path / "heat.zarr", progress=False)
    capsys.readouterr()
    for words, expected in {
        ("predict", run, path, "--out", out["npy"]): ["predict"],
        ("evaluate", run, path): ["measure", "predict"],
        ("certify", run, path): ["bounds", "predict"],
        ("check", path): ["bytes", "read", "residuals"],
        ("convert", path, "--out", out["zarr"]): ["write"],
        ("convert", str(tmp_path / "heat.zarr"), "--out", out["h5"], "--format", "pdebench"): ["write"],
        ("check", str(tmp_path / "heat.zarr")): ["bytes", "integrate again", "read"],
    }.items():
        assert main([*words]) == 0
        assert bars(capsys) == expected, words


def test_whoever_started_the_work_decides(at_once, capsys):
    def counted():
        return list(_progress.track(range(3), "count", unit="step"))

    with _progress.shown(progress=True), _progress.shown(progress=False):
        assert counted() == [0, 1, 2]
    assert bars(capsys) == ["count"]
    with pytest.raises(RuntimeError), _progress.shown(progress=True):
        raise RuntimeError
    counted()
    assert bars(capsys) == []


def test_certificates_do_not_depend_on_the_chunks(data, operator, monkeypatch):
    """Seven samples at once, and three at a time."""
    settings = {"steps": 1, "polish": True, "discretisation": True}
    prediction = operator.predict(data.inputs)
    whole = certify(data.problem, data.inputs, prediction, **settings)
    monkeypatch.setattr(sys.modules["vcycle.evaluation.certify"], "_CHUNK", 3)
    parts = certify(data.problem, data.inputs, prediction, **settings)
    for name in ("lower", "upper", "energy", "polished", "discretisation"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name), rtol=1e-6), name
    assert parts.polish_steps == whole.polish_steps
