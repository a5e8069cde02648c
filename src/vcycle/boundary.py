"""What the unknown does at the faces of the box. The kind belongs to the problem's unknown, values to its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vcycle import _check
from vcycle.grid import AXIS_NAMES, Grid

Kind = Literal["dirichlet", "neumann", "robin", "absorbing", "periodic"]
KINDS = ("dirichlet", "neumann", "robin", "absorbing", "periodic")


@dataclass(frozen=True)
class Boundary:
    """A kind per face: one ``(low, high)`` pair per axis.

    Build it with :meth:`of`, which reads one word, one word per axis or one pair per axis.

    Raises
    ------
    ValueError
        If an axis has no pair, a kind is unknown, or only one face of an axis is periodic.
    """

    kinds: tuple[tuple[Kind, Kind], ...]

    def __post_init__(self) -> None:
        for name, pair in zip(AXIS_NAMES, self.kinds, strict=False):
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise ValueError(f"`boundary` must be one kind or a (low, high) pair on axis {name}. Got {pair!r}.")
            for kind in pair:
                _check.choice("boundary", kind, KINDS)
            if (pair[0] == "periodic") != (pair[1] == "periodic"):
                raise ValueError(f"`boundary` must be periodic on both faces of axis {name} or on none. Got {pair}.")

    @classmethod
    def of(cls, kinds: "Boundary | str | Sequence[Any]", num_axes: int) -> "Boundary":
        """Read one word for all faces, or per axis one word or a ``(low, high)`` pair.

        Raises
        ------
        ValueError
            If it is none of these, or does not fit the number of axes.
        """
        if isinstance(kinds, Boundary):
            if len(kinds.kinds) != num_axes:
                raise ValueError(f"`boundary` must have {num_axes} axes. Got {kinds}.")
            return kinds
        pairs = _check.per_axis("boundary", kinds, num_axes)
        return cls(tuple((p, p) if isinstance(p, str) else tuple(p) if isinstance(p, list) else p for p in pairs))

    @classmethod
    def on(cls, grid: Grid, kinds: "Boundary | str | Sequence[Any]") -> "Boundary":
        """Read as :meth:`of`, with the grid's periodic axes set to periodic.

        Raises
        ------
        ValueError
            If an axis is called periodic that the grid does not close.
        """
        read = cls.of(kinds, grid.num_axes)
        around: tuple[Kind, Kind] = ("periodic", "periodic")
        closed = tuple(around if p else pair for p, pair in zip(grid.periodic, read.kinds, strict=True))
        for name, periodic, pair in zip(AXIS_NAMES, grid.periodic, closed, strict=False):
            if not periodic and pair[0] == "periodic":
                raise ValueError(
                    f"`boundary` is periodic on axis {name}, so `grid.periodic` must be True there. Got False."
                )
        return cls(closed)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each axis is periodic."""
        return tuple(low == "periodic" for low, _ in self.kinds)

    @property
    def fixes_constant(self) -> bool:
        """Whether some face holds the value of the unknown, so that a constant is not in the kernel of a Laplacian."""
        return any(kind in ("dirichlet", "robin", "absorbing") for pair in self.kinds for kind in pair)

    def __str__(self) -> str:
        words = {kind for pair in self.kinds for kind in pair}
        if len(words) == 1:
            return words.pop()
        return ", ".join(f"{name}: {low}/{high}" for name, (low, high) in zip(AXIS_NAMES, self.kinds, strict=False))

    def to_list(self) -> list[list[str]]:
        """Return a JSON-ready description; ``Boundary.of(description, num_axes)`` gives the boundary back."""
        return [list(pair) for pair in self.kinds]
