"""Families of partial differential equations, one per file; :data:`PROBLEMS` lists them."""

from collections.abc import Mapping
from typing import Any

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.advection import Advection
from vcycle.problems.allen_cahn import AllenCahn
from vcycle.problems.burgers import Burgers
from vcycle.problems.coefficients import COEFFICIENTS, Inclusions, Lognormal, Trigonometric, TwoPhase
from vcycle.problems.convection_diffusion import ConvectionDiffusion
from vcycle.problems.darcy import Darcy
from vcycle.problems.evolution import Evolution
from vcycle.problems.heat import Heat
from vcycle.problems.helmholtz import Helmholtz
from vcycle.problems.korteweg_de_vries import KortewegDeVries
from vcycle.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from vcycle.problems.navier_stokes import NavierStokes
from vcycle.problems.poisson import Poisson
from vcycle.problems.problem import FieldInfo, Fields, Problem, collapse_face, expand_face, sample_generator
from vcycle.problems.reaction_diffusion import ReactionDiffusion
from vcycle.problems.shallow_water import ShallowWater
from vcycle.problems.thermal import Thermal

PROBLEMS: dict[str, type[Any]] = {  # of problems, whose constructors differ
    "darcy": Darcy,
    "poisson": Poisson,
    "helmholtz": Helmholtz,
    "reaction-diffusion": ReactionDiffusion,
    "convection-diffusion": ConvectionDiffusion,
    "thermal": Thermal,
    "heat": Heat,
    "advection": Advection,
    "burgers": Burgers,
    "korteweg-de-vries": KortewegDeVries,
    "kuramoto-sivashinsky": KuramotoSivashinsky,
    "allen-cahn": AllenCahn,
    "navier-stokes": NavierStokes,
    "shallow-water": ShallowWater,
}

__all__ = [
    "COEFFICIENTS",
    "PROBLEMS",
    "Advection",
    "AllenCahn",
    "Burgers",
    "ConvectionDiffusion",
    "Darcy",
    "Evolution",
    "FieldInfo",
    "Fields",
    "Heat",
    "Helmholtz",
    "Inclusions",
    "KortewegDeVries",
    "KuramotoSivashinsky",
    "Lognormal",
    "NavierStokes",
    "Poisson",
    "Problem",
    "ReactionDiffusion",
    "ShallowWater",
    "Thermal",
    "Trigonometric",
    "TwoPhase",
    "collapse_face",
    "expand_face",
    "from_config",
    "sample_generator",
]


def from_config(config: Mapping[str, Any]) -> Problem:
    """Return the problem that a description stands for: the inverse of :meth:`Problem.config`.

    Parameters
    ----------
    config
        ``{"name": ..., "grid": ..., ...}``: a name of :data:`PROBLEMS`, a grid as :meth:`Grid.to_dict` gives it, and
        any of the family's other arguments.

    Raises
    ------
    ValueError
        If the name is unknown, the grid is missing, or an argument is none of the family's or not usable.
    """
    family = PROBLEMS[_check.choice("name", config.get("name"), PROBLEMS)]
    arguments = {key: value for key, value in config.items() if key not in ("name", "grid")}
    known = family.__init__.__annotations__.keys() - {"return"}
    for key in arguments:
        _check.choice(f"{config['name']} argument", key, sorted(known))
    if "grid" not in config:
        raise ValueError("`config` must have a grid. Got none.")
    grid = config["grid"]
    return family(grid if isinstance(grid, Grid) else Grid(**grid), **arguments)
