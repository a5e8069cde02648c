"""Training against a loop written by hand, against itself after a kill, and against closed forms."""

import csv
import errno
import io
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import vcycle as vc
from helpers import assert_close
from vcycle import metrics
from vcycle._files import locked
from vcycle.data import Dataset, Window
from vcycle.models import MODELS
from vcycle.objectives import RelativeH1, RelativeL2, data_loss
from vcycle.problems.problem import FieldInfo
from vcycle.training import FitConfig, Normaliser, fit
from vcycle.training.augment import Augmentation
from vcycle.training.batches import OrderedBatches, ShuffledBatches, stream_seed
from vcycle.training.resume import read_record, recorded
from vcycle.training.samples import Samples
from vcycle.training.schedule import one_cycle
from vcycle.training.task import walls

NO_AUGMENTATION = {"augment": False}


class Tiny(nn.Module):
    """Two convolutions and random zeros: small, with buffers that no one asks for and a random layer."""

    name = "tiny"

    def __init__(self, in_channels: int = 1, out_channels: int = 1, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self._config = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "dropout": dropout}

    def config(self) -> dict:
        return self._config

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.tanh(self.first(u))))


@pytest.fixture(autouse=True)
def tiny_is_known(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)


def tiny(seed: int = 0, **config) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny(**config)


def linear_data(samples: int = 24, size: int = 8, seed: int = 0) -> Dataset:
    """Outputs are a fixed 3x3 average of the inputs, in units far from one."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 1, size, size, generator=generator, dtype=torch.float64)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)[None, None] / 8
    outputs = 1e-3 * torch.nn.functional.conv2d(inputs, kernel, padding=1) + 5e-3
    return Dataset.from_arrays(20.0 * inputs + 100.0, outputs, boundary="neumann")


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# -------------------------------------------------------------------------------------- the whole loop


@pytest.mark.parametrize("ema", [None, 0.8])
def test_fit_equals_a_loop_written_by_hand(ema):
    data, model = linear_data(), tiny()
    epochs, batch, rate, steps = 3, 5, 3e-3, 15
    config = FitConfig(
        optimizer="adamw",
        ema=ema,
        gradient_clip=0.05,
        weight_decay=0.1,
        augment=("transpose",),
        warmup=0.3,
        final_division=50,
    )
    operator = fit(
        model, data, epochs=epochs, batch_size=batch, learning_rate=rate, seed=3, config=config, progress=False
    )

    x, y = data.inputs.float(), data.outputs.float()
    network = tiny()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.1)
    average = weights(network)
    rates = rates_of_pytorch(steps, rate)
    step, clipped, losses = 0, 0, []
    for epoch in range(epochs):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(stream_seed(3, epoch, 0)))
        flips = torch.randint(
            2, (24, 1), generator=torch.Generator().manual_seed(stream_seed(3, epoch, 1)), dtype=torch.uint8
        ).bool()
        total = 0.0
        for rows in order.split(batch):
            optimiser.param_groups[0]["lr"] = rates[step]
            f, u = (torch.stack([v[i].mT if flips[i] else v[i] for i in rows]) for v in (x, y))
            prediction = network((f - x.mean()) / x.std(correction=0)) * y.std(correction=0) + y.mean()
            loss = metrics.relative_h1(prediction, u, grid=data.grid, boundary=data.boundary)
            optimiser.zero_grad()
            loss.backward()
            clipped += bool(nn.utils.clip_grad_norm_(network.parameters(), 0.05) > 0.05)
            optimiser.step()
            step += 1
            decay = min(ema or 0.0, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * weights(network)
            total += loss.item() * len(rows)
        losses.append(total / 24)
    assert clipped > 0  # otherwise clipping was not tested
    assert_close(weights(operator.network), average, rtol=2e-5)
    assert_close([row["loss"] for row in operator.history], losses, rtol=1e-5)
    assert operator.history[-1]["learning_rate"] == pytest.approx(rate / 25 / 50)
    assert not torch.equal(weights(model), weights(operator.network))
    assert torch.equal(weights(model), weights(tiny()))  # the model that came in stays as it was


def rates_of_pytorch(steps: int, peak: float) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peak, total_steps=steps, pct_start=0.3, final_div_factor=50
    )
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return rates


def test_the_one_cycle_is_pytorchs_and_works_for_few_steps():
    num_steps = 40
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1.0, total_steps=num_steps, pct_start=0.2, final_div_factor=1e3, cycle_momentum=False
    )
    for step in range(num_steps):
        ours = one_cycle(step, num_steps=num_steps, warmup=0.2, final_division=1e3)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        theirs.step()
    for few in range(1, 12):
        rates = [one_cycle(step, num_steps=few, warmup=0.2, final_division=1e3) for step in range(few)]
        assert max(rates) == pytest.approx(1.0, abs=0.2)
        assert few == 1 or rates[-1] == pytest.approx(4e-5)
    assert one_cycle(99, num_steps=40, warmup=0.2, final_division=1e3) == pytest.approx(4e-5)


def test_a_linear_problem_is_learnt():
    train, test = linear_data(64), linear_data(16, seed=1)
    config = NO_AUGMENTATION
    operator = fit(tiny(width=8), train, epochs=60, learning_rate=2e-2, loss="l2", config=config, progress=False)
    error = metrics.relative_l2(operator.predict(test.inputs), test.outputs.float())
    constant = metrics.relative_l2(test.outputs.mean().expand_as(test.outputs), test.outputs)
    assert error.item() < 0.1 * constant.item()
    assert operator.history[-1]["loss"] < 0.2 * operator.history[0]["loss"]


def test_equal_seeds_give_equal_weights_and_others_do_not():
    data, model = linear_data(), tiny(dropout=0.2)
    first, again, other = (fit(model, data, epochs=2, seed=seed, progress=False) for seed in (1, 1, 2))
    assert torch.equal(weights(first.network), weights(again.network))
    assert not torch.equal(weights(first.network), weights(other.network))


def test_random_layers_draw_from_the_seed_whatever_the_callers_random_state():
    data, model = linear_data(), tiny(dropout=0.5)
    results = []
    with torch.random.fork_rng():
        for state in (1, 2):
            torch.manual_seed(state)
            results.append(weights(fit(model, data, epochs=2, progress=False).network))
    assert torch.equal(*results)


def test_mixed_precision_runs_and_stays_near_full_precision():
    data = linear_data()
    full, half = (
        fit(tiny(), data, epochs=3, config={"precision": precision}, progress=False)
        for precision in ("32", "bf16-mixed")
    )
    assert not torch.equal(weights(full.network), weights(half.network))
    assert_close(weights(half.network), weights(full.network), rtol=2e-2)
    assert weights(half.network).dtype == torch.float32


def test_a_loss_may_be_a_function():
    data = linear_data()
    operator = fit(tiny(), data, epochs=1, loss=mean_square, progress=False)
    assert operator.training["arguments"]["loss"].endswith("test_training.mean_square") or "mean_square" in str(
        operator.training["arguments"]["loss"]
    )
    assert operator.history[0]["loss"] < 1e-4  # in physical units squared, where outputs are about 5e-3


def mean_square(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (prediction - target).square().mean()


# ------------------------------------------------------------------------------------- kill and resume

EVERYTHING = {"ema": 0.9, "early_stopping": 50, "checkpoint_seconds": 0, "augment": ["transpose", "flip_x"]}


def run(out, *, resume=False, epochs=5):
    return fit(
        tiny(dropout=0.3),
        linear_data(),
        validation=linear_data(7, seed=5),
        epochs=epochs,
        batch_size=5,
        seed=7,
        config=EVERYTHING,
        out=out,
        resume=resume,
        progress=False,
    )


class KilledError(Exception):
    pass


@pytest.mark.parametrize("when", ["after the checkpoint", "in the next epoch"])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, monkeypatch, when):
    from vcycle.training.callbacks import SaveLast
    from vcycle.training.module import OperatorModule

    whole = run(tmp_path / "whole")
    save, step = SaveLast.on_train_epoch_end, OperatorModule.training_step

    def dying_save(self, trainer, pl_module):
        save(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise KilledError

    def dying_step(self, batch, batch_index):
        if self.current_epoch == 2 and batch_index == 2:
            raise KilledError
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        if when == "after the checkpoint":
            patch.setattr(SaveLast, "on_train_epoch_end", dying_save)
        else:
            patch.setattr(OperatorModule, "training_step", dying_step)
        with pytest.raises(KilledError):
            run(tmp_path / "killed")
    assert not (tmp_path / "killed" / "operator").exists()
    seen = []

    def counting_step(self, batch, batch_index):
        seen.append(self.current_epoch)
        return step(self, batch, batch_index)

    monkeypatch.setattr(OperatorModule, "training_step", counting_step)
    resumed = run(tmp_path / "killed", resume=True)
    assert seen == [2] * 5 + [3] * 5 + [4] * 5  # the first two epochs are not done again
    assert torch.equal(weights(resumed.network), weights(whole.network))
    assert resumed.history == whole.history
    assert (tmp_path / "killed" / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()


def test_resume_without_a_checkpoint_begins_and_a_finished_run_is_read(tmp_path, monkeypatch):
    first = run(tmp_path / "run", resume=True, epochs=2)
    from vcycle.training.module import OperatorModule

    monkeypatch.setattr(OperatorModule, "training_step", None)  # nothing may be trained any more
    again = run(tmp_path / "run", resume=True, epochs=2)
    assert torch.equal(weights(first.network), weights(again.network))
    assert again.history == first.history


def test_a_run_that_stopped_early_and_was_killed_before_its_operator_was_saved_resumes_bit_for_bit(
    tmp_path, monkeypatch
):
    from vcycle.training import TrainedOperator

    train = linear_data()
    # the more is learned, the worse: outputs of the other sign
    validation = Dataset.from_arrays(train.inputs, 1e-2 - train.outputs, boundary="neumann")

    def stopping(out):
        settings = {"early_stopping": 2, "ema": 0.9, "checkpoint_seconds": 0}
        arguments = {"epochs": 12, "learning_rate": 3e-2, "config": settings, "resume": True, "progress": False}
        return fit(tiny(), train, validation=validation, out=out, **arguments)

    def dying(self, path):
        raise KilledError

    whole = stopping(tmp_path / "whole")
    assert len(whole.history) < 12
    with monkeypatch.context() as patch:
        patch.setattr(TrainedOperator, "save", dying)
        with pytest.raises(KilledError):
            stopping(tmp_path / "killed")
    resumed = stopping(tmp_path / "killed")
    assert resumed.history == whole.history
    assert torch.equal(weights(resumed.network), weights(whole.network))


def test_loggers_and_the_age_of_checkpoints_do_not_tell_runs_apart(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    def logged(number, **changes):
        settings = {"logger": [CSVLogger(tmp_path / "logs", version=number)], "checkpoint_seconds": number} | changes
        return fit(tiny(), linear_data(), epochs=1, config=settings, out=tmp_path, resume=True, progress=False)

    first = logged(0)
    assert torch.equal(weights(logged(1).network), weights(first.network))
    logged(1, logger="csv")
    with pytest.raises(ValueError, match=r"`out` holds a run of other arguments: arguments\.warmup"):
        logged(1, warmup=0.5)
    assert FitConfig(logger=(CSVLogger(tmp_path),)).to_dict()["logger"] == ["CSVLogger"]


@pytest.mark.parametrize("change", [torch.neg, lambda weight: weight.roll(1, 0)], ids=["negated", "permuted"])
def test_other_initial_weights_are_another_run(tmp_path, change):
    model = tiny()
    fit(model, linear_data(), epochs=1, out=tmp_path, progress=False)
    with torch.no_grad():
        model.first.weight.copy_(change(model.first.weight))
    with pytest.raises(ValueError, match="`out` holds a run of other arguments: initial_weights is"):
        fit(model, linear_data(), epochs=1, out=tmp_path, resume=True, progress=False)


KILL_SCRIPT = """
    import os, signal, sys
    sys.path[:0] = [{tests!r}, {src!r}]
    import test_training
    from vcycle.models import MODELS
    from vcycle.training.module import OperatorModule
    MODELS["tiny"] = test_training.Tiny
    step = OperatorModule.training_step
    def dying(self, batch, batch_index):
        if self.current_epoch == 3 and batch_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_index)
    OperatorModule.training_step = dying
    test_training.run({out!r})
"""


@pytest.mark.slow
def test_a_process_killed_with_signal_9_resumes_bit_for_bit(tmp_path):
    whole, out = run(None), tmp_path / "killed"
    tests = Path(__file__).parent
    script = textwrap.dedent(KILL_SCRIPT).format(tests=str(tests), src=str(tests.parent / "src"), out=str(out))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    resumed = run(out, resume=True)
    assert torch.equal(weights(resumed.network), weights(whole.network))
    assert resumed.history == whole.history


def test_a_folder_with_another_run_is_refused(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match="`out` must not hold a run already, or `resume` must be True"):
        run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"`out` holds a run of other arguments: arguments.epochs is 1 there, not 2"):
        run(tmp_path, epochs=2, resume=True)


def test_a_corrupt_checkpoint_is_named(tmp_path):
    whole = io.BytesIO()
    torch.save({"run": {}, "weights": torch.zeros(1000)}, whole)
    for content in (b"PK\x03\x04 no checkpoint", b"abc", b"hello world", b"", whole.getvalue()[:2000]):
        (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(vc.CheckpointError, match=r"last\.ckpt is corrupt\. Remove it to begin the run anew\."):
            run(tmp_path, resume=True)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "last.ckpt")
    with pytest.raises(vc.CheckpointError, match=r"last\.ckpt is not the checkpoint of a run"):
        run(tmp_path, resume=True)
    torch.save({"run": tiny()}, tmp_path / "last.ckpt")  # pickled code must not be run
    with pytest.raises(vc.CheckpointError, match=r"last\.ckpt is corrupt"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["operator.json", "weights.safetensors"])
def test_an_operator_cut_off_is_named_with_a_remedy_that_helps(tmp_path, name):
    whole = run(tmp_path, epochs=1)
    with (tmp_path / "operator" / name).open("r+b") as file:
        file.truncate(100)
    for read in (lambda: vc.load(tmp_path), lambda: run(tmp_path, epochs=1, resume=True)):
        with pytest.raises(
            vc.CheckpointError, match=rf"{name} is corrupt: .*\. Restore .* from a copy, or remove it and"
        ):
            read()
    shutil.rmtree(tmp_path / "operator")
    assert torch.equal(weights(run(tmp_path, epochs=1, resume=True).network), weights(whole.network))


def test_a_full_disk_is_a_line_with_the_folder(tmp_path, monkeypatch):
    import lightning.pytorch as pl

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    with pytest.raises(vc.DataError, match=r"run cannot be written: no space left\. Free some space"):
        run(tmp_path / "run", epochs=1)
    assert not (tmp_path / "run" / "operator").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_and_the_run_resumes(tmp_path, monkeypatch):
    import fsspec.implementations.local

    whole, out, written = run(None), tmp_path / "run", []

    def filling(place, content):  # half of the second checkpoint is on the disk when it is full
        if "last.ckpt" in str(place):
            written.append(place)
            if len(written) == 2:
                with open(place, "r+b" if Path(place).exists() else "wb") as file:  # noqa: PTH123
                    file.write(bytes(content)[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")

    honest, move = Path.write_bytes, fsspec.implementations.local.shutil.move

    def write_bytes(self, content):
        filling(self, content)
        return honest(self, content)

    def move_to_another_file_system(source, target):
        filling(target, Path(source).read_bytes())
        return move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        patch.setattr(fsspec.implementations.local.shutil, "move", move_to_another_file_system)
        with pytest.raises(vc.DataError, match=r"cannot be written: no space left\. Free some space"):
            run(out)
    assert len(written) == 2
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == 0
    assert [path.name for path in out.glob(".*")] == []
    resumed = run(out, resume=True)
    assert resumed.history == whole.history
    assert torch.equal(weights(resumed.network), weights(whole.network))


def test_what_a_kill_left_of_a_checkpoint_is_removed(tmp_path):
    (tmp_path / ".last.ckpt.123.partial.ckpt").write_bytes(b"half")
    (tmp_path / ".operator.123.partial").mkdir()
    (tmp_path / ".mine.partial").write_text("mine")
    run(tmp_path, epochs=1)
    assert [path.name for path in tmp_path.glob(".*")] == [".mine.partial"]


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(vc.DataError, match="run is being written by another process"):
        run(tmp_path / "run")
    run(tmp_path / "run", epochs=1)
    with locked(tmp_path / "run"):
        run(tmp_path / "run", epochs=1, resume=True)  # a finished one is only read
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_has_one_trainer_at_a_time(tmp_path):
    """The second of two real processes is refused while the first trains, and goes on where that was killed."""
    out, tests = tmp_path / "run", Path(__file__).parent
    script = textwrap.dedent(SLOW_SCRIPT).format(tests=str(tests), src=str(tests.parent / "src"), out=str(out))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline().strip() == "training"
        with pytest.raises(vc.DataError, match=r"run is being written by another process\. Wait for it to end"):
            run(out, resume=True)
        first.kill()
    resumed, whole = run(out, resume=True), run(None)
    assert resumed.history == whole.history
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


SLOW_SCRIPT = """
    import sys, time
    sys.path[:0] = [{tests!r}, {src!r}]
    import test_training
    from vcycle.models import MODELS
    from vcycle.training.module import OperatorModule
    MODELS["tiny"] = test_training.Tiny
    step = OperatorModule.training_step
    def slow(self, batch, batch_index):
        if (self.current_epoch, batch_index) == (1, 1):
            print("training", flush=True)
            time.sleep(60)
        return step(self, batch, batch_index)
    OperatorModule.training_step = slow
    test_training.run({out!r})
"""


def test_a_finished_run_says_that_there_is_nothing_to_do(tmp_path, capfd):
    for _ in range(2):
        fit(tiny(), linear_data(), epochs=1, out=tmp_path, resume=True)
    assert capfd.readouterr().err.endswith(f"{tmp_path} is complete. Nothing to do.\n")
    fit(tiny(), linear_data(), epochs=1, out=tmp_path, resume=True, progress=False)
    assert capfd.readouterr().err == ""


def test_a_record_is_there_before_training_and_goes_with_a_run_that_leaves_nothing(tmp_path):
    out, record = tmp_path / "run", {"trained_on": [1, 2], "fingerprint": "x"}

    def dying():
        with recorded(out, record):
            assert read_record(out) == record
            raise KilledError

    with pytest.raises(KilledError):
        dying()
    assert list(tmp_path.iterdir()) == []
    with recorded(out, record):
        run(out, epochs=1)
    assert read_record(out) == record
    with pytest.raises(ValueError, match="run of other arguments"), recorded(out, record | {"trained_on": [3]}):
        run(out, epochs=2, resume=True)
    assert read_record(out) == record  # the operator there is still the first one's
    (out / "run.json").unlink()
    with recorded(out, record):
        run(out, epochs=1, resume=True)
    assert read_record(out) == record


def test_a_killed_run_keeps_its_record(tmp_path, monkeypatch):
    from vcycle.training import TrainedOperator

    with monkeypatch.context() as patch:
        patch.setattr(TrainedOperator, "save", lambda *_: interrupt())
        with pytest.raises(KilledError), recorded(tmp_path, {"trained_on": [1], "fingerprint": "x"}):
            run(tmp_path, epochs=1)
    assert read_record(tmp_path)["trained_on"] == [1]


def interrupt():
    raise KilledError


def test_the_command_says_what_it_trains_on_before_it_does(tmp_path, monkeypatch):
    from vcycle import recipes
    from vcycle.commands.making import train

    def dying(data, *, out, **_):
        assert read_record(Path(out))["trained_on"] == data.sample_id.tolist() == list(range(24))
        raise KilledError

    monkeypatch.setattr(recipes, "train", dying)
    linear_data().save(tmp_path / "d.zarr")
    with pytest.raises(KilledError):
        train(str(tmp_path / "d.zarr"), out=str(tmp_path / "run"), model_args=[], fit_args=[], say=print)
    assert not (tmp_path / "run").exists()


def test_a_data_set_is_no_folder_for_a_run(tmp_path):
    linear_data().save(tmp_path / "d.zarr")
    with pytest.raises(ValueError, match="`out` must be a folder for a run, and no data set"):
        run(tmp_path / "d.zarr", epochs=1)


# ----------------------------------------------------------------------- validation, logs, the process


def test_early_stopping_returns_the_best_validation_weights():
    train, model = linear_data(), tiny()
    # what the untrained network answers is the truth of the validation data: training can only make it worse
    validation = linear_data(10, seed=9)
    config = FitConfig(early_stopping=3, augment=False)
    first = fit(model, train, epochs=1, learning_rate=1e-9, progress=False)
    validation = Dataset.from_arrays(validation.inputs, first.predict(validation.inputs).double(), boundary="neumann")
    operator = fit(model, train, epochs=30, validation=validation, learning_rate=5e-2, config=config, progress=False)
    losses = [row["validation_loss"] for row in operator.history]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 30
    value = data_loss("h1", grid=train.grid, boundary=train.boundary)(
        operator.predict(validation.inputs), validation.outputs.float()
    )
    assert_close(value, min(losses))
    assert operator.metrics["best_validation_loss"] == min(losses) < losses[-1]


def test_the_validation_loss_is_the_mean_over_samples_of_the_averaged_weights():
    data, validation = linear_data(), linear_data(7, seed=1)
    operator = fit(
        tiny(), data, epochs=2, batch_size=4, validation=validation, loss="l2", config={"ema": 0.9}, progress=False
    )
    value = metrics.relative_l2(operator.predict(validation.inputs), validation.outputs.float())
    assert_close(operator.history[-1]["validation_loss"], value)


DISTRIBUTED_SCRIPT = """
    import sys
    sys.path[:0] = [{tests!r}, {src!r}]
    import test_training as tests
    from vcycle.models import MODELS
    MODELS["tiny"] = tests.Tiny
    config = {{"accelerator": "cpu", "devices": 2, "strategy": "ddp", "early_stopping": 3, "checkpoint_seconds": 0}}
    for count in (3, 1):
        arguments = {{"epochs": 2, "batch_size": 4, "config": config, "out": {out!r} + str(count), "progress": False}}
        tests.fit(tests.tiny(), tests.linear_data(), validation=tests.linear_data(count, seed=5), **arguments)
"""


@pytest.mark.slow
def test_processes_with_few_validation_samples_agree(tmp_path):
    """One batch for two processes, and one sample: each has something to wait for, and the mean is that of all."""
    tests = Path(__file__).parent
    script = textwrap.dedent(DISTRIBUTED_SCRIPT)
    script = script.format(tests=str(tests), src=str(tests.parent / "src"), out=str(tmp_path / "run-"))
    (tmp_path / "script.py").write_text(script)  # a file, as Lightning starts it once more
    command = [sys.executable, tmp_path / "script.py"]
    result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    for count in (3, 1):
        operator, validation = vc.load(tmp_path / f"run-{count}"), linear_data(count, seed=5)
        loss = data_loss("h1", grid=validation.grid, boundary=validation.boundary)
        value = loss(operator.predict(validation.inputs), validation.outputs.float())
        assert_close(value, operator.metrics["best_validation_loss"])


def test_logs_hold_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    operator = run(tmp_path, epochs=3)
    with (tmp_path / "history.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == operator.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("validation_loss")]
    assert [step for step, _ in logged] == [1, 2, 3]
    assert_close([value for _, value in logged], [row["validation_loss"] for row in rows], rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "history.csv",
        "operator",
        "tensorboard",
    ]  # no last.ckpt


def test_models_that_cannot_be_saved_are_refused_before_training(tmp_path, monkeypatch):
    from vcycle.training.module import OperatorModule

    class Own(Tiny):
        pass

    monkeypatch.setattr(OperatorModule, "training_step", None)
    message = r"`model` must be one of vcycle.models.MODELS \(.*tiny\) where `out` is given: .* Got Own"
    with pytest.raises(ValueError, match=message):
        fit(Own(), linear_data(), epochs=1, out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_seconds_add_up_over_resumptions(tmp_path, monkeypatch):
    from vcycle.training.module import OperatorModule

    step = OperatorModule.training_step

    def slow_and_dying(self, batch, batch_index):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        if self.current_epoch == 2:
            raise KilledError
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(OperatorModule, "training_step", slow_and_dying)
        with pytest.raises(KilledError):
            run(tmp_path)  # two epochs of five steps are kept
    began = time.process_time()
    resumed = run(tmp_path, resume=True).metrics
    own = time.process_time() - began
    assert 1.0 < resumed["cpu_seconds"] < 1.0 + own + 3.0
    assert resumed["seconds"] > 1.0
    assert fit(tiny(), linear_data(), epochs=1, progress=False).metrics["cpu_seconds"] < 1.0


def test_nothing_is_written_without_out_and_only_what_is_asked_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tiny(), linear_data(), epochs=1, progress=False)
    assert list(tmp_path.iterdir()) == []
    fit(tiny(), linear_data(), epochs=1, config={"logger": ()}, out=tmp_path / "run", progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["operator"]


def test_fit_leaves_the_process_as_it_was(capfd):
    import lightning.pytorch  # noqa: F401  # its own import is not what is tested here

    data = linear_data()

    def state():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002  # the global state is what must not change
            random.getstate(),
            list(warnings.filters),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")],
            dict(os.environ),
        )

    with torch.no_grad():
        before = state()
        fit(tiny(dropout=0.5), data, validation=data, epochs=2, config={"early_stopping": 1}, progress=False)
        assert state() == before
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_an_interruption_is_passed_on_and_can_be_repeated(monkeypatch):
    from vcycle.training.module import OperatorModule

    def interrupted(self, batch, batch_index):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(OperatorModule, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(tiny(), linear_data(), epochs=1, progress=False)
        assert signal.getsignal(signal.SIGINT) is before


def test_the_bar_shows_epochs_and_losses(capfd):
    fit(tiny(), linear_data(), epochs=2, progress=True)
    shown = capfd.readouterr().err
    assert "training: 100%" in shown
    assert "epoch=2/2" in shown
    assert "loss=" in shown


def test_importing_training_does_not_import_the_engine():
    script = (
        "import sys, vcycle.training, vcycle.evaluation.evaluate;"
        "print([name for name in ('lightning', 'tensorboard') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------- wrong arguments


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"not finite in epoch 1. Try a `learning_rate` below 1e\+30 or a `gradient_clip`"
    ):
        fit(
            tiny(),
            linear_data(),
            epochs=3,
            learning_rate=1e30,
            config={"gradient_clip": None},
            out=tmp_path,
            progress=False,
        )
    assert not (tmp_path / "operator").exists()


def test_values_that_are_not_finite_are_refused():
    data = linear_data(8)
    inputs, outputs = data.inputs.clone(), data.outputs.clone()
    outputs[[2, 5], 0, 1, 1] = torch.tensor([math.nan, math.inf], dtype=torch.float64)
    with pytest.raises(vc.DataError, match=r"The outputs of `train` hold NaN or infinity \(in float32\) in row 2, 5\."):
        fit(tiny(), Dataset.from_arrays(inputs, outputs), epochs=1)
    inputs[3] = 1e300
    with pytest.raises(vc.DataError, match="The inputs of `validation` hold NaN or infinity"):
        fit(tiny(), data, validation=Dataset.from_arrays(inputs, data.outputs), epochs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1. Got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1. Got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive and finite. Got -1.0"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"loss": "h2"}, "`loss` must be one of 'h1', 'l2'. Got 'h2'"),
        ({"config": {"emma": 0.9}}, "`config` must be one of .* Got 'emma'. Did you mean 'ema'?"),
        ({"config": {"ema": 1.0}}, "`ema` must lie between 0 and 1. Got 1.0"),
        ({"config": {"warmup": 0.0}}, "`warmup` must lie between 0 and 1"),
        ({"config": {"weight_decay": -1}}, "`weight_decay` must not be negative"),
        ({"config": {"gradient_clip": 0.0}}, "`gradient_clip` must be positive"),
        ({"config": {"precision": "16"}}, "`precision` must be one of '32'"),
        ({"config": {"weight_decay": math.nan}}, "`weight_decay` must not be negative or infinite. Got nan"),
        ({"config": {"checkpoint_seconds": -1}}, "`checkpoint_seconds` must not be negative"),
        ({"config": {"accelerator": "abacus"}}, "`accelerator` and `devices` must be what this machine has. Got 'abac"),
        ({"config": {"accelerator": "cpu", "devices": 0}}, "`accelerator` and `devices` must be .* Got 'cpu' and 0"),
        ({"config": {"logger": 3}}, "`logger` must be one of 'csv', 'tensorboard'. Got 3"),
        ({"config": {"logger": ("wandb",)}}, "`logger` must be one of 'csv', 'tensorboard'. Got 'wandb'"),
        ({"config": {"input_normaliser": "gaussian"}}, "`input_normaliser` must be one of 'scalar'"),
        ({"config": {"early_stopping": 0}}, "`early_stopping` must be at least 1"),
        ({"config": {"early_stopping": 2}}, "`validation` must be given for `early_stopping`"),
        ({"config": {"augment": "transposed"}}, "`augment` must be one of .* Did you mean 'transpose'?"),
        ({"config": {"augment": ["flip_z"]}}, "`augment` must fit 2 axes. Got 'flip_z'"),
        ({"model": Tiny(in_channels=2)}, "`model` must have in_channels = 1, as the data have. Got 2"),
        ({"model": Tiny(out_channels=3)}, "`model` must have out_channels = 1, as the data have. Got 3"),
        ({"model": nn.Conv2d(1, 1, 19)}, r"`model` cannot take inputs of shape \(batch, 1, 8, 8\): .*Kernel size"),
        (
            {"model": nn.Conv2d(1, 1, 3)},
            r"`model\(inputs\)` must have shape \(1, 1, 8, 8\), that is that of the outputs",
        ),
        ({"validation": linear_data(size=9)}, r"`validation.inputs` must have shape \(any, 1, 8, 8\)"),
        ({"train": linear_data().subset([])}, "`train` must have at least one sample. Got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        fit(**{"model": tiny(), "train": linear_data(), "epochs": 1, "progress": False} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weight_decay", "warmup", "ema", "final_division", "checkpoint_seconds"])
def test_words_are_no_numbers(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a number. Got 'much'"):
        FitConfig(**{name: "much"})


def test_words_of_a_yaml_file_are_understood():
    config = FitConfig(precision=32, logger="csv", augment=["flip_x"])
    assert (config.precision, config.logger, config.augment) == ("32", ("csv",), ("flip_x",))
    with pytest.raises(TypeError, match=r"`augment` must be true, false or names of symmetries\. Got 3"):
        FitConfig(augment=3)


# -------------------------------------------------------------------- batches, symmetries, normalisers


def no_symmetry(grid: vc.Grid) -> Augmentation:
    boundary = vc.Boundary.of("neumann", grid.num_axes)
    return Augmentation((), grid=grid, boundary=boundary, input_fields=(), output_fields=())


def test_each_epoch_shows_every_sample_once_in_an_order_of_its_own():
    rows = torch.arange(23.0).reshape(23, 1, 1)
    source = Samples(rows, rows + 100)
    batches = ShuffledBatches(source, batch_size=5, seed=4, augmentation=no_symmetry(vc.Grid((4,))))
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        pairs = [(batch.inputs, batch.outputs) for batch in batches]
        assert [len(x) for x, _ in pairs] == [5, 5, 5, 5, 3]
        assert len(batches) == 5
        assert all(torch.equal(y, x + 100) for x, y in pairs)
        orders.append(torch.cat([x for x, _ in pairs]).flatten().tolist())
    assert sorted(orders[0]) == list(range(23))
    assert orders[0] == orders[2] != orders[1]


def test_processes_share_the_samples_of_an_epoch():
    rows = torch.arange(23.0).reshape(23, 1, 1)
    seen = []
    for rank in range(3):
        batches = ShuffledBatches(
            Samples(rows, rows),
            batch_size=4,
            seed=4,
            augmentation=no_symmetry(vc.Grid((4,))),
            rank=rank,
            world_size=3,
        )
        assert len(list(batches)) == len(batches) == 2  # equally many steps everywhere
        seen += torch.cat([batch.inputs for batch in batches]).flatten().tolist()
    assert len(seen) == len(set(seen)) == 21


def test_every_process_has_validation_batches():
    for count, size, processes in ((10, 4, 2), (9, 4, 2), (3, 4, 2), (5, 4, 4), (2, 8, 3)):
        rows = torch.arange(float(count)).reshape(count, 1, 1)
        parts = [
            OrderedBatches(Samples(rows, rows), batch_size=size, rank=k, world_size=processes) for k in range(processes)
        ]
        seen = [torch.cat([batch.inputs.flatten() for batch in part]).tolist() for part in parts]
        assert all(0 < len(batch.inputs) <= size for part in parts for batch in part)
        if count < processes:
            assert seen == [list(range(count))] * processes
        else:
            assert sorted(row for rows in seen for row in rows) == list(range(count))
            assert min(map(len, seen)) > 0


EQUAL_ENDS = (("dirichlet", "neumann"), "dirichlet")
SYMMETRIC = {
    "poisson": (vc.problems.Poisson(vc.Grid((6, 6))), ("transpose", "flip_x", "flip_y")),
    "poisson neumann": (vc.problems.Poisson(vc.Grid((6, 6)), "neumann"), ("transpose", "flip_x", "flip_y")),
    "poisson mixed": (vc.problems.Poisson(vc.Grid((6, 6)), EQUAL_ENDS), ("flip_y",)),
    "poisson 3-D": (
        vc.problems.Poisson(vc.Grid((4, 6, 4), periodic=(False, True, False)), ("neumann", "periodic", "neumann")),
        ("transpose_xz", "flip_x", "flip_y", "flip_z"),
    ),
    "poisson cube": (
        vc.problems.Poisson(vc.Grid((4, 4, 4))),
        ("transpose", "transpose_xz", "transpose_yz", "flip_x", "flip_y", "flip_z"),
    ),
    "darcy": (vc.problems.Darcy(vc.Grid((6, 6))), ("transpose", "flip_x", "flip_y")),
    "darcy 3-D": (
        vc.problems.Darcy(vc.Grid((4, 4, 4)), boundary_values={"x_low": 2.0}),
        ("transpose_yz", "flip_y", "flip_z"),
    ),
    "helmholtz": (vc.problems.Helmholtz(vc.Grid((6, 6)), source="random"), ("transpose", "flip_x", "flip_y")),
    "helmholtz 3-D": (
        vc.problems.Helmholtz(vc.Grid((4, 4, 4)), wave_number=3.0, source=(0.3, 0.5, 0.3)),
        ("transpose_xz", "flip_y"),
    ),
}


def test_problems_declare_their_symmetries():
    for problem, names in SYMMETRIC.values():
        assert set(problem.symmetries) == set(names)


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, (_, names) in SYMMETRIC.items() for name in names])
def test_transformed_samples_still_solve_the_equation(case, name):
    problem = SYMMETRIC[case][0]
    inputs = problem.stacked(problem.sample(0, range(4)))
    outputs = problem.solve(inputs, method="direct").solutions.unsqueeze(1)
    augmentation = Augmentation(
        (name,),
        grid=problem.grid,
        boundary=problem.boundary,
        input_fields=problem.input_fields,
        output_fields=problem.outputs,
    )
    chosen = torch.tensor([[True], [False], [True], [False]])
    new_inputs, new_outputs = augmentation(inputs, outputs, chosen)
    assert torch.equal(new_outputs[1::2], outputs[1::2])
    assert torch.equal(new_inputs[1::2], inputs[1::2])
    assert (new_outputs[::2] - outputs[::2]).norm() > 0.01 * outputs.norm()
    scale = problem.systems(inputs).rhs.norm()
    assert problem.residual(new_inputs, new_outputs).norm() < 1e-9 * scale
    assert problem.residual(new_inputs, outputs).norm() > 1e-3 * scale  # the pairing is what solves it
    assert problem.residual(inputs, new_outputs).norm() > 1e-3 * scale


def test_half_open_flip_is_the_reflection_of_the_closed_grid():
    """Points 0 .. n - 1 of n + 1: reflect the closed grid, drop its last point, and compare where all is known."""
    closed = torch.randn(2, 1, 9, 5)
    outputs = closed.clone()
    outputs[:, :, [0, 8]] = 0.0  # the solution vanishes on both boundaries
    augmentation = Augmentation(
        ("half_open_flip_x",),
        grid=vc.Grid((8, 5), centring="vertex"),
        boundary=vc.Boundary.of("dirichlet", 2),
        input_fields=(FieldInfo("a"),),
        output_fields=(FieldInfo("u"),),
    )
    chosen = torch.tensor([[True], [False]])
    new_inputs, new_outputs = augmentation(closed[:, :, :8], outputs[:, :, :8], chosen)
    assert torch.equal(new_outputs[0], outputs[0].flip(1)[:, :8])
    assert torch.equal(new_inputs[0, :, 1:], closed[0].flip(1)[:, 1:8])
    assert torch.equal(new_inputs[0, :, 0], closed[0, :, 7])
    assert torch.equal(new_inputs[1], closed[1, :, :8])
    with pytest.raises(ValueError, match="`augment` must fit the grid; 'half_open_flip_x' is for vertices"):
        Augmentation(
            ("half_open_flip_x",),
            grid=vc.Grid((8, 5)),
            boundary=vc.Boundary.of("dirichlet", 2),
            input_fields=(),
            output_fields=(),
        )


def test_products_of_symmetries_give_all_eight_images_of_a_square():
    grid = vc.Grid((3, 3))
    fields = (FieldInfo("f"),)
    augmentation = Augmentation(
        ("transpose", "flip_x", "flip_y"),
        grid=grid,
        boundary=vc.Boundary.of("dirichlet", 2),
        input_fields=fields,
        output_fields=fields,
    )
    sample = torch.arange(9.0).reshape(1, 1, 3, 3)
    chosen = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    images, same = augmentation(sample.expand(8, -1, -1, -1), sample.expand(8, -1, -1, -1), chosen)
    assert torch.equal(images, same)
    found = {tuple(image.flatten().tolist()) for image in images}
    square = sample[0, 0].numpy()
    expected = {tuple(np.rot90(side, k).ravel().tolist()) for side in (square, square.T) for k in range(4)}
    assert found == expected


def test_declared_symmetries_are_used_unless_refused(monkeypatch):
    data, model = linear_data(), tiny()
    plain = fit(model, data, epochs=1, progress=False)
    named = fit(model, data, epochs=1, config={"augment": ("flip_y",)}, progress=False)
    monkeypatch.setattr(Dataset, "problem", SimpleNamespace(symmetries=("flip_y",), zero_on_walls=True))
    declared = fit(model, linear_data(), epochs=1, progress=False)
    refused = fit(model, linear_data(), epochs=1, config=NO_AUGMENTATION, progress=False)
    assert torch.equal(weights(declared.network), weights(named.network))
    assert torch.equal(weights(refused.network), weights(plain.network))
    assert not torch.equal(weights(named.network), weights(plain.network))


@pytest.mark.parametrize(
    ("name", "grid", "boundary", "message"),
    [
        ("transpose", vc.Grid((4, 5)), "neumann", "'transpose' swaps"),
        ("transpose", vc.Grid((4, 4), (1.0, 2.0)), "neumann", "'transpose' swaps"),
        ("transpose", vc.Grid((4, 4)), ["neumann", "dirichlet"], "'transpose' swaps"),
        ("flip_x", vc.Grid((4, 4)), [("neumann", "dirichlet"), "neumann"], "'flip_x' swaps neumann and dirichlet"),
    ],
)
def test_maps_that_are_no_symmetries_are_refused(name, grid, boundary, message):
    kinds = vc.Boundary.of(boundary, 2)
    with pytest.raises(ValueError, match=message):
        Augmentation((name,), grid=grid, boundary=kinds, input_fields=(), output_fields=())


def test_a_field_on_one_face_only_has_no_image():
    one_face = (FieldInfo("value_x_low", face="x_low"),)
    with pytest.raises(
        ValueError, match=r"`augment` needs one field on face x_high as the image of 'value_x_low'\. Got 0"
    ):
        Augmentation(
            ("flip_x",),
            grid=vc.Grid((4, 4)),
            boundary=vc.Boundary.of("dirichlet", 2),
            input_fields=one_face,
            output_fields=(),
        )


def test_normalisers_centre_and_scale_and_invert():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(50, 2, 6, 5, generator=generator) * torch.tensor([3.0, 1e-4]).reshape(2, 1, 1) + 7.0
    u[:, 1] -= 7.0
    for kind, dims in (("scalar", (0, 2, 3)), ("pointwise", 0)):
        normaliser = Normaliser.of(u, kind=kind)
        z = normaliser.normalise(u)
        assert z.mean(dims).abs().max() < 1e-5
        assert_close(z.std(dims, correction=0), torch.ones_like(z.std(dims)))
        assert_close(normaliser.denormalise(z), u)
    scaled = Normaliser.of(u, kind="scale")
    assert torch.equal(scaled.normalise(torch.zeros_like(u)), torch.zeros_like(u))
    assert_close(scaled.normalise(u).square().mean((0, 2, 3)), [1.0, 1.0])
    assert torch.equal(Normaliser.of(u, kind="none").normalise(u), u)
    assert set(normaliser.state_dict()) == {"mean", "scale"}


@pytest.mark.parametrize("kind", ["scalar", "pointwise", "scale"])
def test_constant_channels_stay_finite_and_invert(kind):
    u = torch.full((4, 2, 3), 0.1)
    u[:, 1] = 0.0
    normaliser = Normaliser.of(u, kind=kind)
    assert torch.isfinite(normaliser.normalise(u)).all()
    assert normaliser.normalise(u).abs().max() <= 1.0 + 1e-6
    assert_close(normaliser.denormalise(normaliser.normalise(u)), u)


def test_points_that_are_constant_have_the_scale_of_their_channel():
    u = torch.randn(200, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    u[..., 0] = 0.0  # a wall
    scale = Normaliser.of(u, kind="pointwise").scale
    assert (scale[..., 0] - 0.01).abs().max() < 0.003
    assert torch.equal(scale[..., 1:], u.double().std(0, correction=0)[..., 1:].float())


def test_normaliser_arguments_are_named():
    with pytest.raises(ValueError, match="`normaliser` must be one of 'scalar', 'pointwise', 'scale', 'none'"):
        Normaliser.of(torch.ones(2, 1, 3), kind="minmax")
    with pytest.raises(ValueError, match=r"`fields` must have shape \(sample, channel, \*space\)"):
        Normaliser.of(torch.ones(0, 1, 3))
    with pytest.raises(ValueError, match=r"`scale` must be positive\. Got 0\.0"):
        Normaliser(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="`scale` must have shape"):
        Normaliser(torch.zeros(1, 1), torch.ones(2, 1))


def test_losses_are_the_metrics():
    grid, boundary = vc.Grid((4, 6)), vc.Boundary.of("dirichlet", 2)
    u, v = torch.rand(2, 3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    assert data_loss("l2", grid=grid, boundary=boundary)(u, v) == metrics.relative_l2(u, v)
    assert data_loss("h1", grid=grid, boundary=boundary)(u, v) == metrics.relative_h1(
        u, v, grid=grid, boundary=boundary
    )
    assert data_loss("h1", grid=grid, boundary=boundary, zero_on_walls=False)(u, v) > RelativeH1(grid, boundary)(u, v)
    assert json.dumps(repr(RelativeL2())) == '"RelativeL2()"'
    with pytest.raises(ValueError, match="`loss` must be one of"):
        data_loss("L2", grid=grid, boundary=boundary)


@pytest.mark.parametrize(
    ("problem", "zero"),
    [
        (vc.problems.Darcy(vc.Grid((8, 8))), True),
        (vc.problems.Darcy(vc.Grid((8, 8)), boundary_values={"x_low": 0.0}), True),
        (vc.problems.Darcy(vc.Grid((8, 8)), boundary_values={"x_low": 3.0}), False),
        (vc.problems.Darcy(vc.Grid((8, 8)), ("neumann", "dirichlet"), boundary_values={"x_low": 3.0}), True),
        (vc.problems.Poisson(vc.Grid((8, 8))), False),
        (vc.problems.Poisson(vc.Grid((8, 8)), "neumann"), True),
        (vc.problems.Helmholtz(vc.Grid((8, 8)), source="random", resolution_tolerance=None), True),
    ],
)
def test_problems_say_whether_their_solutions_vanish_on_dirichlet_walls(problem, zero):
    data = vc.generate(problem, num_samples=2, progress=False)
    assert problem.zero_on_walls == zero
    assert walls(data) == (problem.boundary, zero)
    parts = data.windowed(Window(inputs=data.input_fields and (data.input_fields[0].name,)))
    assert walls(parts) == (problem.boundary, zero)  # also where the values are no inputs of the model


def test_walls_say_nothing_of_outputs_that_are_not_the_unknown():
    """The coefficient 1 everywhere has no gradient, and on a wall no jump to zero: H1 is L2."""
    data = vc.generate(vc.problems.Darcy(vc.Grid((8, 8))), num_samples=1, progress=False)
    inverse = data.windowed(Window(inputs=("solution",), outputs=("coefficient",)))
    boundary, zero = walls(inverse)
    assert boundary == vc.Boundary.of("neumann", 2)
    loss = data_loss("h1", grid=data.grid, boundary=boundary, zero_on_walls=zero)
    ones = torch.ones(1, 1, 8, 8)
    assert loss(1.5 * ones, ones) == pytest.approx(0.5)
    own = Dataset.from_arrays(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), boundary="dirichlet")
    assert walls(own) == (vc.Boundary.of("dirichlet", 2), True)


@pytest.mark.parametrize("window", [Window(), Window(inputs=("solution",), outputs=("coefficient",))])
def test_evaluation_and_loss_agree_on_walls(window):
    problem = vc.problems.Darcy(vc.Grid((8, 8)), boundary_values={"x_low": 3.0, "x_high": 3.0})
    data = vc.generate(problem, num_samples=4, progress=False).windowed(window)
    operator = fit(tiny(), data, epochs=1, batch_size=4, progress=False, config={"augment": False})
    measured = vc.evaluate(operator, data).relative_h1
    boundary, zero = walls(data)
    loss = data_loss("h1", grid=data.grid, boundary=boundary, zero_on_walls=zero)
    prediction = operator.predict(data.inputs).double()
    assert measured == pytest.approx(loss(prediction, data.outputs).item())
    wrong = data_loss("h1", grid=data.grid, boundary=data.boundary)(prediction, data.outputs).item()
    assert abs(measured - wrong) > 0.1 * measured


def test_freed_memory_is_kept_between_training_steps():
    if not sys.platform.startswith("linux"):
        pytest.skip("Only glibc has the options.")
    # in a process of its own: the option cannot be taken back
    code = """
import resource, torch
from vcycle.training.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000).mul_(2.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
mapped = faults()
assert keep_freed_memory()
faults()
print(mapped, faults())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mapped, kept = map(int, run.stdout.split())
    assert kept < 0.1 * mapped
