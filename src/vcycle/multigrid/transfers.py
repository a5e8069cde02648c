"""Moving functions between a grid and the next coarser one: convolutions with stride 2 and their transposes.

The same two functions serve the learned stencils and the classical ones; only the weights differ.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vcycle.multigrid.padding import Padding

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def apply_stencil(u: Tensor, weight: Tensor, padding: Padding, *, stride: int = 1) -> Tensor:
    """Convolve ``u`` with a stencil 3 or 4 wide, ghost values by ``padding``.

    Parameters
    ----------
    u
        Functions, ``(batch, in_channels, *space)``.
    weight
        ``(out_channels, in_channels, *kernel)``. A 4-wide kernel is for stride 2 and reaches one value further up.
    padding
        The rule beyond each wall.
    stride
        1, or 2 to halve every axis to ``ceil(n / 2)``.

    Returns
    -------
    Tensor
        ``(batch, out_channels, *space)``, halved where the stride is 2.
    """
    convolve, kernel = _CONV[padding.num_axes], weight.shape[-1]
    if padding.is_zero and kernel == 3:
        return convolve(u, weight, stride=stride, padding=1)
    padded = padding.pad(u, 1)
    if kernel == 4 and any(n % 2 for n in u.shape[2:]):  # the outer half of the last coarse cell holds nothing
        padded = F.pad(padded, [side for n in reversed(u.shape[2:]) for side in (0, n % 2)])
    return convolve(padded, weight, stride=stride)


def prolong(u_coarse: Tensor, weight: Tensor, padding: Padding, shape: Sequence[int]) -> Tensor:
    """Apply the transpose of a 4-wide stencil with stride 2 to the padded coarse values, and crop to ``shape``.

    Parameters
    ----------
    u_coarse
        Functions, ``(batch, in_channels, *coarse)`` with ``coarse = ceil(shape / 2)``.
    weight
        ``(in_channels, out_channels, 4, ...)``.
    padding
        The rule beyond each wall.
    shape
        Size of the fine grid.

    Returns
    -------
    Tensor
        ``(batch, out_channels, *shape)``.
    """
    transpose = _CONV_TRANSPOSE[padding.num_axes]
    if padding.is_zero:
        u = transpose(u_coarse, weight, stride=2, padding=1)
    else:  # each ghost value adds two fine values, which the larger padding takes away again
        u = transpose(padding.pad(u_coarse, 1), weight, stride=2, padding=3)
    for axis, size in enumerate(shape):
        if u.shape[axis + 2] != size:
            u = u.narrow(axis + 2, 0, size)
    return u


def linear_weight(num_axes: int) -> Tensor:
    """Return linear interpolation's weights between cell centres, ``(1, 1, 4, ...)``, float64: 1/4, 3/4, 3/4, 1/4."""
    one_axis = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=torch.float64)
    weight = one_axis
    for _ in range(num_axes - 1):
        weight = weight.unsqueeze(-1) * one_axis
    return weight[None, None]
