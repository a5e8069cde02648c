"""The multigrid cycle: one function, for solvers and for networks.

Classical multigrid restricts the residual and starts the coarse level from zero; the published MgNO restricts ``f`` and
``u`` themselves. Both are levels of the same cycle: what a level hands down is its own affair.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

CycleKind = Literal["backslash", "V", "W", "F"]
CYCLE_KINDS = ("backslash", "V", "W", "F")


class Level(Protocol):
    """What the cycle asks of a level. The coarsest level is asked to smooth only: there, smoothing may be a solve."""

    def smooth(self, f: Tensor, u: Tensor | None, *, post: bool = False) -> Tensor:
        """Improve ``u`` as a solution of ``A u = f``, before or after the coarse correction; ``None`` is zero."""
        ...

    def restrict(self, f: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the coarse level's right-hand side and starting value."""
        ...

    def correct(self, u: Tensor, u_coarse: Tensor) -> Tensor:
        """Return ``u + P u_coarse``; the level sees ``u`` because its size, even or odd, decides the crop."""
        ...


def cycle(levels: Sequence[Level], f: Tensor, u: Tensor | None = None, kind: CycleKind = "V") -> Tensor:
    """Run one multigrid cycle for ``A u = f`` and return the new ``u``.

    Parameters
    ----------
    levels
        From the finest to the coarsest; at least one.
    f
        Right-hand side on the finest level, in the layout that the levels agree on.
    u
        Starting value; ``None`` is zero, and saves a product with ``A``.
    kind
        ``"backslash"`` smooths on the way down only, ``"V"`` on both ways; ``"W"`` visits the coarse level twice,
        ``"F"`` once by an F- and once by a V-cycle.
    """
    level, coarser = levels[0], levels[1:]
    u = level.smooth(f, u)
    if not coarser:
        return u
    f_coarse, u_coarse = level.restrict(f, u)
    for visit in _VISITS[kind]:
        u_coarse = cycle(coarser, f_coarse, u_coarse, visit)
        if len(coarser) == 1:
            break  # the coarsest level needs no second visit: it is smoothed, or solved, once
    u = level.correct(u, u_coarse)  # type: ignore[arg-type]
    return u if kind == "backslash" else level.smooth(f, u, post=True)


_VISITS: dict[str, tuple[CycleKind, ...]] = {
    "backslash": ("backslash",),
    "V": ("V",),
    "W": ("W", "W"),
    "F": ("F", "V"),
}
