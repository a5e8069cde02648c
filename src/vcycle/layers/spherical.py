"""Spherical harmonics on a grid of colatitudes and longitudes, as products with small matrices; convolutions by them.

The same functions as :class:`vcycle.solvers.sphere.SphereSpace` has for problems, here truncated to few degrees, for
both centrings, in any precision and on any device.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import fourier_analysis, fourier_synthesis, offset_of


def colatitudes(n: int, centring: Centring) -> np.ndarray:
    """Return ``n`` colatitudes from 0 (north pole) to pi, in rad: both poles included on vertices, none in cells."""
    return math.pi * (np.arange(n) + 0.5) / n if centring == "cell" else math.pi * np.arange(n) / (n - 1)


def legendre(colatitude: np.ndarray, degrees: int) -> np.ndarray:
    """Return the associated Legendre functions that make orthonormal harmonics ``P_lm(colatitude) exp(i m longitude)``.

    Without the factor ``(-1)^m``.

    Parameters
    ----------
    colatitude
        ``(point,)``, in rad.
    degrees
        Number of degrees ``l`` and orders ``m``, from 0.

    Returns
    -------
    ndarray
        ``(m, point, l)``; zero where ``m > l``.

    References
    ----------
    Holmes, Featherstone, J. Geodesy 76 (2002) 279, eqs. (11)-(12): the recursion upwards in ``l`` from ``l = m``, which
    is stable.
    """
    x, sine = np.cos(colatitude), np.sin(colatitude)
    found = np.zeros((degrees, len(x), degrees))
    diagonal = np.full(len(x), math.sqrt(1 / (4 * math.pi)))
    for m in range(degrees):
        if m:
            diagonal = diagonal * sine * math.sqrt((2 * m + 1) / (2 * m))
        found[m, :, m] = diagonal
        for l in range(m + 1, degrees):  # noqa: E741  # the field's own letter
            ratio = (2 * l + 1) / (l * l - m * m)
            before = math.sqrt(ratio * ((l - 1) ** 2 - m * m) / (2 * l - 3)) if l > m + 1 else 0.0
            found[m, :, l] = math.sqrt(ratio * (2 * l - 1)) * x * found[m, :, l - 1] - before * found[m, :, l - 2]
    return found


def harmonic_matrices(n: int, degrees: int, centring: Centring) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices between the orders' values on a meridian and their amplitudes.

    Amplitudes are exact for every function of degrees that the grid resolves: a function of order ``m`` is a sum of
    cosines of the colatitude (``m`` even) or of sines (``m`` odd), which its values determine and which is integrated
    exactly at Gauss points. Degrees that it does not resolve have the amplitude zero.

    Parameters
    ----------
    n
        Number of colatitudes.
    degrees
        Number of degrees and orders.
    centring
        Where the colatitudes lie.

    Returns
    -------
    tuple of ndarray
        Analysis ``(m, l, point)`` and synthesis ``(m, point, l)``, float64.
    """
    cosines, weights = np.polynomial.legendre.leggauss(n + degrees)
    gauss, points = np.arccos(cosines)[:, None], colatitudes(n, centring)[:, None]
    even, odd = np.arange(n), np.arange(1, n + 1) if centring == "cell" else np.arange(1, n - 1)
    inner = slice(None) if centring == "cell" else slice(1, -1)  # sines say nothing about the poles
    to_gauss = np.cos(gauss * even) @ np.linalg.inv(np.cos(points * even)), np.zeros((len(gauss), n))
    to_gauss[1][:, inner] = np.sin(gauss * odd) @ np.linalg.inv(np.sin(points[inner] * odd))
    at_gauss, resolved = legendre(gauss[:, 0], degrees), np.arange(degrees) < (n if centring == "cell" else n - 1)
    integrate = at_gauss.transpose(0, 2, 1) * (2 * math.pi * weights) * resolved[:, None]
    analysis = np.stack([part @ to_gauss[m % 2] for m, part in enumerate(integrate)])
    return analysis, legendre(points[:, 0], degrees) * resolved


class SphericalConv(nn.Module):
    """A convolution on the sphere: amplitudes of degree ``l`` are multiplied by a matrix that belongs to ``l``.

    It commutes with every rotation, and has no direction. The functions live on a grid of colatitudes, the last axis
    but one, and longitudes.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    degrees
        Number of degrees that pass, from 0.
    centring
        As in :class:`~vcycle.grid.Grid`: vertices have both poles.

    Notes
    -----
    The weights are real. Real functions with complex weights would be multiplied by ``R_l`` at positive and by its
    conjugate at negative orders: only rotations about the axis commute with that.

    References
    ----------
    Bonev et al., "Spherical Fourier Neural Operators: Learning Stable Dynamics on the Sphere", ICML 2023,
    arXiv:2306.03838; Driscoll, Healy, Adv. Appl. Math. 15 (1994) 202, theorem 1.
    """

    def __init__(self, in_channels: int, out_channels: int, degrees: int, centring: Centring = "vertex") -> None:
        super().__init__()
        self.degrees, self.centring = _check.integer("degrees", degrees, 1), centring
        scale = (2.0 / (in_channels + out_channels)) ** 0.5
        self.weight = nn.Parameter(scale * torch.randn(in_channels, out_channels, degrees))

    def forward(self, v: Tensor, table: Tensor | None = None) -> Tensor:
        """Map ``(batch, in_channels, colatitude, longitude)`` to ``(batch, out_channels, colatitude, longitude)``.

        ``table`` is :meth:`table` of ``v``, where layers share it.
        """
        with no_autocast(v):
            table = self.table(single(v)) if table is None else table
            made = self.multiplied(self.amplitudes(single(v), table))
            return self.values(made, tuple(v.shape[2:]), table).to(v.dtype)

    def table(self, v: Tensor) -> Tensor:
        """Return what takes the colatitudes of ``v`` to degrees and, transposed, back: ``(2, m, l, colatitude)``."""
        return harmonic_table(v.shape[2], self.degrees, self.centring, v.dtype, v.device)

    def amplitudes(self, v: Tensor, table: Tensor | None = None) -> Tensor:
        """Return the amplitudes ``(m, l, batch, channel, 2)`` of functions, real and imaginary parts."""
        table = self.table(v) if table is None else table
        batch, channels, n, _ = v.shape
        waves = fourier_analysis(v.flatten(1, 2), (range(self.degrees),), offset_of(self.centring))
        columns = waves.unflatten(1, (channels, n)).permute(3, 2, 0, 1, 4)  # (m, point, batch, channel, 2)
        found = torch.bmm(table[0], columns.flatten(2))
        return found.reshape(self.degrees, self.degrees, batch, channels, 2)

    def multiplied(self, amplitudes: Tensor) -> Tensor:
        """Return the amplitudes ``(m, l, batch, out, 2)``, every degree multiplied by its matrix."""
        orders, degrees, batch, channels, _ = amplitudes.shape
        rows = amplitudes.permute(1, 0, 2, 4, 3).reshape(degrees, orders * batch * 2, channels)
        made = torch.bmm(rows, self.weight.permute(2, 0, 1).to(rows.dtype))
        return made.reshape(degrees, orders, batch, 2, made.shape[-1]).permute(1, 0, 2, 4, 3)

    def values(self, amplitudes: Tensor, shape: tuple[int, ...], table: Tensor | None = None) -> Tensor:
        """Return the functions ``(batch, channel, *shape)`` with given amplitudes."""
        if table is None:
            table = harmonic_table(shape[0], self.degrees, self.centring, amplitudes.dtype, amplitudes.device)
        orders, degrees, batch, channels, _ = amplitudes.shape
        columns = amplitudes.reshape(orders, degrees, batch * channels * 2)
        made = torch.bmm(table[1].transpose(1, 2), columns)
        waves = made.reshape(orders, shape[0], batch, channels, 2).permute(2, 3, 1, 0, 4)
        frequencies, offset = (range(self.degrees),), offset_of(self.centring)
        return fourier_synthesis(waves.flatten(1, 2), frequencies, shape[1:], offset).unflatten(1, (channels, shape[0]))


def harmonic_table(n: int, degrees: int, centring: Centring, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrices of :func:`harmonic_matrices` as one tensor, the second one transposed: ``(2, m, l, n)``."""
    build = _build if torch.compiler.is_compiling() else _kept  # nothing may be kept from a recorded program
    return build(n, degrees, centring, dtype, device)


def _build(n: int, degrees: int, centring: Centring, dtype: torch.dtype, device: torch.device) -> Tensor:
    analysis, synthesis = harmonic_matrices(n, degrees, centring)
    return torch.from_numpy(np.stack([analysis, synthesis.transpose(0, 2, 1)])).to(device, dtype)


# A compiler would record every step of the recursion. This is what torch.compiler.assume_constant_result sets, which
# loads the compiler, seconds long, as soon as it is named.
_build._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _kept(n: int, degrees: int, centring: Centring, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made there could never take part in a gradient
        return _build(n, degrees, centring, dtype, device)
