"""The registry of flows that every property is tested over; a new bijector is tested by being listed here."""

from __future__ import annotations

import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params

AR = bij.AffineAutoregressive
SplineAR = bij.SplineAutoregressive
MADE = params.DenseAutoregressive

PLANS: dict[str, bij.BijectorPlan] = {
    "affine": bij.Affine(),
    "affine-softplus": bij.Affine(scale_fn="softplus"),
    "autoregressive": AR(),
    "autoregressive-exp": AR(MADE((24, 24)), scale_fn="exp"),
    "autoregressive-softplus": AR(MADE((24,)), scale_fn="softplus"),
    "autoregressive-deep": AR(MADE((31, 17, 23))),
    "autoregressive-tanh": AR(MADE((24, 20), nonlinearity="tanh")),
    "autoregressive-elu": AR(MADE((24, 20), nonlinearity="elu")),
    "autoregressive-leaky": AR(MADE((24, 20), nonlinearity="leaky_relu")),
    "autoregressive-sigmoid": AR(MADE((24, 20), nonlinearity="sigmoid")),
    "autoregressive-softplus-units": AR(MADE((24, 20), nonlinearity="softplus")),
    "autoregressive-skip": AR(MADE((24, 20), skip_connections=True)),
    "spline": bij.Spline(),
    "spline-quadratic": bij.Spline(order="quadratic"),
    "spline-autoregressive": SplineAR(MADE((24, 20), skip_connections=True), count_bins=5),
    "spline-autoregressive-quadratic": SplineAR(MADE((24, 20)), count_bins=4, order="quadratic"),
    "invert-spline-autoregressive": bij.Invert(SplineAR(MADE((24,)), bound=4.0)),
    "invert": bij.Invert(AR(MADE((24, 24)))),
    "invert-invert": bij.Invert(bij.Invert(AR(MADE((24, 24))))),
    "permute": bij.Permute(),
    "standardize": bij.Standardize(),
    "stack": bij.Compose([AR(MADE((24, 24))), bij.Permute(), bij.Invert(AR(MADE((20,)))), bij.Affine()]),
    "nested": bij.Compose(
        [bij.Compose([AR(MADE((24,))), bij.Permute()]), bij.Invert(bij.Compose([AR(MADE((20,))), bij.Permute()]))]
    ),
    "preprocessed": bij.Compose([bij.Invert(AR(MADE((24, 24)))), bij.Standardize()]),
}

EVENT_SHAPES = [(1,), (2,), (5,), (2, 3)]
CONTEXT_SHAPES = [None, (3,)]


def normal(event_shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.distributions.Distribution:
    """A standard normal base over events of that shape."""
    zeros = torch.zeros(event_shape, dtype=dtype)
    return torch.distributions.Independent(torch.distributions.Normal(zeros, torch.ones_like(zeros)), len(event_shape))


def trained_flow(
    plan: bij.BijectorPlan,
    event_shape: tuple[int, ...],
    context_shape: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dist.Flow:
    """A flow whose every parameter has moved away from its start, and whose preprocessing has seen data."""
    torch.manual_seed(0)
    flow = dist.Flow(normal(event_shape, dtype), plan, context_shape=context_shape)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    rows = 3 * torch.randn(50, *event_shape, dtype=torch.float64) + 10
    context = None if context_shape is None else 2 * torch.randn(50, *context_shape, dtype=torch.float64) - 4
    flow.standardize_(rows, context)
    return flow


def contexts(count: int, context_shape: tuple[int, ...] | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Contexts as the flow's training data had them."""
    return None if context_shape is None else (2 * torch.randn(count, *context_shape, dtype=dtype) - 4)
