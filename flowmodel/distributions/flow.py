r"""The flow: a base distribution seen through a bijector.

.. math:: \log q(y) = \log p(g^{-1}(y)) + \log\lvert\det \partial g^{-1} / \partial y\rvert
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowmodel.bijectors.base import BijectorPlan, leading_shape
from flowmodel.bijectors.standardize import KeepsFloat64, location_and_scale
from flowmodel.distributions.base import BaseDistribution
from flowmodel.errors import PlanError, ReparameterisationError, ShapeMismatchError

SampleShape = torch.Size | list[int] | tuple[int, ...]


class Flow(KeepsFloat64, Distribution):
    """A trainable distribution, both a ``torch.distributions.Distribution`` and a ``torch.nn.Module``.

    The lazy plan is made concrete here, in the event shape, dtype and device of the base distribution.

    Args:
        base_dist: distribution of the noise; its event shape is the flow's.
        bijector: plan of the map from noise to data.
        context_shape: shape of the context that a conditional flow reads, else ``None``.

    Raises:
        PlanError: ``bijector`` is not a plan.
        ShapeMismatchError: the plan cannot be built for the event shape of the base distribution.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> flow = dist.Flow(base, bij.AffineAutoregressive())
        >>> flow.log_prob(flow.sample((1000,))).shape
        torch.Size([1000])
    """

    float64_buffers: ClassVar[tuple[str, ...]] = ("context_location", "context_scale")
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        base_dist: Distribution,
        bijector: BijectorPlan,
        *,
        context_shape: torch.Size | tuple[int, ...] | None = None,
    ) -> None:
        torch.nn.Module.__init__(self)
        if not isinstance(bijector, BijectorPlan):
            raise PlanError(
                f"Flow: bijector={bijector!r} given; expected a plan of a bijector, such as bij.AffineAutoregressive()"
            )
        Distribution.__init__(self, base_dist.batch_shape, base_dist.event_shape, validate_args=False)
        self.plan = bijector
        self.context_shape = None if context_shape is None else torch.Size(context_shape)
        self.base = BaseDistribution(base_dist)
        self.bijector = bijector.build(base_dist.event_shape, self.context_shape)
        # A list, not a tensor to be looked into: torch.compile and torch.export cannot branch on values.
        self.whole_columns: list[int] = self.bijector.integers().nonzero().flatten().tolist()
        context_size = self.bijector.context_size
        self.register_buffer("context_location", torch.zeros(context_size, dtype=torch.float64))
        self.register_buffer("context_scale", torch.ones(context_size, dtype=torch.float64))
        probe = next(self.base.buffers(), torch.empty(0))
        self.to(device=probe.device, dtype=probe.dtype)

    context_location: Tensor
    context_scale: Tensor

    @property
    def base_dist(self) -> Distribution:
        """The distribution of the noise, over its present tensors."""
        return self.base.distribution()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the flow computes and answers."""
        return next((p.dtype for p in self.parameters()), next(self.base.buffers(), torch.empty(0)).dtype)

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
        """All real events."""
        return constraints.independent(constraints.real, len(self.event_shape))  # type: ignore[no-untyped-call]

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
        """
        noise, log_det = self.bijector.inverse_and_log_det(value, self.standard_context(context))
        return self.base.log_prob(noise) + log_det

    def rsample(self, sample_shape: SampleShape = (), context: Tensor | None = None) -> Tensor:
        """Reparameterised samples ``[*sample_shape, *batch_shape, *event_shape]``.

        With a context of leading shape ``[...]``, one for each sample, ``sample_shape`` broadcasts against it.

        Raises:
            ReparameterisationError: a column holds whole numbers, to which samples are rounded.
        """
        if self.whole_columns:
            raise ReparameterisationError(
                f"Flow: samples of dimension(s) {self.whole_columns} are rounded to whole numbers and carry no gradient; use "
                "sample(), or declare these columns bij.Real()"
            )
        noise = self.base_dist.rsample(torch.Size(sample_shape))
        return self.bijector.forward(noise, self.standard_context(context))

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), context: Tensor | None = None) -> Tensor:
        """Samples without gradients, columns of whole numbers rounded; shapes as in :meth:`rsample`."""
        noise = self.base_dist.sample(torch.Size(sample_shape))
        samples = self.bijector.forward(noise, self.standard_context(context))
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

        Raises:
            ShapeMismatchError: the trailing shape is wrong.
        """
        if context is None or self.context_shape is None:
            return context
        leading_shape("Flow", "context", context, self.context_shape)
        location = self.context_location.reshape(self.context_shape)
        scale = self.context_scale.reshape(self.context_shape)
        return ((context.to(torch.float64) - location) / scale).to(self.dtype)

    def __repr__(self) -> str:
        return f"Flow(base_dist={self.base_dist!r}, bijector={self.plan!r})"
