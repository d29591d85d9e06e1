"""The dense pass through a feed-forward network, feature-major, in words that TorchScript takes."""

import math

import torch
from torch import Tensor

from flowmodel.parameters.activations import activate


def dense_pass(
    x: Tensor, first_bias: Tensor, weights: list[Tensor], biases: list[Tensor], skip: Tensor | None, nonlinearity: str
) -> Tensor:
    """The outputs of a network with one or more hidden layers.

    Args:
        x: ``[D, B]``.
        first_bias: what the first hidden layer adds to its inputs' part, ``[H, 1]`` or ``[H, B]``.
        weights: the weights, the outputs' last.
        biases: the biases of all layers but the first, each ``[n, 1]``.
        skip: weight from the inputs to the outputs, or ``None``.
        nonlinearity: name of the activation.

    Returns:
        ``[n, B]``, n the number of outputs.
    """
    hidden = activate(torch.addmm(first_bias, weights[0], x), nonlinearity)
    last = len(biases) - 1
    for layer in range(last):
        hidden = activate(torch.addmm(biases[layer], weights[layer + 1], hidden), nonlinearity)
    outputs = torch.addmm(biases[last], weights[last + 1], hidden)
    if skip is not None:
        outputs = torch.addmm(outputs, skip, x)
    return outputs


def uniform_of_fan_in(shape: tuple[int, ...], fan_in: int) -> Tensor:
    """Weights or biases of variance 1/(3 n) for n inputs, as ``torch.nn.Linear`` draws them."""
    return (torch.rand(shape) * 2 - 1) / math.sqrt(max(fan_in, 1))
