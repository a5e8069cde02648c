"""What training minimises."""

from vcycle.objectives.losses import LOSSES, LabelFree, Loss, RelativeH1, RelativeL2, data_loss

__all__ = ["LOSSES", "LabelFree", "Loss", "RelativeH1", "RelativeL2", "data_loss"]
