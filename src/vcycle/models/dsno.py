"""DSNO's time-spectral head: a whole trajectory in one pass (Zheng et al., ICML 2023, arXiv:2211.13449)."""

from collections.abc import Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.conditioning import Conditioning, modulate
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.spectral import SpectralConv
from vcycle.layers.temporal import TimeConvolution, time_features
from vcycle.models.base import GridModel, Where

WAVES = 4
"""Half waves in time that the embedding of a time is made of."""


class DSNO(GridModel):
    r"""All states of a trajectory at once: Fourier layers in space, one time apart from the other, and mixing in time.

    The lifted input ``v_0 = P [u, x]`` is repeated for every time t. Each block applies one Fourier layer to all times,
    whose result an embedding of t scales and shifts, and then mixes the times by a
    :class:`~vcycle.layers.temporal.TimeConvolution` T:

    .. math:: w_t = v_t + \mathrm{gelu}\big((1 + \gamma_l(t)) (K_l v_t + W_l v_t) + \beta_l(t)\big), \quad v = T_l w

    ``Q``, two pointwise layers, makes the output of every time. The output channels are those of the first time, then
    those of the second, and so on, as data sets stack them.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input, and of all times of the output together.
    times
        Number of times, a divisor of ``out_channels``; ``None`` takes every output channel for a time, as suits states
        of one component. Taken for evenly spaced, the last at the end; others must be asked for by their index.
    modes
        Fourier modes kept per axis of space, one number or one per axis.
    time_modes
        Frequencies kept in time, ``0 .. time_modes - 1``; 2 for 4 times in the paper.
    width
        Channels of the hidden functions.
    depth
        Number of blocks.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive, or ``times`` does not divide ``out_channels``.

    Notes
    -----
    The paper distils image samplers; what is here is what carries over to any evolution. The mixing in time and its
    place after every block are those of the authors' code, whose repository has no licence: structure only. Fourier
    layers stand for its U-Net, and half waves of t for its logarithm of the signal-to-noise ratio. The teacher, whose
    weights theirs starts from, and losses on images are left out.

    References
    ----------
    Zheng et al., "Fast Sampling of Diffusion Models via Operator Learning", ICML 2023. arXiv:2211.13449.
    """

    name = "dsno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        times: int | None = None,
        modes: int | Sequence[int] = 12,
        time_modes: int = 3,
        width: int = 32,
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
            times=None if times is None else _check.integer("times", times, 1),
            modes=list(modes),
            time_modes=_check.integer("time_modes", time_modes, 1),
            width=width,
            depth=depth,
            padding=read_padding(padding),
        )
        self.times = out_channels if times is None else times
        if out_channels % self.times:
            raise ValueError(f"`times` must divide `out_channels` = {out_channels}. Got {times}.")
        d, self.padding = self.num_axes, padding
        self.P = pointwise(in_channels + d, width, d)
        self.clock = Conditioning(1 + 2 * WAVES, width, sites=depth)
        self.K = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, d) for _ in range(depth))
        self.T = nn.ModuleList(TimeConvolution(width, time_modes) for _ in range(depth))
        self.Q = ChannelMLP(width, 128, out_channels // self.times, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        return self._states(u, maps, None).flatten(1, 2)

    def trajectory(self, u: Tensor, parameters: Tensor | None = None, *, times: int | None = None) -> Tensor:
        """Return the states with an axis for time, ``(batch, time, component, *space)``.

        Parameters
        ----------
        u, parameters
            As in :meth:`forward`.
        times
            Another number of evenly spaced times up to the same end: the last mixing in time then gives its
            trigonometric interpolant. A multiple of the model's own number has the same states at the model's times.

        Raises
        ------
        ValueError
            As :meth:`forward`, or if ``times`` is not positive.
        """
        maps = self.maps_of(u, parameters)
        return self._states(u, maps, None if times is None else _check.integer("times", times, 1))

    def _states(self, u: Tensor, maps: Tensor | None, times: int | None) -> Tensor:
        batch = u.shape[0]
        clock = self.clock(time_features(self.times, WAVES, u), self.times)
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        v = pad_walls(v, self.periodic, self.padding, self.centring)
        for layer, (K, W, T) in enumerate(zip(self.K, self.W, self.T, strict=True)):
            h = K(v) + W(v)
            if layer == 0:  # until here all times are alike
                v, h = self._repeated(v), self._repeated(h)
            at_times = clock[layer].unsqueeze(1).expand(-1, batch, -1, -1).flatten(1, 2)
            h = modulate(h, at_times)
            h = h if maps is None else modulate(h, maps[layer].repeat_interleave(self.times, 1))
            v = (v + F.gelu(h)).unflatten(0, (batch, self.times))
            v = T(v, times if layer == len(self.K) - 1 else None).flatten(0, 1)
        return self.Q(crop(v, u.shape[2:])).unflatten(0, (batch, self.times if times is None else times))

    def _repeated(self, v: Tensor) -> Tensor:
        """Return ``(batch * time, channel, *space)``: every function of ``(batch, channel, *space)`` at all times."""
        return v.unsqueeze(1).expand(-1, self.times, *v.shape[1:]).flatten(0, 1)
