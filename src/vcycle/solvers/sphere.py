"""Spherical harmonics on the unit sphere: transforms of scalars and vectors, and products free of aliasing."""

import functools
import math
from types import ModuleType

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid

MISSING = 'problems on the sphere need torch-harmonics. Install it with: pip install "vcycle[sphere]".'
EXTENT = (math.pi, 2 * math.pi)


class SphereSpace:
    """Real functions on the unit sphere with the spherical harmonics of degree ``l <= highest``.

    Points are given by colatitude (0 at the north pole, pi at the south pole) and longitude. A function is held by its
    complex amplitudes ``(..., l, m)`` in the harmonics ``Y_lm = P_lm(cos(colatitude)) exp(i m longitude)``, m from 0
    on, which are orthonormal on the sphere and have no factor ``(-1)^m``; where m > l they are 0. The truncation is the
    triangular one of the 2/3 rule, a third of the longitudes: 21 on 32 x 64 points.

    Amplitudes are found exactly, not by the grid's own quadrature, which is exact for fewer degrees: along
    a meridian each order m is a sum of cosines (m even) or sines (m odd), which the points determine.

    Products are taken at Gauss points, as many as make the integral of three functions exact. Matrix products round
    otherwise in another shape, so fields are transformed one by one, or all of one sample at once: the bytes of one
    sample do not depend on the others in its batch.

    Parameters
    ----------
    grid
        A vertex grid of colatitudes, both poles included, and longitudes: extent ``(pi, 2 pi)``, the second axis
        periodic.
    refine
        The functions are those of a grid with this many times as many intervals per axis; values are still given and
        asked for at the points of ``grid``.

    Raises
    ------
    ValueError
        If the grid is another, or too small for the degree 1.
    ModuleNotFoundError
        If torch-harmonics is not installed, on first use of a transform.

    References
    ----------
    Orszag, J. Atmos. Sci. 27 (1970) 890, for the transform method; Bourke, Mon. Weather Rev. 100 (1972) 683, for the
    integration by parts that keeps vector transforms regular at the poles.
    """

    def __init__(self, grid: Grid, *, refine: int = 1) -> None:
        fits = len(grid.extent) == 2 and np.allclose(grid.extent, EXTENT, rtol=1e-12, atol=0.0)
        if grid.centring != "vertex" or grid.periodic != (False, True) or not fits:
            got = f"{grid.centring!r} centring, periodic {grid.periodic}, extent {grid.extent}"
            raise ValueError(f"`grid` must have vertex centring, periodic (False, True), extent (pi, 2 pi). Got {got}.")
        self.grid = grid
        self.refine = _check.integer("refine", refine, 1)
        self.highest = _truncation(grid.refined(self.refine) if self.refine > 1 else grid)
        self.shape = (self.highest + 1, self.highest + 1)
        longitudes = 2 * scipy.fft.next_fast_len(-(-(3 * self.highest + 1) // 2), real=True)
        self.product_shape = ((3 * self.highest + 2) // 2, longitudes)

    @functools.cached_property
    def degrees(self) -> Tensor:
        """``l``, float64, shaped to broadcast over the amplitudes."""
        return torch.arange(self.highest + 1, dtype=torch.float64).unsqueeze(1)

    @functools.cached_property
    def laplacian(self) -> Tensor:
        """Symbol ``-l (l + 1)`` of the Laplacian, shaped to broadcast over the amplitudes."""
        return -self.degrees * (self.degrees + 1)

    @functools.cached_property
    def inverse_laplacian(self) -> Tensor:
        """Symbol of the inverse of the Laplacian on functions of zero mean; 0 for the mean."""
        return torch.where(self.degrees > 0, 1 / self.laplacian, 0.0)

    @functools.cached_property
    def highest_third(self) -> Tensor:
        """Which amplitudes lie in the highest third of degrees, boolean."""
        return (self.degrees > 2 / 3 * self.highest).expand(self.shape)

    @functools.cached_property
    def colatitudes(self) -> Tensor:
        """Gauss points in 0 .. pi, in rad, shaped to broadcast over values of products."""
        return torch.arccos(self._gauss[0]).unsqueeze(1)

    def modes(self, values: Tensor) -> Tensor:
        """Return the amplitudes of values ``(..., *space)``."""
        fields = values.reshape(-1, *self.grid.shape)
        made = [_analysed(self._exact_analysis, field.clone().unsqueeze(0)) for field in fields]
        stacked = torch.cat(made) if made else torch.zeros(0, *self.shape, dtype=torch.complex128)
        more = self.highest + 1 - stacked.shape[-1]
        if more:
            padded = torch.nn.functional.pad(torch.view_as_real(stacked), (0, 0, 0, more, 0, more))
            stacked = torch.view_as_complex(padded.contiguous())
        return stacked.reshape(*values.shape[:-2], *self.shape)

    def values(self, modes: Tensor) -> Tensor:
        """Return values at the points of the grid, real, ``(..., *space)``."""
        longitudes = self.refine * self.grid.shape[1]
        made = [
            _summed(self._grid_harmonics, field.clone().unsqueeze(0), longitudes)[..., :: self.refine]
            for field in modes.reshape(-1, *self.shape)
        ]
        stacked = torch.cat(made) if made else torch.zeros(0, *self.grid.shape, dtype=torch.float64)
        return stacked.reshape(*modes.shape[:-2], *self.grid.shape)

    def product_values(self, modes: Tensor) -> Tensor:
        """Return the values of one sample's functions ``(field, l, m)`` at the Gauss points, for products."""
        return _summed(self._harmonics, modes, self.product_shape[1])

    def product_modes(self, values: Tensor) -> Tensor:
        """Return the amplitudes of one sample's values ``(field, *product_shape)``."""
        return _analysed(self._analysis, values)

    def gradient_values(self, modes: Tensor) -> Tensor:
        """Return gradients of one sample's functions at the Gauss points, southward and eastward part.

        Parameters
        ----------
        modes
            ``(field, l, m)``.

        Returns
        -------
        Tensor
            ``(field, 2, *product_shape)``, in the functions' unit per radius.
        """
        south, east = torch.bmm(self._slopes, _by_order(modes)).unflatten(1, (2, -1)).unbind(1)
        rows = torch.stack([_as_complex(south), 1j * _as_complex(east)], 0)  # (part, m, point, field)
        return torch.fft.irfft(rows.permute(3, 0, 2, 1), n=self.product_shape[1], norm="forward")

    def divergence_and_curl(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the amplitudes of divergence and curl (its outward part) of one sample's vector fields.

        By parts: the integral of ``Y* div(a)`` is that of ``-grad(Y*) . a``, which is regular at the poles.

        Parameters
        ----------
        vectors
            ``(field, 2, *product_shape)``, southward and eastward part.

        Returns
        -------
        tuple of Tensor
            ``(field, l, m)`` each, in the vectors' unit per radius.
        """
        orders = self.highest + 1
        south, east = torch.fft.rfft(vectors, norm="forward")[..., :orders].permute(1, 3, 2, 0)  # (m, point, field)
        divergence = torch.cat([-south, 1j * east], 1)
        curl = torch.cat([-east, -1j * south], 1)
        columns = torch.view_as_real(torch.cat([divergence, curl], 2).contiguous()).flatten(2)
        found = _by_field(torch.bmm(self._slopes_analysis, columns))
        half = len(found) // 2
        return found[:half], found[half:]

    def velocity_values(self, vorticity: Tensor, divergence: Tensor) -> Tensor:
        """Return one sample's velocity at the Gauss points from amplitudes ``(l, m)``.

        By Helmholtz: the gradient of a potential and, turned left by a right angle, that of a stream function.

        Returns
        -------
        Tensor
            ``(2, *product_shape)``, southward and eastward part.
        """
        functions = torch.stack([divergence, vorticity]) * self.inverse_laplacian
        (south, east), (turned_east, turned_north) = self.gradient_values(functions)
        return torch.stack([south - turned_north, east + turned_east])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the sphere of values ``(*product_shape)`` at the Gauss points."""
        return (values.mean(1) * self._gauss[1]).sum() / 2

    def mean_square(self, modes: Tensor) -> Tensor:
        """Return the mean square over the sphere, summed over components, ``(sample,)``.

        Sums row by row: a sum over a batch may be ordered by the size of the batch.
        """
        squares = modes.real**2 + modes.imag**2
        counts = torch.full((self.highest + 1,), 2.0, dtype=torch.float64)  # an order m > 0 stands for -m, too
        counts[0] = 1.0
        squares = squares * (counts / (4 * math.pi))
        return torch.stack([row.sum() for row in squares]) if len(squares) else squares.new_zeros(0)

    # ------------------------------------------------------------------------- tables: of order m, (m, rows, columns)

    @functools.cached_property
    def _gauss(self) -> tuple[Tensor, Tensor]:
        """Cosines of the colatitudes, from north to south, and weights whose sum is 2."""
        cosines, weights = np.polynomial.legendre.leggauss(self.product_shape[0])
        return torch.from_numpy(cosines[::-1].copy()), torch.from_numpy(weights[::-1].copy())

    @functools.cached_property
    def _harmonics(self) -> Tensor:
        return _legendre(self._gauss[0], self.highest)

    @functools.cached_property
    def _grid_harmonics(self) -> Tensor:
        return _legendre(torch.from_numpy(np.cos(self.grid.coordinates()[0])), self.highest)

    @functools.cached_property
    def _analysis(self) -> Tensor:
        return (self._harmonics.transpose(1, 2) * (2 * math.pi * self._gauss[1])).contiguous()

    @functools.cached_property
    def _exact_analysis(self) -> Tensor:
        """Interpolation from the grid to the Gauss points along a meridian, then integration there."""
        coarse = SphereSpace(self.grid)
        grid, gauss = torch.from_numpy(self.grid.coordinates()[0]).unsqueeze(1), coarse.colatitudes
        waves = torch.arange(self.grid.shape[0], dtype=torch.float64)
        inner = waves[1:-1]
        even = torch.cos(gauss * waves) @ torch.linalg.inv(torch.cos(grid * waves))
        odd = torch.zeros_like(even)  # odd orders vanish at the poles
        odd[:, 1:-1] = torch.sin(gauss * inner) @ torch.linalg.inv(torch.sin(grid[1:-1] * inner))
        tables = [table @ (odd if order % 2 else even) for order, table in enumerate(coarse._analysis)]
        return torch.stack(tables)

    @functools.cached_property
    def _slopes(self) -> Tensor:
        """``d P_lm / d colatitude`` and, below it, ``m P_lm / sin(colatitude)``."""
        degree, m = self.degrees.squeeze(1), torch.arange(self.highest + 1.0, dtype=torch.float64).reshape(-1, 1, 1)
        below = torch.nn.functional.pad(self._harmonics[..., :-1], (1, 0))  # of degree l - 1
        ratio = ((2 * degree + 1) * (degree**2 - m**2).clamp_min(0.0) / (2 * degree - 1).clamp_min(1.0)).sqrt()
        sines = torch.sin(self.colatitudes)
        towards = (degree * torch.cos(self.colatitudes) * self._harmonics - ratio * below) / sines
        return torch.cat([towards, m * self._harmonics / sines], 1)

    @functools.cached_property
    def _slopes_analysis(self) -> Tensor:
        weights = 2 * math.pi * self._gauss[1]
        return (self._slopes.transpose(1, 2) * torch.cat([weights, weights])).contiguous()


def _truncation(grid: Grid) -> int:
    nlat, nlon = grid.shape
    highest = min((2 * nlat - 1) // 3, (nlon - 1) // 3, nlat - 2)
    if highest < 1:
        raise ValueError(f"`grid` must have at least 3 colatitudes and 4 longitudes. Got {grid.shape}.")
    return highest


def _legendre(cosines: Tensor, highest: int) -> Tensor:
    """Return ``P_lm`` at points on a meridian, ``(m, point, l)``."""
    size = highest + 1
    return _legendre_functions().legpoly(size, size, cosines, csphase=False).transpose(1, 2).contiguous()


def _legendre_functions() -> ModuleType:
    try:
        from torch_harmonics import legendre
    except ImportError as missing:  # a wheel that was built for another PyTorch does not load either
        raise ModuleNotFoundError(MISSING) from missing
    return legendre


def _by_order(modes: Tensor) -> Tensor:
    """Return amplitudes ``(field, l, m)`` as real columns ``(m, l, 2 field)``."""
    return torch.view_as_real(modes.permute(2, 1, 0).contiguous()).flatten(2)


def _by_field(columns: Tensor) -> Tensor:
    """Undo :func:`_by_order`."""
    return _as_complex(columns).permute(2, 1, 0).contiguous()


def _as_complex(columns: Tensor) -> Tensor:
    return torch.view_as_complex(columns.unflatten(2, (-1, 2)).contiguous())


def _summed(table: Tensor, modes: Tensor, longitudes: int) -> Tensor:
    rows = _as_complex(torch.bmm(table, _by_order(modes))).permute(2, 1, 0)
    return torch.fft.irfft(rows, n=longitudes, norm="forward")


def _analysed(table: Tensor, values: Tensor) -> Tensor:
    rows = torch.fft.rfft(values, norm="forward")[..., : len(table)]
    return _by_field(torch.bmm(table, _by_order(rows)))
