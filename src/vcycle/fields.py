"""Random fields: Gaussian fields in Laplacian eigenbases, and the coefficient families that are made from them."""

import functools
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
import scipy.fft

from vcycle import _check
from vcycle.grid import Grid

Basis = Literal["neumann", "dirichlet", "periodic"]
BASES = ("neumann", "dirichlet", "periodic")


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """The eigenfunctions of one axis: ``cos(k pi x / L)``, ``sin((k + 1) pi x / L)`` or the real Fourier basis.

    Fourier functions are counted 1, cos, sin, cos, sin, ... with wave numbers 0, 1, 1, 2, 2, ...
    """

    basis: Basis
    length: float
    intervals: int
    cells: bool
    closed: bool  # whether the grid closes on itself

    @property
    def num_modes(self) -> int:
        if self.basis == "periodic":
            return (
                2 * ((self.intervals - 1) // 2) + 1
            )  # on an even number of points the Nyquist mode has no sine: dropped
        if self.cells:
            return self.intervals
        return self.intervals + 1 if self.basis == "neumann" else self.intervals - 1

    @property
    def wave_numbers(self) -> np.ndarray:
        k = np.arange(self.num_modes)
        if self.basis == "periodic":
            return 2 * math.pi / self.length * ((k + 1) // 2)
        return math.pi / self.length * (k + (self.basis == "dirichlet"))

    @property
    def norms(self) -> np.ndarray:
        """Factor that makes each function orthonormal in L2 of the axis."""
        return np.where(self.wave_numbers == 0, math.sqrt(1 / self.length), math.sqrt(2 / self.length))

    def at_end(self, *, high: bool) -> np.ndarray:
        """Values of the orthonormal functions at an end of the axis."""
        k = np.arange(self.num_modes)
        if self.basis == "dirichlet":
            return np.zeros(self.num_modes)
        if self.basis == "periodic":
            return self.norms * ((k == 0) | (k % 2 == 1))
        return self.norms * (-1.0) ** k if high else self.norms

    @property
    def scales(self) -> np.ndarray:
        """Factor from orthonormal coefficients to the input of the fast transform."""
        scales = self.norms / 2
        if self.basis == "neumann":
            scales[0] *= 2
        last_is_nyquist = (self.basis == "neumann" and not self.cells) or (self.basis == "dirichlet" and self.cells)
        if last_is_nyquist and self.num_modes > 1:
            scales[-1] *= 2
        if self.basis == "periodic":
            scales[0] *= 2
        return scales

    def to_points(self, scaled: np.ndarray, axis: int) -> np.ndarray:
        """Sum the modes at the points of the grid; ``scaled`` are coefficients times ``scales``."""
        if self.basis == "periodic":
            values = self._fourier(scaled, axis)
            return values if self.cells or self.closed else _join(values, values.take([0], axis), axis)
        if self.basis == "neumann":
            values = scipy.fft.dct(scaled, type=3 if self.cells else 1, axis=axis)
        else:
            values = scipy.fft.dst(scaled, type=3 if self.cells else 1, axis=axis)
            if not self.cells:
                wall = np.zeros_like(values.take([0], axis))
                values = _join(_join(wall, values, axis), wall, axis)
        if not self.cells and self.closed:
            values = values[(slice(None),) * axis + (slice(0, self.intervals),)]
        return values

    def _fourier(self, scaled: np.ndarray, axis: int) -> np.ndarray:
        before = (slice(None),) * axis
        shape = [*scaled.shape]
        shape[axis] = self.intervals // 2 + 1
        spectrum = np.zeros(shape, complex)
        waves = (self.num_modes + 1) // 2
        spectrum.real[(*before, slice(0, 1))] = scaled[(*before, slice(0, 1))]
        spectrum.real[(*before, slice(1, waves))] = scaled[(*before, slice(1, None, 2))]
        spectrum.imag[(*before, slice(1, waves))] = -scaled[(*before, slice(2, None, 2))]
        if self.cells:  # the first point is half a cell from the origin
            phase = np.exp(1j * math.pi * np.arange(shape[axis]) / self.intervals)
            spectrum *= phase.reshape((-1,) + (1,) * (scaled.ndim - axis - 1))
        return scipy.fft.irfft(spectrum, n=self.intervals, axis=axis, norm="forward")


def _join(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([first, second], axis)


@functools.lru_cache(maxsize=64)
def _stream_positions(shape: tuple[int, ...]) -> np.ndarray:
    """Position of each mode in a sample's stream of normals: by shell, row-major inside a shell.

    The shell of a mode is its largest index. Neither the shells nor the order inside them depend on the shape, so that
    the stream of a smaller grid is a prefix of the stream of a larger one.
    """
    cube = (max(shape),) * len(shape)
    shell = np.maximum.reduce(np.indices(cube, np.int32)).ravel()
    positions = np.empty(shell.size, np.intp)
    positions[np.argsort(shell, kind="stable")] = np.arange(shell.size)
    kept = positions.reshape(cube)[tuple(slice(0, n) for n in shape)].copy()
    kept.flags.writeable = False
    return kept


@dataclass(frozen=True)
class GaussianField:
    """A centred Gaussian random field with covariance ``tau^(2 alpha - d) (-Laplace + tau^2)^(-alpha)``.

    The field is the sum over the eigenfunctions of the Laplacian on the box, orthonormal in L2, each with an
    independent normal coefficient of variance ``tau^(2 alpha - d) (lambda_k + tau^2)^(-alpha)``. The coefficient of
    mode k depends on the generator's state and on k only, not on the grid: a draw on a coarse grid is the spectral
    truncation of the draw on a fine grid from an equal generator.

    Parameters
    ----------
    grid
        Where the values are wanted: cells or vertices, 1 to 3 axes, any extents.
    alpha
        Smoothness, dimensionless; more than half the number of axes, or the variance would be infinite.
    tau
        Inverse correlation length, in 1 / unit of length.
    basis
        ``"neumann"`` (cosines), ``"dirichlet"`` (sines) or ``"periodic"`` (sines and cosines; the Nyquist mode of an
        even number of points is dropped); one for all axes or one per axis.
    mean_mode
        Whether the constant mode is drawn too. Without it the mean of the field is zero.

    Raises
    ------
    ValueError
        If ``alpha`` or ``tau`` is out of range, a basis is unknown, the constant mode is asked of a sine basis, or a
        vertex grid has no interior point for a sine basis.

    References
    ----------
    Lindgren, Rue, Lindstroem, J. R. Stat. Soc. B 73 (2011) 423, for the covariance as a power of an elliptic operator.
    """

    grid: Grid
    _: KW_ONLY
    alpha: float
    tau: float
    basis: Basis | tuple[Basis, ...] = "neumann"
    mean_mode: bool = False

    def __post_init__(self) -> None:
        bases = _check.per_axis("basis", self.basis, self.grid.num_axes)
        for basis in bases:
            _check.choice("basis", basis, BASES)
        object.__setattr__(self, "basis", bases)
        object.__setattr__(self, "tau", _check.positive("tau", self.tau))
        object.__setattr__(self, "alpha", _check.positive("alpha", self.alpha))
        if self.alpha <= self.grid.num_axes / 2:
            raise ValueError(
                f"`alpha` must be more than {self.grid.num_axes / 2} on {self.grid.num_axes} axes. Got {self.alpha}."
            )
        if self.mean_mode and "dirichlet" in bases:
            raise ValueError("`mean_mode` must be False for a Dirichlet basis, which has no constant mode. Got True.")
        if any(axis.num_modes < 1 for axis in _axes(self)):
            raise ValueError(
                f"`grid` must have an interior vertex on every Dirichlet axis. Got shape {self.grid.shape}."
            )

    @classmethod
    def natural(cls, grid: Grid, *, alpha: float, tau: float, mean_mode: bool = False) -> "GaussianField":
        """Return the field that is periodic where the grid is and has zero slope at the other faces."""
        return _natural(grid, alpha, tau, mean_mode=mean_mode)

    @property
    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues of the negative Laplacian, one axis per space axis, in 1 / length^2."""
        squares = (axis.wave_numbers**2 for axis in _axes(self))
        return functools.reduce(np.add.outer, squares)

    @property
    def variances(self) -> np.ndarray:
        """Variance of the coefficient of each mode, shaped like :attr:`eigenvalues`; 0 for a dropped constant mode."""
        eigenvalues = self.eigenvalues
        variances = self.tau ** (2 * self.alpha - self.grid.num_axes) * (eigenvalues + self.tau**2) ** -self.alpha
        return variances if self.mean_mode else np.where(eigenvalues == 0, 0.0, variances)

    def coefficients(self, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficients of the orthonormal eigenfunctions, shaped like :attr:`eigenvalues`."""
        deviations, _, positions = _tables(self)
        drawn = generator.standard_normal(max(positions.shape) ** positions.ndim).take(positions)
        drawn *= deviations
        return drawn

    def values(self, coefficients: np.ndarray) -> np.ndarray:
        """Sum the modes at the points of the grid, float64, of the grid's shape.

        Raises
        ------
        ValueError
            If the coefficients are not shaped like :attr:`eigenvalues`.
        """
        scales = _tables(self)[1]
        _check.shape("coefficients", coefficients.shape, scales.shape, "one per mode")
        return self._summed(coefficients * scales)

    def _summed(self, scaled: np.ndarray) -> np.ndarray:
        """Sum the modes of coefficients that are scaled for the fast transforms; the array may be overwritten."""
        axes = _axes(self)
        if all(axis.basis == "neumann" and axis.cells for axis in axes):  # one call for all axes, to the same bits
            return scipy.fft.dctn(scaled, type=3, overwrite_x=True)
        for number, axis in enumerate(axes):
            scaled = axis.to_points(scaled, number)
        return scaled

    def trace(self, coefficients: np.ndarray, face: str) -> np.ndarray:
        """Sum the modes on a face of the box such as ``"x_low"``; the face's own axis is dropped from the shape.

        Raises
        ------
        ValueError
            If the grid has no such face, or the coefficients are not shaped like :attr:`eigenvalues`.
        """
        _check.shape("coefficients", coefficients.shape, _tables(self)[1].shape, "one per mode")
        names = [f"{name}_{end}" for name in self.grid.axis_names for end in ("low", "high")]
        normal = names.index(_check.choice("face", face, names)) // 2
        axes = _axes(self)
        values = np.tensordot(coefficients, axes[normal].at_end(high=face.endswith("high")), (normal, 0))
        for number, axis in enumerate(axes[:normal] + axes[normal + 1 :]):
            scales = axis.scales.reshape((-1,) + (1,) * (values.ndim - number - 1))
            values = axis.to_points(values * scales, number)
        return values

    def sample(self, generator: np.random.Generator) -> np.ndarray:
        """Draw one field, float64, of the grid's shape."""
        drawn = self.coefficients(generator)
        drawn *= _tables(self)[1]
        return self._summed(drawn)


@functools.lru_cache(maxsize=64, typed=True)
def _natural(grid: Grid, alpha: float, tau: float, *, mean_mode: bool) -> GaussianField:
    """Return :meth:`GaussianField.natural`, checked once: coefficient families ask for it with every draw."""
    bases: tuple[Basis, ...] = tuple("periodic" if p else "neumann" for p in grid.periodic)
    return GaussianField(grid, alpha=alpha, tau=tau, basis=bases, mean_mode=mean_mode)


@functools.lru_cache(maxsize=64)
def _axes(field: GaussianField) -> tuple[_Axis, ...]:
    grid, cells = field.grid, field.grid.centring == "cell"
    parts = zip(field.basis, grid.extent, grid.num_intervals, grid.periodic, strict=True)
    return tuple(
        _Axis(basis=basis, length=length, intervals=n, cells=cells, closed=closed)  # type: ignore[arg-type]
        for basis, length, n, closed in parts
    )


@functools.lru_cache(maxsize=64)
def _tables(field: GaussianField) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return standard deviations, transform factors and stream positions of all modes: what every draw needs again."""
    scales = functools.reduce(np.multiply.outer, [axis.scales for axis in _axes(field)])
    tables = (np.sqrt(field.variances), scales, _stream_positions(scales.shape))
    for table in tables:
        table.flags.writeable = False
    return tables


def two_phase(field: np.ndarray, *, high: float = 12.0, low: float = 3.0) -> np.ndarray:
    """Return ``high`` where ``field`` is at least 0 and ``low`` elsewhere; same shape, in the unit of these values."""
    return np.where(field >= 0, _check.positive("high", high), _check.positive("low", low))


def lognormal(field: np.ndarray, *, median: float = 1.0, sigma: float = 1.0) -> np.ndarray:
    """Return ``median * exp(sigma * field)``; same shape, in the unit of ``median``; ``sigma`` is dimensionless."""
    return _check.positive("median", median) * np.exp(_check.positive("sigma", sigma) * field)


def trigonometric(
    grid: Grid, generator: np.random.Generator, *, levels: int = 6, allow_unresolved: bool = False
) -> np.ndarray:
    """Draw a multiscale trigonometric coefficient on a 2-D grid, dimensionless, positive, of the grid's shape.

    Pinned is the random product over k = 1 .. levels of ``(1 + cos(a_k pi (x + y)) / 2) (1 + sin(a_k pi (y - 3 x)) /
    2)``, ``a_k`` uniform in ``[2^(k-1), 1.5 * 2^(k-1))``, with six levels by default. Its fastest term, where all
    angles add up, has at most ``6 (2^levels - 1)`` half waves per unit of length along x and ``3 (2^levels - 1)`` along
    y: 378 and 189 for six levels. The smallest unit square that resolves it, more than one point per half wave, is
    therefore 379 x 190 (:func:`trigonometric_shape`); 187 x 94 for five levels, 91 x 46 for four, 43 x 22 for three.

    Parameters
    ----------
    grid
        A grid with two axes; the unit of length is that of its extent.
    generator
        Draws the ``levels`` numbers ``a_k``.
    levels
        Number of scales.
    allow_unresolved
        Whether a grid that is too coarse gets the values at its points nevertheless, aliased.

    Raises
    ------
    ValueError
        If the grid has not two axes, or is too coarse and ``allow_unresolved`` is False.
    """
    check_trigonometric(grid, levels=levels, allow_unresolved=allow_unresolved)
    x, y = grid.mesh()
    result = np.ones(grid.shape)
    for scale, u in zip(2.0 ** np.arange(levels), generator.random(levels), strict=True):
        angle = math.pi * scale * (1 + u / 2)
        result *= (1 + 0.5 * np.cos(angle * (x + y))) * (1 + 0.5 * np.sin(angle * (y - 3 * x)))
    return result


def check_trigonometric(grid: Grid, *, levels: int = 6, allow_unresolved: bool = False) -> None:
    """Raise the ValueError that :func:`trigonometric` would raise, without a draw."""
    if grid.num_axes != 2:
        raise ValueError(f"`grid` must have 2 axes for the trigonometric coefficient. Got {grid.num_axes}.")
    needed = trigonometric_shape(grid.extent, levels=levels)
    if not allow_unresolved and any(n < m for n, m in zip(grid.num_intervals, needed, strict=True)):
        raise ValueError(
            f"`grid` must have at least {needed[0]} x {needed[1]} intervals to resolve {levels} levels; "
            f"take fewer `levels` or `allow_unresolved=True`. Got {grid.num_intervals[0]} x {grid.num_intervals[1]}."
        )


def trigonometric_shape(extent: Sequence[float], *, levels: int = 6) -> tuple[int, int]:
    """Return the smallest numbers of intervals that resolve :func:`trigonometric` on a box of this extent."""
    # the sum of the largest a_k, in half waves per unit of length
    fastest = 1.5 * (2 ** _check.integer("levels", levels, 1) - 1)
    along_x, along_y = extent
    return math.floor(4 * fastest * along_x) + 1, math.floor(2 * fastest * along_y) + 1


def inclusions(
    grid: Grid,
    generator: np.random.Generator,
    *,
    inside: float = 10.0,
    outside: float = 1.0,
    num: int = 12,
    radius: tuple[float, float] = (0.05, 0.12),
    overlapping: bool = True,
) -> np.ndarray:
    """Draw balls (discs in 2-D, intervals in 1-D) of one value in a background of another, of the grid's shape.

    A point belongs to a ball if it lies in it; on periodic axes balls continue on the other side. Centres are uniform
    in the box and radii uniform in ``radius``; they do not depend on the grid's resolution.

    Parameters
    ----------
    grid
        Cells or vertices, 1 to 3 axes.
    generator
        Draws centres and radii.
    inside, outside
        The two positive values, in the unit of the coefficient.
    num
        Number of balls.
    radius
        Smallest and largest radius, in the unit of length.
    overlapping
        Whether balls may overlap. If not, a ball that meets an earlier one is drawn again; ``1000 num`` draws at most.

    Raises
    ------
    ValueError
        If an argument is out of range, or the balls do not find room without overlap.
    """
    inside, outside = _check.positive("inside", inside), _check.positive("outside", outside)
    smallest, largest = (_check.positive("radius", r) for r in radius)
    if smallest > largest:
        raise ValueError(f"`radius` must be the smallest and the largest radius. Got {radius}.")
    centres, radii = np.empty((0, grid.num_axes)), np.empty(0)
    for _ in range(1000 * _check.integer("num", num, 1)):
        centre, r = generator.random(grid.num_axes) * grid.extent, generator.uniform(smallest, largest)
        if overlapping or bool(np.all(_distance(grid, list(centres.T), centre) >= radii + r)):
            centres, radii = np.vstack([centres, centre]), np.append(radii, r)
        if len(radii) == num:
            break
    else:
        raise ValueError(f"`num` must be small enough for the balls to find room. Got {num}, room for {len(radii)}.")
    points = grid.mesh()
    covered = np.zeros(grid.shape, bool)
    for centre, r in zip(centres, radii, strict=True):
        covered |= _distance(grid, points, centre) <= r
    return np.where(covered, inside, outside)


def _distance(grid: Grid, points: Sequence[np.ndarray], centre: np.ndarray) -> np.ndarray:
    """Return the distance of points, one array per axis, to a centre; the shorter way round on periodic axes."""
    total: np.ndarray | float = 0.0
    for x, c, length, periodic in zip(points, centre, grid.extent, grid.periodic, strict=True):
        offset = np.abs(x - c)
        total = total + (np.minimum(offset, length - offset) if periodic else offset) ** 2
    return np.sqrt(total)
