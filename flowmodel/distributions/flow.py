r"""The flow: a base distribution seen through a bijector.

.. math:: \log q(y) = \log p(g^{-1}(y)) + \log\lvert\det \partial g^{-1} / \partial y\rvert
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowmodel.bijectors.base import Bijector, BijectorPlan, as_plan, as_shape, leading_shape
from flowmodel.bijectors.domain import interval_of, point_inside
from flowmodel.bijectors.standardize import KeepsFloat64, location_and_scale
from flowmodel.distributions.arguments import (
    broadcast,
    check_kind,
    check_validate_args,
    check_values,
    context_shape_of,
    named_arguments,
)
from flowmodel.distributions.base import BaseDistribution, name_of
from flowmodel.distributions.base_support import check_base, check_support
from flowmodel.distributions.refusals import WithoutClosedForms
from flowmodel.errors import ArgumentError, NoClosedFormError, ReparameterisationError, ShapeMismatchError

SampleShape = torch.Size | list[int] | tuple[int, ...]


class Flow(KeepsFloat64, WithoutClosedForms):
    """A trainable distribution, both a ``torch.distributions.Distribution`` and a ``torch.nn.Module``.

    The lazy plan is made concrete here, in the event shape, dtype and device of the base distribution.

    Args:
        base_dist: distribution of the noise; its event shape is the flow's.
        bijector: plan of the map from noise to data (of a plan without required arguments, the class will do).
        validate_args: whether ``log_prob`` raises an error for values outside the support, as torch's own distributions
            do; otherwise, and if ``None``, they have the log-density -inf, so that one row spoils no batch.
        context_shape: shape of the context that a conditional flow reads, else ``None``.

    Raises:
        ArgumentError: an argument is missing or unknown.
        PlanError: ``bijector`` is not a plan, or ``base_dist`` not a distribution of floating-point numbers.
        DomainError: the noise may lie where the bijector is not defined.
        ShapeMismatchError: the plan cannot be built for the event shape of the base distribution, or no part of it
            reads the context that ``context_shape`` announces.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> flow = dist.Flow(base, bij.AffineAutoregressive())
        >>> flow.log_prob(flow.sample((1000,))).shape
        torch.Size([1000])
    """

    float64_buffers: ClassVar[tuple[str, ...]] = ("context_location", "context_scale")
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    @named_arguments
    def __init__(
        self,
        base_dist: Distribution,
        bijector: BijectorPlan | type[BijectorPlan],
        validate_args: bool | None = None,
        *,
        context_shape: torch.Size | tuple[int, ...] | None = None,
    ) -> None:
        torch.nn.Module.__init__(self)
        check_base(base_dist, bijector)
        self.plan = as_plan("Flow", bijector)
        validate = check_validate_args(validate_args)
        Distribution.__init__(self, base_dist.batch_shape, base_dist.event_shape, validate_args=validate)
        self.context_shape = context_shape_of(context_shape)
        self._context: Tensor | None = None
        self.bijector: Bijector = self.plan.build(base_dist.event_shape, self.context_shape)
        if self.context_shape is not None and not self.bijector.reads_context:
            raise ShapeMismatchError(
                f"Flow: context_shape={tuple(self.context_shape)} given, and no part of {type(self.plan).__name__} "
                "reads a context; put a layer with a network into the plan, such as bij.AffineAutoregressive(), or "
                "leave context_shape out"
            )
        check_support(base_dist, self.bijector.domain)
        self.base = BaseDistribution(base_dist)
        # A list, not a tensor to be looked into: torch.compile and torch.export cannot branch on values.
        self.whole_columns: list[int] = self.bijector.integers().nonzero().flatten().tolist()
        context_size = self.bijector.context_size
        self.register_buffer("context_location", torch.zeros(context_size, dtype=torch.float64))
        self.register_buffer("context_scale", torch.ones(context_size, dtype=torch.float64))
        self.to(device=self.base.probe().device, dtype=self.base.probe().dtype)

    context_location: Tensor
    context_scale: Tensor

    @property
    def base_dist(self) -> Distribution:
        """The distribution of the noise, over its present tensors and in the batch shape of the flow."""
        base = self.base.distribution()
        return base if base.batch_shape == self.batch_shape else base.expand(self.batch_shape)

    @property
    def conditioned_on(self) -> Tensor | None:
        """The context of :meth:`condition`; ``None`` for a flow that waits for one, or takes none."""
        return self._context

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the flow computes and answers."""
        return next((p.dtype for p in self.parameters()), self.base.probe().dtype)

    @property
    def data_dtype(self) -> torch.dtype:
        """The dtype in which data are best given: float64 where preprocessing meets them first, else ``dtype``."""
        return torch.float64 if self.bijector.takes_float64 else self.dtype

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether samples carry gradients: as the base distribution's do, and never where columns are whole numbers."""
        return bool(self.base_dist.has_rsample) and not self.whole_columns

    @property
    def support(self) -> constraints.Constraint:
        """The codomain of the bijector."""
        return self.bijector.codomain

    def condition(self, context: Tensor) -> Flow:
        """This flow given a context: a flow of its own over the same weights, this one left as it is.

        Args:
            context: ``[..., *context_shape]``; its leading shape becomes part of the batch shape.

        Raises:
            ShapeMismatchError: the flow takes no context, or one of another shape.

        Example:
            >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
            >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
            >>> flow = dist.Flow(base, bij.AffineAutoregressive(), context_shape=(3,))
            >>> given = flow.condition(torch.zeros(5, 3))
            >>> given.batch_shape, given.sample((7,)).shape
            (torch.Size([5]), torch.Size([7, 5, 2]))
        """
        if self.context_shape is None:
            raise ShapeMismatchError(
                f"Flow: context of shape {tuple(context.shape)} given to a flow that was built without one; build it "
                f"with Flow(base_dist, bijector, context_shape={tuple(context.shape[-1:])})"
            )
        leading = leading_shape("Flow", "context", context, self.context_shape)
        own = self.batch_shape if self._context is None else self.base.distribution().batch_shape
        conditioned = copy.copy(self)
        conditioned._context = context
        conditioned._batch_shape = broadcast("Flow: context", leading, own)
        return conditioned

    def expand(self, batch_shape: SampleShape, _instance: Any = None) -> Flow:
        """This flow with its batch shape broadcast to another, over the same weights.

        Raises:
            ShapeMismatchError: the present batch shape does not broadcast to that one.
        """
        wanted = as_shape("Flow.expand", "batch_shape", batch_shape)
        if broadcast("Flow.expand", wanted, self.batch_shape) != wanted:
            raise ShapeMismatchError(
                f"Flow.expand: {tuple(wanted)} given, to which the batch shape {tuple(self.batch_shape)} cannot be "
                "broadcast; give a shape that ends in it"
            )
        expanded = copy.copy(self)
        expanded._batch_shape = wanted
        return expanded

    def rnormalize(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Data to noise, with gradients; shapes and errors as in :meth:`log_prob`."""
        return self._pulled(value, context)[0]

    @torch.no_grad()
    def normalize(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Data to noise, without gradients."""
        return self.rnormalize(value, context)

    def entropy(self, context: Tensor | None = None) -> Tensor:
        """Differential entropy in nats, ``[*batch_shape]``, where it is known in closed form.

        It is that of the base plus the log-determinant of the bijector, so it is known if the latter is the same for
        all noise (affine and volume-preserving bijectors) and torch knows the former.

        Raises:
            NoClosedFormError: otherwise; -flow.log_prob(flow.sample((n,))).mean(0) estimates it.
        """
        estimate = "estimate it by -flow.log_prob(flow.sample((10_000,))).mean(0)"
        if not self.bijector.constant_log_det or self.whole_columns:
            raise NoClosedFormError(
                f"Flow: the entropy has no closed form, for {type(self.plan).__name__} stretches the noise differently "
                f"from place to place; {estimate}"
            )
        try:
            of_base = self.base_dist.entropy()
        except NotImplementedError:
            name = type(self.base_dist).__name__
            raise NoClosedFormError(
                f"Flow: the entropy of the base distribution {name} is not known in closed form; {estimate}"
            ) from None
        interval = interval_of(self.bijector.domain)
        point = torch.full(self.event_shape, 0.0 if interval is None else point_inside(interval)).to(of_base)
        return of_base + self.bijector.forward_and_log_det(point, self.standard_context(context))[1]

    def log_prob(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density, in nats and in the units of the data.

        Args:
            value: ``[..., *batch_shape, *event_shape]``.
            context: ``[..., *context_shape]`` for a conditional flow, one for each value or one for all.

        Returns:
            ``[..., *batch_shape]``. A row that is not finite gives NaN or -inf and leaves the others alone.

        Raises:
            ShapeMismatchError: a trailing shape is wrong, or a context is missing or not wanted.
            DtypeMismatchError: the value's dtype or device is not that of the flow.
            ArgumentError: the value is no tensor.
            DomainError: a row is outside the support, and arguments are validated.
        """
        noise, log_det = self._pulled(value, context)
        log_prob = self.base.log_prob(noise) + log_det
        if not self.batch_shape:
            return log_prob
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))  # type: ignore[no-untyped-call]

    def rsample(self, sample_shape: SampleShape = (), context: Tensor | None = None) -> Tensor:
        """Reparameterised samples ``[*sample_shape, *batch_shape, *event_shape]``.

        With a context of leading shape ``[...]``, one for each sample, ``sample_shape`` broadcasts against it.

        Raises:
            ArgumentError: ``sample_shape`` is no shape.
            ReparameterisationError: a column holds whole numbers, to which samples are rounded, or the base
                distribution does not reparameterise its own.
        """
        if self.whole_columns:
            raise ReparameterisationError(
                f"Flow: samples of dimension(s) {self.whole_columns} are rounded to whole numbers and carry no "
                "gradient; use sample(), or declare these columns bij.Real()"
            )
        base_dist = self.base_dist
        if not base_dist.has_rsample:
            raise ReparameterisationError(
                f"Flow: samples of the base distribution {name_of(base_dist)} carry no gradient; use sample(), or "
                "a base that has rsample, such as Normal"
            )
        return self._pushed(base_dist.rsample(as_shape("Flow", "sample_shape", sample_shape)), context)

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), context: Tensor | None = None) -> Tensor:
        """Samples without gradients, columns of whole numbers rounded; shapes as in :meth:`rsample`."""
        noise = self.base_dist.sample(as_shape("Flow", "sample_shape", sample_shape))
        return self.rounded(self._pushed(noise, context))

    def rounded(self, samples: Tensor) -> Tensor:
        """Samples ``[..., *event_shape]`` with the columns that hold whole numbers rounded to them."""
        if not self.whole_columns:
            return samples
        whole = self.bijector.integers().reshape(self.event_shape).to(samples.device)
        # Adding 0 turns -0 into 0.
        return torch.where(whole, samples.round() + 0.0, samples)

    @torch.no_grad()
    def standardize_(self, rows: Tensor, context: Tensor | None = None) -> None:
        """Set every ``Standardize`` part, and the scaling of the context, from training rows.

        Args:
            rows: ``[N, *event_shape]``, at best in float64.
            context: ``[N, *context_shape]`` for a conditional flow.

        Raises:
            DataError: a column (of rows or context) holds one value only, or a value that is not finite.
            ShapeMismatchError: a trailing shape is wrong, or the two have different lengths.
        """
        leading_shape("Flow", "rows", rows, self.event_shape)
        flat_context = None
        if self.context_shape is not None:
            if context is None or len(context) != len(rows):
                given = "no context" if context is None else f"{len(context)} contexts"
                raise ShapeMismatchError(f"Flow: {given} given for {len(rows)} rows; expected one context for each row")
            leading_shape("Flow", "context", context, self.context_shape)
            flat_context = context.reshape(len(context), -1)
            self.context_location, self.context_scale = location_and_scale(flat_context)
            flat_context = self.standard_context(context)
            flat_context = None if flat_context is None else flat_context.reshape(len(context), -1)
        self.bijector.standardize_(rows.reshape(len(rows), -1), flat_context)

    def base_to_json(self) -> dict[str, Any]:
        """The base distribution as JSON values; :func:`~flowmodel.distributions.base_from_json` reads them."""
        return self.base.to_json()

    def standard_context(self, context: Tensor | None) -> Tensor | None:
        """A context ``[..., *context_shape]`` as the bijector reads it: standardised, in the dtype of the flow.

        Without one, that of :meth:`condition`, if there is one.

        Raises:
            ShapeMismatchError: the trailing shape is wrong, or a context is missing or not wanted.
            DtypeMismatchError: the context is on another device than the flow.
            ArgumentError: the context is no tensor, or the flow was conditioned on one before.
        """
        if self.context_shape is None:
            if context is None:
                return None
            raise ShapeMismatchError(
                f"Flow: context of shape {tuple(context.shape)} given, but it was built without one; leave the context "
                "out, or build the flow with context_shape=..."
            )
        if self._context is not None:
            if context is not None:
                raise ArgumentError(
                    "Flow: a context given to a flow that condition() gave one already; leave it out, or give it to "
                    "the flow that was conditioned"
                )
            context = self._context.to(self.context_location.device)
        if context is None:
            shape = ", ".join(map(str, self.context_shape))
            raise ShapeMismatchError(
                f"Flow: no context given; expected one of shape [..., {shape}], in the argument context or by "
                "flow.condition(context)"
            )
        leading_shape("Flow", "context", context, self.context_shape)
        check_kind("context", context, self.dtype, self.context_location.device, any_dtype=True)
        location = self.context_location.reshape(self.context_shape)
        scale = self.context_scale.reshape(self.context_shape)
        return ((context.to(torch.float64) - location) / scale).to(self.dtype)

    def _pulled(self, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, and the log-determinant, all arguments checked."""
        leading = leading_shape("Flow", "value", value, self.event_shape)
        device = self.context_location.device
        check_kind("value", value, self.dtype, device, any_dtype=self.bijector.takes_float64)
        if self.batch_shape:
            broadcast("Flow: value", leading, self.batch_shape)
        if self._validate_args:
            check_values(value, self.support, len(self.event_shape))
        standard = self.standard_context(context)
        self._check_context_of("value", leading, standard)
        return self.bijector.inverse_and_log_det(value, standard)

    def _pushed(self, noise: Tensor, context: Tensor | None) -> Tensor:
        standard = self.standard_context(context)
        self._check_context_of("sample", noise.shape[: noise.dim() - len(self.event_shape)], standard)
        return self.bijector.forward(noise, standard)

    def _check_context_of(self, what: str, leading: torch.Size, context: Tensor | None) -> None:
        if context is None or self.context_shape is None:
            return
        given = context.shape[: context.dim() - len(self.context_shape)]
        try:
            torch.broadcast_shapes(leading, given)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ShapeMismatchError(
                f"Flow: {what} has leading shape {tuple(leading)} and context {tuple(given)}, which do not broadcast; "
                f"give one context for each {what}, or one for all"
            ) from None

    def __repr__(self) -> str:
        return f"Flow(base_dist={self.base_dist!r}, bijector={self.plan!r})"
