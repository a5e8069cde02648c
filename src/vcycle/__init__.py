"""Fast, trustworthy surrogates of parametric PDEs: generate data, learn the solution operator, certify its predictions.

Names are loaded when they are first used, so that ``import vcycle`` costs nothing and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Boundary",
    "CheckpointError",
    "DataError",
    "Dataset",
    "FitConfig",
    "Grid",
    "SolveError",
    "TrainedOperator",
    "benchmark",
    "certify",
    "data",
    "evaluate",
    "evaluation",
    "fields",
    "fit",
    "generate",
    "load",
    "metrics",
    "models",
    "predict",
    "problems",
    "recipes",
    "solve_sequence",
    "solvers",
    "training",
]

if TYPE_CHECKING:
    from vcycle import data, evaluation, fields, metrics, models, problems, recipes, solvers, training
    from vcycle.boundary import Boundary
    from vcycle.data.dataset import Dataset
    from vcycle.data.generate import generate
    from vcycle.errors import CheckpointError, DataError, SolveError
    from vcycle.evaluation.benchmark import benchmark
    from vcycle.evaluation.certify import certify
    from vcycle.evaluation.evaluate import evaluate
    from vcycle.grid import Grid
    from vcycle.solvers import solve_sequence
    from vcycle.training.config import FitConfig
    from vcycle.training.fit import fit
    from vcycle.training.operator import TrainedOperator, load, predict

# Where each name is defined; ``None``: the name is a module of this package.
_HOME: dict[str, str | None] = {
    "Boundary": "vcycle.boundary",
    "CheckpointError": "vcycle.errors",
    "DataError": "vcycle.errors",
    "Dataset": "vcycle.data",
    "FitConfig": "vcycle.training",
    "Grid": "vcycle.grid",
    "SolveError": "vcycle.errors",
    "TrainedOperator": "vcycle.training",
    "benchmark": "vcycle.evaluation",
    "certify": "vcycle.evaluation",
    "data": None,
    "evaluate": "vcycle.evaluation",
    "evaluation": None,
    "fields": None,
    "fit": "vcycle.training",
    "generate": "vcycle.data",
    "load": "vcycle.training",
    "metrics": None,
    "models": None,
    "predict": "vcycle.training",
    "problems": None,
    "recipes": None,
    "solve_sequence": "vcycle.solvers",
    "solvers": None,
    "training": None,
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    value = import_module(f"{__name__}.{name}") if home is None else getattr(import_module(home), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
