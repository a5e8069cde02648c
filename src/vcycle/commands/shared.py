"""What the commands share: their outcome, and how they read what is named on the command line."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import numpy as np

    from vcycle.data import Dataset
    from vcycle.problems import Problem
    from vcycle.training import TrainedOperator

Say = Callable[[str], None]
RUN_FILE = "run.json"
"""Beside a trained operator: what it was trained on, so that evaluation can keep to what it has not seen."""


@dataclass(frozen=True)
class Outcome:
    """What a command has to say: to a person, to a program, and as exit status."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    status: int = 0


def open_data(path: str) -> "Dataset":
    """Open a data set of any known format."""
    from vcycle.recipes import read_data

    return read_data(path)


def load_operator(path: str) -> "TrainedOperator":
    """Load the folder of a trained operator."""
    from vcycle.training import load

    if not Path(path).exists():
        raise CheckpointError(f"{path} does not exist; make it with `vcycle train`.")
    return load(path)


def unseen(operator: str, dataset: "Dataset", path: str) -> "Dataset":
    """Leave out the samples that the operator was trained on, where its run says which these are."""
    record = Path(operator) / RUN_FILE
    if not record.exists():
        return dataset
    run = json.loads(record.read_text(encoding="utf-8"))
    if run["fingerprint"] != dataset.fingerprint():
        return dataset
    seen = set(run["trained_on"])
    rest = [row for row, sample in enumerate(dataset.sample_id) if int(sample) not in seen]
    if not rest:
        raise ValueError(
            f"`data` must hold samples that {operator} was not trained on. Got {path}; --with-training accepts that."
        )
    return dataset.subset(rest)


def problem_of(dataset: "Dataset", path: str) -> "Problem":
    """Return the problem that a data set solves; a data set of arrays alone has none."""
    if dataset.problem is None:
        raise DataError(f"{path} does not say which problem it solves, so that nothing can be solved again.")
    return dataset.problem


def read_npy(path: str) -> "np.ndarray":
    """Read a NumPy file; nothing is unpickled."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a NumPy file of numbers: {error}.") from error


def check_suffix(name: str, path: str, suffix: str) -> None:
    """Raise unless a file to be written has the suffix of its format."""
    if Path(path).suffix != suffix:
        raise ValueError(f"`{name}` must end in {suffix}. Got {path}.")


def read_shape(text: str) -> tuple[int, ...]:
    """Read cells per axis, ``64`` or ``32x32``."""
    parts = text.lower().split("x")
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"`shape` must be cells per axis, such as 64 or 32x32. Got {text}.")
    return tuple(int(part) for part in parts)


def read_pairs(name: str, words: list[str]) -> dict[str, Any]:
    """Read ``key=value`` words; a value is read as in a YAML file."""
    import yaml

    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"`{name}` must be key=value. Got {word}.")
        try:
            pairs[key.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"`{name}` has a value that cannot be read. Got {word}.") from error
    return pairs
