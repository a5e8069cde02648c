"""Neural operators: one paper, one file, one class."""

from torch import nn

from vcycle.models.afno import AFNO
from vcycle.models.factformer import FactFormer
from vcycle.models.ffno import FFNO
from vcycle.models.fno import FNO
from vcycle.models.galerkin_transformer import GalerkinTransformer
from vcycle.models.gfno import GFNO
from vcycle.models.lsm import LSM
from vcycle.models.mgno import MgNO
from vcycle.models.resnet import ResNet
from vcycle.models.start import solver_start
from vcycle.models.t1 import T1
from vcycle.models.tfno import TFNO
from vcycle.models.unet import UNet
from vcycle.models.uno import UNO

MODELS: dict[str, type[nn.Module]] = {
    "afno": AFNO,
    "factformer": FactFormer,
    "ffno": FFNO,
    "fno": FNO,
    "galerkin_transformer": GalerkinTransformer,
    "gfno": GFNO,
    "lsm": LSM,
    "mgno": MgNO,
    "resnet": ResNet,
    "t1": T1,
    "tfno": TFNO,
    "unet": UNet,
    "uno": UNO,
}

__all__ = [
    "AFNO",
    "FFNO",
    "FNO",
    "GFNO",
    "LSM",
    "MODELS",
    "T1",
    "TFNO",
    "UNO",
    "FactFormer",
    "GalerkinTransformer",
    "MgNO",
    "ResNet",
    "UNet",
    "solver_start",
]
