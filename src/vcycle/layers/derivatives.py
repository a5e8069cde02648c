"""Derivatives of series as matrices between their coefficients."""

import math

import numpy as np
from numpy.polynomial import chebyshev

from vcycle import _check


def fourier_derivative(modes: int) -> np.ndarray:
    """Return the derivative of the real Fourier series of :func:`~vcycle.layers.transforms.fourier_series`.

    Parameters
    ----------
    modes
        Number of coefficients, odd, so that every cosine has its sine.

    Returns
    -------
    ndarray
        ``(modes, modes)``, per unit of the box's length.

    Raises
    ------
    ValueError
        If ``modes`` is even.
    """
    if _check.integer("modes", modes, 1) % 2 == 0:
        raise ValueError(f"`modes` must be odd: a cosine for every sine. Got {modes}.")
    matrix = np.zeros((modes, modes))
    for cosine in range(1, modes, 2):
        wave = math.pi * (cosine + 1)
        matrix[cosine + 1, cosine], matrix[cosine, cosine + 1] = -wave, wave
    return matrix


def chebyshev_derivative(modes: int) -> np.ndarray:
    """Return the derivative of the series of :func:`~vcycle.layers.transforms.chebyshev_series` on [0, 1].

    Parameters
    ----------
    modes
        Number of coefficients of the function.

    Returns
    -------
    ndarray
        ``(modes - 1, modes)``: a polynomial of one degree less.
    """
    plain = 2 * chebyshev.chebder(np.eye(_check.integer("modes", modes, 2)))  # x has half the length of 2 x - 1
    return plain * _norms(modes) / _norms(modes - 1)[:, None]


def chebyshev_integral(modes: int) -> np.ndarray:
    """Return the integral from 0 of the series of :func:`~vcycle.layers.transforms.chebyshev_series` on [0, 1].

    Parameters
    ----------
    modes
        Number of coefficients of the function.

    Returns
    -------
    ndarray
        ``(modes + 1, modes)``: ``chebyshev_derivative(modes + 1) @ chebyshev_integral(modes)`` is the identity.
    """
    plain = chebyshev.chebint(np.eye(_check.integer("modes", modes, 1)), lbnd=-1) / 2
    return plain * _norms(modes) / _norms(modes + 1)[:, None]


def _norms(modes: int) -> np.ndarray:
    """Return the factors of ``1, T_1, T_2, ..`` in the orthonormal functions."""
    return np.where(np.arange(modes) == 0, 1.0, math.sqrt(2))
