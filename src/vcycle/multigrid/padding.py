"""What lies beyond the wall of a tensor: ghost values that follow the boundary kind, the centring and the grid's level.

A convolution, a restriction and a prolongation meet the same wall, so all of them pad by the same rule. Where a size
does not halve, the last coarse point lies at another distance from the wall than the last fine one; the ghost value
follows that distance, so that the wall stays where it is on every level.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Centring

Rule = Literal["value", "slope", "wrap", "zero"]
"""``value``: the function vanishes at the wall; ``slope``: its slope does; ``wrap`` closes the axis; ``zero``: zero."""

_RULES: dict[str, Rule] = {
    "dirichlet": "value",
    "neumann": "slope",
    "robin": "slope",
    "absorbing": "slope",
    "periodic": "wrap",
}


@dataclass(frozen=True)
class Ghost:
    """The ghost value next to the end of an axis, as a combination of three values of that axis (dimensionless).

    Parameters
    ----------
    edge, inner, opposite
        Weights of the outermost value, of its inner neighbour and of the outermost value at the other end.
    """

    edge: float = 0.0
    inner: float = 0.0
    opposite: float = 0.0

    @classmethod
    def of(cls, rule: Rule, distance: float) -> "Ghost":
        """Return the weights for a wall ``distance`` spacings beyond the outermost value.

        ``value``: the line through the outermost value and zero at the wall; ``slope``: the parabola through two values
        that is level at the wall. At half a spacing these are the odd and the even reflection, on the outermost value
        the reflections about it. ``wrap``: linear between the two ends of the axis, ``distance`` apart.
        """
        if rule == "wrap":
            return cls(edge=1.0 - 1.0 / distance, opposite=1.0 / distance)
        if rule == "slope":
            return cls(
                edge=4.0 * distance / (2.0 * distance + 1.0), inner=(1.0 - 2.0 * distance) / (1.0 + 2.0 * distance)
            )
        if rule == "value":
            return cls(inner=-1.0) if distance == 0.0 else cls(edge=(distance - 1.0) / distance)
        return cls()


@dataclass(frozen=True)
class Padding:
    """Ghost values for tensors ``(batch, channel, *space)`` on one grid of a hierarchy.

    Parameters
    ----------
    rules
        Per axis the rules at the low and at the high end.
    distances
        Per axis, in spacings of this grid, from the last point to the wall; on a periodic axis to the first point.
    offset
        From the low wall to the first point, in spacings of every grid: 1/2 for cells, 0 for vertices.
    """

    rules: tuple[tuple[Rule, Rule], ...]
    distances: tuple[float, ...]
    offset: float = 0.5

    @classmethod
    def of(cls, boundary: Boundary, centring: Centring) -> "Padding":
        """Return the padding of an unknown with these boundary kinds on cells or vertices.

        Dirichlet: odd reflection, on cells at the face, on vertices at the outermost one. Neumann: even reflection.
        Robin and absorbing faces are padded like Neumann ones.
        """
        offset = 0.5 if centring == "cell" else 0.0
        rules = tuple((_RULES[low], _RULES[high]) for low, high in boundary.kinds)
        return cls(rules, tuple(1.0 if periodic else offset for periodic in boundary.periodic), offset)

    @classmethod
    def zeros(cls, num_axes: int) -> "Padding":
        """Return zero padding on every face and of every level, as the reference MgNO uses it."""
        return cls((("zero", "zero"),) * num_axes, (0.5,) * num_axes)

    @property
    def num_axes(self) -> int:
        """Number of space dimensions."""
        return len(self.rules)

    @property
    def is_zero(self) -> bool:
        """Whether a convolution's own zero padding does the same."""
        return all(rule == "zero" for pair in self.rules for rule in pair)

    def ghosts(self, axis: int) -> tuple[Ghost, Ghost]:
        """Return the weights of the ghost values at the two ends of an axis."""
        low, high = self.rules[axis]
        distance = self.distances[axis]
        return Ghost.of(low, distance if low == "wrap" else self.offset), Ghost.of(high, distance)

    def coarsened(self, shape: tuple[int, ...]) -> tuple["Padding", tuple[int, ...]]:
        """Return the padding and the shape of the grid with twice the spacing.

        Coarse cells are pairs of fine ones, coarse vertices every second fine one, from the low wall on. Up at the high
        wall a last point stays if it is on the wall of a vertex grid or at least half a coarse spacing away from it:
        closer ones would have unbounded ghosts. With zero padding every grid has ``ceil(n / 2)`` points.
        """
        ends = [self._coarse_end(axis, size) for axis, size in enumerate(shape)]
        return replace(self, distances=tuple(d for _, d in ends)), tuple(n for n, _ in ends)

    def _coarse_end(self, axis: int, size: int) -> tuple[int, float]:
        rule, distance = self.rules[axis][1], self.distances[axis]
        # all but the number of pairs follows from the parity: so sizes may be symbols, as when a model is exported
        half, odd = size // 2, int(size % 2)
        if rule == "zero":
            return half + odd, distance
        if rule == "wrap":
            period = (odd - 1 + distance) / 2  # in coarse spacings, without the pairs; halves are exact in binary
            last = max(half + math.floor(period), 1)
            return last, period + int(half - last) + 1.0
        wall = (odd - 1 + distance - self.offset) / 2  # from the first coarse point, without the pairs
        if self.offset == 0.0 and wall == int(wall):
            return half + int(wall) + 1, 0.0
        last = max(half + math.floor(wall + 0.5) - 1, 0)
        return last + 1, wall + int(half - last)

    def hierarchy(self, shape: tuple[int, ...], levels: int) -> list[tuple["Padding", tuple[int, ...]]]:
        """Return padding and shape of every level, from this grid of the given shape to the coarsest."""
        if torch.compiler.is_compiling():
            return _hierarchy(self, shape, levels)
        return _known_hierarchy(self, shape, levels)

    def pad(self, u: Tensor) -> Tensor:
        """Return ``u`` with one ghost value at both ends of every axis.

        The result lies channels-last: convolutions are fastest so.
        """
        if torch.compiler.is_compiling():
            return self._joined(u)
        batch, channels, *shape = u.shape
        padded = u.new_empty((batch, *(n + 2 for n in shape), channels)).movedim(-1, 1)
        padded[_inside(self.num_axes)] = u
        for moves in _plan(self, tuple(shape)):
            for move in moves:
                target = padded[move.target]
                if move.more:
                    target.add_(padded[move.source], alpha=move.weight)
                elif move.weight:
                    target.copy_(padded[move.source])
                    if move.weight != 1.0:
                        target.mul_(move.weight)
                else:
                    target.zero_()
        return padded

    def fold(self, padded: Tensor) -> Tensor:
        """Apply the transpose of :meth:`pad`; overwrites ``padded`` and returns a part of it."""
        for moves in reversed(_plan(self, tuple(n - 2 for n in padded.shape[2:]))):
            for move in moves:
                if move.weight:
                    padded[move.source].add_(padded[move.target], alpha=move.weight)
        return padded[_inside(self.num_axes)]

    def _joined(self, u: Tensor) -> Tensor:
        """Return what :meth:`pad` does without writing into a tensor: for compilers and exporters."""
        for axis in range(self.num_axes):
            dim, size = axis + 2, u.shape[axis + 2]
            ends = [u.narrow(dim, 0, 1), u.narrow(dim, size - 1, 1)]
            ghosts = self.ghosts(axis)
            inner = ends  # a single point is its own neighbour
            if any(ghost.inner for ghost in ghosts) and size > 1:
                inner = [u.narrow(dim, 1, 1), u.narrow(dim, size - 2, 1)]
            outside = []
            for ghost, end, near, far in zip(ghosts, ends, inner, reversed(ends), strict=True):
                terms = [(w, v) for w, v in ((ghost.edge, end), (ghost.inner, near), (ghost.opposite, far)) if w]
                outside.append(sum((w * v for w, v in terms[1:]), terms[0][0] * terms[0][1]) if terms else 0.0 * end)
            u = torch.cat([outside[0], u, outside[1]], dim)
        return u


def _hierarchy(padding: Padding, shape: tuple[int, ...], levels: int) -> list[tuple[Padding, tuple[int, ...]]]:
    grids = [(padding, shape)]
    for _ in range(levels - 1):
        padding, shape = padding.coarsened(shape)
        grids.append((padding, shape))
    return grids


_known_hierarchy = lru_cache(maxsize=256)(_hierarchy)


def _inside(num_axes: int) -> tuple[slice, ...]:
    return (_ALL, _ALL, *(_INSIDE for _ in range(num_axes)))


@lru_cache(maxsize=1024)
def _plan(padding: Padding, shape: tuple[int, ...]) -> tuple[tuple["_Move", ...], ...]:
    """Return per axis the steps that fill its ghosts; axes follow each other, so later ones are still without."""

    def move(axis: int, target: slice, source: slice, weight: float, *, more: bool = False) -> _Move:
        later = (_INSIDE,) * (padding.num_axes - axis - 1)
        before = (_ALL,) * (axis + 2)
        return _Move((*before, target, *later), (*before, source, *later), weight, more)

    plan: list[tuple[_Move, ...]] = []
    for axis, size in enumerate(shape):
        low, high = padding.ghosts(axis)
        if low == high and low.inner == low.opposite == 0.0 and size > 1:  # both ends in one step
            plan.append((move(axis, slice(0, None, size + 1), slice(1, size + 1, size - 1), low.edge),))
            continue
        inner = min(2, size)  # a single point is its own neighbour
        moves = []
        for ghost, target, places in (
            (low, 0, (1, inner, size)),
            (high, size + 1, (size, size + 1 - inner, 1)),
        ):
            terms = [t for t in zip((ghost.edge, ghost.inner, ghost.opposite), places, strict=True) if t[0]]
            for i, (weight, source) in enumerate(terms or [(0.0, 1)]):
                ends = slice(target, target + 1), slice(source, source + 1)
                moves.append(move(axis, *ends, weight, more=i > 0))
        plan.append(tuple(moves))
    return tuple(plan)


_ALL, _INSIDE = slice(None), slice(1, -1)


class _Move(NamedTuple):
    """``target = weight * source``, or ``+=`` where there is more than one source; indices of the padded tensor."""

    target: tuple[slice, ...]
    source: tuple[slice, ...]
    weight: float
    more: bool
