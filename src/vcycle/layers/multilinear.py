"""Products of linear maps in place of an activation, and the moves by one point that let them see neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcycle.layers.convolution import pointwise
from vcycle.layers.norm import ChannelNorm


class MuLayer(nn.Module):
    r"""A layer without activation: :math:`y = C (u + \alpha\, u \odot w)`, :math:`u = A x`, :math:`w = B D x`.

    Without norms it is a polynomial of degree 2 in its input, and ``n`` of them one of degree ``2^n``.

    Parameters
    ----------
    in_channels, hidden, out_channels
        Channels in, of ``u`` and ``w``, and out.
    rank
        Channels between ``B`` and ``D``; ``hidden / 8`` in the paper.
    periodic
        Which axes close on themselves; its length is the number of axes.
    shift
        Whether ``A x`` and ``D x`` are moved by one point, each of their parts in another direction, see
        :func:`shifted`: the only mixing of points.
    norm
        Whether ``u`` and ``w`` pass a layer normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        rank: int,
        periodic: Sequence[bool],
        shift: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        d, self.periodic, self.shift = len(periodic), tuple(periodic), shift
        self.A, self.D = pointwise(in_channels, hidden, d), pointwise(in_channels, rank, d)
        self.B, self.C = pointwise(rank, hidden, d), pointwise(hidden, out_channels, d)
        self.alpha = nn.Parameter(torch.ones(()))
        self.norms = nn.ModuleList(ChannelNorm(hidden) if norm else nn.Identity() for _ in range(2))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        u, w = self.A(v), self.D(v)
        if self.shift:
            u, w = shifted(u, self.periodic), shifted(w, self.periodic)
        u, w = self.norms[0](u), self.norms[1](self.B(w))
        return self.C(u + self.alpha * (u * w))


def shifted(v: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Move the channels by one point: the first part of them up the first axis, the next down, and so for every axis.

    There are as many parts as directions, as even as the number of channels allows. At walls the outermost values stay.

    Parameters
    ----------
    v
        ``(batch, channel, *space)``.
    periodic
        Which axes close on themselves.
    """
    parts = []
    for direction, part in enumerate(torch.tensor_split(v, 2 * len(periodic), 1)):
        axis, step = direction // 2 + 2, 1 - 2 * (direction % 2)
        n = v.shape[axis]
        index = torch.arange(n, device=v.device) - step
        index = index % n if periodic[axis - 2] else index.clamp(0, n - 1)
        parts.append(part.index_select(axis, index))
    return torch.cat(parts, 1)
