"""First weights of MgNO under which functions keep their size, whatever the depth and the width.

The stencils are random; then a few smooth random functions pass through the layers, and each layer is scaled in turn.
No data are needed. A cycle is scaled exactly: with ``c S`` for every ``S`` and ``A / c`` for every ``A`` its output is
multiplied by ``c``. Deep networks of W-cycles scatter more: the same random weights act several times.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vcycle.multigrid.layer import LearnedLevel, MultigridLayer, Stencil
from vcycle.multigrid.transfers import linear_weight

SMOOTHER_GAIN, COARSE_GAIN = 0.25, 0.5
"""Squared row norms of S, and of Pi and P; below 1, since the terms of a cycle add up and W-cycles come back."""
BIAS = 0.25
"""Standard deviation of the biases, so that channels bend at different values (dimensionless)."""
BATCH, MODES = 4, 4
"""Number of functions that the scales are measured on, and of random values per axis that they interpolate."""


def scale_weights(
    cycles: Sequence[MultigridLayer],
    pointwise: Sequence[Any],
    head: Any,
    *,
    fill: Callable[[MultigridLayer], None] | None = None,
) -> None:
    """Overwrite the weights of an MgNO so that every layer gives its functions variance one before its gelu.

    Half of the variance comes from ``W_Mg``, half from ``B``, and biases take out the means of the channels. Smooth
    functions of variance one come out of the whole network with variance one.

    Parameters
    ----------
    cycles, pointwise
        ``W_Mg`` and ``B``, a convolution with bias, of each layer.
    head
        The last linear combination.
    fill
        Overwrites the stencils of a cycle, which is scaled afterwards; ``None`` draws them.
    """
    with torch.no_grad():
        u = _smooth_functions(cycles[0], pointwise[0].weight.shape[1])
        for i, (layer, around) in enumerate(zip(cycles, pointwise, strict=True)):
            (fill or random_stencils)(layer)
            _fill(around.weight, centred=i > 0)
            around.bias.zero_()
            _scale_cycle(layer, 0.5**0.5 / _spread(layer(u)))
            around.weight *= 0.5**0.5 / _spread(around(u))
            z = layer(u) + around(u)
            scale = 1.0 / _spread(z)
            _scale_cycle(layer, scale)
            around.weight *= scale
            mean = scale * z.transpose(0, 1).flatten(1).mean(1)
            around.bias.normal_(std=BIAS).sub_(mean)
            u = F.gelu(layer(u) + around(u))
        _fill(head.weight, centred=True)
        head.weight /= _spread(head(u))


def _smooth_functions(layer: MultigridLayer, channels: int) -> Tensor:
    """Return random functions of variance one on a grid that the cycle takes, ``(BATCH, channels, *space)``."""
    axes = layer.padding.num_axes
    size = max(2 ** (len(layer.levels) - (axes == 3)), 2 * MODES)
    kind = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
    u = F.interpolate(torch.randn(BATCH, channels, *(MODES,) * axes), size=(size,) * axes, mode=kind)
    return (u / _spread(u)).to(next(layer.parameters()))


def _spread(u: Tensor) -> float:
    """Return the standard deviation about the channels' means, over samples, points and channels."""
    return max(u.transpose(0, 1).flatten(1).var(1, correction=0).mean().sqrt().item(), 1e-12)


def random_stencils(layer: MultigridLayer) -> None:
    """Draw smoothers normal, and transfers as linear interpolation and averaging times matrices of the channels."""
    stencil: Any
    for level in layer.levels:
        for name, stencil in level.named_modules():
            kind = name.rpartition(".")[2]
            if kind in ("S", "A"):
                _fill(stencil.weight, SMOOTHER_GAIN if kind == "S" else 1.0)
            elif kind in ("R", "Pi", "P"):
                _fill_transfer(stencil.weight, 1.0 if kind == "R" else COARSE_GAIN, transposed=kind == "P")


def _scale_cycle(layer: MultigridLayer, factor: float) -> None:
    """Multiply the output of a cycle."""
    for level in layer.levels:
        for name, stencil in level.named_modules():
            if isinstance(level, LearnedLevel) and isinstance(stencil, Stencil):
                kind = name.rpartition(".")[2]
                stencil.weight.mul_({"S": factor, "A": 1.0 / factor}.get(kind, 1.0))


def _fill(weight: Tensor, gain: float = 1.0, *, centred: bool = False, transposed: bool = False) -> None:
    """Fill with normal numbers, every row of input channels and places scaled to the squared norm ``gain``.

    Rows that act on the outputs of a gelu sum to zero over the channels: their common mean does not pass.
    """
    inputs = 0 if transposed else 1
    values = torch.randn_like(weight)
    if centred and weight.shape[inputs] > 1:
        values -= values.mean(inputs, keepdim=True)
    others = [dim for dim in range(weight.ndim) if dim != 1 - inputs]
    weight.copy_(values * (gain / values.square().sum(others, keepdim=True)).sqrt())


def _fill_transfer(weight: Tensor, gain: float, *, transposed: bool = False) -> None:
    """Fill with linear interpolation, or averaging, times a random matrix of the channels."""
    axes, kernel = weight.ndim - 2, weight.shape[-1]
    stencil = linear_weight(axes, "cell" if kernel == 4 else "vertex").to(weight)
    matrix = torch.empty_like(weight.flatten(2)[..., :1].reshape(*weight.shape[:2], *(1,) * axes))
    _fill(matrix, gain, transposed=transposed)
    weight.copy_(matrix * (stencil if transposed else stencil / stencil.sum()))
