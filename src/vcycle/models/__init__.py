"""Neural operators: one paper, one file, one class."""

from torch import nn

from vcycle.models.fno import FNO
from vcycle.models.mgno import MgNO

MODELS: dict[str, type[nn.Module]] = {"fno": FNO, "mgno": MgNO}

__all__ = ["FNO", "MODELS", "MgNO"]
