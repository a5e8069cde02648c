"""How wrong a prediction is: relative errors of fields ``(batch, channel, *space)``, differentiable, dimensionless.

Every metric is a mean over samples of each sample's own relative error, so that a data set evaluated in several
batches gives the same number as in one. The channels of a sample are measured together. Where a target is zero
everywhere, the error is absolute, in the unit of the target.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid

Reduction = Literal["mean", "none"]
Walls = Boundary | str

SPECTRAL_CUTOFF = 20
"""Wave number from which the MgNO paper's H1 norm gives weight 1."""

BANDS = (0.0, 2.0, 4.0, 8.0, 16.0)
"""Lower edges of the bands of :func:`band_errors`, in half waves per box length; the last band is open."""
NOTHING = 32.0
"""A band of a target whose norm is below this many roundings of the target's norm holds nothing but rounding."""


def relative_l2(prediction: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return ``|prediction - target| / |target|`` in the 2-norm over all values of a sample.

    Parameters
    ----------
    prediction, target
        Fields ``(batch, channel, *space)`` in one unit.
    reduction
        ``"mean"`` over samples, shape ``()``; ``"none"`` keeps one number per sample, ``(batch,)``.

    Raises
    ------
    ValueError
        If the shapes differ, or ``reduction`` is unknown.
    """
    _check_fields(prediction, target)
    return _reduced(_ratio(_norm(prediction - target), _norm(target)), reduction)


def relative_h1(
    prediction: Tensor,
    target: Tensor,
    *,
    grid: Grid,
    boundary: Walls,
    zero_on_walls: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the true relative H1 error: ``sqrt(|e|^2 + |grad e|^2)`` over the same of the target.

    Gradients are differences over faces, divided by the distance in the unit of length (which weighs the two terms),
    and integrated over the box. On cell grids a Dirichlet wall lies half a cell away and has the value zero; Neumann,
    Robin and absorbing walls contribute nothing; periodic axes wrap. On vertex grids the walls hold values
    themselves, so only differences between vertices count, with trapezoidal weights.

    Parameters
    ----------
    prediction, target
        Fields ``(batch, channel, *grid.shape)`` in one unit.
    grid, boundary
        Where the values live, and the kinds of the walls.
    zero_on_walls
        Whether the target vanishes on Dirichlet walls. With ``False`` (values given there) the walls are left out of
        the target's norm; the error still vanishes on them.
    reduction
        ``"mean"`` over samples, shape ``()``; ``"none"`` keeps one number per sample, ``(batch,)``.

    Raises
    ------
    ValueError
        If the shapes differ or do not fit the grid, or ``reduction`` is unknown.
    """
    _check_fields(prediction, target, grid)
    kinds = Boundary.on(grid, boundary)
    error = _h1_norm(prediction - target, grid, kinds, with_walls=True)
    return _reduced(_ratio(error, _h1_norm(target, grid, kinds, with_walls=zero_on_walls)), reduction)


def truncated_spectral_h1(prediction: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the "H1 error" that the MgNO paper reports, for comparison with its tables; it is not an H1 norm.

    Fourier coefficients (whatever the boundary, integer wave numbers whatever the extent) are weighted by ``sqrt(1 +
    |k|^2)``, where a component of ``k`` is set to zero from 20 on: fine scales get *less* weight than coarse ones.

    Parameters
    ----------
    prediction, target
        Fields ``(batch, channel, *space)`` in one unit.
    reduction
        ``"mean"`` over samples, shape ``()``; ``"none"`` keeps one number per sample, ``(batch,)``.

    Raises
    ------
    ValueError
        If the shapes differ, or ``reduction`` is unknown.

    References
    ----------
    He, Liu, Xu, "MgNO", ICLR 2024: class ``HsLoss`` of the published code with ``d = p = 2``, ``k = 1``.
    """
    _check_fields(prediction, target)
    space = prediction.shape[2:]
    dims = tuple(range(2, prediction.ndim))
    weight = torch.ones((), dtype=prediction.dtype, device=prediction.device)
    for axis, n in enumerate(space):
        k = torch.fft.fftfreq(n, 1.0 / n, dtype=prediction.dtype, device=prediction.device)
        squared = torch.where(k.abs() < SPECTRAL_CUTOFF, k, torch.zeros_like(k)) ** 2
        weight = weight + squared.reshape(-1, *[1] * (len(space) - 1 - axis))
    weight = weight.sqrt()
    error, scale = (_norm(torch.fft.fftn(u, dim=dims, norm="ortho") * weight) for u in (prediction - target, target))
    return _reduced(_ratio(error, scale), reduction)


def boundary_error(
    prediction: Tensor, target: Tensor, *, grid: Grid, boundary: Walls, reduction: Reduction = "mean"
) -> Tensor:
    """Return the relative L2 error on the outermost layer of points along the walls; periodic axes have none.

    Parameters
    ----------
    prediction, target
        Fields ``(batch, channel, *grid.shape)`` in one unit.
    grid, boundary
        Where the values live, and the kinds of the walls.
    reduction
        ``"mean"`` over samples, shape ``()``; ``"none"`` keeps one number per sample, ``(batch,)``.

    Raises
    ------
    ValueError
        If the shapes differ or do not fit the grid, all axes are periodic, or ``reduction`` is unknown.
    """
    _check_fields(prediction, target, grid)
    kinds = Boundary.on(grid, boundary)
    if all(kinds.periodic):
        raise ValueError(f"`boundary` must have a wall on some axis. Got {str(kinds)!r}.")
    layer = torch.zeros(grid.shape, dtype=torch.bool, device=prediction.device)
    for axis, periodic in enumerate(kinds.periodic):
        if not periodic:
            layer.select(axis, 0).fill_(value=True)
            layer.select(axis, -1).fill_(value=True)
    return relative_l2(prediction[:, :, layer], target[:, :, layer], reduction=reduction)


class BandErrors(NamedTuple):
    """Error energy by frequency band.

    Parameters
    ----------
    edges
        Lower edges of the bands in half waves per box length, shape ``(bands,)``: 0, 2, 4, 8, ...; each band ends
        where the next begins.
    energy
        Energy of the error in each band over the energy of the whole target (dimensionless), ``(bands,)`` or
        ``(batch, bands)``. The sum over bands is a sample's relative L2 error squared.
    """

    edges: Tensor
    energy: Tensor


def error_by_band(
    prediction: Tensor, target: Tensor, *, grid: Grid, boundary: Walls, reduction: Reduction = "mean"
) -> BandErrors:
    """Split the squared relative L2 error by frequency, in dyadic bands.

    The basis of each axis is orthonormal, so that nothing is lost: sines between Dirichlet walls, cosines between
    others, quarter waves between a Dirichlet and another wall, sines and cosines of whole waves on periodic axes.
    Closed axes of vertex grids take cosines, as their walls hold values. The frequency of a product of modes is the
    root of the sum of squares.

    Parameters
    ----------
    prediction, target
        Fields ``(batch, channel, *grid.shape)`` in one unit.
    grid, boundary
        Where the values live, and the kinds of the walls.
    reduction
        ``"mean"`` over samples; ``"none"`` keeps one row per sample.

    Raises
    ------
    ValueError
        If the shapes differ or do not fit the grid, or ``reduction`` is unknown.
    """
    _check_fields(prediction, target, grid)
    power, frequency = _spectrum(prediction - target, grid, Boundary.on(grid, boundary))
    band = frequency.clamp(min=1.0).log2().floor().long()
    num_bands = int(band.max()) + 1
    energy = _ratio(_sums(power, band, num_bands), _norm(target).square().unsqueeze(1))
    edges = torch.tensor([0.0, *(2.0**b for b in range(1, num_bands))], dtype=torch.float64)
    return BandErrors(edges, _reduced(energy, reduction))


def band_errors(
    prediction: Tensor,
    target: Tensor,
    *,
    grid: Grid,
    boundary: Walls,
    bands: Sequence[float] = BANDS,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the relative L2 error of each frequency band by itself: its error over what the target has in it.

    The modes and their frequencies are those of :func:`error_by_band`, which measures every band by the whole target:
    there high frequencies look harmless because they are small. Where the target has nothing in a band, up to rounding,
    the error there is relative to the whole target.

    Parameters
    ----------
    prediction, target
        Fields ``(batch, channel, *grid.shape)`` in one unit.
    grid, boundary
        Where the values live, and the kinds of the walls.
    bands
        Lower edges, increasing, in half waves per box length; each band ends where the next begins, the last with the
        grid's highest frequency. What lies below the first edge is left out.
    reduction
        ``"mean"`` over samples, shape ``(bands,)``; ``"none"`` keeps one row per sample, ``(batch, bands)``.

    Raises
    ------
    ValueError
        If the shapes differ or do not fit the grid, the edges do not increase, a band holds no mode of the grid, or
        ``reduction`` is unknown.
    """
    _check_fields(prediction, target, grid)
    kinds = Boundary.on(grid, boundary)
    edges = torch.as_tensor(bands, dtype=torch.float64)
    if edges.ndim != 1 or len(edges) == 0 or bool((edges.diff() <= 0).any()):
        raise ValueError(f"`bands` must be increasing numbers, at least one. Got {bands!r}.")
    power, frequency = _spectrum(prediction - target, grid, kinds)
    band = torch.bucketize(frequency, edges.to(frequency.device), right=True)  # 0 is below the first edge
    modes = torch.bincount(band, minlength=len(edges) + 1)[1:]
    if not bool((modes > 0).all()):
        empty = edges[int((modes == 0).nonzero()[0])].item()
        raise ValueError(
            f"`bands` must hold modes of the grid each, whose highest frequency is {frequency.max().item():.4g}. "
            f"Got {tuple(bands)!r}, with none from {empty:g} on."
        )
    error = _sums(power, band, len(edges) + 1)[:, 1:]
    own = _sums(_spectrum(target, grid, kinds)[0], band, len(edges) + 1)[:, 1:]
    whole = _norm(target).square().unsqueeze(1)
    nothing = own <= (NOTHING * torch.finfo(target.dtype).eps) ** 2 * whole
    squared = _ratio(error, torch.where(nothing, whole, own))
    # the root's slope is infinite at zero: leave exact bands out of it
    exact = squared == 0
    return _reduced(torch.where(exact, squared, torch.where(exact, 1.0, squared).sqrt()), reduction)


def _spectrum(u: Tensor, grid: Grid, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Return the energy of every mode, ``(batch, modes)``, and its frequency in half waves per box length."""
    squared_frequency = torch.zeros((), dtype=torch.float64)
    for axis, (n, pair) in enumerate(zip(grid.shape, boundary.kinds, strict=True)):
        on_wall = grid.centring == "vertex" and pair[0] != "periodic"
        basis, frequency = _modes(n, *(("neumann", "neumann") if on_wall else pair))
        moved = u.movedim(axis + 2, -1) @ basis.T.to(u)
        u = moved.movedim(-1, axis + 2)
        squared_frequency = squared_frequency.unsqueeze(-1) + frequency**2
    return u.square().sum(1).flatten(1), squared_frequency.sqrt().flatten().to(u.device)


def _sums(power: Tensor, band: Tensor, num_bands: int) -> Tensor:
    """Return the energy of each band, ``(batch, num_bands)``."""
    return power.new_zeros(power.shape[0], num_bands).index_add(1, band, power)


def _modes(n: int, low: str, high: str) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of n values, one mode per row, and the modes' half waves per box length."""
    i = torch.arange(n, dtype=torch.float64)
    if low == "periodic":
        half_waves = 2.0 * torch.div(i + 1, 2, rounding_mode="floor")  # 0, 2, 2, 4, 4, ...: cosine and sine of each
        phase = math.pi / n * half_waves[:, None] * i
        rows = torch.where((i % 2 == 0)[:, None], phase.cos(), phase.sin())
        rows[-1] = torch.cos(math.pi * i) if n % 2 == 0 else rows[-1]
    else:
        sine_low, sine_high = low == "dirichlet", high == "dirichlet"
        shift = 0.5 if sine_low != sine_high else float(sine_low)
        half_waves = i + shift
        phase = math.pi / n * half_waves[:, None] * (i + 0.5)
        rows = phase.sin() if sine_low else phase.cos()
    return rows / rows.norm(dim=1, keepdim=True), half_waves


def _h1_norm(u: Tensor, grid: Grid, boundary: Boundary, *, with_walls: bool) -> Tensor:
    """Return ``sqrt(|u|^2 + |grad u|^2)`` per sample, ``(batch,)``, up to the cell volume."""
    parts = [u * _root_weights(grid, None, u)]
    for axis, ((low, high), h) in enumerate(zip(boundary.kinds, grid.spacing, strict=True)):
        dim = axis + 2
        weights = _root_weights(grid, axis, u) / h
        if low == "periodic":
            parts.append((u.roll(-1, dim) - u) * weights)
            continue
        parts.append(u.diff(dim=dim) * weights)
        if grid.centring == "cell" and with_walls:
            # (u / (h / 2))^2 over half a cell: twice the weight of a difference inside
            ends = ((low == "dirichlet", 0), (high == "dirichlet", u.shape[dim] - 1))
            parts += [u.narrow(dim, end, 1) * (math.sqrt(2.0) / h) for fixed, end in ends if fixed]
    return torch.cat([part.flatten(1) for part in parts], dim=1).norm(dim=1)


def _root_weights(grid: Grid, skipped_axis: int | None, like: Tensor) -> "Tensor | float":
    """Return the square roots of the trapezoidal weights: a half at the ends of closed vertex axes, else one."""
    weights: Tensor | float = 1.0
    if grid.centring == "cell":
        return weights
    for axis, (n, periodic) in enumerate(zip(grid.shape, grid.periodic, strict=True)):
        if periodic or axis == skipped_axis:
            continue
        line = like.new_ones(n)
        line[0] = line[-1] = math.sqrt(0.5)
        weights = weights * line.reshape(-1, *[1] * (grid.num_axes - 1 - axis))
    return weights


def _norm(u: Tensor) -> Tensor:
    return u.flatten(1).norm(dim=1)


def _ratio(error: Tensor, scale: Tensor) -> Tensor:
    return error / torch.where(scale > 0, scale, torch.ones_like(scale))


def _reduced(per_sample: Tensor, reduction: Reduction) -> Tensor:
    _check.choice("reduction", reduction, ("mean", "none"))
    return per_sample.mean(0) if reduction == "mean" else per_sample


def _check_fields(prediction: Tensor, target: Tensor, grid: Grid | None = None) -> None:
    meaning = "that of the target"
    _check.shape("prediction", prediction.shape, target.shape, meaning)
    if grid is not None:
        _check.shape("target", target.shape, (None, None, *grid.shape), "(batch, channel, *grid.shape)")
