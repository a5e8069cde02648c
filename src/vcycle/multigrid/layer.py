"""The learned layer W_Mg: the multigrid cycle with every stencil free (MgNO, section 3.2).

Notation of the paper: ``A`` maps u to f, the smoother ``S`` maps f to u, ``R`` and ``Pi`` restrict f and u, ``P``
prolongs u. Every one is a convolution over all channels, with weights of its own at every level and every step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcycle.multigrid.cycle import CycleKind, cycle
from vcycle.multigrid.padding import Padding
from vcycle.multigrid.transfers import apply_stencil, prolong


class Stencil(nn.Module):
    """A convolution without bias, 3 or 4 wide; see :func:`~vcycle.multigrid.transfers.apply_stencil`."""

    def __init__(
        self, in_channels: int, out_channels: int, padding: Padding, *, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *(kernel,) * padding.num_axes))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, u: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``, halved where the stride is 2."""
        return apply_stencil(u, self.weight, self.padding, stride=self.stride)


class Prolongation(nn.Module):
    """A transposed convolution, 4 wide; see :func:`~vcycle.multigrid.transfers.prolong`."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.padding = padding
        self.weight = nn.Parameter(torch.empty(channels, channels, *(4,) * padding.num_axes))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, u_coarse: Tensor, shape: Sequence[int]) -> Tensor:
        """Map ``(batch, channels, *coarse)`` to ``(batch, channels, *shape)`` with ``coarse = ceil(shape / 2)``."""
        return prolong(u_coarse, self.weight, self.padding, shape)


class Smoothing(nn.Module):
    """One step ``u + S (f - A u)``; the very first one starts from zero and is ``S f``."""

    def __init__(self, f_channels: int, u_channels: int, padding: Padding, *, from_zero: bool = False) -> None:
        super().__init__()
        self.S = Stencil(f_channels, u_channels, padding)
        self.A = None if from_zero else Stencil(u_channels, f_channels, padding)

    def forward(self, f: Tensor, u: Tensor | None) -> Tensor:
        """Return the smoothed ``u``."""
        if u is None or self.A is None:
            return self.S(f)
        return u + self.S(f - self.A(u))


class LearnedLevel(nn.Module):
    """A level of the cycle whose stencils are learned.

    Parameters
    ----------
    f_channels, u_channels
        Channels of the right-hand side and of the solution.
    padding
        Ghost values of both.
    smoothing
        Number of smoothing steps before and after the coarse correction.
    is_finest, is_coarsest
        The finest level starts from zero; the coarsest has no transfers.
    residual_restriction
        Hand down ``R (f - A u)`` and a zero start, as classical multigrid does, in place of ``R f`` and ``Pi u``.
    restriction_kernel
        3, as published, or 4, the width of the transpose of linear interpolation on cells.
    """

    def __init__(
        self,
        f_channels: int,
        u_channels: int,
        padding: Padding,
        smoothing: tuple[int, int],
        *,
        is_finest: bool,
        is_coarsest: bool,
        residual_restriction: bool = False,
        restriction_kernel: int = 3,
    ) -> None:
        super().__init__()
        pre, post = smoothing
        from_zero = is_finest or residual_restriction
        steps = [Smoothing(f_channels, u_channels, padding, from_zero=from_zero and i == 0) for i in range(pre)]
        self.pre = nn.ModuleList(steps)
        self.post = nn.ModuleList(Smoothing(f_channels, u_channels, padding) for _ in range(post))
        self.R = self.Pi = self.P = self.A = None
        if is_coarsest:
            return
        self.P = Prolongation(u_channels, padding)
        self.R = Stencil(f_channels, f_channels, padding, kernel=restriction_kernel, stride=2)
        if residual_restriction:
            self.A = Stencil(u_channels, f_channels, padding)
        else:
            self.Pi = Stencil(u_channels, u_channels, padding, kernel=restriction_kernel, stride=2)

    def smooth(self, f: Tensor, u: Tensor | None, *, post: bool = False) -> Tensor:
        """Run the smoothing steps of one way."""
        for step in self.post if post else self.pre:
            u = step(f, u)
        if u is None:
            raise ValueError("`smoothing` must have at least one step before the coarse correction. Got 0.")
        return u

    def restrict(self, f: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return ``(R f, Pi u)``, or ``(R (f - A u), zero)`` with residual restriction."""
        if self.A is not None:
            return self.R(f - self.A(u)), None  # type: ignore[misc]
        return self.R(f), self.Pi(u)  # type: ignore[misc]

    def correct(self, u: Tensor, u_coarse: Tensor) -> Tensor:
        """Return ``u + P u_coarse``."""
        return u + self.P(u_coarse, u.shape[2:])  # type: ignore[misc]


class MultigridLayer(nn.Module):
    """The linear operator W_Mg from ``f_channels`` to ``u_channels`` functions: one cycle over learned levels.

    Parameters
    ----------
    f_channels, u_channels
        Channels in and out.
    padding
        Ghost values, by boundary kind and centring.
    smoothing
        Per level, from the finest, the number of smoothing steps before and after the coarse correction; its length is
        the number of levels.
    kind
        The cycle; ``"backslash"`` ignores the second number.
    residual_restriction, restriction_kernel
        As in :class:`LearnedLevel`.
    """

    def __init__(
        self,
        f_channels: int,
        u_channels: int,
        padding: Padding,
        *,
        smoothing: Sequence[tuple[int, int]],
        kind: CycleKind = "V",
        residual_restriction: bool = False,
        restriction_kernel: int = 3,
    ) -> None:
        super().__init__()
        self.kind = kind
        coarsest = len(smoothing) - 1
        self.levels = nn.ModuleList(
            LearnedLevel(
                f_channels,
                u_channels,
                padding,
                steps,
                is_finest=i == 0,
                is_coarsest=i == coarsest,
                residual_restriction=residual_restriction,
                restriction_kernel=restriction_kernel,
            )
            for i, steps in enumerate(smoothing)
        )

    def forward(self, f: Tensor) -> Tensor:
        """Map ``(batch, f_channels, *space)`` to ``(batch, u_channels, *space)``; linear in ``f``."""
        return cycle(list(self.levels), f, kind=self.kind)  # type: ignore[arg-type]
