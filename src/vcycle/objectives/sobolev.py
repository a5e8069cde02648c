"""Sobolev norms of any order on periodic boxes, by Fourier coefficients."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid


@dataclass(frozen=True)
class SobolevNorm:
    r"""The norm ``|f|_s`` of periodic functions, with weights ``(alpha + |k|^2)^s``.

    .. math:: |f|_s^2 = \int f \, (\alpha - \Delta)^s f \, dx
        = |\Omega| \sum_k (\alpha + |k|^2)^s \, |\hat f_k|^2

    with wave numbers ``k = 2 pi j / L``. Order 0 is the L2 norm, 1 that of the derivatives too. With order -1 a
    residual of second order weighs as much as the error that it stands for: without it the grid's own noise, which a
    Laplacian multiplies by ``1 / h^2``, is all that is seen.

    Parameters
    ----------
    grid
        Periodic on all axes.
    order
        The exponent ``s``, any real number.
    alpha
        In 1 / length^2, positive.

    Raises
    ------
    ValueError
        If the grid is not periodic or ``alpha`` not positive.

    Notes
    -----
    The weight of ``|f_k|^2`` is the power ``s``. The code of the reference takes a root too often: its order -1 is
    -1/2.

    References
    ----------
    Cao, Brarda, Li, Xia, "Spectral-Refiner: Accurate Fine-Tuning of Spatiotemporal Fourier Neural Operator for
    Turbulent Flows", ICLR 2025. arXiv:2405.17211.
    """

    grid: Grid
    order: float = -1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not all(self.grid.periodic):
            raise ValueError(f"`grid` must be periodic on all axes. Got {self.grid.periodic}.")
        _check.positive("alpha", self.alpha)

    def squared(self, fields: Tensor) -> Tensor:
        """Return ``|f|_s^2``, summed over channels, ``(batch,)``.

        Parameters
        ----------
        fields
            ``(batch, channel, *grid.shape)``.

        Raises
        ------
        ValueError
            If the shape does not fit the grid.
        """
        _check.shape("fields", fields.shape, (None, None, *self.grid.shape), "(batch, channel, *grid.shape)")
        dims = tuple(range(2, fields.ndim))
        amplitudes = torch.fft.fftn(fields, dim=dims, norm="forward")
        power = (amplitudes.real**2 + amplitudes.imag**2) * self.weights(fields)
        return math.prod(self.grid.extent) * power.flatten(1).sum(1)

    def __call__(self, fields: Tensor) -> Tensor:
        """Return the norms ``|f|_s``, ``(batch,)``."""
        return self.squared(fields).sqrt()

    def weights(self, like: Tensor) -> Tensor:
        """Return ``(alpha + |k|^2)^s`` of all modes, ``grid.shape``, in the precision and on the device of ``like``."""
        total = torch.full((), self.alpha, dtype=torch.float64)
        for n, length in zip(self.grid.shape, self.grid.extent, strict=True):
            k = 2 * math.pi * torch.fft.fftfreq(n, length / n, dtype=torch.float64)
            total = total.unsqueeze(-1) + k**2
        return (total**self.order).to(like)
