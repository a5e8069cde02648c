"""What the commands share: their outcome, and how they read what is named on the command line."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle._files import check_file
from vcycle.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import numpy as np

    from vcycle.data import Dataset
    from vcycle.problems import Problem
    from vcycle.training import TrainedOperator

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a command has to say: to a person, to a program, and as exit status."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    status: int = 0


def open_data(path: str, *, name: str = "data") -> "Dataset":
    """Open a data set of any known format; messages call it by the name of the argument."""
    from vcycle.recipes import read_data

    return read_data(path, name=name)


def load_operator(path: str) -> "TrainedOperator":
    """Load the folder of a trained operator."""
    from vcycle.training import load

    if not Path(path).exists():
        raise CheckpointError(f"{path} does not exist; make it with `vcycle train`.")
    return load(path)


def load_pair(operator: str, data: str) -> "tuple[TrainedOperator, Dataset]":
    """Load an operator and a data set like those that it was trained on."""
    from vcycle.evaluation.evaluate import check_family

    trained, dataset = load_operator(operator), open_data(data)
    check_family(trained, dataset, name="data")
    return trained, dataset


def unseen(operator: str, dataset: "Dataset", path: str) -> "tuple[Dataset, str]":
    """Leave out the samples that the operator was trained on, and return in words which data were chosen.

    Raises
    ------
    ValueError
        If nothing is left.
    CheckpointError
        If the run's record is corrupt.
    """
    from vcycle.data import seen_of

    run = _record(operator)
    if run is None:
        return dataset, f"all {len(dataset)} samples of {path}; nothing says what it was trained on"
    seen = seen_of(run, dataset)
    if seen is None:
        return dataset, f"all {len(dataset)} samples of {path}; nothing left out, as it was trained on other data"
    rest = [row for row, sample in enumerate(dataset.sample_id) if int(sample) not in seen]
    if not rest:
        raise ValueError(
            f"`data` must hold samples that {operator} was not trained on. Got {path}; --with-training accepts that."
        )
    return dataset.subset(rest), f"{len(rest)} of {len(dataset)} samples of {path}, those that it was not trained on"


def _record(operator: str) -> dict[str, Any] | None:
    """Return what a run says that it was trained on: in the named folder, or in the one above an ``operator``."""
    from vcycle.training.resume import OPERATOR, read_record

    folder = Path(operator).resolve()
    record = read_record(folder)
    return read_record(folder.parent) if record is None and folder.name == OPERATOR else record


def data_seconds(operator: str, dataset: "Dataset") -> float | None:
    """Return the CPU seconds that drawing and solving the samples took that an operator was trained on.

    Where only others are at hand, theirs, times the number that it was trained on; ``None`` where times or that number
    are unknown.
    """
    from vcycle.data import seen_of

    run = _record(operator)
    times = [dataset.solver[key] for key in ("seconds", "sampling_seconds") if key in dataset.solver]
    if run is None or not times or not len(dataset):
        return None
    seen = seen_of(run, dataset) or set()
    rows = [row for row, sample in enumerate(dataset.sample_id) if int(sample) in seen] or list(range(len(dataset)))
    return float(sum(time[rows].mean() for time in times)) * len(run["trained_on"])


def problem_of(dataset: "Dataset", path: str) -> "Problem":
    """Return the problem that a data set solves; a data set of arrays alone has none."""
    if dataset.problem is None:
        raise DataError(f"{path} does not say which problem it solves, so that nothing can be solved again.")
    return dataset.problem


def read_npy(path: str) -> "np.ndarray":
    """Read a NumPy file; nothing is unpickled."""
    import numpy as np

    if not Path(path).exists():
        raise DataError(f"{path} does not exist.")
    remedy = "Write one with numpy.save."
    try:
        with Path(path).open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a NumPy file of numbers: {str(error).rstrip('.')}. {remedy}") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path} is not a NumPy file of real numbers: it holds {array.dtype}. {remedy}")
    return array


def check_suffix(name: str, path: str, *suffixes: str) -> None:
    """Raise unless a file to be written has a suffix of its format."""
    check_file(name, path)
    if Path(path).suffix not in suffixes:
        raise ValueError(f"`{name}` must end in {' or '.join(suffixes)}. Got {path}.")


def read_shape(text: str) -> tuple[int, ...]:
    """Read cells per axis, ``64`` or ``32x32``."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"`shape` must be cells per axis, such as 64 or 32x32. Got {text}.")
    return tuple(int(part) for part in parts)


def read_pairs(name: str, words: list[str]) -> dict[str, Any]:
    """Read ``key=value`` words; a value is read as in a YAML file."""
    from vcycle import _yaml

    pairs: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"`{name}` must be key=value. Got {word}. Other words go before {flag}.")
        key = key.replace("-", "_")
        if key in pairs:
            raise ValueError(f"`{name}` must give {key} once. Got {word} after {key}={pairs[key]}.")
        try:
            pairs[key] = _yaml.read(value)
        except ValueError as error:
            raise ValueError(f"`{name}` has a value that cannot be read. Got {word}.") from error
    return pairs
