"""Losses without data: how far a prediction is from satisfying its own discrete equations."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vcycle.problems.problem import Fields, Problem
from vcycle.solvers.fast_poisson import solve_laplacian

Norm = Literal[0, -1, -2]
NORMS = (0, -1, -2)


class _InverseLaplacian(torch.autograd.Function):
    """``L^-1`` of every component ``(batch, component, *space)``; its own adjoint."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, problem: Problem) -> Tensor:
        ctx.problem = problem
        return _solve(residual, problem)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _InverseLaplacian.apply(gradients[0], ctx.problem), None


def _solve(residual: Tensor, problem: Problem) -> Tensor:
    solutions = solve_laplacian(problem.grid, problem.boundary, residual.flatten(0, 1))
    return solutions.unflatten(0, residual.shape[:2])


@dataclass(frozen=True)
class ResidualLoss:
    r"""Mean over a batch of the squared relative residual of a linear problem, in a norm of one's choice.

    With the discrete systems ``A u = b``, integrated over cells, and the Laplacian ``L`` of the same grid and walls
    with unit coefficient,

    * ``norm=0``: :math:`|b - A u|^2 / |b|^2`, the mean squared residual of the literature;
    * ``norm=-1``: :math:`\langle b - A u, L^{-1} (b - A u) \rangle / \langle b, L^{-1} b \rangle`; for ``A = L`` this
      is the squared relative error of the solution in the energy norm;
    * ``norm=-2``: :math:`|L^{-1} (b - A u)|^2 / |L^{-1} b|^2`; for ``A = L`` the squared relative error in L2.

    The first weights the error of every mode by the square of its eigenvalue: it falls while the solution is as wrong
    as before, since the stencil raises noise between neighbours by the square of the number of points. Prefer -1 or -2,
    whose Laplacian is inverted by fast transforms, and never take a residual for an error. To train with it, wrap it:
    ``fit(model, data, loss=LabelFree(ResidualLoss(problem)))``, see :class:`vcycle.objectives.LabelFree`.

    Parameters
    ----------
    problem
        A linear family, see :meth:`vcycle.problems.Problem.systems`.
    norm
        0, -1 or -2, the order of the Sobolev norm.

    Raises
    ------
    ValueError
        If the norm is another, or is negative and the grid has no fast transform: cells, with faces that are Dirichlet,
        Neumann or periodic.

    References
    ----------
    Huang et al., "LordNet", Neural Networks 176 (2024) 106354, for the residual of the discrete equations as a loss.
    """

    problem: Problem
    norm: Norm = -1

    def __post_init__(self) -> None:
        if self.norm not in NORMS or isinstance(self.norm, bool):
            raise ValueError(f"`norm` must be one of {', '.join(map(str, NORMS))}. Got {self.norm!r}.")
        if not self.norm:
            return
        if self.problem.grid.centring != "cell":
            raise ValueError(
                f"`norm` below 0 needs a grid of cells; use `norm=0` on vertices. Got {self.norm} on vertices."
            )
        for kind in sorted({kind for pair in self.problem.boundary.kinds for kind in pair}):
            if kind not in ("dirichlet", "neumann", "periodic"):
                raise ValueError(f"`norm` below 0 needs Dirichlet, Neumann or periodic faces. Got {kind!r}.")

    def __repr__(self) -> str:
        """Return what describes a run, the same in every process: a problem's own would hold its address."""
        return f"{type(self).__name__}({self.problem.config()}, norm={self.norm})"

    def __call__(self, inputs: "Fields | Tensor", outputs: Tensor) -> Tensor:
        """Return the loss, shape ``()``, dimensionless, float64; gradients flow to ``outputs``.

        Parameters
        ----------
        inputs
            Fields of the problem by name, or their stacked view ``(batch, channel, *space)``, in physical units.
        outputs
            Predictions ``(batch, component, *space)``, in physical units.
        """
        residual = self.problem.residual(inputs, outputs)
        with torch.no_grad():
            scale = self._squared(self.problem.residual(inputs, torch.zeros_like(outputs)))
        return (self._squared(residual) / torch.where(scale > 0, scale, torch.ones_like(scale))).mean()

    def _squared(self, residual: Tensor) -> Tensor:
        """Return the squared norm of every sample, ``(batch,)``."""
        if self.norm == 0:
            return residual.flatten(1).square().sum(1)
        solved: Tensor = _InverseLaplacian.apply(residual, self.problem)
        return (solved * (residual if self.norm == -1 else solved)).flatten(1).sum(1)
