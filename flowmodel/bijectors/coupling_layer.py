r"""The coupling layer: the first dimensions of the event stay as they are and steer a transformer of the others.

.. math:: y_{\le s} = x_{\le s}, \qquad y_i = f(x_i; \theta_i(x_{\le s})) \quad (i > s)

Both directions are one dense pass (Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803). A single layer leaves s
dimensions untouched, so several want a :class:`~flowmodel.bijectors.Permute` between them.
"""

import copy
import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded, check_same_kind
from flowmodel.bijectors.folded_network import FoldedNetwork
from flowmodel.bijectors.transformer import Transformer
from flowmodel.errors import PlanError, ShapeMismatchError
from flowmodel.parameters.base import as_conditioner
from flowmodel.parameters.dense import Dense, DenseConditioner


@dataclasses.dataclass(frozen=True)
class Coupling(BijectorPlan):
    """Family of bijectors that keep the first ``split`` dimensions and transform the others by what these say.

    Args:
        params_fn: plan of the network that gives the transformer its parameters; ``None`` takes ``params.Dense()``.
        split: how many dimensions of the flattened event stay as they are; ``None`` takes half, rounded down. An
            event of one dimension has none to spare: it is then steered by the context alone.
    """

    domain: ClassVar[Constraint] = constraints.real_vector
    codomain: ClassVar[Constraint] = constraints.real_vector

    params_fn: Dense | None = dataclasses.field(default_factory=Dense)
    split: int | None = None

    def check_coupling_arguments(self) -> None:
        """Raise a :class:`PlanError` where an argument makes no sense; the default conditioner for ``None``."""
        owner = type(self).__name__
        conditioner = as_conditioner(owner, self.params_fn, Dense, "params.Dense(hidden_dims=(64, 64))")
        object.__setattr__(self, "params_fn", conditioner)
        whole = isinstance(self.split, int) and not isinstance(self.split, bool)
        if self.split is not None and not (whole and self.split > 0):
            raise PlanError(f"{owner}: split={self.split!r} given; expected a whole number above 0, or None for half")

    def build_coupling(
        self, transformer: Transformer, event_shape: torch.Size, context_shape: torch.Size | None
    ) -> "CouplingBijector":
        """The concrete layer.

        Raises:
            ShapeMismatchError: the event is a scalar, or has no dimension left after the split.
        """
        owner, size = type(self).__name__, math.prod(event_shape)
        if not event_shape:
            raise ShapeMismatchError(
                f"{owner}: event shape () given; expected at least one dimension. Wrap the base distribution in "
                "torch.distributions.Independent(base, 1): its last dimension then belongs to the event"
            )
        if self.split is not None and self.split >= size:
            raise ShapeMismatchError(
                f"{owner}: split={self.split} given for an event of {size} dimensions, which leaves none to transform; "
                f"give at most {size - 1}, or None for half"
                if size > 1
                else f"{owner}: split={self.split} given for an event of one dimension, which leaves none to "
                "transform; leave split=None, and the one dimension is steered by the context alone"
            )
        context_size = 0 if context_shape is None else math.prod(context_shape)
        network = (self.params_fn or Dense()).build(size, context_size, transformer.params_per_dim, self.split)
        return CouplingBijector(event_shape, context_shape, network, transformer, owner)


class CouplingBijector(Bijector):
    """The layer that plans such as :class:`~flowmodel.bijectors.AffineCoupling` build.

    Args:
        event_shape: shape of one event.
        context_shape: shape of one context, or ``None``.
        network: the conditioner.
        transformer: the function applied to each dimension that does not stay.
        plan_name: the name of the plan.
    """

    def __init__(
        self,
        event_shape: torch.Size,
        context_shape: torch.Size | None,
        network: DenseConditioner,
        transformer: Transformer,
        plan_name: str = "Coupling",
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.plan_name = plan_name
        self.network = network
        self.transformer = transformer
        self.split = self.event_size - network.event_size

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, in one dense pass."""
        check_same_kind(self.plan_name, x, self.network.biases[0])
        kept, rest = x.T[: self.split], x.T[self.split :]
        y, log_slope = self.transformer.push(rest, self.network.outputs(kept, context))
        return torch.cat([kept, y]).T, log_slope.sum(0)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, in one dense pass."""
        check_same_kind(self.plan_name, y, self.network.biases[0])
        kept, rest = y.T[: self.split], y.T[self.split :]
        x, log_slope = self.transformer.pull(rest, self.network.outputs(kept, context))
        return torch.cat([kept, x]).T, log_slope.sum(0)

    def fold(self) -> Folded:
        """The layer as constants."""
        return FoldedCoupling(self.network, self.transformer, self.split)


class FoldedCoupling(Folded):
    """The layer for TorchScript."""

    def __init__(self, network: DenseConditioner, transformer: Transformer, split: int) -> None:
        super().__init__()
        self.transformer = copy.deepcopy(transformer)
        self.split = split
        self.network = FoldedNetwork(
            list(network.weights),
            list(network.biases),
            network.context_weight,
            None,
            network.nonlinearity,
            network.params_per_dim,
        )

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        columns = x.to(self.network.weights()[0].dtype).t()
        kept = columns[: self.split]
        y, log_slope = self.transformer.push(columns[self.split :], self.network.outputs(kept, context))
        return torch.cat([kept, y]).t(), log_slope.sum(0)

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        columns = y.to(self.network.weights()[0].dtype).t()
        kept = columns[: self.split]
        x, log_slope = self.transformer.pull(columns[self.split :], self.network.outputs(kept, context))
        return torch.cat([kept, x]).t(), log_slope.sum(0)
