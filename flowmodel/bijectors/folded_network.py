"""A conditioner's network for TorchScript: its weights, masks multiplied in, as buffers."""

import torch
from torch import Tensor

from flowmodel.parameters.network import dense_pass


class FoldedNetwork(torch.nn.Module):
    """Masked weights and biases of a network with one or more hidden layers.

    Args:
        weights: the weights, the outputs' last.
        biases: the biases of all layers, each ``[n]``.
        context_weight: what the first hidden layer reads of the context, ``[H, C]``, or ``None``.
        skip: weight from the inputs to the outputs, or ``None``.
        nonlinearity: name of the activation.
        params_per_dim: P, of which the outputs hold one set for each dimension.
    """

    context_weight: Tensor
    skip_weight: Tensor

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        context_weight: Tensor | None,
        skip: Tensor | None,
        nonlinearity: str,
        params_per_dim: int,
    ) -> None:
        super().__init__()
        self.nonlinearity = nonlinearity
        self.params_per_dim = params_per_dim
        self.has_context = context_weight is not None
        self.has_skip = skip is not None
        empty = weights[0].new_zeros(0)
        self.register_buffer("context_weight", _constant(empty if context_weight is None else context_weight))
        self.register_buffer("skip_weight", _constant(empty if skip is None else skip))
        self.layers = torch.nn.ModuleList(
            FoldedLinear(weight, bias[:, None]) for weight, bias in zip(weights, biases, strict=True)
        )

    @torch.jit.export
    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The parameters for ``x[D, B]``: ``[n, P, B]``."""
        biases = self.biases()
        out = dense_pass(x, self.first_bias(context), self.weights(), biases[1:], self.skip(), self.nonlinearity)
        return out.view(out.shape[0] // self.params_per_dim, self.params_per_dim, out.shape[1])

    @torch.jit.export
    def weights(self) -> list[Tensor]:
        """The weights of all layers."""
        weights: list[Tensor] = []
        for layer in self.layers:
            weights.append(layer.weight)  # type: ignore[arg-type]
        return weights

    @torch.jit.export
    def biases(self) -> list[Tensor]:
        """The biases of all layers, each ``[n, 1]``."""
        biases: list[Tensor] = []
        for layer in self.layers:
            biases.append(layer.bias)  # type: ignore[arg-type]
        return biases

    @torch.jit.export
    def first_bias(self, context: Tensor | None) -> Tensor:
        """The bias of the first layer ``[H, 1]``, or ``[H, B]`` with the context's part."""
        bias = self.biases()[0]
        if self.has_context and context is not None:
            return torch.addmm(bias, self.context_weight, context.to(bias.dtype).t())
        return bias

    @torch.jit.export
    def skip(self) -> Tensor | None:
        """The weight of the skip connections, or ``None``."""
        skip: Tensor | None = None
        if self.has_skip:
            skip = self.skip_weight
        return skip


class FoldedLinear(torch.nn.Module):
    """A weight ``[n, m]`` and a bias ``[n, 1]``, as buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", _constant(weight))
        self.register_buffer("bias", _constant(bias))


def _constant(value: Tensor) -> Tensor:
    return value.detach().clone()
