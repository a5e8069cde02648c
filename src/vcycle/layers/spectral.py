"""Learned multipliers on the lowest Fourier modes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcycle import _check


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

    References
    ----------
    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, eqs. (4)-(5).
    """

    def __init__(self, in_channels: int, out_channels: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(_check.integer("modes", k, 1) for k in modes)
        kept = [2 * k for k in self.modes[:-1]] + [self.modes[-1]]
        # Real storage: complex parameters break data-parallel backends, safetensors and several optimisers.
        scale = (2.0 / (in_channels + out_channels)) ** 0.5 / 2**0.5
        self.weight = nn.Parameter(scale * torch.randn(in_channels, out_channels, *kept, 2))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        axes = tuple(range(2, v.ndim))
        shape = v.shape[2:]
        spectrum = torch.fft.rfftn(v, dim=axes, norm="forward")
        weight = torch.view_as_complex(self.weight)
        places = []
        for axis, (k, n) in enumerate(zip(self.modes, shape, strict=True)):
            last = axis == len(shape) - 1
            kept = min(k, n // 2 + 1) if last else min(k, n // 2)
            frequency = torch.arange(0 if last else -kept, kept, device=v.device)
            weight = weight.index_select(axis + 2, frequency % (k if last else 2 * k))
            spectrum = spectrum.index_select(axis + 2, frequency % n)
            places.append(frequency % n)
        product = torch.einsum("bi...,io...->bo...", spectrum, weight)
        full = product.new_zeros(v.shape[0], product.shape[1], *shape[:-1], shape[-1] // 2 + 1)
        everything: list[slice | Tensor] = [slice(None), slice(None)]
        full[(*everything, *torch.meshgrid(*places, indexing="ij"))] = product
        return torch.fft.irfftn(full, s=shape, dim=axes, norm="forward")
