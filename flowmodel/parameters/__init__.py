"""Conditioners: where a bijector's parameters come from."""

from flowmodel.parameters.base import Parameters
from flowmodel.parameters.dense import Dense
from flowmodel.parameters.dense_autoregressive import MADE, DenseAutoregressive
from flowmodel.parameters.tensor import Tensor

__all__ = ["MADE", "Dense", "DenseAutoregressive", "Parameters", "Tensor"]
