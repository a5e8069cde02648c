"""Models of other packages for ``vcycle benchmark``: factories that a study names, such as ``leaderboard_peers:fno``.

neuraloperator's (``pip install neuraloperator``) in as many dimensions as the grid has; and the MgNO of its authors,
where ``VCYCLE_MGNO_REFERENCE`` names a folder with its ``models.py``. That code exists in two dimensions and has one
output channel; it shifts sizes that ``2^(levels - 1)`` does not divide, which are refused here; and knows no
boundary: every convolution pads with zeros, or wraps where ``periodic`` is asked for, and prolongations never wrap.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn

from vcycle import Grid

VARIABLE = "VCYCLE_MGNO_REFERENCE"


class Plain(nn.Module):
    """A network of neuraloperator's, whose ``state_dict`` holds its arguments besides tensors, without them.

    Parameters
    ----------
    network
        Theirs.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, u: Tensor) -> Tensor:
        """Do what the network does."""
        return self.network(u)

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """Return the tensors."""
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if torch.is_tensor(value)}


def fno(
    *, in_channels: int, out_channels: int, grid: Grid, modes: int, width: int, depth: int = 4, **further
) -> nn.Module:
    """Build neuraloperator's FNO; ``modes`` counts both signs of a wave number, as theirs does."""
    from neuralop.models import FNO

    n_modes = (modes,) * grid.num_axes
    return Plain(FNO(n_modes, in_channels, out_channels, hidden_channels=width, n_layers=depth, **further))


def tfno(
    *, in_channels: int, out_channels: int, grid: Grid, modes: int, width: int, depth: int = 4, **further
) -> nn.Module:
    """Build neuraloperator's TFNO, Tucker-factorised at rank 0.1 unless ``rank`` says more."""
    from neuralop.models import TFNO

    n_modes = (modes,) * grid.num_axes
    return Plain(TFNO(n_modes, in_channels, out_channels, hidden_channels=width, n_layers=depth, **further))


def uno(*, in_channels: int, out_channels: int, grid: Grid, modes: int, width: int, **further) -> nn.Module:
    """Build neuraloperator's UNO of five layers: down to half and a quarter of the size, and back."""
    from neuralop.models import UNO

    axes = grid.num_axes
    scalings = (1.0, 0.5, 0.5, 2.0, 2.0)
    coarse = max(2, modes // 2)
    network = UNO(
        in_channels,
        out_channels,
        hidden_channels=width,
        lifting_channels=2 * width,
        projection_channels=2 * width,
        n_layers=len(scalings),
        uno_out_channels=[width, 2 * width, 2 * width, 2 * width, width],
        uno_n_modes=[[m] * axes for m in (modes, coarse, coarse, coarse, modes)],
        uno_scalings=[[s] * axes for s in scalings],
        **({"channel_mlp_skip": "linear"} | further),  # their default needs equal widths
    )
    return Plain(network)


def mgno(
    *,
    in_channels: int,
    out_channels: int,
    grid: Grid,
    width: int = 24,
    depth: int = 4,
    smoothing: tuple[tuple[int, int], ...] = ((1, 0),) * 5 + ((2, 0),),
    periodic: bool = False,
) -> nn.Module:
    """Build the authors' MgNO, by default as they publish it for Darcy."""
    if grid.num_axes != 2:
        raise ValueError(f"`grid` must have 2 axes: the reference MgNO exists in no other. Got {grid.num_axes}.")
    if out_channels != 1:
        raise ValueError(f"`out_channels` must be 1: the reference MgNO has no other. Got {out_channels}.")
    factor = 2 ** (len(smoothing) - 1)
    if any(n % factor for n in grid.shape):
        raise ValueError(f"`grid` must have sizes that {factor} divides, as many as its levels. Got {grid.shape}.")
    levels = [list(pair) for pair in smoothing]
    padding = "circular" if periodic else "zeros"
    return _reference().MgNO_DC(depth, width, in_channels, 1, levels, padding_mode=padding)


def _reference() -> types.ModuleType:
    if VARIABLE not in os.environ:
        raise ImportError(f"The reference MgNO is missing: {VARIABLE} must name the folder of its models.py.")
    stubs = {"torchinfo": types.SimpleNamespace(summary=None), "utilities3": types.SimpleNamespace(count_params=None)}
    for name, stub in stubs.items():
        sys.modules.setdefault(name, stub)  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("mgno_reference", Path(os.environ[VARIABLE]) / "models.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module
