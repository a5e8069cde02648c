"""The benchmark of what MgNO learns, at toy size: every part trains, resumes, draws and writes its block."""

import json
import sys
from pathlib import Path

import pytest
import torch

from helpers import assert_close

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ("frequency", "overfitting", "boundary", "levels")


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import mgno_page
        import mgno_understanding
    finally:
        sys.path.remove(str(BENCHMARKS))
    return mgno_understanding, mgno_page


@pytest.fixture
def page(tmp_path):
    """A page with a block for each part, and other people's words around them."""
    path = tmp_path / "docs" / "mgno.md"
    path.parent.mkdir()
    path.write_text("words\n\n" + "".join(f"## {p}\n<!-- {p} -->\n<!-- /{p} -->\nmore\n" for p in PARTS))
    return path


def run(benchmark, page, *arguments):
    benchmark[0].main([*arguments, "--out", str(page.parent / "figures"), "--page", str(page)])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_trains_resumes_and_writes_its_block(part, benchmark, page, monkeypatch):
    run(benchmark, page, part, "--quick")
    path = page.parent / "figures" / f"mgno-{part}.json"
    first, text = path.read_text(), page.read_text()
    assert text.startswith("words\n\n")
    assert text.count("more\n") == 4
    assert text.count("\n| ") >= 3
    assert f"![{part}](figures/mgno-{part}.svg)" in text
    figure = path.with_suffix(".svg").read_bytes()
    assert b"<svg" in figure
    for run_ in json.loads(first)["runs"].values():
        assert all(0 < value < 1e6 for value in run_.values() if isinstance(value, (int, float)))

    monkeypatch.setattr(benchmark[0], "train", None)  # what is done is not done again
    run(benchmark, page, part, "--quick")
    run(benchmark, page, part, "--plot")
    assert path.read_text() == first
    assert page.read_text() == text
    assert path.with_suffix(".svg").read_bytes() == figure
    with pytest.raises(SystemExit, match="was made with other settings"):
        run(benchmark, page, part, "--quick", "--width", "5")


def test_a_killed_part_goes_on_where_it_was(benchmark, page, monkeypatch):
    done = []

    def fake(settings, samples_or_kind, padding):
        done.append((samples_or_kind, padding))
        if len(done) == 3:
            raise KeyboardInterrupt
        return {"step": 0.1, "l2": 0.1, "profile": [0.4, 0.2, 0.1], "counts": [20, 12, 4]}

    monkeypatch.setattr(benchmark[0], "boundary_run", fake)
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, page, "boundary", "--quick")
    assert "![" not in page.read_text()
    run(benchmark, page, "boundary", "--plot")
    # inside: the root of (0.2^2 12 + 0.1^2 4) / 16
    assert "| dirichlet | by kind | 10 % | 40 % | 18 % | 2.22 |" in page.read_text()
    run(benchmark, page, "boundary", "--quick")
    assert len(done) == 8
    assert done[2] == done[3]


def test_a_run_that_diverges_leaves_a_gap_and_is_tried_again(benchmark, page, monkeypatch):
    def diverge(settings, kind, padding):
        if kind == "neumann":
            raise FloatingPointError("The loss is not finite in epoch 1.")
        return {"step": 0.1, "l2": 0.1, "profile": [0.4, 0.2, 0.1], "counts": [20, 12, 4]}

    monkeypatch.setattr(benchmark[0], "boundary_run", diverge)
    with pytest.raises(SystemExit, match="Some runs failed; the same command tries them again"):
        run(benchmark, page, "boundary", "--quick")
    assert "| periodic | zeros |" in page.read_text()
    assert "| neumann |" not in page.read_text()


def test_a_page_without_the_block_is_refused(benchmark, page):
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"must hold <!-- levels --> and <!-- /levels --> once each"):
        benchmark[1].write_block(page, "levels", ["x"])


def test_the_page_of_the_repository_has_every_block(benchmark):
    text = (BENCHMARKS.parent / "docs" / "mgno.md").read_text(encoding="utf-8")
    for name in (*PARTS, "resolution", "cost", "results"):
        assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- /{name} -->") == 1


def test_rings_around_the_box(benchmark):
    distance = benchmark[0].distance(5)
    assert distance.tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 2, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    target = torch.ones(2, 1, 5, 5, dtype=torch.float64) * torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1)
    error = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    prediction = target * (1 + error[distance] * torch.tensor([1.0, -3.0]).reshape(2, 1, 1, 1))
    assert_close(benchmark[0].profile(prediction, target), 2 * error)  # mean of 1 and 3 times


def test_the_watch_tells_steps_from_validation(benchmark, monkeypatch):
    clock = iter([1.0, 1.5, 9.0, 9.25])
    monkeypatch.setattr(benchmark[0].time, "process_time", lambda: next(clock))
    data, _ = benchmark[0].darcy(16, 16, 8)
    u = torch.ones(2, 1, 16, 16)
    watch = benchmark[0].Watch(data, lambda p, t: (p - t).flatten(1).mean(1, keepdim=True))
    watch(u, u)
    watch(u, u)
    with torch.no_grad():
        watch(u + 1, u)
        watch(torch.cat([u + 2, u + 3]), torch.cat([u, u]))
    watch(u, u)
    watch(u, u)
    assert watch.times == [0.5, 0.25]
    assert watch.count == 4
    assert watch.rows == [[2.0]]  # of six samples: 1, 1, 2, 2, 3, 3


def test_settings_of_a_part_leave_the_others_out(benchmark):
    settings = benchmark[0].Settings()
    own = settings.of("levels")
    assert own["levels"] == 5
    assert own["levels_epochs"] == settings.levels_epochs
    assert not [name for name in own if name.startswith(("frequency_", "boundary_", "overfitting_"))]
    assert settings.of("overfitting")["overfitting_samples"] == list(settings.overfitting_samples)
