"""Neural operators: one paper, one file, one class."""

from torch import nn

from vcycle.models.affnet import AFFNet
from vcycle.models.afno import AFNO
from vcycle.models.deeponet import DeepONet
from vcycle.models.dmd import DMDOperator
from vcycle.models.dpot import DPOT
from vcycle.models.dsno import DSNO
from vcycle.models.factformer import FactFormer, PublishedFactFormer
from vcycle.models.ffno import FFNO
from vcycle.models.fno import FNO
from vcycle.models.galerkin_transformer import GalerkinTransformer, PublishedGalerkinTransformer
from vcycle.models.gfno import GFNO
from vcycle.models.gno import GNO
from vcycle.models.ifactformer import IFactFormer
from vcycle.models.implicit_fno import IFNO
from vcycle.models.lno import LNO
from vcycle.models.local_no import LocalNO
from vcycle.models.lordnet import LordNet
from vcycle.models.lsm import LSM, PublishedLSM
from vcycle.models.mg_tfno import MGTFNO
from vcycle.models.mgno import MgNO
from vcycle.models.monet import MONet
from vcycle.models.multipole import MultipoleGNO
from vcycle.models.neural_spectral import NeuralSpectral
from vcycle.models.resnet import ResNet
from vcycle.models.scot import ScOT
from vcycle.models.sfno import SFNO
from vcycle.models.spectral_refiner import SpectralRefiner
from vcycle.models.srno import SRNO
from vcycle.models.start import solver_start
from vcycle.models.t1 import T1
from vcycle.models.tfno import TFNO
from vcycle.models.unet import UNet
from vcycle.models.uno import UNO

MODELS: dict[str, type[nn.Module]] = {
    "affnet": AFFNet,
    "afno": AFNO,
    "deeponet": DeepONet,
    "dmd": DMDOperator,
    "dpot": DPOT,
    "dsno": DSNO,
    "factformer": FactFormer,
    "ffno": FFNO,
    "fno": FNO,
    "galerkin_transformer": GalerkinTransformer,
    "gfno": GFNO,
    "gno": GNO,
    "ifactformer": IFactFormer,
    "implicit_fno": IFNO,
    "lno": LNO,
    "local_no": LocalNO,
    "lordnet": LordNet,
    "lsm": LSM,
    "mg_tfno": MGTFNO,
    "mgno": MgNO,
    "monet": MONet,
    "multipole_gno": MultipoleGNO,
    "neural_spectral": NeuralSpectral,
    "published_factformer": PublishedFactFormer,
    "published_galerkin_transformer": PublishedGalerkinTransformer,
    "resnet": ResNet,
    "scot": ScOT,
    "sfno": SFNO,
    "spectral_refiner": SpectralRefiner,
    "srno": SRNO,
    "t1": T1,
    "tfno": TFNO,
    "unet": UNet,
    "uno": UNO,
}

__all__ = [
    "AFNO",
    "DPOT",
    "DSNO",
    "FFNO",
    "FNO",
    "GFNO",
    "GNO",
    "IFNO",
    "LNO",
    "LSM",
    "MGTFNO",
    "MODELS",
    "SFNO",
    "SRNO",
    "T1",
    "TFNO",
    "UNO",
    "AFFNet",
    "DMDOperator",
    "DeepONet",
    "FactFormer",
    "GalerkinTransformer",
    "IFactFormer",
    "LocalNO",
    "LordNet",
    "MONet",
    "MgNO",
    "MultipoleGNO",
    "NeuralSpectral",
    "PublishedFactFormer",
    "PublishedGalerkinTransformer",
    "PublishedLSM",
    "ResNet",
    "ScOT",
    "SpectralRefiner",
    "UNet",
    "solver_start",
]
