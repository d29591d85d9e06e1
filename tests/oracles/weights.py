"""Our weights put into the networks of other libraries, masks included.

Our networks hold their weights for inputs in the order of the autoregression, and their masks share out degrees in a
way of our own. The others hold columns as they come, so rows and columns are moved, and our masks replace theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import flowmodel.bijectors as bij
from flowmodel.parameters.dense import DenseConditioner
from flowmodel.parameters.dense_autoregressive import MADE


def trained(plan: bij.BijectorPlan, size: int, context_size: int | None = None, deviation: float = 0.3) -> bij.Bijector:
    """A float64 bijector of that plan whose every parameter has moved away from its start."""
    bijector = plan(
        shape=torch.Size([size]), context_shape=None if context_size is None else torch.Size([context_size])
    )
    bijector.to(torch.float64)
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter += deviation * torch.randn_like(parameter)
    return bijector


def copy_network(made: MADE, layers: Sequence[torch.nn.Module]) -> None:
    """Fill masked linear layers, each with ``weight``, ``bias`` and a buffer ``mask``, from our network.

    Columns of the first layer that come after those of the event are taken for the context.
    """
    weights = [weight.detach().clone() for weight in made.weights]
    masks = [mask.clone() for mask in made.masks()]
    biases = [bias.detach().clone() for bias in made.biases]
    place = torch.argsort(made.order)
    weights[0], masks[0] = weights[0][:, place], masks[0][:, place]
    if made.context_weight is not None:
        weights[0] = torch.cat([weights[0], made.context_weight.detach()], 1)
        masks[0] = torch.cat([masks[0], torch.ones_like(made.context_weight)], 1)
    rows = (place[:, None] * made.params_per_dim + torch.arange(made.params_per_dim)).flatten()
    weights[-1], masks[-1], biases[-1] = weights[-1][rows], masks[-1][rows], biases[-1][rows]
    assert len(layers) == len(weights)
    with torch.no_grad():
        for layer, weight, mask, bias in zip(layers, weights, masks, biases, strict=True):
            assert layer.weight.shape == weight.shape
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            layer.mask = mask.to(layer.mask.dtype)


def copy_dense(network: DenseConditioner, layers: Sequence[torch.nn.Module]) -> None:
    """Fill linear layers from the network of a coupling; columns of the context come after those of the event."""
    weights = [weight.detach().clone() for weight in network.weights]
    if network.context_weight is not None:
        weights[0] = torch.cat([weights[0], network.context_weight.detach()], 1)
    with torch.no_grad():
        for layer, weight, bias in zip(layers, weights, network.biases, strict=True):
            assert layer.weight.shape == weight.shape
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def normal(size: int) -> torch.distributions.Distribution:
    """Standard normal noise, float64."""
    zeros = torch.zeros(size, dtype=torch.float64)
    return torch.distributions.Independent(torch.distributions.Normal(zeros, torch.ones_like(zeros)), 1)
