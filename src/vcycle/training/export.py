"""A trained operator as one program: physical units in and out, run by PyTorch without vcycle."""

import io
from copy import deepcopy
from pathlib import Path

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


def export_operator(operator: TrainedOperator, path: str | Path) -> Path:
    """Write an operator with ``torch.export``, for any number of samples on the grid that it was trained on.

    Parameters
    ----------
    operator
        The trained operator.
    path
        The ``.pt2`` file to write; it appears whole or not at all. ``torch.export.load(path).module()`` reads it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the network does something that ``torch.export`` cannot record; the message says what.
    DataError
        If the file cannot be written.
    """
    example = torch.zeros(2, operator.in_channels, *operator.grid.shape)
    sample = torch.export.Dim("sample", min=1)
    try:
        program = torch.export.export(PhysicalNetwork(operator), (example,), dynamic_shapes=({0: sample},))
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`operator` must be one that torch.export can record. Got {reason}") from error
    content = io.BytesIO()  # PyTorch's own writer ends the process when the disk is full
    torch.export.save(program, content)
    with whole(path) as partial:
        partial.write_bytes(content.getbuffer())
    return Path(path)
