"""MgNO, the multigrid neural operator (He, Liu, Xu, ICLR 2024, arXiv:2310.19809)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Centring
from vcycle.layers.convolution import pointwise
from vcycle.models._inputs import check_input
from vcycle.multigrid.cycle import CYCLE_KINDS, CycleKind
from vcycle.multigrid.layer import MultigridLayer
from vcycle.multigrid.padding import Padding


class MgNO(nn.Module):
    """A fully connected network between function spaces whose weights are multigrid cycles.

    ``u_l = gelu(W_Mg u_{l-1} + B u_{l-1} + b)`` for l = 1 .. depth, then a linear combination of the last layer's
    channels. ``W_Mg`` is :class:`~vcycle.multigrid.layer.MultigridLayer`, ``B`` a 1x1 convolution. There is no lifting
    and no projection: the first layer takes the input's channels.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions.
    depth
        Number of layers.
    levels
        Number of grids in each cycle. Each halves the size, ``ceil(n / 2)``, so any size from ``2^(levels - 1)`` on
        works.
    cycle
        ``"backslash"`` (as published for Darcy), ``"V"``, ``"W"`` or ``"F"``.
    smoothing
        Per level the steps before and after the coarse correction. The default is one step each way and two on the
        coarsest level; a backslash cycle has none on the way up.
    boundary
        Kinds of the unknown's faces, as :meth:`vcycle.boundary.Boundary.of` reads them, or ``"zeros"`` for the zero
        padding of the reference code.
    centring
        ``"cell"`` or ``"vertex"``: where the values live decides how a wall reflects.
    num_axes
        Space dimensions, 1 to 3; taken from ``boundary`` where that is a :class:`Boundary`.
    residual_restriction
        Restrict the residual and start coarse levels from zero, as the paper's algorithm is written; the published
        results restrict ``f`` and ``u``.

    Raises
    ------
    ValueError
        If a count is not positive or a kind is unknown.

    Notes
    -----
    Differs from the reference code in: ghost values follow the boundary kind and the centring, in prolongations too
    (its periodic model is not periodic); any size; any number of output channels.

    References
    ----------
    He, Liu, Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid", ICLR 2024. arXiv:2310.19809.
    """

    name = "mgno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 24,
        depth: int = 4,
        levels: int = 5,
        cycle: CycleKind = "backslash",
        smoothing: Sequence[Sequence[int]] | None = None,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        centring: Centring = "cell",
        num_axes: int = 2,
        residual_restriction: bool = False,
    ) -> None:
        super().__init__()
        _check.choice("cycle", cycle, CYCLE_KINDS)
        _check.choice("centring", centring, ("cell", "vertex"))
        for key, count in {"in_channels": in_channels, "out_channels": out_channels, "width": width}.items():
            _check.integer(key, count, 1)
        _check.integer("depth", depth, 1)
        _check.integer("levels", levels, 1)
        self.in_channels, self.out_channels, self.levels = in_channels, out_channels, levels
        self.smoothing = _read_smoothing(smoothing, levels, cycle)
        zeros = isinstance(boundary, str) and boundary == "zeros"
        if isinstance(boundary, Boundary):
            num_axes = len(boundary.kinds)
        kinds = Boundary.of("dirichlet" if zeros else boundary, num_axes)
        padding = Padding.zeros(num_axes) if zeros else Padding.of(kinds, centring)
        self.num_axes, self.periodic = num_axes, (False,) * num_axes if zeros else kinds.periodic
        self._config = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "width": width,
            "depth": depth,
            "levels": levels,
            "cycle": cycle,
            "smoothing": [list(steps) for steps in self.smoothing],
            "boundary": "zeros" if zeros else kinds.to_list(),
            "centring": centring,
            "num_axes": num_axes,
            "residual_restriction": residual_restriction,
        }
        channels = [in_channels] + [width] * (depth - 1)
        self.W = nn.ModuleList(
            MultigridLayer(
                c, width, padding, smoothing=self.smoothing, kind=cycle, residual_restriction=residual_restriction
            )
            for c in channels
        )
        self.B = nn.ModuleList(pointwise(c, width, num_axes) for c in channels)
        self.head = pointwise(width, out_channels, num_axes, bias=False)
        if num_axes > 1:  # the layout in which convolutions are fastest: on a CPU a third faster
            layout = torch.channels_last if num_axes == 2 else torch.channels_last_3d
            self.to(memory_format=layout)  # type: ignore[call-overload]  # torch's signatures leave it out

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments; ``MgNO(**model.config())`` has the same architecture."""
        return self._config

    def is_equivariant(self, shape: Sequence[int]) -> bool:
        """Return whether shifts by ``2^(levels - 1)`` points along the periodic axes commute with the operator.

        They do where that step divides every periodic axis of ``shape``; with no periodic axis nothing is shifted.
        """
        step = 2 ** (self.levels - 1)
        periodic = [n for n, closed in zip(shape, self.periodic, strict=True) if closed]
        return bool(periodic) and all(n % step == 0 for n in periodic)

    def forward(self, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``.

        Raises
        ------
        ValueError
            If the number of channels or axes is wrong, the grid is too small, or ``parameters`` are given.
        """
        check_input(u, parameters, self.in_channels, self.num_axes, smallest=2 ** (self.levels - 1))
        for W, B in zip(self.W, self.B, strict=True):
            u = F.gelu(W(u) + B(u))
        return self.head(u)


def _read_smoothing(
    smoothing: Sequence[Sequence[int]] | None, levels: int, cycle: CycleKind
) -> tuple[tuple[int, int], ...]:
    """Return ``(pre, post)`` per level."""
    post = 0 if cycle == "backslash" else 1
    if smoothing is None:
        return ((1, post),) * (levels - 1) + ((2, 0),)
    if len(smoothing) != levels or any(len(steps) != 2 or min(steps) < 0 or steps[0] < 1 for steps in smoothing):
        raise ValueError(f"`smoothing` must have {levels} pairs of steps (before >= 1, after >= 0). Got {smoothing!r}.")
    return tuple((int(pre), int(after)) for pre, after in smoothing)
