"""Families of random diffusion coefficients: small immutable recipes with a name and JSON-ready parameters."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from vcycle import _check, fields
from vcycle.grid import Grid


class _Family(ABC):
    """What every family does."""

    @abstractmethod
    def draw(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficient, of the grid's shape."""

    def check(self, grid: Grid) -> None:
        """Raise the ValueError that :meth:`draw` would raise on this grid."""
        smallest = Grid((2,) * grid.num_axes, grid.extent, grid.centring, grid.periodic)  # enough for the arguments
        self.draw(smallest, np.random.default_rng(0))


@dataclass(frozen=True)
class TwoPhase(_Family):
    """``high`` where a Gaussian field is at least 0, ``low`` elsewhere: the Darcy benchmark of the FNO papers.

    The field is :meth:`vcycle.fields.GaussianField.natural` with ``alpha`` (dimensionless) and ``tau`` (1 / length).
    """

    name: ClassVar[str] = "two-phase"
    high: float = 12.0
    low: float = 3.0
    alpha: float = 2.0
    tau: float = 3.0

    def draw(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficient, of the grid's shape."""
        field = fields.GaussianField.natural(grid, alpha=self.alpha, tau=self.tau).sample(generator)
        return fields.two_phase(field, high=self.high, low=self.low)


@dataclass(frozen=True)
class Lognormal(_Family):
    """``median * exp(sigma g)`` with a Gaussian field g, :meth:`vcycle.fields.GaussianField.natural`."""

    name: ClassVar[str] = "lognormal"
    median: float = 1.0
    sigma: float = 1.0
    alpha: float = 2.0
    tau: float = 3.0

    def draw(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficient, of the grid's shape."""
        field = fields.GaussianField.natural(grid, alpha=self.alpha, tau=self.tau).sample(generator)
        return fields.lognormal(field, median=self.median, sigma=self.sigma)


@dataclass(frozen=True)
class Trigonometric(_Family):
    """The multiscale product of :func:`vcycle.fields.trigonometric`; 2-D only, and the grid must resolve the levels."""

    name: ClassVar[str] = "trigonometric"
    levels: int = 6
    allow_unresolved: bool = False

    def check(self, grid: Grid) -> None:
        """Raise the ValueError that :meth:`draw` would raise on this grid."""
        fields.check_trigonometric(grid, levels=self.levels, allow_unresolved=self.allow_unresolved)

    def draw(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficient, of the grid's shape."""
        return fields.trigonometric(grid, generator, levels=self.levels, allow_unresolved=self.allow_unresolved)


@dataclass(frozen=True)
class Inclusions(_Family):
    """Balls of one value in a background of another: :func:`vcycle.fields.inclusions`."""

    name: ClassVar[str] = "inclusions"
    inside: float = 10.0
    outside: float = 1.0
    num: int = 12
    radius: tuple[float, float] = (0.05, 0.12)
    overlapping: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.radius, Sequence) or isinstance(self.radius, str) or len(self.radius) != 2:
            raise ValueError(f"`radius` must be the smallest and the largest of the disks. Got {self.radius!r}.")
        object.__setattr__(self, "radius", tuple(self.radius))

    def draw(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficient, of the grid's shape."""
        return fields.inclusions(
            grid,
            generator,
            inside=self.inside,
            outside=self.outside,
            num=self.num,
            radius=self.radius,
            overlapping=self.overlapping,
        )


Coefficient = TwoPhase | Lognormal | Trigonometric | Inclusions
COEFFICIENTS: dict[str, type[Coefficient]] = {
    "two-phase": TwoPhase,
    "lognormal": Lognormal,
    "trigonometric": Trigonometric,
    "inclusions": Inclusions,
}


def read_coefficient(coefficient: "Coefficient | str | Mapping[str, Any]") -> Coefficient:
    """Return a family from itself, from its name, or from the description that :func:`describe_coefficient` gives.

    Raises
    ------
    ValueError
        If the name is unknown, or a parameter is none of the family's.
    TypeError
        If it is something else.
    """
    if isinstance(coefficient, Coefficient):
        return coefficient
    if isinstance(coefficient, str):
        return COEFFICIENTS[_check.choice("coefficient", coefficient, COEFFICIENTS)]()
    if not isinstance(coefficient, Mapping):
        raise TypeError(f"`coefficient` must be a name, a description or a coefficient family. Got {coefficient!r}.")
    _check.keys("coefficient", coefficient, None, required=("name",))
    family = COEFFICIENTS[_check.choice("coefficient", coefficient["name"], COEFFICIENTS)]
    parameters = {key: value for key, value in coefficient.items() if key != "name"}
    for key in parameters:
        _check.choice(f"coefficient parameter of {family.name}", key, family.__dataclass_fields__)
    return family(**parameters)


def describe_coefficient(coefficient: Coefficient) -> dict[str, Any]:
    """Return a JSON-ready description of a family."""
    parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(coefficient).items()}
    return {"name": coefficient.name, **parameters}
