"""Losses against data: the metrics of :mod:`vcycle.metrics` as objects that know their grid."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vcycle import _check, metrics
from vcycle.boundary import Boundary
from vcycle.grid import Grid

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps prediction and target ``(batch, channel, *space)``, in physical units, to a scalar."""

LOSSES = ("h1", "l2")


@dataclass(frozen=True)
class RelativeL2:
    """Mean relative L2 error of a batch, :func:`vcycle.metrics.relative_l2` (dimensionless)."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, shape ``()``."""
        return metrics.relative_l2(prediction, target)


@dataclass(frozen=True)
class RelativeH1:
    """Mean true relative H1 error of a batch, :func:`vcycle.metrics.relative_h1` (dimensionless).

    Parameters
    ----------
    grid, boundary
        Where the values live, and the kinds of the walls.
    zero_on_walls
        Whether targets vanish on Dirichlet walls.
    """

    grid: Grid
    boundary: Boundary
    zero_on_walls: bool = True

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, shape ``()``."""
        return metrics.relative_h1(
            prediction, target, grid=self.grid, boundary=self.boundary, zero_on_walls=self.zero_on_walls
        )


def data_loss(name: str, *, grid: Grid, boundary: Boundary, zero_on_walls: bool = True) -> Loss:
    """Return the loss called ``name``: ``"h1"`` or ``"l2"``.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    _check.choice("loss", name, LOSSES)
    return RelativeL2() if name == "l2" else RelativeH1(grid, boundary, zero_on_walls)
