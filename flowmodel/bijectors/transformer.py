r"""What turns one number into another given a few parameters: the inner function of autoregression and coupling.

A transformer is a map :math:`y = f(x; \theta)`, strictly increasing in x, with its own P parameters for each number.
Which numbers the parameters depend on is the business of the layer around it, so affine and spline share every layer.

Everything is feature-major: values ``[..., B]``, parameters ``[..., P, B]`` or ``[..., P, 1]`` where all rows share
them. The rows of a batch are then contiguous for every step of :mod:`flowmodel.bijectors.degree_walk`.
"""

import abc
from typing import NamedTuple

import torch
from torch import Tensor


class Derivatives(NamedTuple):
    """What the reverse sweep needs to know of y = f(x; theta) and of its log-slope l = log df/dx."""

    log_slope: Tensor
    """l, ``[D, B]``."""
    log_slope_x: Tensor
    """dl/dx, ``[D, B]``."""
    value_params: Tensor
    """df/dtheta, ``[D, P, B]``."""
    log_slope_params: Tensor
    """dl/dtheta, ``[D, P, B]``."""


class Transformer(torch.nn.Module, abc.ABC):
    """An increasing function of one number with ``params_per_dim`` parameters, which its module does not hold.

    Args:
        params_per_dim: P, the number of parameters that each dimension takes.
    """

    params_per_dim: int

    def __init__(self, params_per_dim: int) -> None:
        super().__init__()
        self.params_per_dim = params_per_dim

    @property
    def constant_log_slope(self) -> bool:
        """Whether the log-slope is the same for every x, given the parameters."""
        return False

    @abc.abstractmethod
    def push(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """``x[..., B]`` to y, and log dy/dx in a shape that broadcasts to that of y."""

    @abc.abstractmethod
    def pull(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """``y[..., B]`` to x, and log dx/dy in a shape that broadcasts to that of x."""

    def derivatives(self, x: Tensor, params: Tensor) -> Derivatives:
        """The derivatives of :meth:`push` at ``x[D, B]`` and ``params[D, P, B]``, by autograd."""
        with torch.enable_grad():
            x, params = x.detach().requires_grad_(), params.detach().requires_grad_()
            y, log_slope = self.push(x, params)
            # Each y depends on its own x and its own parameters alone, so seeds of 1 give every derivative at once.
            (value_params,) = torch.autograd.grad(y, params, torch.ones_like(y), retain_graph=True)
            of_log_slope = torch.autograd.grad(log_slope, [x, params], torch.ones_like(log_slope))
        return Derivatives(log_slope.detach(), of_log_slope[0], value_params, of_log_slope[1])
