"""Time as an axis that all times of a trajectory are computed along at once."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.spectral import SpectralConv


def instants(times: int, like: Tensor) -> Tensor:
    """Return ``1/T, 2/T, .. 1``, ``(time,)``: where the states asked for lie between the given one, at 0, and the last.

    In the precision and on the device of ``like``.
    """
    return torch.arange(1, times + 1, dtype=like.dtype, device=like.device) / times


def time_features(times: int, waves: int, like: Tensor) -> Tensor:
    """Return ``t, sin(pi k t), cos(pi k t)`` for ``k = 1 .. waves`` at :func:`instants`, ``(time, 1 + 2 waves)``.

    Half waves tell the beginning from the end, which a Fourier series in time takes for neighbours.
    """
    t = instants(times, like)[:, None]
    angle = math.pi * t * torch.arange(1, waves + 1, dtype=like.dtype, device=like.device)
    return torch.cat([t, angle.sin(), angle.cos()], 1)


class TimeConvolution(nn.Module):
    r"""Mix the times of a trajectory: ``y = x + leaky_relu(F_t^-1 (R . F_t x))``, with ``R`` zero beyond ``modes``.

    ``F_t`` is the Fourier series over the times alone, and ``R``, a matrix of the channels for each frequency, is the
    same at every point in space. Times are evenly spaced, at ``1/T, 2/T, .. 1`` of a period: their series takes the
    first for the one after the last. With one time a map of the channels remains, ``x + leaky_relu(Re(R_0) x)``.

    Parameters
    ----------
    channels
        Channels of the trajectory.
    modes
        Number of frequencies ``0 .. modes - 1``. Those that the times do not resolve, ``2 k >= T``, are not used.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    After the authors' code, whose repository has no licence: structure only. Differs from it in: weights start complex
    normal, a tenth as large as elsewhere, near the skip as theirs; coefficients do not depend on the number of times;
    an even number's highest frequency, which has no sine, is left out.

    References
    ----------
    Zheng et al., "Fast Sampling of Diffusion Models via Operator Learning", ICML 2023, section 3. arXiv:2211.13449.
    """

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.R = SpectralConv(_check.integer("channels", channels, 1), channels, (modes,))
        with torch.no_grad():  # near the skip: with full gain every block would begin by scrambling the times
            self.R.weight.mul_(0.1)

    def forward(self, v: Tensor, times: int | None = None) -> Tensor:
        """Map ``(batch, time, channels, *space)`` to as many times, or to ``times`` evenly spaced in the same period.

        In the latter case ``x`` and ``F_t^-1 (R . F_t x)`` are the trigonometric interpolants of what they are at the
        times of ``v``: a multiple of their number shows the same values there.
        """
        lines = v.movedim(1, -1).movedim(1, -2)  # a function of time for every channel at every point
        points = lines.shape[:-2]
        flat = lines.flatten(0, -3) if len(points) > 1 else lines
        mixed = self.R(flat)
        if times is not None:
            matrix = interpolation(v.shape[1], times, v).T
            flat, mixed = flat @ matrix, mixed @ matrix
        total = flat + F.leaky_relu(mixed)
        return total.reshape(*points, *total.shape[1:]).movedim(-2, 1).movedim(-1, 1)


def interpolation(times: int, asked: int, like: Tensor) -> Tensor:
    """Return the matrix ``(asked, times)`` of the trigonometric interpolant between :func:`instants`, seen at others.

    An even number of times has the highest frequency as a cosine alone, largest at its own times. Unlike
    :func:`~vcycle.layers.transforms.resample`, which leaves out what a coarser grid does not resolve, this gives
    values of the same function, however few are asked for.
    """
    turns = 2 * math.pi * (instants(asked, like)[:, None] - instants(times, like))
    waves = torch.arange(1, (times + 1) // 2, dtype=like.dtype, device=like.device)
    total = 1 + 2 * torch.cos(turns.unsqueeze(-1) * waves).sum(-1)
    return (total if times % 2 else total + torch.cos(times / 2 * turns)) / times
