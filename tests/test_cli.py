"""The command line, from the words to the files: what goes right, and one line with status 2 for what goes wrong."""

import errno
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vcycle.cli import main
from vcycle.commands import COMMANDS

WRONG = [
    (["generat"], "unknown command 'generat'. Did you mean 'generate'?"),
    (["--jsn"], "unknown command '--jsn'."),
    (["generate", "darcy"], "missing argument: out."),
    (
        ["generate", "darci", "--out", "x"],
        "Got 'darci'. Did you mean 'darcy'?",
    ),
    (
        ["generate", "darcy", "--out", "x", "--num-sample", "4"],
        "unknown argument '--num-sample'. Did you mean '--num-samples'?",
    ),
    (["generate", "darcy", "--out", "x", "--num-samples", "4.5"], "`num_samples` must be an integer. Got 4.5."),
    (["generate", "darcy", "--out", "x", "--num-samples", "0"], "`num_samples` must be at least 1. Got 0."),
    (
        ["generate", "darcy", "--out", "x", "--shape", "8,8"],
        "`shape` must be cells per axis, such as 64 or 32x32. Got 8,8.",
    ),
    (["generate", "darcy", "--out", "x", "--problem-args", "colour=red"], "`problem darcy` has no 'colour'."),
    (["generate", "darcy", "--out", "x", "--problem-args", "coeficient=a"], "Did you mean 'coefficient'?"),
    (
        ["generate", "darcy", "--out", "x", "--problem-args", "coefficient"],
        "`problem_args` must be key=value. Got coefficient. Other words go before --problem-args.",
    ),
    (["convert", "nowhere.pt", "--out", "x.zarr"], "nowhere.pt does not exist.\n"),
    (
        ["generate", "darcy", "--out", "x", "--shape", "²"],
        "`shape` must be cells per axis, such as 64 or 32x32. Got ².",
    ),
    *(
        (["generate", "darcy", "--out", "x", "--rtol", value], f"`rtol` must be {meaning}. Got {value}.\n")
        for value, meaning in {
            "-1e-08": "positive and finite",
            "-3.0": "positive and finite",
            "-inf": "a number",
        }.items()
    ),
    (["generate", "darcy", "--out", "x", "--rtol", "--seed", "3"], "`rtol` must have a value. Got none."),
    (
        ["generate", "darcy", "--out", "x", "--problem-args", "coefficient={a:1}"],
        "`coefficient` must have name. Got a:1.",
    ),
    (
        ["benchmark", "--only", "A", "study.yaml", "--out", "x"],
        "missing argument: operator. Give it before --only, which takes all words after it.",
    ),
    (["generate", "darcy", "--problem-args", "a=1"], "missing argument: out.\n"),
    (
        ["train", "--out", "x", "--model-args", "levels=2", "d.zarr"],
        "`model_args` must be key=value. Got d.zarr. Other words go before --model-args.",
    ),
    (["check"], "missing argument: data.\n"),
    (["check", "a.zarr", "b"], "unexpected argument 'b'."),
    (["check", "nowhere.zarr"], "nowhere.zarr does not exist"),
    (["train", "--out", "x"], "`data` must be given, or a recipe with --config."),
    (["train", "a", "--config", "b", "--out", "x"], "`data` must not be given with --config"),
    (["train", "--config", "nowhere.yaml", "--out", "x"], "nowhere.yaml does not exist: it must be a recipe in YAML."),
    (["train", "--config", ".", "--out", "x"], ". is a folder, not a recipe in YAML. Give the path of such a file."),
    (["train", "a", "--out", "x", "--model", "mgn"], "Got 'mgn'. Did you mean 'mgno'?"),
    (["train", "nowhere.zarr", "--out", "x"], "nowhere.zarr does not exist"),
    (["evaluate", "nowhere", "b"], "nowhere does not exist; make it with `vcycle train`."),
    (["predict", "nowhere", "b.npy", "--out", "x.txt"], "`out` must end in .npy. Got x.txt."),
    (["export", "nowhere", "--out", "x.pt"], "`out` must end in .pt2 or .onnx. Got x.pt."),
    (
        ["convert", "darcy_test_16.pt", "--out", "x.zarr"],
        "darcy_test_16.pt does not exist; it is in the repository neuraloperator/neuraloperator",
    ),
    (["convert", "a.zarr", "--out", "x.csv"], "`out` must end in one of .zarr, .pt, .npz, .mat, .h5, .hdf5. Got 'x.c"),
    (["convert", "a.zarr", "--out", "x.h5"], "`out` may be one of the-well, pdebench by its suffix: say which. Got"),
    (["convert", "a.zarr", "--out", "x.h5", "--format", "well"], "`format` must be one of 'zarr', 'neuraloperator',"),
    (
        ["generate", "darcy", "--out", "x", "--scheduler", "tcp://127.0.0.1:1"],
        "`scheduler` must be the address of a running Dask scheduler, such as tcp://host:8786, or its .json file.",
    ),
    (["info", "nowhere"], "nowhere does not exist."),
    (["check", "nope"], "nope does not exist."),
    (["check", "."], "`data` must end in one of .zarr, .pt, .npz, .mat, .h5, .hdf5. Got '.'."),
    (["generate", "darcy", "--out", "."], "`out` must be a new folder with a name."),
    (["generate", "darcy", "--out", "x", "--shape", "2000000x2000000"], "not enough memory. Choose smaller `shape`"),
    (["predict", "nowhere", "b.npy", "--out", "."], "`out` must be a file. Got '.', a folder."),
    (["benchmark", "nowhere", "b", "--out", ""], "`out` must be a file. Got '', a folder."),
    (["train", "a", "--out", ""], "`out` must be a folder for a run, and no data set. Got ''."),
    (["train", "a", "--out", "x", "--data-dir", "b"], "`data_dir` must not be given without --config. Got b."),
    (
        ["train", "a", "--out", "x", "--epochs", "2", "--fit-args", "epochs=3"],
        "`epochs` must be given once. Got --epochs 2 and epochs=3.",
    ),
    (
        ["train", "a", "--out", "x", "--model-args", "levels=2", "--model-args", "levels=3"],
        "`model_args` must give levels once. Got levels=3 after levels=2.",
    ),
    *(
        (["train", "--config", "b", "--out", "x", f"--{name}", value], f"`{name.replace('-', '_')}` must not be given")
        for name, value in {
            "epochs": "3",
            "test": "0",
            "validation": "1",
            "model": "fno",
            "model-args": "levels=3",
            "fit-args": "loss=l2",
        }.items()
    ),
    (["demo", "--seed", "-1"], "`seed` must be at least 0. Got -1."),
]


def fails(capsys, argv, message):
    """Run a command that must fail in one line."""
    capsys.readouterr()
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("vcycle")
    assert message in printed.err


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_usage_is_one_line_and_status_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, argv, message)
    assert list(tmp_path.iterdir()) == []


def test_help_and_version(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {name} " in overview for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vcycle 0.")
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"usage: vcycle {name}" in capsys.readouterr().out


def test_every_argument_has_a_line_of_help():
    from vcycle.cli import _parameter_help, _parameters

    for command in COMMANDS.values():
        texts = _parameter_help(command)
        assert {p.name for p in _parameters(command)} == {name for name, text in texts.items() if text}, (
            command.__name__
        )


def test_a_loss_that_is_not_finite_is_the_users_to_mend(capsys, monkeypatch):
    def diverging() -> None:
        """Diverge."""
        raise FloatingPointError("The loss is not finite in epoch 1. Try a `learning_rate` below 1.")

    monkeypatch.setitem(COMMANDS, "train", diverging)
    assert main(["train"]) == 2
    expected = "vcycle train: The loss is not finite in epoch 1. Try a `learning_rate` below 1.\n"
    assert capsys.readouterr().err == expected


def test_interruption_and_internal_errors(capsys, monkeypatch):
    def interrupted(*, out: str = "") -> None:
        """Wait."""
        raise KeyboardInterrupt

    def stopped(*, out: str = "") -> None:
        """Stop, as the training engine does."""
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    def terminated(*, out: str = "") -> None:
        """Stop, as the training engine does at SIGTERM."""
        raise SystemExit

    def broken(*, out: str = "") -> None:
        """Break."""
        raise RuntimeError("two\nlines")

    monkeypatch.setitem(COMMANDS, "info", interrupted)
    monkeypatch.setitem(COMMANDS, "train", stopped)
    monkeypatch.setitem(COMMANDS, "check", broken)
    monkeypatch.setitem(COMMANDS, "generate", terminated)
    for name, status in (("info", 130), ("train", 130), ("generate", 143)):
        assert main([name]) == status
        resume = "" if name == "info" else "; run the same command to resume"  # only these keep what they have done
        assert capsys.readouterr().err == f"vcycle {name}: interrupted{resume}\n"
    assert main(["check"]) == 1
    error = capsys.readouterr().err
    assert error == "vcycle check: internal error, please report it (RuntimeError: two lines); --debug shows where\n"
    assert main(["check", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_info_of_the_installation(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"] == torch.__version__


# ----------------------------------------------------------------------------------------------- a miniature of the job


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A data set and an operator trained on part of it, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    data, run = str(folder / "darcy.zarr"), str(folder / "run")
    small = ["--model-args", "levels=2", "width=4", "depth=1", "--fit-args", "batch_size=4"]
    assert main(["generate", "darcy", "--out", data, "--num-samples", "12", "--shape", "8x8", "--json"]) == 0
    assert main(["train", data, "--out", run, "--test", "4", "--epochs", "1", *small, "--json"]) == 0
    return folder


def run_json(capsys, *argv):
    capsys.readouterr()
    status = main([*argv, "--json"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)


def test_check_and_info(workplace, capsys):
    data, run = str(workplace / "darcy.zarr"), str(workplace / "run")
    assert run_json(capsys, "check", data)["ok"] is True
    capsys.readouterr()
    assert main(["check", data, "--others", data]) == 1
    assert "12" in capsys.readouterr().out
    described = run_json(capsys, "info", data)
    assert (described["samples"], described["grid"]["shape"]) == (12, [8, 8])
    for name in ("info.npz", "info.pt"):
        assert main(["convert", data, "--out", str(workplace / name)]) == 0
        assert run_json(capsys, "info", str(workplace / name))["samples"] == 12
    described = run_json(capsys, "info", run)
    assert described["arguments"]["levels"] == 2
    assert described["weights"] > 0


def test_evaluation_keeps_to_unseen_samples(workplace, capsys):
    data, run = str(workplace / "darcy.zarr"), str(workplace / "run")
    unseen = run_json(capsys, "evaluate", run, data)
    everything = run_json(capsys, "evaluate", run, data, "--with-training")
    assert (unseen["num_samples"], everything["num_samples"]) == (4, 12)
    assert unseen["relative_l2"] != everything["relative_l2"]


def test_samples_trained_on_are_known_by_problem_seed_and_number(workplace, capsys, tmp_path):
    run = str(workplace / "run" / "operator")  # the operator's own folder does as well

    def chosen(*arguments, size="8x8", samples="12"):
        data = str(tmp_path / f"{size}-{samples}{'-'.join(arguments)}.zarr")
        shape = ["--num-samples", samples, "--shape", size, *arguments]
        assert main(["generate", "darcy", "--out", data, *shape, "--json"]) == 0
        return run_json(capsys, "evaluate", run, data)

    assert run_json(capsys, "evaluate", run, str(workplace / "darcy.zarr"))["num_samples"] == 4
    assert chosen(samples="20")["num_samples"] == 12  # 8 of them are those that it was trained on
    assert chosen(size="16x16")["num_samples"] == 4  # the same draws, twice as fine
    other = chosen("--seed", "7")
    assert other["num_samples"] == 12
    assert other["data"].endswith("nothing left out, as it was trained on other data")
    data = str(tmp_path / "lognormal.zarr")
    lognormal = ["--num-samples", "4", "--shape", "8x8", "--problem-args", "coefficient=lognormal"]
    assert main(["generate", "darcy", "--out", data, *lognormal]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, data]) == 0
    assert "nothing left out" in capsys.readouterr().out.splitlines()[0]


def test_an_operator_without_a_record_says_so(workplace, capsys, tmp_path):
    shutil.copytree(workplace / "run" / "operator", tmp_path / "operator")
    data = str(workplace / "darcy.zarr")
    assert "nothing says what" in run_json(capsys, "evaluate", str(tmp_path / "operator"), data)["data"]
    for damaged in ("{", "{}", "[]", '{"trained_on": 3}', '{"trained_on": [3]}'):
        (tmp_path / "run.json").write_text(damaged)
        fails(capsys, ["evaluate", str(tmp_path / "operator"), data], "run.json is corrupt")


@pytest.mark.parametrize("command", ["evaluate", "predict", "certify", "benchmark"])
def test_data_of_another_family_are_refused_by_their_name(command, workplace, capsys, tmp_path):
    data, out = str(tmp_path / "poisson.zarr"), str(tmp_path / "out.npy")
    walls = ["--problem-args", "boundary=neumann"] if command == "predict" else []
    assert main(["generate", "poisson", "--out", data, "--num-samples", "2", "--shape", "8x8", *walls]) == 0
    further = ["--out", out] if command == "predict" else []
    message = "boundary dirichlet. Got neumann." if walls else "inputs coefficient. Got source"
    words = [command, str(workplace / "run"), data, *further]
    fails(capsys, words, f"`data` must be like the data of training: {message}")
    assert not Path(out).exists()


def test_a_data_set_is_no_folder_for_a_demonstration(workplace, capsys):
    data = workplace / "darcy.zarr"
    before = sorted(data.rglob("*"))
    fails(capsys, ["demo", "--out", str(data)], "`out` must be a folder for a run, and no data set.")
    assert sorted(data.rglob("*")) == before


def test_everything_seen_is_refused(workplace, capsys, tmp_path):
    shutil.copytree(workplace / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"trained_on": list(range(12))}))
    fails(capsys, ["evaluate", str(tmp_path / "run"), str(workplace / "darcy.zarr")], "was not trained on")


def test_predict_from_arrays_equals_predict_from_data(workplace, capsys):
    from vcycle import Dataset, load

    data, run = workplace / "darcy.zarr", str(workplace / "run")
    inputs = Dataset.open(data).inputs
    np.save(workplace / "inputs.npy", inputs.numpy())
    first, second = str(workplace / "a.npy"), str(workplace / "b.npy")
    run_json(capsys, "predict", run, str(data), "--out", first)
    run_json(capsys, "predict", run, str(workplace / "inputs.npy"), "--out", second)
    expected = load(run).predict(inputs).numpy()
    assert np.array_equal(np.load(first), np.load(second))
    assert np.array_equal(np.load(first), expected)


def test_certify_brackets_the_true_error(workplace, capsys):
    from vcycle import Dataset, load

    data, run, polished = workplace / "darcy.zarr", str(workplace / "run"), str(workplace / "polished.npy")
    bounds = run_json(capsys, "certify", run, str(data), "--polish", polished)
    assert len(bounds["sample_id"]) == 4
    dataset = Dataset.open(data)
    rows = [list(dataset.sample_id).index(i) for i in bounds["sample_id"]]
    chosen = dataset.subset(rows)
    error = (load(run).predict(chosen.inputs).double() - chosen.outputs).squeeze(1)
    true = (error * chosen.problem.systems(chosen.inputs).operator.apply(error)).sum((1, 2)).sqrt()
    assert (torch.tensor(bounds["lower"], dtype=torch.float64) <= true).all()
    assert (torch.tensor(bounds["upper"], dtype=torch.float64) >= true).all()
    difference = torch.from_numpy(np.load(polished)) - chosen.outputs
    assert (difference.norm() / chosen.outputs.norm()).item() < 1e-6


def test_benchmark_compares_and_counts_what_was_spent_before(workplace, capsys, tmp_path):
    from vcycle import Dataset, load

    data, run = workplace / "darcy.zarr", workplace / "run"
    table = run_json(capsys, "benchmark", str(run), str(data))
    assert len(table["rows"]) >= 2
    dataset = Dataset.open(data)
    seconds = dataset.solver["seconds"] + dataset.solver["sampling_seconds"]
    seen = json.loads((run / "run.json").read_text())["trained_on"]
    rows = [row for row, sample in enumerate(dataset.sample_id) if int(sample) in seen]
    assert len(rows) == 8
    assert table["data_seconds"] == pytest.approx(float(seconds[rows].sum()), rel=1e-12)
    assert table["training_seconds"] == load(run).metrics["cpu_seconds"]
    others = tmp_path / "others.zarr"
    make = ["generate", "darcy", "--out", str(others), "--num-samples", "2", "--shape", "8x8", "--seed", "5"]
    assert main(make) == 0
    table = run_json(capsys, "benchmark", str(run), str(others))
    solver = Dataset.open(others).solver
    per_sample = float((solver["seconds"] + solver["sampling_seconds"]).mean())
    assert table["data_seconds"] == pytest.approx(8 * per_sample, rel=1e-12)


def test_exported_program_predicts_the_same(workplace, capsys):
    from vcycle import Dataset, load

    run, path = str(workplace / "run"), str(workplace / "operator.pt2")
    assert run_json(capsys, "export", run, "--out", path)["parameter_names"] == []
    inputs = Dataset.open(workplace / "darcy.zarr").inputs.float()[:5]
    with torch.no_grad():
        exported = torch.export.load(path).module()(inputs)
    assert torch.allclose(exported, load(run).predict(inputs), rtol=1e-5, atol=1e-7)


def test_only_the_program_is_told_of_by_an_export_to_onnx(workplace, tmp_path):
    """In a process of its own: what PyTorch's writer says, it says when it is imported."""
    pytest.importorskip("onnxscript")
    words = ["export", str(workplace / "run"), "--out", str(tmp_path / "operator.onnx")]
    done = subprocess.run([sys.executable, "-m", "vcycle", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_what_cannot_be_recorded_on_free_sizes_is_one_line(workplace, tmp_path, capsys):
    from vcycle import Dataset, fit
    from vcycle.models import FNO

    data = Dataset.open(workplace / "darcy.zarr")
    fit(FNO(1, 1, modes=2, width=2, depth=1, boundary="dirichlet"), data, epochs=1, progress=False).save(
        tmp_path / "fno"
    )
    words = ["export", str(tmp_path / "fno"), "--out", str(tmp_path / "operator.pt2"), "--any-size"]
    fails(capsys, words, "`operator` must be one that torch.export can record. Got ")


def test_export_says_which_scalars_the_program_takes(tmp_path, capsys):
    from vcycle import Dataset, Grid, fit
    from vcycle.models import ResNet

    u, scalars = torch.randn(2, 4, 1, 8), {"speed": torch.rand(4), "angle": torch.rand(4)}
    data = Dataset.from_arrays(*u, grid=Grid((8,)), parameters=scalars)
    model = ResNet(1, 1, width=4, depth=1, num_axes=1, num_parameters=2)
    fit(model, data, epochs=1, progress=False).save(tmp_path / "run")
    command = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "operator.pt2")]
    assert run_json(capsys, *command)["parameter_names"] == ["speed", "angle"]
    assert main(command) == 0
    assert "inputs ('sample', 1, 8), parameters ('sample', 2) in the order speed, angle, float32;" in (
        capsys.readouterr().out
    )


def test_conversion_there_and_back(workplace, capsys):
    from vcycle import Dataset

    data, there, back = (str(workplace / name) for name in ("darcy.zarr", "there.pt", "back.zarr"))
    run_json(capsys, "convert", data, "--out", there)
    run_json(capsys, "convert", there, "--out", back)
    assert torch.equal(Dataset.open(back).outputs, Dataset.open(data).outputs)


def test_same_command_again_changes_nothing(workplace, capsys):
    data = str(workplace / "darcy.zarr")
    again = run_json(capsys, "generate", "darcy", "--out", data, "--num-samples", "12", "--shape", "8x8")
    assert again["num_samples"] == 12
    fails(capsys, ["generate", "darcy", "--out", data, "--num-samples", "12", "--shape", "16x16"], "shape")


def test_unusable_files_are_one_line(workplace, capsys, tmp_path):
    data, run = workplace / "darcy.zarr", workplace / "run"
    inputs = np.load(workplace / "inputs.npy") if (workplace / "inputs.npy").exists() else np.ones((2, 1, 8, 8))
    inputs[1, 0, 2, 3] = np.nan
    np.save(tmp_path / "nan.npy", inputs)
    np.save(tmp_path / "channels.npy", np.ones((2, 3, 8, 8)))
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.savez(tmp_path / "archive.npz", inputs)
    (tmp_path / "archive.npz").rename(tmp_path / "zip.npy")
    out = tmp_path / "out.npy"
    for name, message in {
        "nan": "`inputs` must be finite in float32. Got NaN or infinity in sample 1.",
        "channels": "`inputs` must have shape (any, 1, any, any)",
        "text": "is not a NumPy file of numbers",
        "zip": "is not a NumPy file of numbers",
        "words": "words.npy is not a NumPy file of real numbers: it holds <U1. Write one with numpy.save.",
        "nowhere": "nowhere.npy does not exist.",
    }.items():
        fails(capsys, ["predict", str(run), str(tmp_path / f"{name}.npy"), "--out", str(out)], message)
    corrupt = tmp_path / "corrupt.zarr"
    shutil.copytree(data, corrupt)
    (corrupt / "zarr.json").write_text("{")
    fails(capsys, ["evaluate", str(run), str(corrupt)], "corrupt.zarr")
    broken = tmp_path / "broken"
    shutil.copytree(run / "operator", broken)
    description = json.loads((broken / "operator.json").read_text())
    description["model"]["config"]["width"] = 5
    (broken / "operator.json").write_text(json.dumps(description))
    fails(capsys, ["predict", str(broken), str(data), "--out", str(out)], "was changed after it was written")
    assert not out.exists()


def test_wrong_training_is_one_line(workplace, capsys, tmp_path):
    data, out = str(workplace / "darcy.zarr"), str(tmp_path / "run")
    for extra, message in {
        ("--fit-args", "batchsize=4"): "`fit` has no 'batchsize'. Did you mean 'batch_size'?",
        ("--model-args", "level=4"): "`model mgno` has no 'level'. Did you mean 'levels'?",
        ("--test", "12"): "`test` and `validation` must leave samples to train on. Got 12 and 0 of 12.",
        ("--epochs", "0"): "`epochs` must be at least 1. Got 0.",
        ("--out", data): "`out` must be a folder for a run, and no data set.",
        ("--fit-args", "learning_rate=nan"): "`learning_rate` must be positive and finite. Got nan.",
        ("--model", "fno", "--model-args", "modes=17"): "`modes` must be at most the points of each axis, (8, 8).",
    }.items():
        fails(capsys, ["train", data, "--out", out, *extra], message)
    assert list(tmp_path.iterdir()) == []


def test_samples_can_be_watched_without_any_kept_for_the_test(workplace, capsys, tmp_path):
    small = ["--epochs", "1", "--model-args", "levels=2", "width=4", "depth=1"]
    words = ["train", str(workplace / "darcy.zarr"), "--out", str(tmp_path / "run"), "--validation", "3", *small]
    assert main(words) == 0
    assert "trained on 9 samples" in capsys.readouterr().out
    assert "validation_loss" in (tmp_path / "run" / "history.csv").read_text()


@pytest.mark.parametrize("text", ["1e-3", "1E5", ".5e3", "-2e+1", "inf", "nan", "-inf", "0.25", "1.e2"])
def test_numbers_on_the_command_line_are_pythons(text):
    from vcycle.commands.shared import read_pairs

    value = read_pairs("fit_args", [f"x={text}"])["x"]
    assert isinstance(value, float)
    assert value == pytest.approx(float(text), rel=0, nan_ok=True)


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("e3", "e3"), ("information", "information"), ("nano", "nano")])
def test_words_and_integers_stay_what_they_are(text, value):
    from vcycle.commands.shared import read_pairs

    assert read_pairs("fit_args", [f"x={text}"]) == {"x": value}


def test_options_said_twice_both_count(workplace, capsys, tmp_path):
    data, out = str(workplace / "darcy.zarr"), str(tmp_path / "run")
    model = ["--model-args", "levels=2", "--model-args", "width=4", "depth=1"]
    fit = ["--fit-args", "epochs=2", "--fit-args", "learning_rate=1e-3", "precision=32", "logger=csv"]
    run_json(capsys, "train", data, "--out", out, *model, *fit)
    described = run_json(capsys, "info", out)
    assert (described["arguments"]["levels"], described["arguments"]["width"]) == (2, 4)
    assert described["metrics"]["epochs"] == 2
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_boosted_operator_within_a_budget_is_used_like_any_other(workplace, capsys, tmp_path):
    data, out = str(workplace / "darcy.zarr"), str(tmp_path / "run")
    fit = ["--fit-args", "cpu_seconds=0.5", "stages=2", "batch_size=4"]
    run_json(capsys, "train", data, "--out", out, "--test", "4", "--model", "resnet", "--model-args", "width=4", *fit)
    described = run_json(capsys, "info", out)
    assert described["model"] == "BoostedNetwork"
    assert [stage["model"]["name"] for stage in described["arguments"]["stages"]] == ["resnet", "resnet"]
    assert 0 < run_json(capsys, "evaluate", out, data)["relative_l2"] < 10


def test_conversion_does_not_overwrite(workplace, capsys, tmp_path):
    (tmp_path / "mine.pt").write_text("mine")
    fails(capsys, ["convert", str(workplace / "darcy.zarr"), "--out", str(tmp_path / "mine.pt")], "mine.pt exists.")
    assert (tmp_path / "mine.pt").read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(workplace, capsys, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            super().write(bytes(content)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    data, run = str(workplace / "darcy.zarr"), str(workplace / "run")
    honest = Path.open

    def opened(self, mode="r", *arguments, **settings):
        full = "w" in mode and tmp_path in self.parents
        return Full(self, "w") if full else honest(self, mode, *arguments, **settings)

    def written(self, content):
        with self.open("wb") as file:
            file.write(content)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "write_bytes", written)
    monkeypatch.setattr(Path, "write_text", lambda self, text, **_: written(self, text.encode()))
    for name, argv in {
        "a.npy": ["predict", run, data, "--out"],
        "a.json": ["certify", run, data, "--out"],
        "b.npy": ["certify", run, data, "--polish"],
        "a.pt2": ["export", run, "--out"],
        "a.pt": ["convert", data, "--out"],
    }.items():
        fails(capsys, [*argv, str(tmp_path / name)], f"{name} cannot be written: no space left. Free some space")
        assert list(tmp_path.iterdir()) == []


def test_convert_goes_through_every_format_and_back(workplace, tmp_path, capsys):
    """Values of one family survive the whole way round; what a file does not say is said on the command line."""
    from vcycle.data import Dataset

    start = Dataset.open(workplace / "darcy.zarr")
    steps = [("a.npz", []), ("b.h5", ["--format", "pdebench"]), ("c.hdf5", ["--format", "the-well"]), ("d.mat", [])]
    source = str(workplace / "darcy.zarr")
    for name, words in [*steps, ("e.pt", []), ("f.zarr", [])]:
        out = str(tmp_path / name)
        asked = ["--source-args", "extent=1", "boundary=dirichlet"] if source.endswith(".mat") else []
        assert run_json(capsys, "convert", source, "--out", out, *words, *asked)["num_samples"] == len(start)
        source = out
    end = Dataset.open(source)
    assert end.inputs.equal(start.inputs)
    assert end.outputs.equal(start.outputs)
