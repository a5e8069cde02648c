"""A trained operator as one program: physical units in and out, run by PyTorch or ONNX Runtime without vcycle."""

import io
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcycle._files import whole
from vcycle.training.operator import TrainedOperator


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
        # The program keeps weights as they lie in memory, and its reader wants them contiguous.
        plain = deepcopy(operator.network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.network = plain.eval()
        self.output_normaliser = operator.output_normaliser

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(sample, channel, *space)`` to ``(sample, channel, *space)``, float32, in physical units."""
        return self.output_normaliser.denormalise(self.network(self.input_normaliser.normalise(inputs)))


def export_operator(operator: TrainedOperator, path: str | Path, *, any_size: bool = False) -> Path:
    """Write an operator as a program for any number of samples, on the grid of training or on any.

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
    inputs = torch.zeros(2, operator.in_channels, *example)
    free: dict[int, Any] = {0: torch.export.Dim("sample", min=1)} | sizes
    try:
        program = torch.export.export(PhysicalNetwork(operator), (inputs,), dynamic_shapes=(free,))
        content = _onnx(program) if path.suffix == ".onnx" else _pt2(program)
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
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


def _pt2(program: Any) -> bytes:
    content = io.BytesIO()  # PyTorch's own writer ends the process when the disk is full
    torch.export.save(program, content)
    return content.getvalue()


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise ValueError(f"`path` must end in .pt2 where the package {package} is not installed.") from error


def _onnx(program: Any) -> bytes:
    return torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()  # type: ignore[union-attr]
