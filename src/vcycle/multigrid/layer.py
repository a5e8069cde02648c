"""The learned layer W_Mg: the multigrid cycle with every stencil free (MgNO, section 3.2).

Notation of the paper: ``A`` maps u to f, the smoother ``S`` maps f to u, ``R`` and ``Pi`` restrict f and u, ``P``
prolongs u. Every one is a convolution over all channels, with weights of its own at every level and every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vcycle.multigrid.cycle import CycleKind, Level, cycle
from vcycle.multigrid.padding import Padding
from vcycle.multigrid.transfers import apply_stencil, prolong


class Stencil(nn.Module):
    """A convolution without bias, 3 or 4 wide; see :func:`~vcycle.multigrid.transfers.apply_stencil`."""

    def __init__(self, in_channels: int, out_channels: int, num_axes: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *(kernel,) * num_axes))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, u: Tensor, padding: Padding, shape: Sequence[int] | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``, or to ``shape`` with stride 2."""
        return apply_stencil(u, self.weight, padding, stride=self.stride, shape=shape)


class Prolongation(nn.Module):
    """A transposed convolution, 4 or 3 wide; see :func:`~vcycle.multigrid.transfers.prolong`."""

    def __init__(self, in_channels: int, out_channels: int, num_axes: int, *, kernel: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, *(kernel,) * num_axes))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, u_coarse: Tensor, padding: Padding, shape: Sequence[int]) -> Tensor:
        """Map ``(batch, in_channels, *coarse)`` to ``(batch, out_channels, *shape)``."""
        return prolong(u_coarse, self.weight, padding, shape)


class Smoothing(nn.Module):
    """One step ``u + S (f - A u)``; from zero it is ``S f``, and one that always starts so has no ``A``."""

    def __init__(self, f_channels: int, u_channels: int, num_axes: int, *, from_zero: bool = False) -> None:
        super().__init__()
        self.S = Stencil(f_channels, u_channels, num_axes)
        self.A = None if from_zero else Stencil(u_channels, f_channels, num_axes)

    def forward(self, f: Tensor, u: Tensor | None, padding: Padding) -> Tensor:
        """Return the smoothed ``u``."""
        if u is None or self.A is None:
            return self.S(f, padding)
        return _add(self.S(_subtract(f, self.A(u, padding)), padding), u)


@dataclass(frozen=True)
class Transfers:
    """Widths of the kernels between levels (dimensionless).

    Parameters
    ----------
    restriction
        3, centred on a fine value; 4, centred between two, as a coarse cell is.
    prolongation
        3 for vertices, 4 for cells.
    """

    restriction: int = 3
    prolongation: int = 4


class LearnedLevel(nn.Module):
    """The stencils of one level and of the transfers to the next.

    Parameters
    ----------
    f_channels, u_channels
        Channels of the right-hand side and of the solution, here and on the next coarser level; one entry on the
        coarsest.
    num_axes
        Space dimensions.
    smoothing
        Number of smoothing steps before and after the coarse correction.
    from_zero
        Whether the first step always starts from zero.
    residual_restriction
        Hand down ``R (f - A u)`` and a zero start, as classical multigrid does, in place of ``R f`` and ``Pi u``.
    transfers
        Widths of the kernels.
    """

    def __init__(
        self,
        f_channels: Sequence[int],
        u_channels: Sequence[int],
        num_axes: int,
        smoothing: tuple[int, int],
        *,
        from_zero: bool,
        residual_restriction: bool,
        transfers: Transfers,
    ) -> None:
        super().__init__()
        (pre, post), f, u = smoothing, f_channels[0], u_channels[0]
        self.pre = nn.ModuleList(Smoothing(f, u, num_axes, from_zero=from_zero and i == 0) for i in range(pre))
        self.post = nn.ModuleList(Smoothing(f, u, num_axes) for _ in range(post))
        self.R = self.Pi = self.P = self.A = None
        if len(u_channels) == 1:
            return
        restriction = {"kernel": transfers.restriction, "stride": 2}
        self.P = Prolongation(u_channels[1], u, num_axes, kernel=transfers.prolongation)
        self.R = Stencil(f, f_channels[1], num_axes, **restriction)
        if residual_restriction:
            self.A = Stencil(u, f, num_axes)
        else:
            self.Pi = Stencil(u, u_channels[1], num_axes, **restriction)


@dataclass(frozen=True)
class LevelOnGrid:
    """A learned level at work on a grid: a level of the cycle.

    Parameters
    ----------
    stencils
        The weights.
    padding
        Ghost values on this grid.
    coarse
        Padding and shape of the next coarser grid; ``None`` on the coarsest.
    """

    stencils: LearnedLevel
    padding: Padding
    coarse: tuple[Padding, tuple[int, ...]] | None = field(default=None)

    def smooth(self, f: Tensor, u: Tensor | None, *, post: bool = False) -> Tensor:
        """Run the smoothing steps of one way."""
        for step in self.stencils.post if post else self.stencils.pre:
            u = step(f, u, self.padding)
        if u is None:
            raise ValueError("`smoothing` must have at least one step before the coarse correction. Got 0.")
        return u

    def restrict(self, f: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return ``(R f, Pi u)``, or ``(R (f - A u), zero)`` with residual restriction."""
        own, shape = self.stencils, self.coarse[1]  # type: ignore[index]
        if own.A is not None:
            return own.R(_subtract(f, own.A(u, self.padding)), self.padding, shape), None  # type: ignore[misc]
        return own.R(f, self.padding, shape), own.Pi(u, self.padding, shape)  # type: ignore[misc]

    def correct(self, u: Tensor, u_coarse: Tensor) -> Tensor:
        """Return ``u + P u_coarse``."""
        return _add(self.stencils.P(u_coarse, self.coarse[0], u.shape[2:]), u)  # type: ignore[misc,index]


class MultigridLayer(nn.Module):
    """The linear operator W_Mg from ``f_channels`` to ``u_channels`` functions: one cycle over learned levels.

    Parameters
    ----------
    f_channels, u_channels
        Channels in and out, on all levels or one number per level, from the finest.
    padding
        Ghost values on the finest grid, by boundary kind and centring.
    smoothing
        Per level, from the finest, the number of smoothing steps before and after the coarse correction; its length is
        the number of levels.
    kind
        The cycle; ``"backslash"`` ignores the second number.
    residual_restriction, transfers
        As in :class:`LearnedLevel`.
    """

    def __init__(
        self,
        f_channels: int | Sequence[int],
        u_channels: int | Sequence[int],
        padding: Padding,
        *,
        smoothing: Sequence[tuple[int, int]],
        kind: CycleKind = "V",
        residual_restriction: bool = False,
        transfers: Transfers | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.padding = kind, padding
        count = len(smoothing)
        f, u = (((c,) * count if isinstance(c, int) else tuple(c)) for c in (f_channels, u_channels))
        # W- and F-cycles come to a level a second time, with what the first visit found
        revisited = range(1, count - 1) if kind in ("W", "F") else range(0)
        self.levels = nn.ModuleList(
            LearnedLevel(
                f[i : i + 2],
                u[i : i + 2],
                padding.num_axes,
                steps,
                from_zero=i == 0 or (residual_restriction and i not in revisited),
                residual_restriction=residual_restriction,
                transfers=transfers or Transfers(),
            )
            for i, steps in enumerate(smoothing)
        )

    def on_grid(self, shape: Sequence[int]) -> list[Level]:
        """Return the levels of the cycle for functions of this shape."""
        grids = self.padding.hierarchy(tuple(shape), len(self.levels))
        coarser = [*grids[1:], None]
        stencils = (level for level in self.levels if isinstance(level, LearnedLevel))
        return [LevelOnGrid(s, p, c) for s, (p, _), c in zip(stencils, grids, coarser, strict=True)]

    def forward(self, f: Tensor) -> Tensor:
        """Map ``(batch, f_channels, *space)`` to ``(batch, u_channels, *space)``; linear in ``f``."""
        return cycle(self.on_grid(f.shape[2:]), f, kind=self.kind)


def _add(fresh: Tensor, u: Tensor) -> Tensor:
    """Return the sum in ``fresh``, which nobody else holds, where autograd does not need both."""
    if fresh.requires_grad or torch.compiler.is_compiling():
        return u + fresh  # in this order: a compiler takes the first one's size, and that of u is the simpler symbol
    return fresh.add_(u)


def _subtract(f: Tensor, fresh: Tensor) -> Tensor:
    """Return ``f - fresh`` in ``fresh``, which nobody else holds, where autograd does not need it."""
    return f - fresh if fresh.requires_grad or f.requires_grad else torch.sub(f, fresh, out=fresh)
