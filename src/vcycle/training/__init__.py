"""From a dataset to a trained operator. Importing this does not import the training engine; :func:`fit` does."""

from vcycle.training.config import FitConfig
from vcycle.training.fit import fit
from vcycle.training.normaliser import Normaliser
from vcycle.training.operator import TrainedOperator, load, predict

__all__ = ["FitConfig", "Normaliser", "TrainedOperator", "fit", "load", "predict"]
