"""A trained operator as one program: physical units in and out, run by PyTorch or ONNX Runtime without vcycle."""

import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcycle._files import whole
from vcycle.training.operator import TrainedOperator

RECORD = "vcycle.json"
"""Name of what a program's file says of its inputs."""


class PhysicalNetwork(nn.Module):
    """Normaliser, network and normaliser in one module.

    Parameters
    ----------
    operator
        The trained operator; its network is copied.
    """

    def __init__(self, operator: TrainedOperator) -> None:
        super().__init__()
        self.input_normaliser = operator.input_normaliser
        self.parameter_normaliser = operator.parameter_normaliser
        self.network = deepcopy(operator.network).eval()
        # The program keeps weights as they lie in memory, and its writer and reader want them contiguous and whole.
        for weight in (*self.network.parameters(), *self.network.buffers()):
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        self.output_normaliser = operator.output_normaliser

    def forward(self, inputs: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map ``(sample, channel, *space)`` to ``(sample, channel, *space)``, float32, in physical units.

        ``parameters`` are ``(sample, parameter)`` in the order of the operator's names, or None where it takes none.
        """
        given: tuple[Tensor, ...] = (self.input_normaliser.normalise(inputs),)
        if self.parameter_normaliser is not None and parameters is not None:
            given = (*given, self.parameter_normaliser.normalise(parameters))
        return self.output_normaliser.denormalise(self.network(*given))


def export_operator(operator: TrainedOperator, path: str | Path, *, any_size: bool = False) -> Path:
    """Write an operator as a program for any number of samples, on the grid of training or on any.

    The program takes ``inputs``, ``(sample, channel, *space)``, and from an operator with scalars also ``parameters``,
    ``(sample, parameter)``. The file says so, and the scalars' names in order, as JSON under ``"vcycle.json"``: among
    the ``extra_files`` of ``.pt2``, in the metadata of ``.onnx``.

    Parameters
    ----------
    operator
        The trained operator.
    path
        The file to write; it appears whole or not at all. ``torch.export.load(path).module()`` reads ``.pt2``, ONNX
        Runtime ``.onnx`` (whose writer needs the packages onnx and onnxscript).
    any_size
        Whether the grid's size is free too. A network with a ``size_step``, such as MgNO, whose grids meet the walls
        in one way where sizes differ by multiples of it, is free by such multiples, from twice the step on.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the network does something that cannot be recorded; the message says what. With ``any_size`` also if
        normalisers are pointwise.
    DataError
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        _require_onnx()
    example, sizes = _free_sizes(operator) if any_size else (operator.grid.shape, {})
    sample = torch.export.Dim("sample", min=1)
    given = {"inputs": torch.zeros(2, operator.in_channels, *example)}
    free: list[dict[int, Any]] = [{0: sample} | sizes]
    if operator.parameter_names:
        given["parameters"] = torch.zeros(2, len(operator.parameter_names))
        free.append({0: sample})
    record = json.dumps({"inputs": list(given), "parameter_names": operator.parameter_names})
    try:
        program = torch.export.export(PhysicalNetwork(operator), tuple(given.values()), dynamic_shapes=tuple(free))
        content = _onnx(program, list(given), record) if path.suffix == ".onnx" else _pt2(program, record)
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`operator` must be one that torch.export can record. Got {reason}") from error
    with whole(path) as partial:
        partial.write_bytes(content)
    return path


def _free_sizes(operator: TrainedOperator) -> tuple[tuple[int, ...], dict[int, Any]]:
    """Return a shape to record at and the free sizes by dimension of the input, congruent to those of training."""
    for normaliser in (operator.input_normaliser, operator.output_normaliser):
        points = tuple(normaliser.mean.shape[1:])
        if math.prod(points) > 1:
            raise ValueError(
                f"`any_size` must not be given with pointwise normalisers. Got statistics at {points} points."
            )
    step = getattr(operator.network, "size_step", 1)
    shape, sizes = [], {}
    for axis, size in enumerate(operator.grid.shape):
        count, rest = divmod(size, step)
        shape.append(step * max(count, 3 + axis) + rest)  # a recorder takes sizes of one point for fixed
        blocks = torch.export.Dim(f"n{axis}", min=2)
        multiple = step * blocks if step > 1 else blocks
        sizes[axis + 2] = multiple + rest if rest else multiple
    return tuple(shape), sizes


def _pt2(program: Any, record: str) -> bytes:
    content = io.BytesIO()  # PyTorch's own writer ends the process when the disk is full
    torch.export.save(program, content, extra_files={RECORD: record})
    return content.getvalue()


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise ValueError(f"`path` must end in .pt2 where the package {package} is not installed.") from error


def _onnx(program: Any, names: list[str], record: str) -> bytes:
    with _quiet():
        written: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names)
    written.model.metadata_props[RECORD] = record
    return written.model_proto.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what PyTorch's writer says of packages that we do not need and of its own calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every operator of torchvision where that is not installed
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
