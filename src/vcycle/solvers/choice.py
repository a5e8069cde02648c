"""What ``"auto"`` stands for: a method by what the systems are, as measured in ``docs/solvers.md``."""

import math
from dataclasses import dataclass

from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.multigrid.stencil import Stencil
from vcycle.solvers import blackbox, multigrid
from vcycle.solvers.krylov_sequence import Krylov
from vcycle.solvers.systems import LinearSystems

FEW_BELOW_ZERO = {2: 8.0, 3: 60.0}
"""Negative eigenvalues, by number of axes, that GMRES works off one by one faster than sparse LU eliminates."""
LEAST = {2: 96**2, 3: 20**3}
"""Points, by number of axes, from which GMRES with a V-cycle beats sparse LU.

In 3-D it is faster from 12 cubed on, but below 20 cubed the time that its kernels take to compile, once on a machine,
pays for a thousand samples.
"""

PRECONDITIONED = Krylov(preconditioner="multigrid", restart=80)


@dataclass(frozen=True)
class Choice:
    """A method, and the options of a Krylov method."""

    method: str
    krylov: Krylov | None = None


def choose(systems: LinearSystems) -> Choice:
    """Return the fastest method for systems that all look like these.

    Definite symmetric ones go to multigrid, but for one matrix for all that only black-box transfers could follow: its
    factors, made once, solve faster. What is not, but has a definite symmetric part on a grid that multigrid
    takes, goes to GMRES with a V-cycle for that part: transport that diffusion holds together, and waves with few
    resonances below their frequency. All the rest goes to sparse LU, where there is a matrix; operators that bring
    their own way to apply and to precondition themselves go to GMRES.
    """
    if not isinstance(systems.operator, (FaceFluxes, Stencil)):
        return Choice("gmres")
    operator, axes = systems.operator, systems.operator.grid.num_axes
    shared = operator.batch == 1 and len(systems) > 1
    if multigrid.can_solve(systems) and not (shared and axes == 2 and _jumps(systems.fluxes)):
        return Choice("multigrid")
    if shared or systems.singular or axes == 1 or not _coarsens(systems):
        return Choice("direct")
    if operator.grid.num_points < LEAST[axes] or num_below_zero(systems) > FEW_BELOW_ZERO[axes]:
        return Choice("direct")
    return Choice("gmres", PRECONDITIONED)


def _jumps(operator: FaceFluxes) -> bool:
    inner = [face.narrow(axis + 1, 1, face.shape[axis + 1] - 2) for axis, face in enumerate(operator.faces)]
    return any(bool(face.amin() * multigrid.JUMP < face.amax()) for face in inner)


def _coarsens(systems: LinearSystems) -> bool:
    grid, boundary = systems.operator.grid, systems.operator.boundary
    return grid.num_axes in (2, 3) and math.prod(blackbox.plan(grid, boundary)[-1][:3]) <= multigrid.MAX_COARSEST


def num_below_zero(systems: LinearSystems) -> float:
    """Return about how many eigenvalues of a symmetric matrix are negative, by Weyl's law; 0 for others.

    The unit-diffusion Laplacian of a box of volume V has ``omega_d V (k / 2 pi)^d`` eigenvalues below k^2, where
    ``omega_d`` is the volume of the unit ball. A reaction of ``-k^2`` times the cell volume moves those below zero.
    """
    if not systems.symmetric or systems.fluxes.reaction is None:
        return 0.0
    grid, reaction = systems.operator.grid, systems.fluxes.reaction
    per_volume = -(reaction.real if reaction.is_complex() else reaction).flatten(1).mean(1).amin() / grid.cell_volume
    if not per_volume > 0:
        return 0.0
    ball = math.pi ** (grid.num_axes / 2) / math.gamma(grid.num_axes / 2 + 1)
    return ball * math.prod(grid.extent) * (math.sqrt(float(per_volume)) / (2 * math.pi)) ** grid.num_axes
