"""Studies: what is run, what is not run twice, what fails alone, and what the tables say."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from torch import nn

from vcycle._files import locked, write_json
from vcycle.cli import main
from vcycle.errors import CheckpointError, DataError
from vcycle.evaluation.benchmark import Row
from vcycle.evaluation.leaderboard import Board, Leaderboard, Standing
from vcycle.evaluation.leaderboard_page import write_page
from vcycle.recipes import parse_study, read_study, runner
from vcycle.recipes.cell import Cell, run_cell
from vcycle.recipes.process import Process
from vcycle.recipes.runner import run_study
from vcycle.recipes.timing import measure_together

FACTORY = """
from torch import nn

def convolution(*, in_channels, out_channels, grid, width):
    assert grid.shape == (8, 8)
    layers = nn.Conv2d(in_channels, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, out_channels, 3, padding=1)
    return nn.Sequential(*layers)

def broken(*, in_channels, out_channels, grid):
    raise RuntimeError("This model\\ncannot be built.")

def hungry(*, in_channels, out_channels, grid):
    raise RuntimeError("not enough memory.")
"""
MGNO = {"label": "MgNO", "model": {"name": "mgno", "levels": 2, "width": 4, "depth": 1}}
OUTSIDE = {"label": "theirs", "model": {"import": "tiny_factory:convolution", "width": 4}}
BROKEN = {"label": "broken", "model": {"import": "tiny_factory:broken"}}
STUDY = {
    "name": "tiny",
    "about": "A study for this test.",
    "datasets": [
        {
            "name": "darcy 8",
            "data": {
                "problem": {"name": "darcy", "shape": [8, 8]},
                "generate": {"num_samples": 24, "seed": 0},
                "split": {"test": 4, "seed": 0},
                "validation": 4,
            },
        }
    ],
    "models": [MGNO, OUTSIDE],
    "fit": {"batch_size": 4, "loss": "l2", "learning_rate": 0.01},
    "budget": {"cpu_seconds": 0.4},
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a study, and its factory beside it."""
    (tmp_path / "tiny_factory.py").write_text(FACTORY)

    def written(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return path

    return written


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Run cells in this process, where nothing has to be imported again, and note which ran."""
    jobs = []

    class Inline:
        ended = True

        def __init__(self, module, job, folder, *, imports):
            self.status, self.reason, self.may_pass = 0, "", False
            assert imports == tmp_path
            write_json(folder / "job.json", job)
            jobs.append("timing" if module == "timing" else "/".join(Path(job["folder"]).parts[-2:]))
            try:
                if module == "timing":
                    cells = {label: Cell(**cell) for label, cell in job["cells"].items()}
                    write_json(job["out"], {"of": job["of"], **measure_together(cells)})
                else:
                    run_cell(Cell(**job))
            except (RuntimeError, ValueError, FloatingPointError) as error:
                self.status, self.reason = 1, f"{type(error).__name__}: {error}"
                self.may_pass = "memory" in self.reason

        def stop(self):
            pass

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(runner, "Process", Inline)
    yield jobs
    sys.modules.pop("tiny_factory", None)


def test_a_study_is_run_once_and_says_everything(write, started, tmp_path):
    study, out = write(), tmp_path / "out"
    board = run_study(study, out, progress=False)
    assert sorted(started) == ["MgNO/seed-0", "theirs/seed-0", "timing"]
    files = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()}
    content = json.loads((out / "leaderboard.json").read_text())
    again = run_study(study, out, progress=False)
    assert len(started) == 3  # nothing was trained or timed again
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()} == files
    assert again.to_dict() == board.to_dict()
    assert json.loads((out / "leaderboard.json").read_text()) == content
    (dataset,) = content["datasets"]
    assert [model["label"] for model in dataset["models"]] == [s.label for s in board.boards[0].ranked]
    errors = [model["summary"]["relative_l2"]["mean"] for model in dataset["models"]]
    assert errors == sorted(errors)
    runs = {model["label"]: model["runs"][0] for model in dataset["models"]}
    assert runs["theirs"]["parameters"] == 4 * 9 + 4 + 4 * 9 + 1
    for run in runs.values():
        assert set(run["tests"]["test"]) >= {"relative_l2", "relative_h1", "truncated_spectral_h1"}
        assert run["epochs"] == len(run["history"])
        assert run["history"][-1]["cpu_seconds"] == pytest.approx(run["cpu_seconds"], rel=1e-12)
        assert run["peak_mib"] >= run["start_mib"] > 1
    assert any(row["name"].startswith("solver, rtol") and row["error"] < 1e-5 for row in dataset["solvers"])
    page = (out / "leaderboard.html").read_text()
    assert "data:image/svg+xml" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "solver, rtol" in (out / "leaderboard.md").read_text()


def test_errors_are_those_of_the_operator_that_was_kept(write, started, tmp_path):
    from vcycle.evaluation import evaluate
    from vcycle.recipes.timing import restored

    board = run_study(write(), tmp_path / "out", progress=False)
    for standing in board.boards[0].standings:
        folder = tmp_path / "out" / "cells" / "darcy-8" / standing.label / "seed-0"
        cell = Cell(**json.loads((folder / "job.json").read_text()))
        data = cell.data()
        measured = evaluate(restored(cell, data), data.tests["test"])
        assert measured.relative_l2 == pytest.approx(standing.mean("relative_l2"), rel=1e-5)
        assert standing.mean("validation") == pytest.approx(
            evaluate(restored(cell, data), data.validation).relative_l2, rel=1e-5
        )


def test_models_with_scalars_are_restored_from_their_weights(tmp_path, monkeypatch):
    from vcycle.data import Dataset
    from vcycle.recipes.building import RecipeData
    from vcycle.recipes.cell import _trained_outside
    from vcycle.recipes.timing import restored

    class Scaled(nn.Module):
        num_parameters = 1

        def __init__(self, channels):
            super().__init__()
            self.layer = nn.Conv2d(channels, 1, 1)

        def forward(self, u, parameters):
            return self.layer(u) * parameters[:, :, None, None]

    monkeypatch.setattr(
        sys.modules[__name__], "scaled", lambda *, in_channels, out_channels, grid: Scaled(in_channels), raising=False
    )
    u, nu = torch.rand(6, 1, 8, 8), torch.rand(6)
    train = Dataset.from_arrays(u, u * nu[:, None, None, None], boundary="neumann", parameters={"nu": nu})
    data = RecipeData(train, None, {"test": train}, {})
    cell = Cell(str(tmp_path), {}, {"import": f"{__name__}:scaled"}, {}, cpu_seconds=0.1, seed=0)
    operator = _trained_outside(cell, data, {"logger": []}, 0.1, tmp_path / "run", keep=True)
    again = restored(cell, data)
    assert torch.equal(*(o.predict(train.inputs, o.parameters_of(train)) for o in (operator, again)))


def test_an_interrupted_study_goes_on(write, started, tmp_path, monkeypatch):
    study, out = write(), tmp_path / "out"

    def interrupted(cell):
        if "theirs" in cell.folder:
            raise KeyboardInterrupt
        return run_cell(cell)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "run_cell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, out, progress=False)
    assert started == ["MgNO/seed-0", "theirs/seed-0"]
    run_study(study, out, progress=False)
    assert started[2:] == ["theirs/seed-0", "timing"]


def test_a_cell_that_fails_is_a_row(write, started, tmp_path):
    study, out = write(models=[BROKEN, OUTSIDE]), tmp_path / "out"
    board = run_study(study, out, progress=False)
    assert board.failures == ["broken on darcy 8, seed 0: RuntimeError: This model cannot be built."]
    rows = board.boards[0].rows()
    assert rows[0]["model"] == "theirs"
    assert "cannot be built" in rows[1]["model"]
    run_study(study, out, progress=False)
    assert started.count("broken/seed-0") == 1  # it would fail again
    run_study(study, out, progress=False, redo=True)
    assert started.count("broken/seed-0") == 2
    assert started.count("theirs/seed-0") == 1


def test_files_are_looked_for_before_anything_is_trained(write, started, tmp_path, capsys):
    later = {
        "name": "later",
        "data": {"train": "no.npz", "format": "npz", "validation": 1},
        "evaluate": {"test": "a.npz"},
    }
    study = str(write(datasets=[STUDY["datasets"][0], later], models=[OUTSIDE]))
    assert main(["benchmark", study, "--out", str(tmp_path / "out")]) == 2
    assert "a.npz does not exist" in capsys.readouterr().err
    assert started == []


def test_tables_show_what_is_there_when_a_study_is_interrupted(write, started, tmp_path, monkeypatch):
    def interrupted(cell):
        if "theirs" in cell.folder:
            raise KeyboardInterrupt
        return run_cell(cell)

    monkeypatch.setattr(sys.modules[__name__], "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(write(), tmp_path / "out", progress=False)
    (dataset,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["datasets"]
    assert [model["label"] for model in dataset["models"]] == ["MgNO"]


def test_two_studies_in_one_folder_are_refused(write, started, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(DataError, match="is being written by another process"):
        run_study(write(), tmp_path / "out", progress=False)
    assert started == []


@pytest.mark.parametrize("name", ["record.json", "failed.json"])
def test_a_corrupt_record_is_named(name, write, started, tmp_path):
    study, out = write(models=[OUTSIDE]), tmp_path / "out"
    folder = out / "cells" / "darcy-8" / "theirs" / "seed-0"
    folder.mkdir(parents=True)
    (folder / name).write_text("{")
    with pytest.raises(CheckpointError, match=rf"{name} is corrupt\. Remove its folder to run the cell again\."):
        run_study(study, out, progress=False)


TRYING = """
from vcycle._files import locked
from vcycle.errors import DataError
from vcycle.recipes.process import work_on

def work(told):
    if told["what"] == "disk":
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise DataError("It cannot\\nbe written.") from error
    if told["what"] == "lock":
        with locked(told["folder"]), locked(told["folder"]):
            pass
    raise RuntimeError(told["what"])

work_on(work)
"""


@pytest.mark.parametrize(
    ("what", "status", "last"),
    [
        ("disk", 75, "DataError: It cannot be written."),
        ("lock", 75, "DataError: "),
        ("DefaultCPUAllocator: can't allocate memory: 8 bytes", 75, "RuntimeError: DefaultCPUAllocator"),
        ("Sizes\ndiffer.", 1, "RuntimeError: Sizes differ."),
    ],
)
def test_what_may_pass_is_told_from_what_would_fail_again(what, status, last, tmp_path):
    job = {"what": what, "folder": str(tmp_path / "run")}
    ended = subprocess.run(
        [sys.executable, "-c", TRYING], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    assert ended.returncode == status
    assert ended.stderr.rstrip("\n").splitlines()[-1].startswith(last)


def test_a_job_ends_if_whoever_began_it_was_killed_before_it_could_look(tmp_path):
    begun = Process("cell", {}, tmp_path, imports=tmp_path)
    assert begun.process.args[-1] == str(os.getpid())
    assert begun.reason.startswith("TypeError: Cell.__init__() missing")
    script = "import time; from vcycle.recipes.process import work_on; work_on(lambda told: time.sleep(60))"
    orphan = [sys.executable, "-c", script, str(begun.process.pid)]  # that process has ended
    assert subprocess.run(orphan, input="{}", text=True, timeout=50, check=False).returncode == 1


def test_what_a_process_said_may_be_in_any_encoding(tmp_path):
    begun = Process("cell", {}, tmp_path, imports=tmp_path)
    assert begun.status == 1
    begun.log.write_bytes(b"numpy.linalg.LinAlgError: caf\xe9\n")
    assert begun.reason == "LinAlgError: caf\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(("name", "passes"), [("SIGKILL", True), ("SIGTERM", True), ("SIGSEGV", False)])
def test_a_process_that_breaks_down_would_do_so_again(name, passes):
    ended = Process.__new__(Process)
    ended.process = subprocess.Popen(["/bin/sleep", "60"])
    ended.process.send_signal(getattr(signal, name))
    assert ended.may_pass == passes


def test_a_killed_cell_is_not_finished_and_said_in_sentences(write, tmp_path, monkeypatch):
    reason, lines = "ended by signal 9, perhaps for want of memory", []
    killed = Mock(ended=True, status=-9, reason=reason, may_pass=True)
    monkeypatch.setattr(runner, "Process", lambda *_, **__: killed)
    board = run_study(write(models=[OUTSIDE]), tmp_path / "out", progress=False, say=lines.append)
    assert lines[0] == f"theirs on darcy 8, seed 0: not finished: {reason}. The next run tries again."
    assert board.failures == [f"theirs on darcy 8, seed 0: {reason}"]


def test_a_cell_that_ran_out_of_memory_is_tried_again(write, started, tmp_path):
    hungry = {"label": "hungry", "model": {"import": "tiny_factory:hungry"}}
    study, out = write(models=[hungry, OUTSIDE]), tmp_path / "out"
    lines = []
    board = run_study(study, out, progress=False, say=lines.append)
    assert lines[0].endswith("not finished: RuntimeError: not enough memory. The next run tries again.")
    assert board.failures == ["hungry on darcy 8, seed 0: RuntimeError: not enough memory."]
    run_study(study, out, progress=False)
    assert started.count("hungry/seed-0") == 2


def test_changed_cells_are_refused_until_redo(write, started, tmp_path):
    out = tmp_path / "out"
    run_study(write(models=[OUTSIDE]), out, progress=False)
    changed = OUTSIDE | {"model": OUTSIDE["model"] | {"width": 5}}
    study = write(models=[changed])
    with pytest.raises(ValueError, match=r"theirs on darcy 8, seed 0: model\.width is 4 there, not 5. Give --redo"):
        run_study(study, out, progress=False)
    board = run_study(study, out, progress=False, redo=True)
    assert board.boards[0].standings[0].values("parameters") == [5 * 9 + 5 + 5 * 9 + 1]


def test_tuning_chooses_on_validation_data(write, started, tmp_path):
    fit = {"batch_size": 4, "loss": "l2"}
    tune = {"learning_rate": [1e-9, 0.01], "share": 0.5}
    study = write(models=[OUTSIDE], fit=fit, tune=tune, seeds=[0, 1], budget={"cpu_seconds": 1.0})
    board = run_study(study, tmp_path / "out", progress=False)
    folder = tmp_path / "out" / "cells" / "darcy-8" / "theirs"
    tuning = json.loads((folder / "seed-0" / "tuning.json").read_text())
    assert tuning["chosen"] == 0.01
    assert tuning["tried"]["0.01"]["validation"] < tuning["tried"]["1e-09"]["validation"]
    assert [run["learning_rate"] for run in board.boards[0].standings[0].runs] == [0.01, 0.01]
    assert not (folder / "seed-1" / "tuning.json").exists()


def test_more_seeds_for_those_that_lead(write, started, tmp_path):
    more = {"count": 2, "leading": 1}
    board = run_study(write(more_seeds=more), tmp_path / "out", progress=False)
    leading = min(board.boards[0].standings, key=lambda s: s.runs[0]["validation"]["relative_l2"])
    assert {s.label: [run["seed"] for run in s.runs] for s in board.boards[0].standings} == {
        s.label: [0, 1, 2] if s is leading else [0] for s in board.boards[0].standings
    }


def test_filters_choose_among_further_seeds_too_and_the_tables_show_all(write, started, tmp_path):
    first = STUDY["datasets"][0]
    datasets = [first, first | {"name": "other"}]
    more = {"count": 1, "leading": 2}
    study, out = write(datasets=datasets), tmp_path / "out"
    run_study(study, out, progress=False)
    study = write(datasets=datasets, more_seeds=more)
    run_study(study, out, only=["theirs"], datasets=["darcy 8"], progress=False)
    assert [job for job in started if job.endswith("seed-1")] == ["theirs/seed-1"]
    assert not (out / "cells" / "other" / "theirs" / "seed-1").exists()
    run_study(study, out, only=["theirs"], progress=False)
    board = run_study(study, out, only=["MgNO"], datasets=["other"], progress=False)
    seeds = {(b.name, s.label): [run["seed"] for run in s.runs] for b in board.boards for s in b.standings}
    assert seeds == {
        ("darcy 8", "MgNO"): [0],
        ("darcy 8", "theirs"): [0, 1],
        ("other", "MgNO"): [0, 1],
        ("other", "theirs"): [0, 1],
    }


def test_losses_of_different_meaning_make_no_curve(write, started, tmp_path):
    entry = MGNO | {"fit": {"stages": 2}}
    board = run_study(write(models=[entry], budget={"cpu_seconds": 1.0}), tmp_path / "out", progress=False)
    history = board.boards[0].standings[0].runs[0]["history"]
    watched = ["validation_loss" in row for row in history]
    assert watched == [True] * (len(history) // 2) + [False] * (len(history) // 2)
    assert len(history) >= 2


def test_evolutions_are_rolled_out(write, started, tmp_path):
    data = {
        "problem": {"name": "heat", "shape": [8, 8], "times": [0.01, 0.02, 0.03]},
        "generate": {"num_samples": 10},
        "split": {"test": 3},
        "validation": 2,
        "steps": {"stride": 1},
    }
    board = run_study(write(datasets=[{"name": "heat", "data": data}], models=[OUTSIDE]), tmp_path / "out")
    test = board.boards[0].standings[0].runs[0]["tests"]["test"]
    assert {"relative_l2", "rollout_l2_full", "rollout_l2_step"} <= set(test)
    assert "rollout, rel. L2" in board.boards[0].rows()[0]
    assert [solver.name for solver in board.boards[0].solvers[:1]] == ["solver, rtol 1e-06"]
    assert board.boards[0].solvers[0].error < 1e-6


def test_filters(write, started, tmp_path):
    study = write()
    run_study(study, tmp_path / "out", only=["theirs"], datasets=["darcy 8"], progress=False)
    assert started == ["theirs/seed-0", "timing"]
    with pytest.raises(
        ValueError, match=r"`only` must be one of 'MgNO', 'theirs'\. Got 'their'\. Did you mean 'theirs'"
    ):
        run_study(study, tmp_path / "out", only=["their"], progress=False)


def test_a_data_set_has_its_own_budget_waits_to_be_asked_for_and_may_have_models_of_its_own(write, started, tmp_path):
    first = STUDY["datasets"][0]
    second = first | {"name": "later", "budget": {"cpu_seconds": 0.2}, "on_demand": True}
    study = write(datasets=[first, second], models=[OUTSIDE, MGNO | {"datasets": ["later"]}])
    run_study(study, tmp_path / "out", progress=False)
    assert started == ["theirs/seed-0", "timing"]
    board = run_study(study, tmp_path / "out", datasets=["later"], progress=False)
    assert sorted(started[2:]) == ["MgNO/seed-0", "theirs/seed-0", "timing"]
    job = json.loads((tmp_path / "out" / "cells" / "later" / "theirs" / "seed-0" / "job.json").read_text())
    assert job["cpu_seconds"] == 0.2
    assert "darcy 8 0.4, later 0.2 CPU-seconds" in board.to_markdown()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": []}, "`study` has no 'modles'. Did you mean 'models'?"),
        ({"budget": {"epochs": 3}}, "`budget` has no 'epochs'."),
        ({"budget": {"cpu_seconds": -1}}, "`budget.cpu_seconds` must be positive and finite. Got -1."),
        ({"models": []}, "`models` must be a list of at least one entry. Got []."),
        ({"models": [MGNO, MGNO]}, "`models` must have labels of their own. Got 'MgNO' twice."),
        (
            {"models": [OUTSIDE | {"label": "A"}, OUTSIDE | {"label": "a!"}]},
            "`models` must have labels whose folders differ. Got 'A' and 'a!'.",
        ),
        ({"fit": {"batch_size": 0}}, "`batch_size` must be at least 1. Got 0."),
        ({"models": [MGNO | {"fit": {"optimizer": "sgd"}}]}, "`optimizer` must be one of"),
        ({"models": [{"label": "a", "model": {"name": "mgn"}}]}, "Got 'mgn'. Did you mean 'mgno'?"),
        ({"models": [{"label": "a", "model": {"import": "module"}}]}, "`model.import` must be module:factory. Got"),
        ({"fit": {"epochs": 3}}, "`fit` must leave out epochs: the study's budget says it. Got 3."),
        ({"fit": {"batchsize": 3}}, "`fit` has no 'batchsize'. Did you mean 'batch_size'?"),
        ({"tune": {"learning_rate": [0.1], "share": 2}}, "`tune.share` must lie between 0 and 1. Got 2."),
        ({"models": [MGNO | {"datasets": ["x"]}]}, "`datasets of MgNO` must be one of 'darcy 8'. Got 'x'."),
        ({"datasets": [STUDY["datasets"][0] | {"on_demand": 1}]}, "`on_demand` must be true or false. Got int."),
        ({"seeds": [0, 0]}, "`seeds` must be different. Got [0, 0]."),
        ({"seeds": 3}, "`seeds` must be a list of at least one entry. Got 3."),
        ({"more_seeds": {"count": 1, "leading": 1, "dataset": "x"}}, "`more_seeds.dataset` must be one of 'darcy 8'."),
        ({"datasets": [{"name": "x", "data": {"train": "a.pt", "format": "npz"}}]}, "`evaluate` must name a test set."),
    ],
)
def test_wrong_studies_name_the_key_and_end_with_status_2(change, message, write, tmp_path, capsys):
    assert main(["benchmark", str(write(**change)), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_cell_to_run_and_no_budget_are_no_success(write, tmp_path, capsys):
    later = STUDY["datasets"][0] | {"on_demand": True, "about": None}
    study, out = str(write(datasets=[later])), str(tmp_path / "out")
    for words, message in (
        ([], "`only` and `dataset` must choose a cell."),
        (["--dataset", later["name"], "--budget", "0"], "`budget` must be positive"),
        (["--dataset", later["name"], "--jobs", "0"], "`jobs` must be at least 1. Got 0."),
    ):
        assert main(["benchmark", study, "--out", out, *words]) == 2
        assert message in capsys.readouterr().err


def test_choosing_needs_validation_data():
    data = {key: value for key, value in STUDY["datasets"][0]["data"].items() if key != "validation"}
    content = STUDY | {"datasets": [STUDY["datasets"][0] | {"data": data}], "tune": {"learning_rate": [0.1]}}
    with pytest.raises(ValueError, match=r"`data\.validation` must be given"):
        parse_study(content)


def test_the_words_of_a_study_and_of_an_operator_do_not_mix(capsys, tmp_path):
    for words, message in {
        ("a.yaml", "b"): "`data` must not be given with a study: it says its data. Got b.",
        ("a.yaml",): "`out` must be given with a study: the folder for everything.",
        ("a", "b", "--jobs", "2"): "`jobs` must only be given with a study, a .yaml file. Got 2 with a.",
        ("a",): "`data` must be given with the folder of an operator.",
    }.items():
        assert main(["benchmark", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "benchmarks").glob("leaderboard*.yaml")))
def test_studies_of_the_repository_are_right(path):
    assert len(read_study(path).models) > 1


def test_the_table_ranks_and_spreads():
    def run(error):
        tests = {"test": {"relative_l2": error, "relative_h1": 2 * error}}
        costs = {"parameters": 10, "cpu_seconds": 1.0, "epochs": 2, "inference_ms": 0.5, "peak_mib": 300.0}
        return {"tests": tests, "train": {"relative_l2": error / 2}, "validation": None, "history": [], **costs}

    worse, better = Standing("worse", [run(0.05)]), Standing("better", [run(0.01), run(0.03)], inference_ms=7.0)
    board = Board("data", "", [Standing("none", [], {0: "It broke."}), worse, better], [Row("solver", 0.001, 2.5)])
    rows = board.rows()
    assert [row["model"] for row in rows] == ["better", "worse", "none (failed: seed 0: It broke.)", "*solver*"]
    assert rows[0]["rel. L2"] == "2 % ± 1.4"
    assert rows[0]["CPU ms / sample"] == "7"
    assert rows[1]["rel. L2"] == "5 %"
    assert rows[1]["CPU ms / sample"] == "0.5"
    assert rows[2]["rel. L2"] == "–"
    assert rows[3]["rel. L2"] == "0.1 %"


def test_what_diverged_is_said_and_is_no_number_in_json():
    tests = {"test": {"relative_l2": 0.1, "relative_h1": 0.2, "rollout_l2_full": math.inf}}
    run = {"tests": tests, "train": None, "validation": None, "parameters": 1, "cpu_seconds": 1.0, "epochs": 2}
    run |= {"inference_ms": 0.5, "peak_mib": 300.0}
    board = Board("data", "", [Standing("model", [run])])
    (row,) = board.rows()
    assert row["rollout, rel. L2"] == "diverged"
    described = Leaderboard("name", "", [board]).to_dict()
    assert "null" in json.dumps(described, allow_nan=False)


def test_the_page_escapes_and_names_everything(tmp_path):
    board = Board("data & more", "", [Standing("<model>", [], {0: "It broke."})])
    text = write_page(tmp_path / "page.html", Leaderboard("name", "about", [board], {"key": "value"})).read_text()
    assert "&lt;model&gt; (failed: seed 0: It broke.)" in text
    assert "data &amp; more" in text
    assert "<model>" not in text


@pytest.mark.full
def test_processes_are_killed_and_resumed(write, tmp_path):
    study, out = write(models=[OUTSIDE, MGNO, BROKEN], budget={"cpu_seconds": 2.0}), tmp_path / "out"
    words = [sys.executable, "-m", "vcycle", "benchmark", str(study), "--out", str(out), "--json"]
    command = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    first, second = (out / "cells" / "darcy-8" / name / "seed-0" for name in ("theirs", "MgNO"))
    deadline = time.monotonic() + 1200
    while not (second / "run" / "budget.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(command.pid, signal.SIGKILL)
    command.wait()
    record, budget = (first / "record.json").read_bytes(), (second / "run" / "budget.json").read_bytes()
    assert not (second / "record.json").exists()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    content = json.loads(done.stdout)
    assert (first / "record.json").read_bytes() == record
    assert (second / "run" / "budget.json").read_bytes() == budget
    models = {model["label"]: model for model in content["datasets"][0]["models"]}
    assert models["MgNO"]["runs"][0]["epochs"] == json.loads(budget)["epochs"]
    assert models["broken"]["failures"] == {"0": "RuntimeError: This model cannot be built."}
    assert models["theirs"]["inference_ms"] > 0
