"""Series of functions on a grid: Fourier, cosine and Chebyshev, as products with small matrices.

A neural operator keeps few modes. A truncated transform by matrix products costs as much as a fast one on small grids
and less on large ones, works for any size, has no complex numbers in it, and can be exported. All transforms are
normalised so that a coefficient does not depend on the number of points.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.precision import no_autocast, single

Matrices = tuple[np.ndarray, np.ndarray]
"""Analysis ``(coefficients, points)`` and synthesis ``(points, coefficients)``, float64."""


def offset_of(centring: Centring) -> float:
    """Return the position of the first point in units of the spacing: 0.5 in cells, 0 on vertices."""
    return 0.5 if centring == "cell" else 0.0


def fourier_analysis(v: Tensor, frequencies: Sequence[Sequence[int]], offset: float = 0.0) -> Tensor:
    r"""Return the Fourier coefficients of real functions on the unit torus.

    .. math:: \hat v_k = \frac{1}{n} \sum_j v(x_j) e^{-2 \pi i k \cdot x_j}, \qquad x_j = (j + \mathrm{offset}) / n

    Parameters
    ----------
    v
        ``(batch, channel, *space)``, real.
    frequencies
        Signed integer frequencies per axis; not negative on the last axis, since the functions are real. Those that
        the grid does not resolve, ``2 |k| >= n``, have coefficient zero.
    offset
        Position of the first point in units of the spacing.

    Returns
    -------
    Tensor
        ``(batch, channel, *frequencies, 2)``: real and imaginary parts, dimensionless factors on the unit of ``v``.
    """
    batch, channels, *points = v.shape
    functions, kept = batch * channels, [len(f) for f in frequencies]
    real = _matrix(v, "real", 0, points[-1], frequencies[-1], offset)
    # Functions go last in memory: every further axis is then one product of matrices without a copy.
    v = (v @ real.T).reshape(functions, math.prod(points[:-1]) * 2 * kept[-1]).T.contiguous()
    for axis in range(len(points) - 2, -1, -1):
        matrix = _matrix(v, "complex", 0, points[axis], frequencies[axis], offset)
        v = _product(matrix, v, math.prod(points[:axis]), math.prod(kept[axis + 1 :]) * functions)
    return v.reshape(2, *kept, batch, channels).permute(-2, -1, *range(1, len(kept) + 1), 0)


def fourier_synthesis(
    spectrum: Tensor, frequencies: Sequence[Sequence[int]], shape: Sequence[int], offset: float = 0.0
) -> Tensor:
    """Return the real functions with given Fourier coefficients, see :func:`fourier_analysis`.

    Coefficients at negative frequencies of the last axis are the conjugates of those given; frequencies that the grid
    does not resolve are left out.

    Parameters
    ----------
    spectrum
        ``(batch, channel, *frequencies, 2)``.
    frequencies, offset
        As in :func:`fourier_analysis`.
    shape
        Points per axis.

    Returns
    -------
    Tensor
        ``(batch, channel, *shape)``.
    """
    batch, channels, *kept, _ = spectrum.shape
    functions = batch * channels
    v = spectrum.permute(-1, *range(2, 2 + len(kept)), 0, 1)  # as the analysis leaves it, without a copy
    for axis, (n, some) in enumerate(zip(shape[:-1], frequencies[:-1], strict=True)):
        matrix = _matrix(v, "complex", 1, n, some, offset)
        v = _product(matrix, v, math.prod(shape[:axis]), math.prod(kept[axis + 1 :]) * functions)
    real = _matrix(v, "real", 1, shape[-1], frequencies[-1], offset)
    lines = math.prod(shape[:-1])
    rows = v.reshape(lines * real.shape[1], functions).T.contiguous().reshape(functions * lines, real.shape[1])
    return (rows @ real.T).reshape(batch, channels, *shape)


def _product(matrix: Tensor, v: Tensor, outer: int, inner: int) -> Tensor:
    """Multiply the axes between the first ``outer`` and the last ``inner`` entries, taken as one."""
    return torch.bmm(matrix.expand(outer, *matrix.shape), v.reshape(outer, matrix.shape[1], inner))


def along(matrix: Tensor, v: Tensor, axis: int) -> Tensor:
    """Multiply one axis of ``v`` by a matrix: ``out[.., i, ..] = sum_j matrix[i, j] v[.., j, ..]``."""
    return (v.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def resample(v: Tensor, shape: Sequence[int], periodic: Sequence[bool], centring: Centring) -> Tensor:
    """Evaluate the interpolating series of functions on another grid of the same box.

    Periodic axes use Fourier series, others cosine series (even reflection at walls). Where the new grid is coarser,
    the modes that it does not resolve are dropped, so that nothing aliases. Refined and brought back, values are as
    they were.

    Parameters
    ----------
    v
        ``(batch, channel, *space)``.
    shape
        New number of points per axis.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`.

    Returns
    -------
    Tensor
        ``(batch, channel, *shape)``.
    """
    return _interpolated(v, shape, periodic, centring, "")


def resample_linearly(v: Tensor, shape: Sequence[int], periodic: Sequence[bool], centring: Centring) -> Tensor:
    """Evaluate the piecewise linear interpolant of functions on another grid of the same box.

    Parameters
    ----------
    v
        ``(batch, channel, *space)``.
    shape
        New number of points per axis.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`. Interpolation closes periodic axes; between a wall and the cell next to it the
        interpolant is constant.

    Returns
    -------
    Tensor
        ``(batch, channel, *shape)``.
    """
    return _interpolated(v, shape, periodic, centring, "hats ")


def _interpolated(v: Tensor, shape: Sequence[int], periodic: Sequence[bool], centring: Centring, kind: str) -> Tensor:
    """Multiply the axes whose size changes by the matrices of a kind of interpolation, in float32 at least."""
    with no_autocast(v):
        found = single(v)
        for axis, (n, closed) in enumerate(zip(shape, periodic, strict=True), 2):
            if n != v.shape[axis]:
                where = "around" if closed else "between walls"
                found = along(_matrix(found, kind + where, 0, v.shape[axis], n, offset_of(centring)), found, axis)
        return found.to(v.dtype)


def series(
    v: Tensor, n_from: int, n_to: int, *, periodic: bool, centring: Centring, modes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return analysis on ``n_from`` points and synthesis on ``n_to``, with the modes both resolve, at most ``modes``.

    Parameters
    ----------
    v
        Whose precision and device the matrices have.
    n_from, n_to
        Numbers of points.
    periodic
        Fourier series if true, cosine series if not.
    centring
        Where the points lie.
    modes
        Number of coefficients; those that a grid does not resolve are zero. ``None``: all that both resolve.
    """
    kind = "fourier" if periodic else "cosine"
    kept = min(n_from, n_to) if modes is None else modes
    offset = offset_of(centring)
    return _matrix(v, kind, 0, n_from, kept, offset), _matrix(v, kind, 1, n_to, kept, offset)


def real_dft(n: int, frequencies: tuple[int, ...], offset: float) -> Matrices:
    """Return the matrices between ``n`` real values and ``(2, frequencies)`` real and imaginary parts."""
    cosine, sine = _waves(n, frequencies, offset)
    twice = np.where(np.array(frequencies) == 0, 1.0, 2.0)  # the conjugate frequencies
    return np.concatenate([cosine, -sine], 1).T / n, np.concatenate([cosine * twice, -sine * twice], 1)


def complex_dft(n: int, frequencies: tuple[int, ...], offset: float) -> Matrices:
    """Return the matrices between ``(n, 2)`` and ``(2, frequencies)`` real and imaginary parts."""
    cosine, sine = _waves(n, frequencies, offset)
    # Indices: part out, point, frequency, part in; and point, part out, part in, frequency.
    forward = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)])
    back = np.stack([np.stack([cosine, -sine], 1), np.stack([sine, cosine], 1)], 1)
    size = (2 * len(frequencies), 2 * n)
    return forward.transpose(0, 2, 1, 3).reshape(size) / n, back.reshape(size[::-1])


def _waves(n: int, frequencies: tuple[int, ...], offset: float) -> tuple[np.ndarray, np.ndarray]:
    k = np.array(frequencies)
    angle = 2 * np.pi / n * (np.arange(n) + offset)[:, None] * k
    resolved = 2 * abs(k) < n
    return np.cos(angle) * resolved, np.sin(angle) * resolved


def fourier_series(n: int, modes: int, offset: float) -> Matrices:
    """Return the matrices of the real Fourier series ``1, sqrt2 cos(2 pi x), sqrt2 sin(2 pi x), sqrt2 cos(4 pi x)..``.

    The functions are orthonormal for the mean over the points. On an even number of points the last cosine has period
    two and is normalised accordingly; where the points are its zeros, it is left out.
    """
    index = np.arange(modes)
    k, is_cosine = (index + 1) // 2, index % 2 == 1
    angle = 2 * np.pi / n * (np.arange(n) + offset)[:, None] * k
    functions = np.where(is_cosine, np.cos(angle), np.sin(angle))
    functions[:, 0] = 1.0
    return _orthonormal(functions * (2 * k < n + is_cosine), np.full(n, 1 / n))


def cosine_series(n: int, modes: int, offset: float) -> Matrices:
    """Return the matrices of the cosine series ``1, sqrt2 cos(pi x), sqrt2 cos(2 pi x)..`` on the unit interval.

    In cells it is the discrete cosine transform of type II, on vertices (end points included) of type I, whose inner
    product is the trapezoidal rule.
    """
    k = np.arange(modes)
    intervals = n if offset else n - 1
    angle = np.pi / intervals * (np.arange(n) + offset)[:, None] * k
    weights = np.full(n, 1 / intervals)
    if not offset:
        weights[[0, -1]] = 0.5 / intervals
    return _orthonormal(np.cos(angle) * (k < n), weights)


def interpolation(n_from: int, n_to: int, offset: float, *, periodic: bool) -> Matrices:
    """Return the matrix from values on ``n_from`` points to values on ``n_to``, and its adjoint.

    The functions are those of the two series that both grids resolve; here none is normalised by a grid. The fastest
    wave of the coarser grid has the phase that this grid can see.
    """
    k, even = np.arange(min(n_from, n_to)), min(n_from, n_to) % 2 == 0

    def functions(n: int) -> np.ndarray:
        if not periodic:
            return np.cos(np.pi / (n if offset else n - 1) * (np.arange(n) + offset)[:, None] * k)
        angle = 2 * np.pi * ((np.arange(n) + offset) / n)[:, None] * ((k + 1) // 2)
        waves = np.where(k % 2 == 1, np.cos(angle), np.sin(angle))
        waves[:, 0] = 1.0
        if even and offset:
            waves[:, -1] = np.sin(angle[:, -1])
        return waves

    known, weights = functions(n_from), np.ones((n_from, 1))
    if not (periodic or offset):
        weights[[0, -1]] = 0.5
    matrix = functions(n_to) @ (known * weights / (known**2 * weights).sum(0)).T
    return matrix, matrix.T


def hat_functions(n_from: int, n_to: int, offset: float, *, periodic: bool) -> Matrices:
    """Return the matrix ``(n_to, n_from)`` of linear interpolation along an axis, and its adjoint."""
    if periodic or offset:
        place = (np.arange(n_to) + offset) * n_from / n_to - offset
    else:
        place = np.linspace(0, n_from - 1, n_to)
    low = np.floor(place).astype(int)
    matrix = np.zeros((n_to, n_from))
    for index, share in ((low, 1 - (place - low)), (low + 1, place - low)):
        column = index % n_from if periodic else index.clip(0, n_from - 1)
        matrix = matrix + share[:, None] * (column[:, None] == np.arange(n_from))
    return matrix, matrix.T


def chebyshev_nodes(n: int) -> np.ndarray:
    """Return the ``n`` Chebyshev-Gauss points on [0, 1], ascending, float64."""
    return 0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def chebyshev_series(n: int, modes: int, offset: float = 0.5) -> Matrices:
    """Return the matrices of the Chebyshev series on [0, 1], ``1, sqrt2 T_1(2x - 1)..``, at :func:`chebyshev_nodes`.

    The functions are orthonormal for the mean over the nodes, that is for the weight ``(x (1 - x))^(-1/2) / pi``.
    ``offset`` is that of the angles: 0.5 for the Gauss points.
    """
    analysis, synthesis = cosine_series(n, modes, offset)
    sign = (-1.0) ** np.arange(modes)  # the nodes ascend, their angles descend
    return analysis * sign[:, None], synthesis * sign


def _orthonormal(functions: np.ndarray, weights: np.ndarray) -> Matrices:
    norm = np.sqrt((weights[:, None] * functions**2).sum(0))
    functions = functions / np.where(norm > 1e-6, norm, np.inf)
    return (functions * weights[:, None]).T, functions


_BUILDERS: dict[str, Callable[..., Matrices]] = {
    "real": real_dft,
    "complex": complex_dft,
    "fourier": fourier_series,
    "cosine": cosine_series,
    "around": partial(interpolation, periodic=True),
    "between walls": partial(interpolation, periodic=False),
    "hats around": partial(hat_functions, periodic=True),
    "hats between walls": partial(hat_functions, periodic=False),
}


def _matrix(v: Tensor, kind: str, which: int, *arguments: Any) -> Tensor:
    """Return analysis (0) or synthesis (1) in the precision and on the device of ``v``."""
    frozen = tuple(tuple(a) if isinstance(a, Sequence) else a for a in arguments)
    if torch.compiler.is_compiling():  # nothing may be kept: tensors are not real while a program is recorded
        return _build(kind, which, frozen, v.dtype, v.device)
    return _kept(kind, which, frozen, v.dtype, v.device)


def _build(kind: str, which: int, arguments: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = np.ascontiguousarray(_BUILDERS[kind](*arguments)[which])
    return torch.from_numpy(matrix).to(device, dtype)


@lru_cache(maxsize=256)
def _kept(kind: str, which: int, arguments: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made there could never take part in a gradient
        return _build(kind, which, arguments, dtype, device)


def signed(modes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the frequencies ``0 .. k - 1, -k .. -1`` of every axis but the last, and ``0 .. k - 1`` of the last."""
    modes = [_check.integer("modes", k, 1) for k in modes]
    return (*((*range(k), *range(-k, 0)) for k in modes[:-1]), tuple(range(modes[-1])))


def symmetric(modes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the frequencies ``1 - k .. k - 1`` of every axis but the last, and ``0 .. k - 1`` of the last."""
    modes = [_check.integer("modes", k, 1) for k in modes]
    return (*(tuple(range(1 - k, k)) for k in modes[:-1]), tuple(range(modes[-1])))
