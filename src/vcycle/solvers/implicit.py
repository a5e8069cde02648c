"""Gradients of solutions by implicit differentiation: one adjoint solve, whatever solver found them.

Of ``A u = b`` with a loss whose gradient in u is g, the adjoint ``A* w = g`` gives the gradient ``w`` in b and
``-w (dA u)`` in whatever A depends on: no step of the solver is differentiated.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vcycle.solvers.systems import LinearSystems

Solver = Callable[[LinearSystems], Tensor]


def needs_gradient(systems: LinearSystems) -> bool:
    """Whether matrices or right-hand sides are part of a graph that records."""
    return torch.is_grad_enabled() and any(part.requires_grad for part in (systems.rhs, *systems.operator.parts))


def differentiable(solutions: Tensor, systems: LinearSystems, solve: Solver) -> Tensor:
    """Return solutions that pass gradients on to the matrices and right-hand sides of their systems.

    Parameters
    ----------
    solutions
        Of the systems, ``(num, *space)``.
    systems
        With the graph that gave their tensors.
    solve
        Solves the adjoint systems: right-hand sides are gradients of the loss, of zero sum where singular.
    """
    return _Solution.apply(solutions, systems, solve, systems.rhs, *systems.operator.parts)


class _Solution(torch.autograd.Function):
    """The map from right-hand sides and matrix entries to solutions, its value known already."""

    @staticmethod
    def forward(ctx: Any, solutions: Tensor, systems: LinearSystems, solve: Solver, *tensors: Tensor) -> Tensor:
        ctx.systems, ctx.solve = systems, solve
        ctx.save_for_backward(solutions, *tensors)
        return solutions.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        solutions, rhs, *parts = ctx.saved_tensors
        systems: LinearSystems = ctx.systems
        operator = systems.operator.with_parts(tuple(parts))
        if systems.singular:  # constants, which solutions never hold, get no gradient
            gradient = gradient - gradient.flatten(1).mean(1).reshape(-1, *(1,) * (gradient.ndim - 1))
        adjoint = ctx.solve(replace(systems, operator=operator.adjoint(), rhs=gradient, removed_mean=None))
        with torch.enable_grad():
            leaves = tuple(part.detach().requires_grad_() for part in parts)
            image = operator.with_parts(leaves).apply(solutions)
        by_part = torch.autograd.grad(image, leaves, -adjoint.to(image.dtype))
        by_rhs = adjoint if rhs.is_complex() else adjoint.real
        return None, None, None, by_rhs, *by_part
