"""What training minimises."""

from vcycle.objectives.losses import LOSSES, Loss, RelativeH1, RelativeL2, data_loss

__all__ = ["LOSSES", "Loss", "RelativeH1", "RelativeL2", "data_loss"]
