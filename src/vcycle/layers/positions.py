"""Where the points of a grid lie in the unit box, and what they weigh in an integral."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Centring


def places(u: Tensor, periodic: Sequence[bool], centring: Centring) -> list[Tensor]:
    """Return per axis the coordinates ``(n,)`` in the unit box of the points of ``u``, ``(batch, channel, *space)``."""
    found = []
    for n, closed in zip(u.shape[2:], periodic, strict=True):  # as Grid says; but in an export sizes may be symbols
        index = torch.arange(n, dtype=torch.float64, device="cpu")
        x = (index + 0.5) / n if centring == "cell" else index / (n if closed else n - 1)
        found.append(x.to(u))
    return found


def points(u: Tensor, periodic: Sequence[bool], centring: Centring) -> Tensor:
    """Return the coordinates of all points of ``u``, ``(point, num_axes)``, in the unit box."""
    return torch.stack(torch.meshgrid(*places(u, periodic, centring), indexing="ij"), -1).flatten(0, -2)


def wound(x: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Return coordinates ``(.., num_axes)`` with the sine and the cosine in place of those around periodic axes.

    ``(.., num_axes + number of periodic axes)``: the same at both ends of a period.
    """
    parts = []
    for axis, closed in enumerate(periodic):
        angle = 2 * math.pi * x[..., axis]
        parts += [angle.sin(), angle.cos()] if closed else [x[..., axis]]
    return torch.stack(parts, -1)


def axis_weights(u: Tensor, periodic: Sequence[bool], centring: Centring) -> list[Tensor]:
    """Return per axis the weights ``(n,)`` of the midpoint or trapezoidal rule for the mean; their sum is one.

    Vertices on a wall carry half a cell.
    """
    weights = []
    for n, closed in zip(u.shape[2:], periodic, strict=True):
        axis = torch.ones(n, dtype=u.dtype, device=u.device)
        if centring == "vertex" and not closed:
            ends = torch.arange(n, device=u.device) % (n - 1) == 0
            axis = torch.where(ends, 0.5, axis)
        weights.append(axis / axis.sum())
    return weights


def quadrature_weights(u: Tensor, periodic: Sequence[bool], centring: Centring) -> Tensor:
    """Return the weights ``(point,)`` of all points: products of :func:`axis_weights`."""
    weights = torch.ones(1, dtype=u.dtype, device=u.device)
    for axis in axis_weights(u, periodic, centring):
        weights = (weights[:, None] * axis).flatten()
    return weights


def squared_distance(u: Tensor, periodic: Sequence[bool], centring: Centring) -> Tensor:
    """Return the squared distance from the middle of the points over that of a corner of the box, ``(1, 1, *space)``.

    Quarter turns and reflections of the array leave it as it is, whatever the centring.
    """
    total = torch.zeros((), dtype=u.dtype, device=u.device)
    for axis, (n, closed) in enumerate(zip(u.shape[2:], periodic, strict=True)):
        intervals = n if closed or centring == "cell" else n - 1
        x = (2 * torch.arange(n, dtype=u.dtype, device=u.device) + 1 - n) / intervals
        total = total + x.square().reshape(-1, *(1,) * (u.ndim - 3 - axis))
    return (total / (u.ndim - 2))[None, None]


class GaussianFeatures(nn.Module):
    """Sines and cosines of random frequencies at given places; the frequencies are drawn once and kept.

    Around a periodic axis the place is a point on a circle of circumference one, so that the features close.

    Parameters
    ----------
    periodic
        Whether each axis is periodic.
    features
        Number of values per place, even.
    scale
        Standard deviation of the frequencies, in waves per box.

    References
    ----------
    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
    NeurIPS 2020. arXiv:2006.10739.
    """

    frequencies: Tensor

    def __init__(self, periodic: Sequence[bool], features: int, scale: float) -> None:
        super().__init__()
        if _check.integer("features", features, 2) % 2:
            raise ValueError(f"`features` must be even. Got {features}.")
        self.periodic = tuple(periodic)
        # along an axis, or twice for a circle, whose radius keeps frequencies what they are along an axis
        lengths = torch.tensor([r for closed in periodic for r in ([1 / (2 * math.pi)] * 2 if closed else [1.0])])
        self.register_buffer("frequencies", scale * torch.randn(features // 2, len(lengths)) * lengths)

    def forward(self, x: Tensor) -> Tensor:
        """Map coordinates ``(.., num_axes)`` to ``(.., features)``."""
        angle = 2 * math.pi * wound(x, self.periodic) @ self.frequencies.to(x.dtype).T
        return torch.cat([angle.sin(), angle.cos()], -1)
