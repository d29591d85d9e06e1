"""Training: maximum likelihood with early stopping, and the history of it."""

from flowmodel.training.fit import fit
from flowmodel.training.history import Epoch, FitResult

__all__ = ["Epoch", "FitResult", "fit"]
