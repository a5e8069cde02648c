"""Trigonometric polynomials on periodic grids: transforms, derivatives, and products free of aliasing."""

import functools
import math
from collections.abc import Callable
from typing import Any

import scipy.fft
import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid


class FourierSpace:
    """Real trigonometric polynomials on a periodic box with the modes that a grid resolves.

    The modes of an axis with N points are those with ``|k| <= K = (N - 1) // 2``: on an even number of points the
    Nyquist mode has no sine and is dropped. A function is held by its complex amplitudes, ``(..., *modes)``: the last
    axis has k = 0 .. K, the others 0 .. K, -K .. -1. Amplitudes do not depend on the number of points, and in them
    every function here is linear with exact real arithmetic per sample: the bytes of one sample do not depend on the
    others in its batch.

    Parameters
    ----------
    grid
        A vertex grid with 1 to 3 axes, all periodic.
    refine
        The polynomials are those of a grid with this many times as many points per axis; values are still given and
        asked for at the points of ``grid``.
    degree
        Of the products that :meth:`product_values` must be fine enough for: ``degree`` factors and a test function
        alias nothing on more than ``(degree + 1) K`` points (the 3/2 rule for 2, twice the points for 3).

    Raises
    ------
    ValueError
        If the grid is not a periodic vertex grid.

    References
    ----------
    Orszag, J. Atmos. Sci. 28 (1971) 1074, for the number of points; Canuto et al., Spectral Methods (2006), 3.3.
    """

    def __init__(self, grid: Grid, *, refine: int = 1, degree: int = 2) -> None:
        if grid.centring != "vertex" or not all(grid.periodic):
            got = f"{grid.centring!r} centring, periodic {grid.periodic}"
            raise ValueError(f"`grid` must have vertex centring and be periodic on all axes. Got {got}.")
        self.grid = grid
        self.refine = _check.integer("refine", refine, 1)
        self.highest = tuple((self.refine * n - 1) // 2 for n in grid.shape)
        self.product_shape = tuple(_even_fast((degree + 1) * k + 1) for k in self.highest)
        self.shape = (*(2 * k + 1 for k in self.highest[:-1]), self.highest[-1] + 1)

    @functools.cached_property
    def wave_numbers(self) -> tuple[Tensor, ...]:
        """``2 pi k / L`` of each axis, in 1 / length, shaped to broadcast over the modes."""
        last = self.grid.num_axes - 1
        tables = []
        for axis, (highest, length) in enumerate(zip(self.highest, self.grid.extent, strict=True)):
            k = torch.arange(highest + 1, dtype=torch.float64)
            if axis != last:
                k = torch.cat([k, torch.arange(-highest, 0, dtype=torch.float64)])
            tables.append((2 * math.pi / length * k).reshape([-1 if a == axis else 1 for a in range(last + 1)]))
        return tuple(tables)

    @functools.cached_property
    def derivatives(self) -> tuple[Tensor, ...]:
        """Symbols ``i 2 pi k / L`` of the first derivatives, in 1 / length, shaped to broadcast over the modes."""
        return tuple(torch.complex(torch.zeros_like(k), k) for k in self.wave_numbers)

    @functools.cached_property
    def laplacian(self) -> Tensor:
        """Symbol of the Laplacian, real and not positive, in 1 / length^2, of the modes' shape."""
        return -sum((k**2 for k in self.wave_numbers), torch.zeros(self.shape, dtype=torch.float64))

    @functools.cached_property
    def multiplicity(self) -> Tensor:
        """How many modes each amplitude stands for: 2 where the conjugate is not held, 1 where k = 0 on the last axis.

        By Parseval, the mean square of a function is the sum of these times its squared amplitudes.
        """
        counts = torch.full(self.shape, 2.0, dtype=torch.float64)
        counts[..., 0] = 1.0
        return counts

    @functools.cached_property
    def highest_third(self) -> Tensor:
        """Which modes lie in the highest third of the wave numbers of some axis, boolean, of the modes' shape."""
        found = torch.zeros(self.shape, dtype=torch.bool)
        for k, highest, length in zip(self.wave_numbers, self.highest, self.grid.extent, strict=True):
            found = found | (k.abs() > 2 / 3 * highest * 2 * math.pi / length)
        return found

    def modes(self, values: Tensor) -> Tensor:
        """Return the amplitudes of the polynomial through real values ``(..., *space)``, without the Nyquist modes."""
        coarse = FourierSpace(self.grid)
        return _padded(coarse._analysed(values), coarse.highest, self.highest)

    def values(self, modes: Tensor) -> Tensor:
        """Return the values of polynomials at the points of the grid, real, ``(..., *space)``."""
        fine = self._summed(modes, tuple(self.refine * n for n in self.grid.shape))
        for axis in range(-self.grid.num_axes, 0) if self.refine > 1 else ():
            fine = fine.unflatten(axis, (-1, self.refine)).select(axis, 0)
        return fine

    def product_values(self, modes: Tensor) -> Tensor:
        """Return the values of polynomials on the grid that is fine enough for products, ``(..., *product_shape)``."""
        return self._summed(modes, self.product_shape)

    def product_modes(self, values: Tensor) -> Tensor:
        """Return the amplitudes, up to the highest mode, of values ``(..., *product_shape)``."""
        return self._analysed(values)

    def mean_square(self, modes: Tensor) -> Tensor:
        """Return the mean square over the box, summed over components, ``(sample,)``.

        Sums row by row: a sum over a batch may be ordered by the size of the batch.
        """
        squares = (modes.real**2 + modes.imag**2) * self.multiplicity
        return torch.stack([row.sum() for row in squares]) if len(squares) else squares.new_zeros(0)

    def _summed(self, modes: Tensor, shape: tuple[int, ...]) -> Tensor:
        # axis by axis: the first transforms skip the columns that the padding of the last axis would add
        first = -self.grid.num_axes
        for axis, (highest, n) in enumerate(zip(self.highest[:-1], shape[:-1], strict=True), start=first):
            rows = modes.movedim(axis, -1)
            gap = rows.new_zeros((*rows.shape[:-1], n - (2 * highest + 1)))
            rows = torch.cat([rows[..., : highest + 1], gap, rows[..., highest + 1 :]], -1)
            modes = _by_rows(torch.fft.ifft, rows, norm="forward").movedim(-1, axis)
        return _by_rows(torch.fft.irfft, modes, n=shape[-1], norm="forward")

    def _analysed(self, values: Tensor) -> Tensor:
        modes = _by_rows(torch.fft.rfft, values, norm="forward")[..., : self.highest[-1] + 1]
        for axis, highest in enumerate(self.highest[:-1], start=-self.grid.num_axes):
            rows = _by_rows(torch.fft.fft, modes.movedim(axis, -1), norm="forward")
            rows = torch.cat([rows[..., : highest + 1], rows[..., rows.shape[-1] - highest :]], -1)
            modes = rows.movedim(-1, axis)
        return modes.contiguous()


def _by_rows(transform: Callable[..., Tensor], rows: Tensor, **arguments: Any) -> Tensor:
    """Transform the last axis, always as two or more contiguous rows.

    Libraries of Fourier transforms choose another algorithm, with other rounding, for strided or single rows.
    """
    single = rows.numel() == rows.shape[-1]
    rows = rows.contiguous()
    if single:
        return transform(torch.stack([rows, rows]), **arguments)[0]
    return transform(rows, **arguments)


def _even_fast(minimum: int) -> int:
    """Return the smallest even number of at least ``minimum`` that is a product of 2, 3 and 5."""
    return 2 * scipy.fft.next_fast_len(-(-minimum // 2), real=True)


def _padded(modes: Tensor, highest: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Return amplitudes up to ``highest`` with zeros for the modes above, up to ``wanted``."""
    if highest == wanted:
        return modes
    last = torch.nn.functional.pad(torch.view_as_real(modes), (0, 0, 0, wanted[-1] - highest[-1]))
    modes = torch.view_as_complex(last.contiguous())
    for axis, (k, more) in enumerate(zip(highest[:-1], wanted[:-1], strict=True), start=-len(highest)):
        gap = [*modes.shape]
        gap[axis] = 2 * (more - k)
        modes = torch.cat([modes.narrow(axis, 0, k + 1), modes.new_zeros(gap), modes.narrow(axis, k + 1, k)], axis)
    return modes
