r"""The autoregressive layer, :math:`y_i = f(x_i; \theta_i(x_{<i}))`, whatever the transformer f is.

Data from noise take one dense pass, noise from data one degree at a time by :mod:`flowmodel.bijectors.degree_walk`:
inverse autoregressive flow (Kingma et al. 2016, arXiv:1606.04934). Under :class:`~flowmodel.bijectors.Invert` it is
masked autoregressive flow (Papamakarios et al. 2017, arXiv:1705.07057), with the two directions changed over.
"""

import copy
import math

import torch
from torch import Tensor

from flowmodel.bijectors import autoregressive_maps
from flowmodel.bijectors.base import Bijector, Folded, check_same_kind
from flowmodel.bijectors.degree_walk import DegreeWalk
from flowmodel.bijectors.folded_network import FoldedNetwork
from flowmodel.bijectors.native_walk import NativeWalk
from flowmodel.bijectors.transformer import Transformer
from flowmodel.errors import ShapeMismatchError
from flowmodel.parameters.base import Parameters, as_conditioner
from flowmodel.parameters.dense_autoregressive import MADE, DenseAutoregressive


def check_autoregressive(owner: str, params_fn: Parameters | None) -> DenseAutoregressive:
    """The plan of the conditioner, the default one for ``None``.

    Raises:
        PlanError: ``params_fn`` is the plan of no autoregressive conditioner.
    """
    return as_conditioner(owner, params_fn, DenseAutoregressive, "params.DenseAutoregressive(hidden_dims=(64, 64))")


def build_autoregressive(
    owner: str,
    params_fn: Parameters | None,
    transformer: Transformer,
    event_shape: torch.Size,
    context_shape: torch.Size | None,
) -> "AutoregressiveBijector":
    """The concrete layer.

    Raises:
        ShapeMismatchError: the event is a scalar, or the network too narrow for it.
    """
    if not event_shape:
        raise ShapeMismatchError(
            f"{owner}: event shape () given; expected at least one dimension. Wrap the base "
            "distribution in torch.distributions.Independent(base, 1): its last dimension then belongs to the event"
        )
    context_size = 0 if context_shape is None else math.prod(context_shape)
    made = check_autoregressive(owner, params_fn).build(
        math.prod(event_shape), context_size, transformer.params_per_dim
    )
    return AutoregressiveBijector(event_shape, context_shape, made, transformer, owner)


class AutoregressiveBijector(Bijector):
    """The layer that plans such as :class:`~flowmodel.bijectors.AffineAutoregressive` build.

    Args:
        event_shape: shape of one event.
        context_shape: shape of one context, or ``None``.
        made: the network that gives the transformer its parameters.
        transformer: the function applied to each dimension.
        plan_name: the name of the plan.
    """

    def __init__(
        self,
        event_shape: torch.Size,
        context_shape: torch.Size | None,
        made: MADE,
        transformer: Transformer,
        plan_name: str = "Autoregressive",
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.plan_name = plan_name
        self.made = made
        self.walk = DegreeWalk(transformer, made.offsets, made.nonlinearity)
        self.native = NativeWalk(made, transformer)

    @property
    def transformer(self) -> Transformer:
        """The function applied to each dimension."""
        return self.walk.transformer

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, in one dense pass."""
        return self._map(False, x, context)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, one degree at a time, differentiable by the implicit gradient."""
        return self._map(True, y, context)

    def _map(self, solve: bool, given: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        check_same_kind(self.plan_name, given, self.made.biases[0])
        found = self.native.map(self.made, self.walk, solve, given, context)
        if found is None:
            direction = autoregressive_maps.pull if solve else autoregressive_maps.push
            return direction(self.made, self.walk, given, context)
        return found

    def fold(self) -> Folded:
        """The layer with its masks multiplied in."""
        return FoldedAutoregressive(self.made, self.walk)


class FoldedAutoregressive(Folded):
    """The layer for TorchScript."""

    order: Tensor
    place: Tensor

    def __init__(self, made: MADE, walk: DegreeWalk) -> None:
        super().__init__()
        self.walk = copy.deepcopy(walk)
        skip = made.folded_skip()
        self.network = FoldedNetwork(
            made.folded_weights(),
            list(made.biases),
            made.context_weight,
            # Those that were never set cost nothing.
            skip if skip is not None and bool(skip.any()) else None,
            made.nonlinearity,
            made.params_per_dim,
        )
        self.natural_order = made.natural_order
        self.register_buffer("order", made.order.clone())
        self.register_buffer("place", torch.argsort(made.order))

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, in one dense pass."""
        ordered = self._ordered(x)
        y, log_slope = self.walk.transformer.push(ordered, self.network.outputs(ordered, context))
        return self._unordered(y), log_slope.sum(0)

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, one degree at a time."""
        network = self.network
        x, log_slope, _, _ = self.walk.invert(
            self._ordered(y).contiguous(),
            network.first_bias(context),
            network.weights(),
            network.biases()[1:],
            network.skip(),
        )
        return self._unordered(x), log_slope.sum(0)

    def _ordered(self, x: Tensor) -> Tensor:
        x = x.to(self.network.weights()[0].dtype).t()
        return x if self.natural_order else x.index_select(0, self.order)

    def _unordered(self, x: Tensor) -> Tensor:
        return (x if self.natural_order else x.index_select(0, self.place)).t()
