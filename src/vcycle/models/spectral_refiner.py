"""ST-FNO of Spectral-Refiner, a Fourier neural operator in space and time (Cao et al., arXiv:2405.17211)."""

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.domain import pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.spectral import SpectralConv, convolve
from vcycle.models.base import GridModel, Where, conditioned


class SpectralRefiner(GridModel):
    """An FNO in space-time whose last layer is a multiplier alone, so that it can be refined for each input.

    The output channels are the states at equal steps of time; the input channels, of which the last is the newest
    state, are repeated in time. ``v_{l+1} = gelu(M_l K_l v_l + W_l v_l)`` with ``K_l`` a
    :class:`~vcycle.layers.spectral.SpectralConv` over space and time and ``M_l`` a network of the channels;
    one channel ``r`` is made of the last; then ``out = u_newest + K [u_newest, r]``. The output is linear in the
    multipliers of ``K``: :func:`vcycle.training.refine.refine` chooses them for an input by the equation's residual.

    Parameters
    ----------
    in_channels, out_channels
        Given states, and states asked for.
    modes
        Fourier modes kept per axis of space, one number or one per axis; 12 in the authors' flows.
    time_modes
        Modes kept in time, on twice the time span; 5 there.
    width
        Channels of the hidden functions.
    depth
        Number of layers before the last.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive, or there are more than two axes.

    Notes
    -----
    Structure after the authors' code. Differs from it in: given states are channels, not a time axis of their own; time
    is padded at its end, from 0 to the last state; around a periodic axis sine and cosine stand for the coordinate; no
    projection onto fields free of divergence.

    References
    ----------
    Cao, Brarda, Li, Xia, "Spectral-Refiner: Accurate Fine-Tuning of Spatiotemporal Fourier Neural Operator for
    Turbulent Flows", ICLR 2025. arXiv:2405.17211.
    """

    name = "spectral_refiner"
    where: ClassVar[Where] = {"boundary": "periodic"}
    axes = (1, 2)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        time_modes: int = 5,
        width: int = 20,
        depth: int = 4,
        padding: float = 0.25,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            modes=list(modes),
            time_modes=_check.integer("time_modes", time_modes, 1),
            width=width,
            depth=depth,
            padding=read_padding(padding),
        )
        axes, self.padding, kept = self.num_axes + 1, padding, (*modes, time_modes)
        self.P = ChannelMLP(in_channels + count_smooth_coordinates(self.periodic) + 1, 2 * width, width, axes)
        self.K = nn.ModuleList(SpectralConv(width, width, kept) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, 2 * width, width, axes) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, axes) for _ in range(depth))
        self.reduce = pointwise(width, 1, axes)
        self.last = SpectralConv(2, 1, kept)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        return self.finish(u, self.hidden(u, maps), self.last, self.last.weight)

    def hidden(self, u: Tensor, maps: Tensor | None, steps: int | None = None) -> Tensor:
        """Return what the last layer sees, ``(batch, 2, *space, time)``, padded.

        Parameters
        ----------
        u
            ``(batch, in_channels, *space)``.
        maps
            As in :meth:`operate`.
        steps
            Number of steps of time, by default ``out_channels``; others divide the same time span.
        """
        steps = self.out_channels if steps is None else steps
        shape = (*u.shape[2:], steps + 1)  # with the time of the newest state
        time = torch.arange(steps + 1, dtype=u.dtype, device=u.device) / steps
        placed = append_smooth_coordinates(u, self.centring, self.periodic)
        placed = placed.unsqueeze(-1).expand(*placed.shape, steps + 1)
        v = self._padded(self.P(torch.cat([placed, time.expand(u.shape[0], 1, *shape)], 1)))
        for layer, (K, M, W) in enumerate(zip(self.K, self.M, self.W, strict=True)):
            v = F.gelu(conditioned(M(K(v)) + W(v), maps, layer))
        newest = placed[:, self.in_channels - 1 : self.in_channels]
        return torch.cat([self._padded(newest), self.reduce(v).to(u.dtype)], 1)

    def finish(self, u: Tensor, hidden: Tensor, last: SpectralConv, weight: Tensor) -> Tensor:
        """Return the states ``(batch, step, *space)`` that a last layer makes of what it sees, with given weights."""
        change = convolve(hidden, weight, last.frequencies)
        for axis, n in enumerate(u.shape[2:], 2):
            change = change.narrow(axis, 0, n)
        steps = hidden.shape[-1] // 2
        return u[:, -1:] + change[:, 0].narrow(-1, 1, steps).movedim(-1, 1)

    def _padded(self, v: Tensor) -> Tensor:
        v = pad_walls(v, (*self.periodic, True), self.padding, self.centring)
        return pad_walls(v, (*(True,) * self.num_axes, False), 1.0, "vertex")
