"""How wrong is a prediction? Two numbers that enclose the answer, and no constant estimated.

The error ``e`` of a prediction against the discrete solution solves ``A e = r`` with the prediction's residual ``r``.
Conjugate gradients, preconditioned by the symmetric V-cycle ``B`` and started from the prediction, remove in step j
exactly ``alpha_j r_j' B r_j`` of the squared energy norm ``e' A e``: what k steps have removed is a lower bound. What
is left is at most the complementary energy ``sum over faces of q^2 / T`` of any flux ``q`` that balances ``r_k`` in
every cell (Prager and Synge). Here ``q = grad L^-1 r_k + c (T grad v - grad L^-1 A v)`` with ``v = B r_k`` and ``L``
the Laplacian with coefficient one, which transforms invert. The second part is free of sources, so that any ``c`` will
do; the one near 1 is taken that makes the energy least.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcycle import _check, _progress
from vcycle.errors import SolveError
from vcycle.evaluation.regrid import averaged, refined
from vcycle.multigrid.classical import hierarchy, v_cycle
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.problems.problem import Problem
from vcycle.solvers.fast_poisson import laplacian_eigenvalues, solve_laplacian
from vcycle.solvers.systems import LinearSystems

ROUNDING = 1e-11
"""Relative margin by which both bounds are moved outwards, for the rounding of their own sums."""

RESIDUAL_ROUNDING = 10 * torch.finfo(torch.float64).eps
"""Rounding of a residual relative to ``|A||u| + |b|``, cell by cell; half as much again for every step."""

MOST_STEPS = 200
"""Conjugate gradient steps after which polishing gives up."""

_CHUNK = 64


@dataclass(frozen=True)
class Certificate:
    """Bounds of the energy-norm error of predictions against the discrete solution on the same grid.

    Parameters
    ----------
    lower, upper
        ``sqrt(integral of a |grad e|^2)`` lies between them, per sample, ``(sample,)``, float64, in physical units.
    energy
        Energy norm of the predictions themselves, ``(sample,)``; ``None`` where walls hold values of their own, whose
        energy the matrix does not see.
    steps
        Number of conjugate gradient steps behind the bounds.
    discretisation
        Relative L2 distance between the discrete solution and the one on a grid twice as fine, ``(sample,)``: what the
        grid itself costs, which the bounds leave out. ``None`` where it was not asked for.
    polished
        Predictions continued to the requested tolerance, ``(sample, 1, *space)``, or ``None``.
    polish_steps
        Conjugate gradient steps that it took.
    """

    lower: Tensor
    upper: Tensor
    energy: Tensor | None
    steps: int
    discretisation: Tensor | None = None
    polished: Tensor | None = None
    polish_steps: int | None = None

    @property
    def relative_upper(self) -> Tensor | None:
        """Upper bound of the error over the solution's energy norm; infinite where it exceeds the prediction's."""
        if self.energy is None:
            return None
        left = self.energy - self.upper
        return torch.where(left > 0, self.upper / left, torch.full_like(left, torch.inf))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready summary with the bounds of every sample."""
        summary: dict[str, Any] = {
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "steps": self.steps,
        }
        if self.energy is not None:
            summary["energy"] = self.energy.tolist()
        if self.discretisation is not None:
            summary["discretisation"] = self.discretisation.tolist()
        if self.polish_steps is not None:
            summary["polish_steps"] = self.polish_steps
        return summary

    def __str__(self) -> str:
        ratio = (self.upper / self.lower.clamp(min=torch.finfo(torch.float64).tiny)).max().item()
        lines = [
            f"energy-norm error of {len(self.lower)} predictions, enclosed with {self.steps} steps",
            f"  lower  mean {self.lower.mean():.4e}  largest {self.lower.max():.4e}",
            f"  upper  mean {self.upper.mean():.4e}  largest {self.upper.max():.4e}",
            f"  upper / lower at most {ratio:.4f}",
        ]
        if self.relative_upper is not None:
            most = self.relative_upper.max()
            bounded = (
                f"at most {100 * most:.2f} %" if most.isfinite() else "unbounded: some errors may exceed the prediction"
            )
            lines.append(f"  relative to the solution {bounded}")
        if self.discretisation is not None:
            lines.append(f"  the grid itself: {100 * self.discretisation.mean():.2f} % in L2 against one twice as fine")
        if self.polish_steps is not None:
            lines.append(f"  polished to tolerance in {self.polish_steps} steps")
        return "\n".join(lines)


def certify(
    problem: Problem,
    inputs: "dict[str, Tensor] | Tensor | np.ndarray",
    prediction: "Tensor | np.ndarray",
    *,
    steps: int = 0,
    discretisation: bool = False,
    polish: bool = False,
    rtol: float = 1e-8,
    progress: bool = False,
) -> Certificate:
    """Enclose the energy-norm error of predictions against the discrete solution on the same grid.

    Parameters
    ----------
    problem
        A symmetric positive definite problem in divergence form, such as Darcy or Poisson.
    inputs
        Its inputs, named or stacked, in physical units.
    prediction
        Any approximation of the output, ``(sample, 1, *space)``, in physical units; where it comes from does not
        matter.
    steps
        Conjugate gradient steps, ``k``: 0 is enough up to contrast 10, 2 up to 100. From 1000 on the bounds hold and
        may be far apart: the cycle re-discretises, and does not see thin channels.
    discretisation
        Also solve on a grid twice as fine, with the same cellwise inputs.
    polish
        Also continue the conjugate gradients until the relative residual is ``rtol``.
    rtol
        Tolerance of ``polish`` (dimensionless).
    progress
        Whether long work shows a progress bar on stderr.

    Returns
    -------
    Certificate
        ``.lower`` and ``.upper`` per sample.

    Raises
    ------
    ValueError
        If the problem is not symmetric positive definite in divergence form, shapes differ, or a value is not finite.
    SolveError
        If ``polish`` does not reach ``rtol``.

    Notes
    -----
    The bounds hold in exact arithmetic, and are moved outwards by what rounding can do: a relative 1e-11 for their own
    sums, and the largest energy norm that the rounding of the residual can have. That opens the bracket where a
    prediction is exact to many digits: at 64x64 and contrast 4 by 0.07 % for a relative error of 1e-8.
    """
    _check.integer("steps", steps, 0)
    _check.positive("rtol", rtol)
    prediction = torch.as_tensor(prediction)
    inputs = inputs if isinstance(inputs, dict) else torch.as_tensor(inputs)
    systems = problem.systems(inputs)
    _require_divergence_form(problem, systems)
    expected = (len(systems), 1, *problem.grid.shape)
    _check.shape("prediction", prediction.shape, expected, "one output per input on the problem's grid")
    if not prediction.isfinite().all():
        raise ValueError("`prediction` must be finite. Got NaN or infinity.")
    start = prediction.detach().to(torch.float64).squeeze(1)
    with _progress.shown(progress=progress):
        lower, upper, rounding, energies = _in_chunks(
            "bounds", len(systems), lambda rows: _bounds(systems.select(rows), start[rows], steps)
        )
        polished, polish_steps = _polish(systems, start, rtol) if polish else (None, None)
        grid_error = discretisation_error(problem, inputs) if discretisation else None
    return Certificate(
        lower=(lower.sqrt() * (1 - ROUNDING) - rounding).clamp(min=0),
        upper=upper.sqrt() * (1 + ROUNDING) + rounding,
        energy=energies.sqrt() if problem.zero_on_walls else None,
        steps=steps,
        discretisation=grid_error,
        polished=polished,
        polish_steps=polish_steps,
    )


def _in_chunks(what: str, num: int, part: Callable[[slice], tuple[Tensor, ...]]) -> list[Tensor]:
    """Return what ``part`` gives for some rows at a time, put together, behind a bar."""
    parts = []
    with _progress.bar(what, num) as advance:
        for first in range(0, num, _CHUNK):
            parts.append(part(slice(first, first + _CHUNK)))
            advance(min(_CHUNK, num - first))
    return [torch.cat(side) for side in zip(*parts, strict=True)]


def _require_divergence_form(problem: Problem, systems: LinearSystems) -> None:
    if not systems.positive_definite or not systems.symmetric or systems.fluxes.reaction is not None:
        raise ValueError(
            f"`problem` must be symmetric positive definite in divergence form to be certified. Got {problem.name!r}."
        )
    if problem.grid.centring != "cell":
        raise ValueError(f"`problem` must be on a cell grid to be certified. Got {problem.grid.centring!r} centring.")


class _PreconditionedCG:
    """Conjugate gradients for a batch, one step at a time, with the symmetric V-cycle as preconditioner."""

    def __init__(self, systems: LinearSystems, u: Tensor) -> None:
        self.operator, self.levels, self.u = systems.fluxes, hierarchy(systems.fluxes), u
        self.r = systems.rhs - systems.operator.apply(u)
        self.z = v_cycle(self.levels, self.r)
        self.p, self.rz = self.z, _dot(self.r, self.z)

    def step(self) -> Tensor:
        """Advance by one step and return the squared energy that it removed, ``(batch,)``."""
        Ap = self.operator.apply(self.p)
        alpha = _ratio(self.rz, _dot(self.p, Ap))
        removed = alpha * self.rz
        self.u = self.u + _along(alpha, self.u) * self.p
        self.r = self.r - _along(alpha, self.r) * Ap
        self.z = v_cycle(self.levels, self.r)
        rz = _dot(self.r, self.z)
        self.p, self.rz = self.z + _along(_ratio(rz, self.rz), self.p) * self.p, rz
        return removed


def _bounds(systems: LinearSystems, u: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Return lower and upper bound squared, what rounding can do, and the energy of ``u``, ``(batch,)`` each."""
    return *_bracket(systems, u, steps), _rounding(systems, u, steps), systems.fluxes.energy(u)


def _bracket(systems: LinearSystems, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the lower and upper bound of the squared energy norm of the error, ``(batch,)`` each."""
    cg = _PreconditionedCG(systems, u)
    removed = torch.zeros(len(u), dtype=torch.float64)
    for _ in range(steps):
        removed = removed + cg.step()
    upper = removed + complementary_energy(systems.fluxes, cg.r, cg.z)
    return removed + cg.step(), upper


def _rounding(systems: LinearSystems, u: Tensor, steps: int) -> Tensor:
    """Return how far rounding of the residual can move the energy norm of the error, ``(batch,)``.

    A change d of the residual changes the norm by at most ``sqrt(d' A^-1 d)``, at most the 2-norm of d over the root of
    the smallest eigenvalue of A, which is at least the unit Laplacian's times the smallest ratio of faces.
    """
    operator = systems.fluxes
    absolute = 2 * operator.diagonal() * u.abs() - operator.apply(u.abs()) + systems.rhs.abs()
    d = RESIDUAL_ROUNDING * (1 + steps / 2) * absolute.flatten(1).norm(dim=1)
    unit = laplacian(operator.grid, operator.boundary)
    ratio = torch.full((len(u),), torch.inf, dtype=torch.float64)
    for T, T_unit in zip(operator.faces, unit.faces, strict=True):
        ratios = torch.where(T_unit > 0, T / torch.where(T_unit > 0, T_unit, 1.0), torch.inf)
        ratio = torch.minimum(ratio, ratios.flatten(1).amin(1))
    eigenvalues = laplacian_eigenvalues(operator.grid, operator.boundary)
    return d / (ratio * eigenvalues[eigenvalues > 1e-9 * eigenvalues.max()].min()).sqrt()


def complementary_energy(operator: FaceFluxes, residual: Tensor, v: Tensor) -> Tensor:
    """Return ``sum over faces of q^2 / T`` for the flux that ``v`` suggests, made to balance ``residual`` exactly.

    Parameters
    ----------
    operator
        Divergence-form matrices without a zero-order term.
    residual
        ``r``, integrated over cells, ``(batch, *space)``; of zero sum where constants are in the kernel.
    v
        An approximation of ``A^-1 r``, same shape; the better it is, the sharper the bound.

    Returns
    -------
    Tensor
        An upper bound of ``r' A^-1 r`` per sample, ``(batch,)``, whatever ``v`` is.
    """
    unit = laplacian(operator.grid, operator.boundary)  # T = 1 times area over distance: grad, as a flux
    w, w_v = (solve_laplacian(operator.grid, operator.boundary, f) for f in (residual, operator.apply(v)))
    balanced = list(unit.fluxes(w))
    circulating = [a - b for a, b in zip(operator.fluxes(v), unit.fluxes(w_v), strict=True)]
    # Where T = 1 the circulating part is only rounding, and the best factor could be any number: hence the clamp.
    c = _ratio(-_complementary(operator, balanced, circulating), _complementary(operator, circulating, circulating))
    c = c.clamp(0.5, 2.0)
    total = [q + _along(c, q) * free for q, free in zip(balanced, circulating, strict=True)]
    return _complementary(operator, total, total)


def _complementary(operator: FaceFluxes, p: list[Tensor], q: list[Tensor]) -> Tensor:
    """Return the sum over faces of ``p q / T``, ``(batch,)``; an insulated wall carries no flux."""
    energy = torch.zeros(len(p[0]), dtype=p[0].dtype)
    for axis, (T, p_face, q_face) in enumerate(zip(operator.faces, p, q, strict=True)):
        density = p_face * q_face / torch.where(T > 0, T, 1.0)
        if operator.boundary.periodic[axis]:  # the first face is the last one again
            density = density.narrow(axis + 1, 1, operator.grid.shape[axis])
        energy = energy + density.flatten(1).sum(1)
    return energy


def _polish(systems: LinearSystems, start: Tensor, rtol: float) -> tuple[Tensor, int]:
    """Return the polished predictions, ``(sample, 1, *space)``, and the largest number of steps."""

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        u, count = _polished(systems.select(rows), start[rows], rtol)
        return u, torch.tensor([count])

    polished, counts = _in_chunks("polish", len(systems), part)
    return polished.unsqueeze(1), int(counts.max())


def _polished(systems: LinearSystems, u: Tensor, rtol: float) -> tuple[Tensor, int]:
    cg, count = _PreconditionedCG(systems, u), 0
    residuals = systems.relative_residuals(cg.u)
    while not bool((residuals <= rtol).all()):
        if count == MOST_STEPS:
            reached = f"a relative residual of {residuals.max():.1e} in {count} steps"
            raise SolveError(f"`polish` reached {reached}, not `rtol` {rtol:.1e}. Give a larger `rtol`.")
        cg.step()
        count += 1
        residuals = systems.relative_residuals(cg.u)
    return cg.u - _along(cg.u.flatten(1).mean(1), cg.u) if systems.singular else cg.u, count


def discretisation_error(problem: Problem, inputs: "dict[str, Tensor] | Tensor") -> Tensor:
    """Return the relative L2 distance of the discrete solutions from those on a grid twice as fine, ``(sample,)``.

    The inputs are taken as constant in each cell (or on each cell's face), so that both grids see the same coefficient;
    the fine solution is averaged over the cells of the coarse one.
    """
    fields = problem.named(inputs)

    def part(rows: slice) -> tuple[Tensor]:
        some = {name: values[rows] for name, values in fields.items()}
        coarse = problem.solve(some, rtol=1e-10).raise_if_failed().solutions
        fine_problem, fine_inputs = refined(problem, some)
        fine = fine_problem.solve(fine_inputs, rtol=1e-10).raise_if_failed().solutions
        fine = averaged(fine.unsqueeze(1)).squeeze(1)
        return ((fine - coarse).flatten(1).norm(dim=1) / fine.flatten(1).norm(dim=1),)

    return _in_chunks("finer grid", len(next(iter(fields.values()))), part)[0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 / 0 = 0: a converged sample stands still while the batch goes on."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), 0.0)


def _along(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.reshape(-1, *(1,) * (like.ndim - 1))
