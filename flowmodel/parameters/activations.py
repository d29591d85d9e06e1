r"""The activations a conditioner may use, each with its slope written in terms of its *output*.

The reverse sweep of :mod:`flowmodel.bijectors.degree_walk` has the outputs h = a(z) at hand and not the inputs z, so
only activations whose slope is a function of the output are offered: for ReLU :math:`[h > 0]`, for tanh
:math:`1 - h^2`, and so on. Both functions are plain enough for TorchScript.
"""

from __future__ import annotations

import torch

from flowmodel.errors import PlanError

ACTIVATIONS = ("relu", "tanh", "elu", "leaky_relu", "sigmoid", "softplus")
"""Names accepted by ``DenseAutoregressive(nonlinearity=...)``."""


_NAME_OF_CLASS = {
    torch.nn.ReLU: "relu",
    torch.nn.Tanh: "tanh",
    torch.nn.ELU: "elu",
    torch.nn.LeakyReLU: "leaky_relu",
    torch.nn.Sigmoid: "sigmoid",
    torch.nn.Softplus: "softplus",
}


def activation_name(owner: str, nonlinearity: str | type[torch.nn.Module]) -> str:
    """The name of an activation given by its name, or by its class in ``torch.nn`` as FlowTorch wants it.

    Raises:
        PlanError: it is none of those offered.

    Example:
        >>> activation_name("DenseAutoregressive", torch.nn.LeakyReLU)
        'leaky_relu'
    """
    if isinstance(nonlinearity, str) and nonlinearity in ACTIVATIONS:
        return nonlinearity
    if isinstance(nonlinearity, type) and nonlinearity in _NAME_OF_CLASS:
        return _NAME_OF_CLASS[nonlinearity]
    classes = ", ".join(f"torch.nn.{known.__name__}" for known in _NAME_OF_CLASS)
    raise PlanError(
        f"{owner}: nonlinearity={nonlinearity!r} given; expected one of {', '.join(ACTIVATIONS)}, or of the classes "
        f"{classes}"
    )


def activate(z: torch.Tensor, name: str) -> torch.Tensor:
    """The activation ``name`` of ``z``, elementwise."""
    if name == "relu":
        return torch.relu(z)
    if name == "tanh":
        return torch.tanh(z)
    if name == "elu":
        return torch.nn.functional.elu(z)
    if name == "leaky_relu":
        return torch.nn.functional.leaky_relu(z, 0.01)
    if name == "sigmoid":
        return torch.sigmoid(z)
    return torch.nn.functional.softplus(z)


def activation_slope(h: torch.Tensor, name: str) -> torch.Tensor:
    """The slope of the activation ``name`` where its output is ``h``, elementwise."""
    if name == "relu":
        return (h > 0).to(h.dtype)
    if name == "tanh":
        return 1 - h * h
    if name == "elu":
        return torch.where(h > 0, torch.ones_like(h), h + 1)
    if name == "leaky_relu":
        return torch.where(h > 0, torch.ones_like(h), torch.full_like(h, 0.01))
    if name == "sigmoid":
        return h * (1 - h)
    return -torch.expm1(-h)
