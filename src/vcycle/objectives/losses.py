"""Losses against data: the metrics of :mod:`vcycle.metrics` as objects that know their grid; and how any is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vcycle import _check, metrics
from vcycle.boundary import Boundary
from vcycle.grid import Grid

Loss = Callable[..., Tensor]
"""Maps prediction and target ``(batch, channel, *space)``, in physical units, to a scalar.

One with an attribute ``takes_inputs`` that is true is given the inputs as a third argument, see :func:`measured`.
"""

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


@dataclass(frozen=True)
class LabelFree:
    """What an equation says of a prediction, as a loss: the target is not looked at.

    Data sets have outputs all the same. Zeros of the right shape will do: they leave the network's output in physical
    units.

    Parameters
    ----------
    equation
        Maps inputs and prediction to a scalar, like :class:`vcycle.objectives.residual.ResidualLoss`.
    """

    equation: Callable[[Tensor, Tensor], Tensor]

    takes_inputs: ClassVar[bool] = True

    def __repr__(self) -> str:
        """Return what describes a run, the same in every process: a function's own would hold its address."""
        return f"{type(self).__name__}({getattr(self.equation, '__qualname__', repr(self.equation))})"

    def __call__(self, prediction: Tensor, target: Tensor, inputs: Tensor) -> Tensor:
        """Return the loss, shape ``()``."""
        return self.equation(inputs, prediction)


def measured(loss: Loss, prediction: Tensor, target: Tensor, inputs: Tensor) -> Tensor:
    """Return a loss, shape ``()``, given what it asks for.

    Parameters
    ----------
    loss
        Called with the inputs too where its attribute ``takes_inputs`` is true.
    prediction, target, inputs
        ``(batch, channel, *space)``, in physical units.
    """
    if getattr(loss, "takes_inputs", False):
        return loss(prediction, target, inputs)
    return loss(prediction, target)


def data_loss(name: str, *, grid: Grid, boundary: Boundary, zero_on_walls: bool = True) -> Loss:
    """Return the loss called ``name``: ``"h1"`` or ``"l2"``.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    _check.choice("loss", name, LOSSES)
    return RelativeL2() if name == "l2" else RelativeH1(grid, boundary, zero_on_walls)
