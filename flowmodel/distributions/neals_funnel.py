r"""Neal's funnel, a target of known density whose scale varies over many orders of magnitude.

.. math:: y \sim N(0, 3^2), \qquad x \mid y \sim N(0, e^{y}), \qquad \text{event } (x, y)

(Neal 2003, Slice sampling, Annals of Statistics 31, section 8; in two dimensions.)
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowmodel.bijectors.base import leading_shape
from flowmodel.errors import ShapeMismatchError

_SCALE_OF_Y = 3.0


class NealsFunnel(Distribution):
    """Neal's funnel over events ``(x, y)``.

    Args:
        validate_args: whether ``log_prob`` raises an error for values that are not real, as torch's distributions do;
            ``None`` takes torch's present default.
        batch_shape: shape of a batch of independent funnels.
        dtype: of the samples; ``None`` takes torch's default.
        device: of the samples.

    Example:
        >>> import torch, flowmodel.distributions as dist
        >>> funnel = dist.NealsFunnel(dtype=torch.float64)
        >>> funnel.sample((4,)).shape, funnel.log_prob(torch.zeros(2, dtype=torch.float64))
        (torch.Size([4, 2]), tensor(-2.9365, dtype=torch.float64))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        validate_args: bool | None = None,
        *,
        batch_shape: torch.Size | tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        self.device = torch.device("cpu" if device is None else device)
        super().__init__(torch.Size(batch_shape), torch.Size([2]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> NealsFunnel:
        """A batch of independent funnels.

        Raises:
            ShapeMismatchError: the present batch shape does not broadcast to that one.
        """
        wanted = torch.Size(batch_shape)
        try:
            torch.empty(self.batch_shape).expand(wanted)
        except RuntimeError:
            raise ShapeMismatchError(
                f"NealsFunnel.expand: {tuple(wanted)} given, to which the batch shape {tuple(self.batch_shape)} cannot "
                "be broadcast; give a shape that ends in it"
            ) from None
        return NealsFunnel(self._validate_args, batch_shape=wanted, dtype=self.dtype, device=self.device)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()) -> Tensor:  # noqa: B008
        """Samples ``[*sample_shape, *batch_shape, 2]``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        x, y = torch.randn(shape, dtype=self.dtype, device=self.device).unbind(-1)
        y = _SCALE_OF_Y * y
        return torch.stack([torch.exp(y / 2) * x, y], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value[..., 2]``, in nats and in the dtype of the value: ``[..., *batch_shape]``.

        Raises:
            ShapeMismatchError: the value does not end in 2 numbers.
            ValueError: a value is not real, and arguments are validated.
        """
        leading_shape("NealsFunnel", "value", value, self.event_shape)
        if self._validate_args:
            self._validate_sample(value)
        x, y = value.unbind(-1)
        z = x * torch.exp(-y / 2)
        log_prob = -0.5 * (z * z + (y / _SCALE_OF_Y) ** 2 + y) - math.log(2 * math.pi * _SCALE_OF_Y)
        shape: torch.Size = torch.broadcast_shapes(log_prob.shape, self.batch_shape)  # type: ignore[no-untyped-call]
        return log_prob.expand(shape)

    @property
    def mean(self) -> Tensor:
        """0 in both."""
        return torch.zeros((*self.batch_shape, 2), dtype=self.dtype, device=self.device)

    @property
    def variance(self) -> Tensor:
        """Of x that of a log-normal scale, e^(9/2); of y 9."""
        of_both = torch.tensor([math.exp(_SCALE_OF_Y**2 / 2), _SCALE_OF_Y**2], dtype=self.dtype, device=self.device)
        return of_both.expand((*self.batch_shape, 2))

    def entropy(self) -> Tensor:
        """That of y plus the mean of that of x given y, in nats: log 2 pi e + log 3."""
        nats = math.log(2 * math.pi * math.e) + math.log(_SCALE_OF_Y)
        return torch.full(self.batch_shape, nats, dtype=self.dtype, device=self.device)
