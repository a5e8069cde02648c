"""Mixing along one axis at a time: the matrix of the plane is a Kronecker product of small ones."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.attention import rotate
from vcycle.layers.convolution import pointwise
from vcycle.layers.precision import no_autocast, single


class AxialMix(nn.Module):
    """A learned matrix per channel along every axis in turn, ``(.., M_y (M_x v))``.

    It acts on a fixed number of coefficients, not on points, and so does not know the grid.

    Parameters
    ----------
    channels
        Number of channels.
    modes
        Coefficients per axis.
    """

    def __init__(self, channels: int, modes: tuple[int, ...]) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.randn(channels, k, k) * k**-0.5 for k in modes)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, channels, *modes)`` to the same shape."""
        for axis, matrix in enumerate(self.matrices, 2):
            lines = v.movedim(axis, -1)
            flat = lines.reshape(*lines.shape[:2], math.prod(lines.shape[2:-1]), lines.shape[-1])
            v = (flat @ matrix.transpose(-1, -2)).reshape(lines.shape).movedim(-1, axis)
        return v


class AxialAttention(nn.Module):
    r"""Factorised attention without softmax: one kernel per axis, from the field averaged over the other axes.

    Per head, :math:`z = K_x K_y .. v` (chained), or all :math:`K_a v` side by side (parallel), where
    :math:`(K_a)_{ij} = w_j\, q_a(x_i) \cdot k_a(x_j)` with rotary positions and quadrature weights ``w``. A
    normalisation over space and the channels of a head follows, then a pointwise network.

    Parameters
    ----------
    width
        Channels in and out.
    heads
        Number of heads.
    size
        Channels of a head's values.
    num_axes
        Space dimensions.
    kernel_multiplier
        Channels of queries and keys over ``size``; 3 in the paper, 2 in 2-D flows.
    combine
        ``"chained"`` (FactFormer) or ``"parallel"`` (IFactFormer).

    References
    ----------
    Li, Shu, Barati Farimani, "Scalable Transformer for PDE Surrogate Modeling", NeurIPS 2023.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        size: int,
        num_axes: int,
        *,
        kernel_multiplier: int = 2,
        combine: Literal["chained", "parallel"] = "chained",
    ) -> None:
        super().__init__()
        self.heads, self.size = _check.integer("heads", heads, 1), _check.integer("size", size, 2)
        self.combine = _check.choice("combine", combine, ("chained", "parallel"))
        latent = size * _check.integer("kernel_multiplier", kernel_multiplier, 1)
        latent += latent % 2  # rotations act on pairs
        self.to_value = pointwise(width, heads * size, num_axes, bias=False)
        self.to_field = pointwise(width, width, num_axes)
        self.reduce = nn.ModuleList(_Reduced(width, heads * latent) for _ in range(num_axes))
        parts = heads * size * (num_axes if combine == "parallel" else 1)
        # With PyTorch's 1e-5 attention would be as good as off: kernels that are means of products start small.
        self.norm = nn.GroupNorm(heads, parts, eps=1e-12, affine=False)
        self.out = nn.Sequential(pointwise(parts, width, num_axes), nn.GELU(), pointwise(width, width, num_axes))

    def kernels(self, field: Tensor, coordinates: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """Return per axis the kernel ``(batch, head, n, n)`` with the quadrature weights in it."""
        made = []
        for axis, (reduce, coordinate) in enumerate(zip(self.reduce, coordinates, strict=True)):
            profile = field
            for other in reversed(range(field.ndim - 2)):
                if other != axis:
                    profile = (profile.movedim(2 + other, -1) * weights[other].to(field.dtype)).sum(-1)
            profile = profile.transpose(1, 2)  # (batch, n, width)
            query, key = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in reduce(profile))
            with no_autocast(field):
                query, key = rotate(single(query), coordinate), rotate(single(key), coordinate)
                made.append(query @ key.transpose(-1, -2) * weights[axis].to(query.dtype))
        return made

    def forward(self, v: Tensor, coordinates: list[Tensor], weights: list[Tensor]) -> Tensor:
        """Map ``(batch, width, *space)`` to the same shape.

        ``coordinates`` in the unit box and quadrature ``weights``, whose sum is one, are one ``(n,)`` per axis.
        """
        value = self.to_value(v).unflatten(1, (self.heads, self.size))
        kernels = self.kernels(self.to_field(v), coordinates, weights)
        with no_autocast(v):
            if self.combine == "chained":
                mixed = single(value)
                for axis, kernel in enumerate(kernels):
                    mixed = _along(kernel, mixed, axis)
            else:
                mixed = torch.cat([_along(kernel, single(value), a) for a, kernel in enumerate(kernels)], 2)
            mixed = self.norm(mixed.flatten(1, 2))
        return self.out(mixed.to(v.dtype))


class _Reduced(nn.Module):
    """From the averages of a field along an axis to queries and keys."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)
        self.to_query, self.to_key = nn.Linear(width, out, bias=False), nn.Linear(width, out, bias=False)

    def forward(self, profile: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.norm(self.enter(profile))
        hidden = self.leave(nn.functional.gelu(self.gate(hidden)) * self.value(hidden))
        return self.to_query(hidden), self.to_key(hidden)


def _along(kernel: Tensor, value: Tensor, axis: int) -> Tensor:
    """Multiply one axis of ``(batch, head, size, *space)`` by ``(batch, head, n, n)``."""
    lines = value.movedim(axis + 3, -1)
    flat = lines.reshape(*lines.shape[:2], math.prod(lines.shape[2:-1]), lines.shape[-1])
    return (flat @ kernel.transpose(-1, -2)).reshape(lines.shape).movedim(-1, axis + 3)
