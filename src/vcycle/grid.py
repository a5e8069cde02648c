"""Where the values of a field live: a uniform grid of cells or vertices. No other module computes a coordinate."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vcycle import _check

Centring = Literal["cell", "vertex"]
AXIS_NAMES = ("x", "y", "z")


@dataclass(frozen=True)
class Grid:
    """A uniform rectangular grid with one to three axes; the lower corner is the origin.

    Parameters
    ----------
    shape
        Number of points per axis. Cell grids count cells. Vertex grids count vertices, end points included, except on
        periodic axes, where the last vertex is the first.
    extent
        Length of the box, one value or one per axis, in the unit of length.
    centring
        ``"cell"`` puts values at cell centres, ``"vertex"`` at corners.
    periodic
        Whether the box closes on itself, one value or one per axis.

    Raises
    ------
    ValueError
        If there are no or more than three axes, an axis has fewer than 2 points, or an extent is not positive.
    """

    shape: tuple[int, ...]
    extent: tuple[float, ...] = 1.0  # type: ignore[assignment]  # one value stands for all axes
    centring: Centring = "cell"
    periodic: tuple[bool, ...] = False  # type: ignore[assignment]

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        if not 1 <= len(shape) <= len(AXIS_NAMES):
            raise ValueError(f"`shape` must have 1 to 3 axes. Got {shape}.")
        extent = _check.per_axis("extent", self.extent, len(shape))
        periodic = _check.per_axis("periodic", self.periodic, len(shape))
        _check.choice("centring", self.centring, ("cell", "vertex"))
        object.__setattr__(self, "shape", tuple(_check.integer("shape", n, 2) for n in shape))
        object.__setattr__(self, "extent", tuple(_check.positive("extent", length) for length in extent))
        for flag in periodic:
            _check.instance("periodic", flag, (bool, np.bool_), "True or False")
        object.__setattr__(self, "periodic", tuple(bool(p) for p in periodic))

    @property
    def num_axes(self) -> int:
        """Number of space dimensions."""
        return len(self.shape)

    @property
    def num_points(self) -> int:
        """Number of values of a scalar field."""
        return math.prod(self.shape)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """``("x",)``, ``("x", "y")`` or ``("x", "y", "z")``, in the order of ``shape``."""
        return AXIS_NAMES[: self.num_axes]

    @property
    def num_intervals(self) -> tuple[int, ...]:
        """Number of mesh intervals per axis: cells, whatever the centring."""
        closed = (self.centring == "vertex" and not p for p in self.periodic)
        return tuple(n - 1 if c else n for n, c in zip(self.shape, closed, strict=True))

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbours per axis, in the unit of length."""
        return tuple(length / n for length, n in zip(self.extent, self.num_intervals, strict=True))

    @property
    def cell_volume(self) -> float:
        """Product of the spacings: length, area or volume of a cell."""
        return math.prod(self.spacing)

    def coordinates(self) -> tuple[np.ndarray, ...]:
        """Coordinates of the points, one float64 array ``(n,)`` per axis, in the unit of length."""
        offset = 0.5 if self.centring == "cell" else 0.0
        return tuple((np.arange(n) + offset) * h for n, h in zip(self.shape, self.spacing, strict=True))

    def mesh(self) -> tuple[np.ndarray, ...]:
        """Coordinates of all points, one float64 array of the grid's shape per axis."""
        return tuple(np.meshgrid(*self.coordinates(), indexing="ij"))

    def coarsened(self) -> "Grid":
        """Return the grid with half as many intervals on every axis.

        Raises
        ------
        ValueError
            If an axis has an odd number of intervals, or too few to halve: classical hierarchies stop there.
        """
        if not self.can_coarsen:
            raise ValueError(
                f"`shape` must have an even number of intervals, at least 4, to be coarsened. Got {self.shape}."
            )
        return self._with_intervals(tuple(n // 2 for n in self.num_intervals))

    @property
    def can_coarsen(self) -> bool:
        """Whether :meth:`coarsened` has an answer."""
        return all(n % 2 == 0 and n >= 4 for n in self.num_intervals)

    def refined(self, factor: int = 2) -> "Grid":
        """Return the grid with ``factor`` times as many intervals on every axis."""
        return self._with_intervals(tuple(n * factor for n in self.num_intervals))

    def _with_intervals(self, intervals: tuple[int, ...]) -> "Grid":
        closed = (self.centring == "vertex" and not p for p in self.periodic)
        shape = tuple(n + 1 if c else n for n, c in zip(intervals, closed, strict=True))
        return Grid(shape, self.extent, self.centring, self.periodic)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; ``Grid(**grid.to_dict())`` gives the grid back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
