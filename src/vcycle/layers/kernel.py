"""Integral operators whose kernel is a network of two points and of what is known there."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.convolution import pointwise
from vcycle.layers.local import wrapped
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import quadrature_weights

Offset = tuple[int, ...]


def spacings(shape: Sequence[int], periodic: Sequence[bool], centring: Centring) -> list[float]:
    """Return the spacing per axis in units of the box; axes of one cell are welcome."""
    return [1 / (n - (centring == "vertex" and not closed)) for n, closed in zip(shape, periodic, strict=True)]


def ball(shape: Sequence[int], periodic: Sequence[bool], centring: Centring, radius: float) -> list[Offset]:
    """Return the offsets in points that are at most ``radius`` long, in units of the box, itself included.

    An offset leads to no point twice: around a periodic axis it is at most half the points long.
    """
    spacing = spacings(shape, periodic, centring)
    ranges = []
    for n, h, closed in zip(shape, spacing, periodic, strict=True):
        reach = min(int(radius / h + 1e-6), n - 1)
        ranges.append(
            range(max(-reach, -((n - 1) // 2)), min(reach, n // 2) + 1) if closed else range(-reach, reach + 1)
        )
    limit = (radius * (1 + 1e-6)) ** 2
    return [
        o for o in itertools.product(*ranges) if sum((i * h) ** 2 for i, h in zip(o, spacing, strict=True)) <= limit
    ]


def neighbours(v: Tensor, offsets: Sequence[Offset], periodic: Sequence[bool]) -> Tensor:
    """Return the values at ``x + offset`` of every point, ``(batch, channel, offset, *space)``; zero beyond walls."""
    shape = v.shape[2:]
    zeros: list[int] = []
    reaches: list[int] = []
    for axis, closed in enumerate(periodic):
        reach = max(abs(o[axis]) for o in offsets)
        v = wrapped(v, axis + 2, reach) if closed else v
        zeros, reaches = [0 if closed else reach] * 2 + zeros, [*reaches, reach]
    v = F.pad(v, zeros)
    shifted = []
    for offset in offsets:
        part = v
        for axis, (n, reach, i) in enumerate(zip(shape, reaches, offset, strict=True), 2):
            part = part.narrow(axis, reach + i, n)
        shifted.append(part)
    return torch.stack(shifted, 2)


def average(hidden: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    r"""Return the means of products over neighbours, :math:`\sum_j w_j h_j v_j / \sum_j w_j`, at every point.

    A mean and not a sum: points that are listed twice count once more in both, and nothing changes.

    Parameters
    ----------
    hidden
        ``(batch, m, neighbour, point)``.
    values
        ``(batch, c, neighbour, point)``.
    weights
        Quadrature weights ``(neighbour, point)``, not negative, not all zero at a point.

    Returns
    -------
    Tensor
        ``(batch, m, c, point)``.
    """
    share = weights / weights.sum(0)
    products = (hidden * share).permute(0, 3, 1, 2) @ values.permute(0, 3, 2, 1)
    return products.permute(0, 2, 3, 1)


class BallKernel(nn.Module):
    r"""The mean over a ball of a learned matrix kernel times a function.

    .. math:: (K v)(x) = \frac{1}{|B_r(x)|} \int_{B_r(x)} \kappa(x - y, f(x), f(y))\, v(y)\, dy

    with a network :math:`\kappa` of one hidden layer whose values are matrices. Its last layer is linear, so the
    integral over the hidden layer's outer products with ``v`` comes first and the matrices are never formed.

    Parameters
    ----------
    features
        Channels of ``f``, what is known at a point.
    channels
        Channels of ``v``.
    hidden
        Width of the kernel's network.
    radius
        Of the ball, in units of the box.
    num_axes
        Space dimensions.

    References
    ----------
    Li et al., "Neural Operator: Graph Kernel Network for Partial Differential Equations", arXiv:2003.03485, eq. (6).
    """

    def __init__(self, features: int, channels: int, hidden: int, radius: float, num_axes: int) -> None:
        super().__init__()
        self.radius = _check.positive("radius", radius)
        self.here = pointwise(features, _check.integer("hidden", hidden, 1), num_axes)
        self.there = pointwise(features, hidden, num_axes, bias=False)
        self.between = nn.Linear(num_axes, hidden, bias=False)
        self.last = nn.Linear((hidden + 1) * channels, channels, bias=False)

    def forward(self, f: Tensor, v: Tensor, periodic: Sequence[bool], centring: Centring) -> Tensor:
        """Map ``v``, ``(batch, channels, *space)``, to the same shape; ``f`` is ``(batch, features, *space)``."""
        shape, points = v.shape[2:], math.prod(v.shape[2:])
        offsets = ball(shape, periodic, centring, self.radius)
        spacing = spacings(shape, periodic, centring)
        ratios = [[i * h / self.radius for i, h in zip(o, spacing, strict=True)] for o in offsets]
        distance = torch.tensor(ratios, dtype=torch.float64)
        rest = (len(offsets), *(1,) * len(shape))
        hidden = neighbours(self.there(f), offsets, periodic) + self.here(f).unsqueeze(2)
        hidden = F.gelu(hidden + self.between(distance.to(v)).T.reshape(-1, *rest))
        hidden = torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)  # the last layer's bias
        weights = quadrature_weights(v, periodic, centring).reshape(1, 1, *shape)
        means = average(
            hidden.flatten(3),
            neighbours(v, offsets, periodic).flatten(3),
            neighbours(weights, offsets, periodic)[0, 0].flatten(1),
        )
        means = means.flatten(1, 2).movedim(1, -1).reshape(v.shape[0], points, self.last.in_features)
        return self.last(means).movedim(-1, 1).reshape(v.shape)


class LowRankKernel(nn.Module):
    r"""An integral over the whole box with a kernel of finite rank, :math:`\kappa = \sum_r \phi_r(x) \psi_r(y)^T`.

    .. math:: (K v)(x) = \sum_r \phi_r(x)\, c_r, \qquad c_r = \sum_j w_j\, \psi_r(y_j) \cdot v(y_j) / \sum_j w_j

    Parameters
    ----------
    features
        Channels of what is known at a point: the networks phi and psi see it.
    channels
        Channels of ``v``.
    rank
        Number of terms.
    hidden
        Width of the networks.
    num_axes
        Space dimensions.

    References
    ----------
    Kovachki et al., "Neural Operator: Learning Maps Between Function Spaces", JMLR 24 (2023), section 4.2.
    """

    def __init__(self, features: int, channels: int, rank: int, hidden: int, num_axes: int) -> None:
        super().__init__()
        self.rank = _check.integer("rank", rank, 1)
        self.phi = ChannelMLP(features, _check.integer("hidden", hidden, 1), rank * channels, num_axes)
        self.psi = ChannelMLP(features, hidden, rank * channels, num_axes)

    def forward(self, f: Tensor, v: Tensor, weights: Tensor) -> Tensor:
        """Map ``v``, ``(batch, channels, *space)``, to the same shape; ``weights`` are ``(point,)``, not negative."""
        phi, psi = (net(f).flatten(2).unflatten(1, (self.rank, v.shape[1])) for net in (self.phi, self.psi))
        shares = v.flatten(2) * (weights / weights.sum())
        coefficients = (psi * shares.unsqueeze(1)).sum((2, 3))
        return (phi * coefficients[:, :, None, None]).sum(1).reshape(v.shape)
