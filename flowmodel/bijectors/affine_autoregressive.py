r"""The affine autoregressive bijector, :math:`y_i = \mu_i(x_{<i}) + \sigma_i(x_{<i})\, x_i`.

Inverse autoregressive flow (Kingma et al. 2016, arXiv:1606.04934): data from noise in one dense pass, noise from data
one degree at a time by :mod:`flowmodel.bijectors.degree_walk`. Under :class:`~flowmodel.bijectors.Invert` it is
masked autoregressive flow (Papamakarios et al. 2017, arXiv:1705.07057), with the two directions changed over.
"""

import dataclasses
import math

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.bijectors.degree_walk import InvertByDegree, invert_by_degree
from flowmodel.bijectors.scale import SCALES, log_scale
from flowmodel.errors import DtypeMismatchError, PlanError, ShapeMismatchError
from flowmodel.parameters.activations import activate
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.dense_autoregressive import MADE, DenseAutoregressive


@dataclasses.dataclass(frozen=True)
class AffineAutoregressive(BijectorPlan):
    """Plan of an affine autoregressive bijector.

    Args:
        params_fn: plan of the network that gives shift and scale.
        scale_fn: ``bounded`` (default), ``exp`` or ``softplus``; see :mod:`flowmodel.bijectors.scale`.

    Raises:
        PlanError: ``params_fn`` is not an autoregressive conditioner, or the scale function is unknown.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.AffineAutoregressive()(shape=torch.Size([3]))
        >>> x = torch.randn(5, 3)
        >>> torch.equal(bijector(x), x)        # an untrained layer is the identity
        True
    """

    params_fn: Parameters = dataclasses.field(default_factory=DenseAutoregressive)
    scale_fn: str = "bounded"

    def __post_init__(self) -> None:
        if not isinstance(self.params_fn, DenseAutoregressive):
            raise PlanError(
                f"AffineAutoregressive: params_fn={self.params_fn!r} given; expected a plan such as "
                "params.DenseAutoregressive(hidden_dims=(64, 64))"
            )
        if self.scale_fn not in SCALES:
            raise PlanError(
                f"AffineAutoregressive: scale_fn={self.scale_fn!r} given; expected one of {', '.join(SCALES)}"
            )

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "AffineAutoregressiveBijector":
        """The concrete layer.

        Raises:
            ShapeMismatchError: the event is a scalar, or the network too narrow for it.
        """
        if not event_shape:
            raise ShapeMismatchError(
                "AffineAutoregressive: event shape () given; expected at least one dimension. Wrap the base "
                "distribution in torch.distributions.Independent(base, 1): its last dimension then belongs to the event"
            )
        context_size = 0 if context_shape is None else math.prod(context_shape)
        made = self.params_fn.build(math.prod(event_shape), context_size, 2)
        return AffineAutoregressiveBijector(event_shape, context_shape, made, self.scale_fn)


class AffineAutoregressiveBijector(Bijector):
    """The layer built from :class:`AffineAutoregressive`."""

    def __init__(
        self, event_shape: torch.Size, context_shape: torch.Size | None, made: torch.nn.Module, scale_fn: str
    ) -> None:
        super().__init__(event_shape, context_shape)
        if not isinstance(made, MADE):
            raise PlanError(f"AffineAutoregressive: conditioner {type(made).__name__} given; expected MADE")
        self.made = made
        self.scale_fn = scale_fn

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, in one dense pass."""
        self._check_dtype(x)
        shift, u = self.made(x, context).unbind(-1)
        log_sigma = log_scale(u, self.scale_fn)
        return shift + torch.exp(log_sigma) * x, log_sigma.sum(-1)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, one degree at a time, differentiable by the implicit gradient."""
        self._check_dtype(y)
        made = self.made
        ordered = (y if made.natural_order else y.index_select(1, made.order)).T.contiguous()
        x, log_det = InvertByDegree.apply(  # type: ignore[no-untyped-call]
            ordered,
            _as_columns(made.first_bias(context)),
            made.offsets,
            made.nonlinearity,
            self.scale_fn,
            *made.folded_weights(),
            *(bias[:, None] for bias in list(made.biases)[1:]),
        )
        x = x.T
        return (x if made.natural_order else x.index_select(1, torch.argsort(made.order))), -log_det

    def fold(self) -> Folded:
        """The layer with its masks multiplied in."""
        return FoldedAffineAutoregressive(self.made, self.scale_fn)

    def _check_dtype(self, value: Tensor) -> None:
        own = self.made.biases[0]
        if value.dtype != own.dtype or value.device != own.device:
            raise DtypeMismatchError(
                f"AffineAutoregressive: value of {value.dtype} on {value.device} given, its parameters are {own.dtype} "
                f"on {own.device}; move the value, or the flow by flow.to(...)"
            )


def _as_columns(bias: Tensor) -> Tensor:
    """A bias ``[H]`` or ``[B, H]`` as ``[H, 1]`` or ``[H, B]``."""
    return bias[:, None] if bias.dim() == 1 else bias.T


class FoldedAffineAutoregressive(Folded):
    """The layer for TorchScript: folded weights as buffers, ``weight_0`` first and the output's last."""

    order: Tensor
    place: Tensor
    context_weight: Tensor
    offsets: list[list[int]]

    def __init__(self, made: MADE, scale_fn: str) -> None:
        super().__init__()
        self.event_size = made.event_size
        self.offsets = made.offsets
        self.nonlinearity = made.nonlinearity
        self.scale_fn = scale_fn
        self.natural_order = made.natural_order
        self.has_context = made.context_weight is not None
        self.register_buffer("order", made.order.clone())
        self.register_buffer("place", torch.argsort(made.order))
        weights = [weight.detach().clone() for weight in made.folded_weights()]
        empty = weights[0].new_zeros(weights[0].shape[0], 0)
        context_weight = empty if made.context_weight is None else made.context_weight.detach().clone()
        self.register_buffer("context_weight", context_weight)
        self.layers = torch.nn.ModuleList(
            FoldedLinear(weight, bias.detach().clone()) for weight, bias in zip(weights, made.biases, strict=True)
        )

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, in one dense pass."""
        weights, biases = self._weights_and_biases()
        x = x.to(weights[0].dtype)
        hidden = x if self.natural_order else x.index_select(1, self.order)
        hidden = activate(
            torch.nn.functional.linear(hidden, weights[0]) + self._first_bias(biases[0], context).t(), self.nonlinearity
        )
        for layer in range(1, len(weights) - 1):
            hidden = activate(torch.nn.functional.linear(hidden, weights[layer], biases[layer]), self.nonlinearity)
        out = torch.nn.functional.linear(hidden, weights[-1], biases[-1]).view(-1, self.event_size, 2)
        if not self.natural_order:
            out = out.index_select(1, self.place)
        log_sigma = log_scale(out[:, :, 1], self.scale_fn)
        return out[:, :, 0] + torch.exp(log_sigma) * x, log_sigma.sum(-1)

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, one degree at a time."""
        weights, biases = self._weights_and_biases()
        first_bias = self._first_bias(biases[0], context)
        later_biases: list[Tensor] = []
        for bias in biases[1:]:
            later_biases.append(bias.unsqueeze(1))
        y = y.to(weights[0].dtype)
        ordered = (y if self.natural_order else y.index_select(1, self.order)).t().contiguous()
        x, outputs, _ = invert_by_degree(
            ordered, first_bias, weights, later_biases, self.offsets, self.nonlinearity, self.scale_fn
        )
        log_sigma = log_scale(outputs[1::2], self.scale_fn)
        x = x.t()
        return (x if self.natural_order else x.index_select(1, self.place)), -log_sigma.sum(0)

    def _weights_and_biases(self) -> tuple[list[Tensor], list[Tensor]]:
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for layer in self.layers:
            weights.append(layer.weight)  # type: ignore[arg-type]
            biases.append(layer.bias)  # type: ignore[arg-type]
        return weights, biases

    def _first_bias(self, bias: Tensor, context: Tensor | None) -> Tensor:
        """The bias of the first layer as ``[H, 1]``, or ``[H, B]`` with the context's part."""
        if self.has_context and context is not None:
            return torch.nn.functional.linear(context.to(bias.dtype), self.context_weight, bias).t()
        return bias.unsqueeze(1)


class FoldedLinear(torch.nn.Module):
    """A weight and a bias, as buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
