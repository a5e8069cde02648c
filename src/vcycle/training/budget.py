"""How many epochs fit into a budget of CPU time: models that train for equal time can be compared fairly."""

import json
import math
import statistics
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vcycle import _check
from vcycle._files import locked, write_json
from vcycle.errors import CheckpointError
from vcycle.training.config import FitConfig, decisive, plain
from vcycle.training.fit import fit
from vcycle.training.resume import check_folder, require_same

if TYPE_CHECKING:
    from vcycle.data import Dataset

BUDGET_FILE = "budget.json"
FEW, MANY = 4, 24
"""Steps per epoch of the first look, and of the second where steps are short."""
PASSES = 4
"""Epochs of a look: what happens between two of them costs time too."""
WARM_UP = 2
"""Steps that are not counted: memory is allocated, kernels are chosen."""
SHORT_LOOK = 1.0
"""CPU seconds: a look that took less is repeated with more steps."""


@dataclass(frozen=True)
class Budget:
    """A number of epochs, and why.

    Parameters
    ----------
    epochs
        How many fit, at least one.
    cpu_seconds
        What was asked for.
    epoch_seconds
        CPU seconds of one epoch: all steps, and the validation data once.
    step_seconds
        CPU seconds of one training step.
    """

    epochs: int
    cpu_seconds: float
    epoch_seconds: float
    step_seconds: float

    @property
    def over(self) -> bool:
        """Whether even one epoch takes longer than what was asked for."""
        return self.epoch_seconds > self.cpu_seconds


def epochs_within(
    model: nn.Module,
    train: "Dataset",
    *,
    cpu_seconds: float,
    validation: "Dataset | None" = None,
    seed: int = 0,
    **arguments: Any,
) -> int:
    """Return how many epochs of :func:`vcycle.fit` take a given CPU time on this machine, at least one.

    See :func:`measured_budget`, whose record also says whether one epoch is already too long.
    """
    return measured_budget(model, train, cpu_seconds=cpu_seconds, validation=validation, seed=seed, **arguments).epochs


def measured_budget(
    model: nn.Module,
    train: "Dataset",
    *,
    cpu_seconds: float,
    validation: "Dataset | None" = None,
    seed: int = 0,
    **arguments: Any,
) -> Budget:
    """Time a few steps of the real training on a part of the data, and see how many epochs fit.

    Parameters
    ----------
    model
        As for :func:`vcycle.fit`; it stays as it is.
    train, validation
        The data of the training to come.
    cpu_seconds
        CPU time of the process that training may take, all threads together.
    seed
        Of the training.
    **arguments
        Further arguments of :func:`vcycle.fit`, without ``epochs`` and ``out``.

    Returns
    -------
    Budget
        With the number of epochs.

    Raises
    ------
    ValueError, TypeError
        If an argument is not usable.
    """
    _check.positive("cpu_seconds", cpu_seconds)
    look = _Look(model, train, validation, seed, arguments)

    import vcycle.training.engine  # noqa: F401  # importing Lightning takes longer than the first look

    started = time.process_time()
    step, epoch = look(FEW)
    if time.process_time() - started < SHORT_LOOK and PASSES * MANY * step < cpu_seconds:
        step, epoch = look(MANY)
    return Budget(max(1, round(cpu_seconds / epoch)), float(cpu_seconds), epoch, step)


def budget_in(
    folder: str | Path,
    model: nn.Module,
    train: "Dataset",
    *,
    cpu_seconds: float,
    validation: "Dataset | None" = None,
    seed: int = 0,
    **arguments: Any,
) -> Budget:
    """Return the budget that a run's folder holds; measure it and write it there if there is none yet.

    Times differ from run to run, and so would the number of epochs: a run that is resumed keeps to what it began with.

    Raises
    ------
    ValueError
        If the folder holds the budget of another run.
    CheckpointError
        If what is there is corrupt.
    """
    check_folder(folder)
    path = Path(folder) / BUDGET_FILE
    described, config = getattr(model, "config", None), FitConfig.of(arguments.get("config"))
    asked = {
        "cpu_seconds": cpu_seconds,
        "model": {"name": type(model).__name__, "config": described() if callable(described) else None},
        "data": train.fingerprint(),
        "validation": None if validation is None else validation.fingerprint(),
        "seed": seed,
        "arguments": {key: plain(value) for key, value in arguments.items()} | {"config": decisive(config.to_dict())},
    }
    asked = json.loads(json.dumps(asked))
    kept = _read(path)
    if kept is None:
        budget = measured_budget(model, train, cpu_seconds=cpu_seconds, validation=validation, seed=seed, **arguments)
        with locked(folder):
            kept = _read(path)  # another process may have begun the run meanwhile
            if kept is None:
                kept = asdict(budget) | {"asked": asked}
                write_json(path, kept)
    require_same(kept.pop("asked", None), asked)
    return Budget(**kept)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        Budget(**{key: value for key, value in content.items() if key != "asked"})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is corrupt. Remove it to begin the run anew.") from error
    return content


class _Look:
    """A few short epochs of the real training, with the clock read at every pass through the network."""

    def __init__(
        self,
        model: nn.Module,
        train: "Dataset",
        validation: "Dataset | None",
        seed: int,
        arguments: Mapping[str, Any],
    ) -> None:
        self.model, self.train, self.validation, self.seed = model, train, validation, seed
        config = FitConfig.of(arguments.get("config"))
        entries = {name: getattr(config, name) for name in FitConfig.__dataclass_fields__}
        entries |= {"logger": (), "early_stopping": None}
        self.arguments = {key: value for key, value in arguments.items() if key != "epochs"} | {"config": entries}
        self.batch_size = _check.integer("batch_size", arguments.get("batch_size", 16), 1)

    def __call__(self, steps: int) -> tuple[float, float]:
        """Return CPU seconds of a step and of an epoch."""
        passes: list[tuple[float, bool]] = []
        watched = deepcopy(self.model)
        _watch(watched, passes)
        full = math.ceil(len(self.train) / self.batch_size)
        steps = min(steps, full)
        # few steps in an epoch make more epochs
        epochs = max(PASSES, math.ceil((FEW + WARM_UP) / steps))
        fit(
            watched,
            self.train.subset(range(min(steps * self.batch_size, len(self.train)))),
            epochs=epochs,
            validation=self._some_validation(steps),
            seed=self.seed,
            progress=False,
            **self.arguments,
        )
        return self._times(passes, steps, full)

    def _some_validation(self, batches: int) -> "Dataset | None":
        if self.validation is None:
            return None
        return self.validation.subset(range(min(batches * self.batch_size, len(self.validation))))

    def _times(self, passes: list[tuple[float, bool]], steps: int, full: int) -> tuple[float, float]:
        first = next(i for i, (_, training) in enumerate(passes) if training)  # before it, the model is only checked
        passes = passes[first:]
        starts = [i for i, (_, training) in enumerate(passes) if training]
        inside, between = [], []
        for number, (i, j) in enumerate(pairwise(starts), start=1):
            seconds = passes[j][0] - passes[i][0]
            if number % steps == 0:
                between.append(seconds)  # the last step of an epoch, validation, and what happens around
            elif number > WARM_UP:
                inside.append(seconds)
        checks = [late[0] - early[0] for early, late in pairwise(passes) if not early[1] and not late[1]]
        gap = statistics.fmean(between[1:])  # in the first, validation runs for the first time
        step = statistics.fmean(inside) if inside else gap
        check = statistics.fmean(checks) if checks else 0.0
        batches = 0 if self.validation is None else len(self.validation) / self.batch_size
        seen = min(steps, batches)
        # a last batch that is not full takes its share
        num_steps = len(self.train) / self.batch_size if full > steps else full
        return step, max((num_steps - 1) * step + gap + (batches - seen) * check, 1e-9)


def _watch(model: nn.Module, passes: list[tuple[float, bool]]) -> None:
    """Have CPU time noted where a training step begins (``True``) and at every pass of validation (``False``).

    A step may pass through the network several times; the next one begins after a gradient. All of it sits in closures,
    which a copy of the model shares.
    """
    state = {"hooked": False, "stepped": True}

    def stepped(parameter: nn.Parameter) -> None:
        state["stepped"] = True

    def passing(module: nn.Module, inputs: Any) -> None:
        if not module.training:
            passes.append((time.process_time(), False))
        elif state["stepped"]:
            passes.append((time.process_time(), True))
            state["stepped"] = False
        if module.training and not state["hooked"]:
            state["hooked"] = True
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(stepped)

    model.register_forward_pre_hook(passing)
