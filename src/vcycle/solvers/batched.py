"""Multigrid-preconditioned conjugate gradients for a whole batch at once, in PyTorch: for tensors on any device.

The algorithm of :mod:`vcycle.solvers.multigrid` with the cycle of :mod:`vcycle.multigrid.classical`: V-cycles in single
precision inside conjugate gradients in double precision. On one CPU thread the compiled solver is many times faster.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from vcycle import _check
from vcycle.multigrid.classical import hierarchy, v_cycle
from vcycle.multigrid.cycle import Level
from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.solvers.krylov import SAFETY
from vcycle.solvers.result import Solves
from vcycle.solvers.systems import LinearSystems


def solve_all(systems: LinearSystems, *, rtol: float, max_steps: int = 500) -> Solves:
    """Solve all systems side by side; those that are done are held still and wait for the others.

    Parameters
    ----------
    systems
        Finite positive (semi-)definite systems of face fluxes on a cell grid, their tensors on one device; where
        singular, right-hand sides with zero sum.
    rtol
        Tolerance for the true relative residual.
    max_steps
        Largest number of V-cycles per system.

    Returns
    -------
    Solves
        Solutions on the device of the right-hand sides; steps, and seconds shared evenly, on the CPU.

    Raises
    ------
    ValueError
        If the systems are not real, definite face fluxes on a cell grid, or an argument is out of range.
    """
    _check.positive("rtol", rtol)
    _check.integer("max_steps", max_steps, 1)
    operator = systems.operator
    if not isinstance(operator, FaceFluxes) or not systems.positive_definite or systems.dtype.is_complex:
        raise ValueError("`systems` must be real, positive definite face fluxes for multigrid. Use method='direct'.")
    if operator.grid.centring != "cell":
        raise ValueError(f"`systems` must live on a cell grid for the batched solver. Got {operator.grid.centring!r}.")
    start = time.perf_counter()
    num, rhs = len(systems), systems.rhs.detach()
    if num == 0:
        return Solves(torch.zeros_like(rhs), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64))
    operator = operator.with_parts(tuple(part.detach() for part in operator.parts))
    scale = 1.0 / torch.stack([face.flatten(1).abs().amax(1) for face in operator.faces]).amax(0)
    scaled = operator.with_parts(tuple(_per_system(scale, part) * part for part in operator.parts))
    single = scaled.with_parts(tuple(part.to(torch.float32) for part in scaled.parts))
    levels = hierarchy(single)
    if systems.singular:
        rhs = rhs - rhs.flatten(1).mean(1).reshape(-1, *(1,) * (rhs.dim() - 1))
    norm = rhs.flatten(1).norm(dim=1)
    b = rhs / _per_system(torch.where(norm > 0, norm, torch.ones_like(norm)), rhs)
    x, steps = _conjugate_gradients(scaled, levels, b, tolerance=SAFETY * rtol, max_steps=max_steps)
    x = x * _per_system(norm * scale, x)
    if systems.singular:
        x = x - x.flatten(1).mean(1).reshape(-1, *(1,) * (x.dim() - 1))
    steps = steps.cpu()  # waits for the device, so that the seconds are those of the work
    seconds = torch.full((num,), (time.perf_counter() - start) / num, dtype=torch.float64)
    return Solves(x, steps, seconds)


def _conjugate_gradients(
    operator: FaceFluxes, levels: Sequence[Level], b: Tensor, *, tolerance: float, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Return ``x`` with ``|b - A x| <= tolerance`` where that can be reached, and the steps per system.

    As in :func:`vcycle.solvers._kernels.conjugate_gradients`: directions are made conjugate by ``z' A p`` itself, and
    where the recurrence claims convergence the true residual replaces its own.
    """
    x, r, p, q = torch.zeros_like(b), b.clone(), torch.zeros_like(b), torch.zeros_like(b)
    norm = r.flatten(1).norm(dim=1)
    active, steps = norm > 0, torch.zeros(len(b), dtype=torch.int64, device=b.device)
    replaced, energy = torch.full_like(norm, torch.inf), torch.ones_like(norm)
    for step in range(max_steps + 1):
        claimed = active & (norm <= tolerance)
        if claimed.any():
            where = _per_system(claimed, b)
            r = torch.where(where, b - operator.apply(x), r)
            p, q = torch.where(where, 0.0, p), torch.where(where, 0.0, q)
            norm = torch.where(claimed, r.flatten(1).norm(dim=1), norm)
            active = active & ~(claimed & ((norm <= tolerance) | ~(norm < 0.5 * replaced)))
            replaced = torch.where(claimed, norm, replaced)
        active = active & norm.isfinite()
        if step == max_steps or not active.any():
            break
        z = v_cycle(levels, r.to(torch.float32)).to(b.dtype)
        p = z - _per_system(_dot(z, q) / energy, b) * p
        q = operator.apply(p)
        new_energy, zr = _dot(p, q), _dot(z, r)
        active = active & (new_energy > 0) & (zr > 0)
        energy = torch.where(active, new_energy, 1.0)
        alpha = torch.where(active, zr / energy, 0.0)
        where = _per_system(active, b)  # zero times what is not finite would spoil what is done
        x = torch.where(where, x + _per_system(alpha, b) * p, x)
        r = torch.where(where, r - _per_system(alpha, b) * q, r)
        norm = torch.where(active, r.flatten(1).norm(dim=1), norm)
        steps = steps + active
    return x, steps


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).flatten(1).sum(1)


def _per_system(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.dim() - 1))
