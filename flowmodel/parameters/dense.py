"""The dense conditioner of coupling layers: it reads one part of the event, and the context, and steers the other."""

from __future__ import annotations

import dataclasses

import torch

from flowmodel.errors import ShapeMismatchError
from flowmodel.parameters.activations import activation_name
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.dense_autoregressive import check_hidden_dims, default_width
from flowmodel.parameters.network import dense_pass, uniform_of_fan_in


@dataclasses.dataclass(frozen=True)
class Dense(Parameters):
    """Plan of a dense network, the conditioner of :class:`~flowmodel.bijectors.AffineCoupling` and its kin.

    Args:
        hidden_dims: width of each hidden layer; ``None`` takes two layers of as many units as
            :func:`~flowmodel.parameters.dense_autoregressive.default_width` gives for the event.
        nonlinearity: as in :class:`~flowmodel.parameters.DenseAutoregressive`.

    Raises:
        PlanError: a width is not a positive whole number, or the activation is unknown.

    Example:
        >>> import torch, flowmodel.parameters as params
        >>> params.Dense(hidden_dims=(64, 64), nonlinearity=torch.nn.Tanh)
        Dense(hidden_dims=(64, 64), nonlinearity='tanh')
    """

    hidden_dims: tuple[int, ...] | None = None
    nonlinearity: str | type[torch.nn.Module] = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", check_hidden_dims("Dense", self.hidden_dims))
        object.__setattr__(self, "nonlinearity", activation_name("Dense", self.nonlinearity))

    def build(
        self, event_size: int, context_size: int, params_per_dim: int, split: int | None = None
    ) -> DenseConditioner:
        """The network that reads the first ``split`` dimensions (half of them if ``None``) and steers the rest.

        Raises:
            ShapeMismatchError: ``split`` leaves no dimension to be steered.
        """
        split = event_size // 2 if split is None else split
        if not 0 <= split < event_size:
            raise ShapeMismatchError(
                f"Dense: split={split} given for an event of {event_size} dimensions; expected a whole number from 0 "
                f"to {event_size - 1}"
            )
        width = default_width(event_size)
        name = activation_name("Dense", self.nonlinearity)
        return DenseConditioner(
            split, event_size - split, context_size, params_per_dim, self.hidden_dims or (width, width), name
        )


class DenseConditioner(torch.nn.Module):
    """The network: ``x[B, inputs]``, ``context[B, C]`` to ``[B, outputs, P]``, all zero at first.

    Args:
        inputs: number of dimensions read.
        outputs: number of dimensions steered.
        context_size: number of context values, 0 for none.
        params_per_dim: P.
        hidden_dims: width of each hidden layer.
        nonlinearity: name of the activation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        context_size: int,
        params_per_dim: int,
        hidden_dims: tuple[int, ...],
        nonlinearity: str,
    ) -> None:
        super().__init__()
        self.event_size = outputs
        self.params_per_dim = params_per_dim
        self.nonlinearity = nonlinearity
        fans_in = [inputs + context_size, *hidden_dims[:-1]]
        reads = [inputs, *hidden_dims[:-1]]
        self.weights = torch.nn.ParameterList(
            uniform_of_fan_in((units, read), fan_in)
            for units, read, fan_in in zip(hidden_dims, reads, fans_in, strict=True)
        )
        self.weights.append(torch.zeros(outputs * params_per_dim, hidden_dims[-1]))
        self.biases = torch.nn.ParameterList(
            uniform_of_fan_in((units,), fan_in) for units, fan_in in zip(hidden_dims, fans_in, strict=True)
        )
        self.biases.append(torch.zeros(outputs * params_per_dim))
        self.context_weight: torch.nn.Parameter | None = None
        if context_size:
            self.context_weight = torch.nn.Parameter(uniform_of_fan_in((hidden_dims[0], context_size), fans_in[0]))

    def outputs(self, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """The parameters for ``x[inputs, B]``: ``[outputs, P, B]``."""
        first_bias = self.biases[0][:, None]
        if self.context_weight is not None and context is not None:
            first_bias = torch.addmm(first_bias, self.context_weight, context.T)
        later_biases = [bias[:, None] for bias in list(self.biases)[1:]]
        out = dense_pass(x, first_bias, list(self.weights), later_biases, None, self.nonlinearity)
        return out.view(self.event_size, self.params_per_dim, -1)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """The parameters of the steered dimensions, ``[B, outputs, P]``."""
        return self.outputs(x.T, context).permute(2, 0, 1)
