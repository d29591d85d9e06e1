"""Standardisation as part of the model, so that densities stay in the units of the data.

Location and scale are kept, and applied, in float64 whatever the dtype of the flow. A column such as a time stamp,
large and varying little, would lose its information if it were rounded to float32 before its mean is taken off.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.errors import DataError


@dataclasses.dataclass(frozen=True)
class Standardize(BijectorPlan):
    """Plan of ``y = location + scale * x``, both taken from training data by ``flow.standardize_(rows)``.

    Until then it is the identity. Put it last in a ``Compose``, next to the data.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.Standardize()(shape=torch.Size([1]))
        >>> rows = torch.tensor([[1.0], [3.0]])
        >>> bijector.standardize_(rows, None).flatten()
        tensor([-1.,  1.])
    """

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "StandardizeBijector":
        """The concrete layer, still the identity."""
        return StandardizeBijector(event_shape, context_shape)


class KeepsFloat64(torch.nn.Module):
    """A module with buffers that stay float64: ``.to(device)`` moves them, ``.to(dtype)`` does not round them."""

    float64_buffers: ClassVar[tuple[str, ...]] = ("location", "scale")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = {name: getattr(self, name) for name in self.float64_buffers}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            setattr(self, name, value.to(device=getattr(self, name).device))
        return self


class StandardizeBijector(KeepsFloat64, Bijector):
    """The layer built from :class:`Standardize`."""

    location: Tensor
    scale: Tensor
    like: Tensor

    def __init__(self, event_shape: torch.Size, context_shape: torch.Size | None) -> None:
        super().__init__(event_shape, context_shape)
        self.register_buffer("location", torch.zeros(self.event_size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.event_size, dtype=torch.float64))
        # An empty tensor that follows .to(dtype), to know in which dtype the rest of the flow works.
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def constant_log_det(self) -> bool:
        """The scale is the same for every row."""
        return True

    @property
    def takes_float64(self) -> bool:
        """Data are read in float64."""
        return True

    @property
    def reads_context(self) -> bool:
        """No: a context passes it by."""
        return False

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        y = self.location + self.scale * x.to(torch.float64)
        return y.to(self.like.dtype), self._log_det(x)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data, of either floating dtype, to noise in the dtype of the flow."""
        x = (y.to(torch.float64) - self.location) / self.scale
        return x.to(self.like.dtype), -self._log_det(y)

    def standardize_(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Take location and scale from the rows ``y[N, D]``; returns them standardised.

        Raises:
            DataError: a dimension has one value only, or a value that is not finite.
        """
        self.location, self.scale = location_and_scale(y)
        return self.pull(y, context)[0]

    def fold(self) -> Folded:
        """The layer as constants."""
        return FoldedStandardize(self.location.clone(), self.scale.clone(), self.like.dtype)

    def _log_det(self, rows: Tensor) -> Tensor:
        return self.scale.log().sum().to(self.like.dtype).expand(rows.shape[0])


def location_and_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of ``rows[N, D]``, in float64.

    Raises:
        DataError: fewer than two rows, a value that is not finite, or a column of one value.
    """
    rows = rows.detach().to(torch.float64)
    if rows.shape[0] < 2:
        raise DataError(f"cannot standardise from {rows.shape[0]} row(s); at least 2 are needed")
    bad = (~torch.isfinite(rows)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"row {row}, dimension {column} is {rows[row, column].item()}; remove the row or fill the value"
        )
    location, scale = rows.mean(0), rows.std(0, correction=0)
    constant = (rows == rows[0]).all(0).nonzero().flatten().tolist()
    if constant:
        raise DataError(
            f"dimension(s) {constant} hold one value only ({rows[0, constant[0]].item():g}), which has no density; "
            "leave them out"
        )
    return location, scale


class FoldedStandardize(Folded):
    """``location + scale * x`` in float64, its noise side in the dtype of the flow."""

    location: Tensor
    scale: Tensor
    log_det: Tensor

    def __init__(self, location: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("location", location)
        self.register_buffer("scale", scale)
        self.register_buffer("log_det", scale.log().sum().to(dtype))

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        y = self.location + self.scale * x.to(torch.float64)
        return y.to(self.log_det.dtype), self.log_det.expand(x.shape[0])

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        x = (y.to(torch.float64) - self.location) / self.scale
        return x.to(self.log_det.dtype), -self.log_det.expand(y.shape[0])
