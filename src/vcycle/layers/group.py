"""Layers that commute with quarter turns and reflections of the plane.

A feature is a function on the group as well as on space: channels are stacked as ``(channel, element)``. Elements
``0 .. 3`` are the turns by multiples of 90 degrees, from the first axis towards the second; with reflections,
``4 .. 7`` are a reflection of the second axis followed by those turns.
"""

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.spectral import complex_normal, convolve
from vcycle.layers.transforms import symmetric


def act(element: int, v: Tensor) -> Tensor:
    """Turn (and reflect) the last two axes of ``v``."""
    if element >= 4:
        v = v.flip(-1)
    return torch.rot90(v, element % 4, (-2, -1))


def compose(first: int, second: int) -> int:
    """Return the element that acts as ``second`` and then ``first``."""
    turn = first % 4 + (-1 if first >= 4 else 1) * (second % 4)
    return turn % 4 + (4 if (first >= 4) != (second >= 4) else 0)


def inverse(element: int) -> int:
    """Return the element that undoes ``element``; a reflection undoes itself."""
    return element if element >= 4 else -element % 4


class _GroupLayer(nn.Module):
    """Tables of the group, shared by the layers.

    Parameters
    ----------
    order
        4 for turns, 8 with reflections.
    """

    relative: Tensor

    def __init__(self, order: int) -> None:
        super().__init__()
        if order not in (4, 8):
            raise ValueError(f"`order` must be 4 (turns) or 8 (with reflections). Got {order}.")
        self.order = order
        # Output element g sees input element h through the weight for g^-1 h.
        table = [[compose(inverse(g), h) for h in range(order)] for g in range(order)]
        self.register_buffer("relative", torch.tensor(table), persistent=False)


class GroupPointwise(_GroupLayer):
    """A pointwise map of features on the group: output element g sees input element h through ``W[g^-1 h]``.

    Parameters
    ----------
    in_channels, out_channels
        Channels per element.
    order
        4 or 8, see the module.
    lifted
        Whether the input is a feature on the group; otherwise it is a scalar field, the same for every element.
    """

    def __init__(self, in_channels: int, out_channels: int, order: int, *, lifted: bool = True) -> None:
        super().__init__(order)
        self.lifted = lifted
        elements = order if lifted else 1
        bound = (in_channels * elements) ** -0.5
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, elements).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in (x order), nx, ny)`` to ``(batch, out x order, nx, ny)``."""
        out, into, _ = self.weight.shape
        if self.lifted:
            weight = self.weight[:, :, self.relative].permute(0, 2, 1, 3)  # out, g, in, h
            weight = weight.reshape(out * self.order, into * self.order)
        else:
            weight = self.weight.expand(out, into, self.order).permute(0, 2, 1).reshape(out * self.order, into)
        bias = self.bias.repeat_interleave(self.order)
        return torch.nn.functional.conv2d(v, weight[:, :, None, None], bias)


class GroupSpectralConv(_GroupLayer):
    """A spectral convolution of features on the group that commutes with the group's action.

    The weight for ``(g, h)`` is the base multiplier for ``g^-1 h``, turned by ``g``: a turn in space is the same turn
    of the frequencies.

    Parameters
    ----------
    in_channels, out_channels
        Channels per element.
    modes
        Frequencies ``1 - k .. k - 1`` are kept on both axes, so that the kept square turns into itself.
    order
        4 or 8, see the module.

    References
    ----------
    Helwig et al., "Group Equivariant Fourier Neural Operators for Partial Differential Equations", ICML 2023.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: int, order: int) -> None:
        super().__init__(order)
        self.modes = _check.integer("modes", modes, 1)
        self.frequencies = symmetric((modes, modes))
        kept = [len(f) for f in self.frequencies]
        # As many inputs as channels and elements, but one output per base weight.
        self.weight = nn.Parameter(complex_normal(in_channels * order, out_channels, kept))

    def multiplier(self) -> Tensor:
        """Return the multiplier for all pairs of elements, ``(in x order, out x order, 2 k - 1, k, 2)``."""
        into = self.weight.shape[0] // self.order
        half = self.weight.movedim(-1, 0)  # pair, in x h, out, kx, ky >= 0
        sign = torch.tensor([1.0, -1.0], dtype=half.dtype, device=half.device).reshape(2, 1, 1, 1, 1)
        turned = sign * half.flip(-2, -1)  # at -k the conjugate, since kernels are real
        middle = 0.5 * (half[..., :1] + turned[..., -1:])  # ky = 0 holds both k and -k
        whole = torch.cat([turned[..., :-1], middle, half[..., 1:]], -1)
        whole = whole.unflatten(1, (into, self.order))
        by_element = [act(g, whole).index_select(2, self.relative[g])[..., self.modes - 1 :] for g in range(self.order)]
        stacked = torch.stack(by_element, 4)  # pair, in, h, out, g, kx, ky
        return stacked.flatten(3, 4).flatten(1, 2).movedim(0, -1)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in x order, nx, ny)`` to ``(batch, out x order, nx, ny)``."""
        return convolve(v, self.multiplier(), self.frequencies)


def transform(element: int, v: Tensor, order: int) -> Tensor:
    """Let an element act on features: values move in space, and from element h to ``element h``.

    Parameters
    ----------
    element
        Which one.
    v
        ``(batch, channel x order, n, n)``.
    order
        4 or 8.
    """
    moved = act(element, v).unflatten(1, (-1, order))
    source = [compose(inverse(element), g) for g in range(order)]
    return moved[:, :, source].flatten(1, 2)
