"""An operator's folder: JSON and safetensors, written whole or not at all, read without unpickling anything."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vcycle._files import finite, writing
from vcycle.errors import CheckpointError

WEIGHTS, DESCRIPTION = "weights.safetensors", "operator.json"
OWN_CHECKSUM = "description_sha256"
REMEDY = "Restore the operator from a copy, or remove it and train again."


def write_folder(path: Path, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a folder; an operator's folder that is already there is replaced.

    Raises
    ------
    ValueError
        If something else is there.
    DataError
        If it cannot be written.
    """
    from safetensors.torch import save

    if path.exists() and not is_operator(path) and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`path` must be new or an operator's folder, which is replaced. Got {str(path)!r}.")
    weights = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    description = description | {"sha256": hashlib.sha256(weights).hexdigest()}
    description = json.loads(json.dumps(finite(description), allow_nan=False))  # as it will be read back
    text = json.dumps(description | {OWN_CHECKSUM: checksum(description)}, indent=2) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.mkdir()
            (partial / WEIGHTS).write_bytes(weights)
            (partial / DESCRIPTION).write_text(text, encoding="utf-8")
            _put_in_place(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and weights.

    Raises
    ------
    CheckpointError
        If the folder is missing, incomplete or corrupt.
    """
    description = _read_description(path)
    return description, _read_weights(path / WEIGHTS, description.get("sha256"))


def fill(modules: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into modules of the same names and shapes.

    Raises
    ------
    CheckpointError
        If they are of another model.
    """
    own = modules.state_dict()
    different = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name].shape != tensors[name].shape]
    if different:
        raise CheckpointError(f"{path} holds the weights of another model: {listed(different)} does not fit. {REMEDY}")
    modules.load_state_dict(tensors)


def is_operator(path: Path) -> bool:
    """Whether a folder holds a saved operator."""
    return (path / DESCRIPTION).is_file()


def _put_in_place(partial: Path, path: Path) -> None:
    """Rename ``partial`` to ``path``; what was there steps aside first and is removed last."""
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_suffix(".old")
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        given = "Give the folder that `vcycle train` or TrainedOperator.save made."
        raise CheckpointError(f"{folder} is not a saved operator: there is no {DESCRIPTION} in it. {given}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is corrupt: {one_line(error)}. {REMEDY}") from error
    if not isinstance(description, dict):
        raise CheckpointError(f"{path} is corrupt: it does not hold a description. {REMEDY}")
    if description.pop(OWN_CHECKSUM, None) != checksum(description):
        raise CheckpointError(f"{path} was changed after it was written. {REMEDY}")
    return description


def checksum(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a description, whatever the order and the layout of its JSON."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_weights(path: Path, expected: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the saved operator is incomplete. {REMEDY}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path} is corrupt: it is not the file that {DESCRIPTION} was written with. {REMEDY}")
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is corrupt: {one_line(error)}. {REMEDY}") from error


def listed(entries: Sequence[Any], most: int = 5) -> str:
    """Return the first entries in words."""
    return ", ".join(map(str, entries[:most])) + (f" and {len(entries) - most} more" if len(entries) > most else "")


def one_line(error: BaseException) -> str:
    """Return an error's message as one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
