"""What a flow is given, checked where it is given; every text names what was given, what was expected and the fix."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.domain import in_words
from flowmodel.errors import ArgumentError, DomainError, DtypeMismatchError, PlanError, ShapeMismatchError
from flowmodel.plans import check_arguments

P = ParamSpec("P")
S = TypeVar("S")


def named_arguments(init: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """The ``__init__`` of a flow, raising an :class:`ArgumentError` for arguments that are missing or unknown."""

    @functools.wraps(init)
    def checked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        check_arguments("Flow", init, (self, *args), kwargs, "Flow(base_dist, bij.AffineAutoregressive())")
        init(self, *args, **kwargs)

    return checked


def context_shape_of(given: Any) -> torch.Size | None:
    """The ``context_shape`` of a flow.

    Raises:
        PlanError: it is something else than whole numbers above 0.
    """
    if given is None:
        return None
    if not isinstance(given, tuple | list) or not all(isinstance(size, int) and size > 0 for size in given):
        shape = f"({given},)" if isinstance(given, int) else "(3,)"
        raise PlanError(f"Flow: context_shape={given!r} given; expected whole numbers above 0 in a tuple, as {shape}")
    return torch.Size(given)


def check_validate_args(given: Any) -> bool:
    """The ``validate_args`` of a flow; it stands third, where a context shape may be put by mistake.

    Raises:
        ArgumentError: it is neither a truth value nor ``None``.
    """
    if given is None or isinstance(given, bool):
        return bool(given)
    raise ArgumentError(
        f"Flow: validate_args={given!r} given; expected True, False or None. The shape of a context goes by its name: "
        "Flow(base_dist, bijector, context_shape=(3,))"
    )


def check_kind(what: str, value: Tensor, dtype: torch.dtype, device: torch.device, *, any_dtype: bool) -> None:
    """Raise a :class:`DtypeMismatchError` unless a tensor has that device and, if not any real one will do, dtype."""
    if value.device != device:
        raise DtypeMismatchError(
            f"Flow: {what} on {value.device} given, the flow is on {device}; move the {what} by "
            f"{what}.to({str(device)!r}), or the flow by flow.to(...)"
        )
    wrong = value.dtype.is_complex or value.dtype is torch.bool if any_dtype else value.dtype != dtype
    if wrong:
        raise DtypeMismatchError(
            f"Flow: {what} of {value.dtype} on {value.device} given, the flow computes in {dtype} on {device}; give "
            f"{what}.to({dtype}), or move the flow by flow.to(...)"
        )


def broadcast(owner: str, given: torch.Size, own: torch.Size) -> torch.Size:
    """The shape that a leading shape and the batch shape of the flow broadcast to.

    Raises:
        ShapeMismatchError: there is none.
    """
    try:
        return torch.broadcast_shapes(given, own)  # type: ignore[no-untyped-call, no-any-return]
    except RuntimeError:
        raise ShapeMismatchError(
            f"{owner}: leading shape {tuple(given)} does not broadcast against the batch shape {tuple(own)} of the "
            f"flow; give one that ends in {tuple(own)}"
        ) from None


def check_values(value: Tensor, support: Constraint, event_dims: int) -> None:
    """Raise a :class:`DomainError` that names the first row of a value outside the support, if there is one."""
    finite = torch.isfinite(value)
    inside: Tensor = support.check(value)  # type: ignore[no-untyped-call]
    inside = inside & (finite.flatten(value.dim() - event_dims).all(-1) if event_dims else finite)
    outside = (~inside).flatten().nonzero().flatten()
    if len(outside):
        row = int(outside[0])
        rows = value.reshape(-1, *value.shape[value.dim() - event_dims :])
        raise DomainError(
            f"Flow: {len(outside)} of {len(rows)} rows lie outside the support, the first of them row {row}, "
            f"{rows[row].tolist()}; expected {in_words(support)}. Remove them, or make the flow without "
            "validate_args=True: their log-density is then -inf, or NaN for NaN"
        )
