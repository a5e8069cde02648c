"""Learned multipliers on the lowest Fourier modes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import fourier_analysis, fourier_synthesis, signed, symmetric

Frequencies = Sequence[Sequence[int]]


def multiply(spectrum: Tensor, weight: Tensor) -> Tensor:
    """Multiply every coefficient vector by its matrix.

    Parameters
    ----------
    spectrum
        ``(batch, in, *frequencies, 2)``, real and imaginary parts.
    weight
        ``(in, out, *frequencies, 2)``.

    Returns
    -------
    Tensor
        ``(batch, out, *frequencies, 2)``.
    """
    batch, channels, *kept, _ = spectrum.shape
    modes, out = math.prod(kept), weight.shape[1]
    # One product of real matrices per mode: real parts above imaginary ones, times real parts beside imaginary ones.
    axes = range(2, 2 + len(kept))
    rows = spectrum.permute(*axes, -1, 0, 1).reshape(modes, 2 * batch, channels)
    columns = weight.permute(*axes, 0, -1, 1).reshape(modes, channels, 2 * out)
    real, imaginary = torch.bmm(rows, columns).reshape(modes, 2, batch, 2, out).unbind(1)
    parts = (real[:, :, 0] - imaginary[:, :, 1], real[:, :, 1] + imaginary[:, :, 0])
    product = torch.stack(parts).reshape(2, *kept, batch, out)
    return product.permute(-2, -1, *range(1, 1 + len(kept)), 0)


def convolve(
    v: Tensor, weight: Tensor, frequencies: Frequencies, shape: Sequence[int] | None = None, offset: float = 0.0
) -> Tensor:
    """Apply a Fourier multiplier: ``F^-1 (R . F v)`` with ``R`` zero beyond the given frequencies.

    Parameters
    ----------
    v
        ``(batch, in, *space)``; half precision is transformed in single.
    weight
        ``(in, out, *frequencies, 2)``, real and imaginary parts.
    frequencies
        See :func:`~vcycle.layers.transforms.fourier_analysis`.
    shape
        Points of the result per axis, by default those of ``v``.
    offset
        Position of the first point in units of the spacing; it matters only where ``shape`` is another.

    Returns
    -------
    Tensor
        ``(batch, out, *shape)``.
    """
    shape = tuple(v.shape[2:]) if shape is None else shape
    with no_autocast(v):
        spectrum = fourier_analysis(single(v), frequencies, offset)
        product = multiply(spectrum, weight.to(spectrum.dtype))
        return fourier_synthesis(product, frequencies, shape, offset).to(v.dtype)


class SpectralConv(nn.Module):
    """A global convolution given by its Fourier multipliers, ``F^-1 (R . F v)`` with ``R`` zero beyond ``modes``.

    Modes are addressed by signed frequency: ``-k .. k - 1`` on every axis but the last, ``0 .. k - 1`` there, since the
    fields are real. A grid too coarse for all of them uses those that it resolves.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    modes
        Number of frequencies ``k`` per axis; its length is the number of axes.
    offset
        Position of the first point in units of the spacing, where a call asks for another number of points.

    References
    ----------
    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, eqs. (4)-(5).
    """

    def __init__(self, in_channels: int, out_channels: int, modes: Sequence[int], offset: float = 0.0) -> None:
        super().__init__()
        self.frequencies, self.offset = signed(modes), offset
        # Real storage: complex parameters break data-parallel backends, safetensors and several optimisers.
        self.weight = nn.Parameter(complex_normal(in_channels, out_channels, [len(f) for f in self.frequencies]))

    def forward(self, v: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *shape)``, by default the same points."""
        return convolve(v, self.weight, self.frequencies, shape, self.offset)


class SeparableSpectralConv(nn.Module):
    """The sum over the axes of a convolution along that axis alone.

    ``sum_a F_a^-1 (R_a . F_a v)``: the weights grow with the number of axes, not exponentially.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    modes
        Number of frequencies ``0 .. k - 1`` per axis.

    References
    ----------
    Tran et al., "Factorized Fourier Neural Operators", ICLR 2023. arXiv:2111.13802.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(_check.integer("modes", k, 1) for k in modes)
        self.weights = nn.ParameterList(complex_normal(in_channels, out_channels, [k]) for k in self.modes)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        total = []
        for axis, (k, weight) in enumerate(zip(self.modes, self.weights, strict=True)):
            lines = v.movedim(2 + axis, -1)  # one function per line, all with the same multiplier
            flat = lines.movedim(1, -2).flatten(0, -3)
            result = convolve(flat, weight, (range(k),))
            result = result.reshape(v.shape[0], *lines.shape[2:-1], *result.shape[1:]).movedim(-2, 1)
            total.append(result.movedim(-1, 2 + axis))
        return torch.stack(total).sum(0)


class RadialSpectralConv(nn.Module):
    """A convolution whose multiplier depends on the length of the frequency alone, so that it has no direction.

    On integer frequencies it is a real matrix per value of ``|k|^2``, for ``|k| < modes``. It commutes with every
    rotation and reflection that maps the grid to itself.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    modes
        Frequencies are kept up to this length.
    num_axes
        Space dimensions.

    References
    ----------
    Helwig et al., "Group Equivariant Fourier Neural Operators for Partial Differential Equations", ICML 2023.
    """

    shell: Tensor
    inside: Tensor

    def __init__(self, in_channels: int, out_channels: int, modes: int, num_axes: int) -> None:
        super().__init__()
        self.frequencies = symmetric([modes] * num_axes)
        mesh = torch.meshgrid(*(torch.tensor(f) for f in self.frequencies), indexing="ij")
        squared = torch.stack(mesh).square().sum(0)
        lengths, shell = torch.unique(squared, return_inverse=True)
        count = int((lengths < modes**2).sum())
        self.register_buffer("shell", shell.clamp_max(count - 1), persistent=False)
        self.register_buffer("inside", (squared < modes**2).float(), persistent=False)
        self.weight = nn.Parameter(complex_normal(in_channels, out_channels, [count])[..., 0] * 2**0.5)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        real = self.weight[:, :, self.shell] * self.inside.to(self.weight.dtype)
        return convolve(v, torch.stack([real, torch.zeros_like(real)], -1), self.frequencies)


def complex_normal(in_channels: int, out_channels: int, kept: Sequence[int]) -> Tensor:
    """Draw ``(in, out, *kept, 2)``: complex normal weights of variance ``2 / (in + out)``, as real pairs.

    In memory they lie mode by mode, as :func:`multiply` takes them without a copy.
    """
    scale = (2.0 / (in_channels + out_channels)) ** 0.5 / 2**0.5
    weight = scale * torch.randn(in_channels, out_channels, *kept, 2)
    axes = range(2, 2 + len(kept))
    by_mode = weight.permute(*axes, 0, len(kept) + 2, 1).contiguous()
    return by_mode.permute(len(kept), len(kept) + 2, *range(len(kept)), len(kept) + 1)
