"""Families of partial differential equations, one per file; :data:`PROBLEMS` lists them."""

from collections.abc import Mapping
from typing import Any

from vcycle import _check
from vcycle.grid import Grid
from vcycle.problems.coefficients import COEFFICIENTS, Inclusions, Lognormal, Trigonometric, TwoPhase
from vcycle.problems.darcy import Darcy
from vcycle.problems.helmholtz import Helmholtz
from vcycle.problems.poisson import Poisson
from vcycle.problems.problem import FieldInfo, Fields, Problem, collapse_face, expand_face, sample_generator

PROBLEMS: dict[str, type[Darcy] | type[Poisson] | type[Helmholtz]] = {
    "darcy": Darcy,
    "poisson": Poisson,
    "helmholtz": Helmholtz,
}

__all__ = [
    "COEFFICIENTS",
    "PROBLEMS",
    "Darcy",
    "FieldInfo",
    "Fields",
    "Helmholtz",
    "Inclusions",
    "Lognormal",
    "Poisson",
    "Problem",
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
