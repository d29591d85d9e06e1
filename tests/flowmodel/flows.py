"""The registry of flows that every property is tested over; a new bijector is tested by being listed here."""

from __future__ import annotations

import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import Scorer

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
    "autoregressive-fitted-skip": AR(MADE((24, 20), nonlinearity="tanh", skip_connections="fitted")),
    "spline": bij.Spline(),
    "spline-quadratic": bij.Spline(order="quadratic"),
    "spline-autoregressive": SplineAR(MADE((24, 20), skip_connections=True), count_bins=5),
    "spline-autoregressive-quadratic": SplineAR(MADE((24, 20)), count_bins=4, order="quadratic"),
    "coupling": bij.Compose([bij.AffineCoupling(), bij.Permute(), bij.AffineCoupling(params.Dense((24,), "tanh"))]),
    "coupling-spline": bij.SplineCoupling(params.Dense((24, 20)), split=None, count_bins=5),
    "coupling-spline-quadratic": bij.SplineCoupling(params.Dense((24,)), count_bins=5, order="quadratic"),
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

ELEMENTWISE: dict[str, bij.BijectorPlan] = {
    "affine-fixed": bij.AffineFixed(loc=2.0, scale=-3.0),
    "elu": bij.ELU(),
    "exp": bij.Exp(),
    "leaky-relu": bij.LeakyReLU(),
    "power": bij.Compose([bij.Softplus(), bij.Power(1.5)]),
    "power-reciprocal": bij.Compose([bij.Exp(), bij.Power(-0.5)]),
    "sigmoid": bij.Sigmoid(),
    "softplus": bij.Softplus(),
    "tanh": bij.Tanh(),
    "invert-tanh": bij.Compose([bij.Tanh(), bij.Invert(bij.Tanh())]),
    "interval": bij.Compose(
        [AR(MADE((24,))), bij.AffineFixed(scale=0.02), bij.Sigmoid(), bij.AffineFixed(loc=-1.0, scale=4.0)]
    ),
}
"""Plans without parameters of their own, and chains that end in one; they do not begin as the identity."""

NARROW = bij.AffineFixed(scale=0.02)
"""Keeps what trained layers make of six deviations where a number beside a bound still has its digits."""

SUPPORTS: dict[str, bij.BijectorPlan] = {
    "supports-real": bij.Compose([AR(MADE((24,))), bij.Supports(bij.Real())]),
    "supports-positive": bij.Compose([AR(MADE((24,))), bij.Supports(bij.Positive())]),
    "supports-bounded": bij.Compose([AR(MADE((24,))), NARROW, bij.Supports(bij.Bounded(-1, 3))]),
    "supports-count": bij.Compose([bij.Invert(AR(MADE((24,)))), bij.Standardize(), bij.Supports(bij.Integer(0))]),
    "supports-rating": bij.Compose([AR(MADE((24,))), NARROW, bij.Supports(bij.Integer(1, 9))]),
    "supports-periodic": bij.Compose([AR(MADE((24,))), NARROW, bij.Supports(bij.Periodic(-3, 6))]),
}
"""One support for every column; several at once have their own tests, for they fix the number of columns."""

ELEMENTWISE |= SUPPORTS
PLANS |= ELEMENTWISE

EVENT_SHAPES = [(1,), (2,), (5,), (2, 3)]
CONTEXT_SHAPES = [None, (3,)]

READING = {name for name, plan in PLANS.items() if plan.build(torch.Size((6,)), torch.Size((3,))).reads_context}
"""The plans whose flows may have a context."""

CASES = [
    (name, event_shape, context_shape)
    for name in PLANS
    for event_shape in EVENT_SHAPES
    for context_shape in CONTEXT_SHAPES
    if context_shape is None or name in READING
    # What treats every scalar alone needs not every combination.
    if name not in ELEMENTWISE
    or (event_shape, context_shape) in (((5,), None), ((2, 3), (3,) if name in READING else None))
]
"""What a property of every flow is tested over: name of the plan, event shape and context shape."""


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
    if not bool(flow.support.check(rows).all()):
        rows = flow.sample((50,), context)
    flow.standardize_(rows, context)
    return flow


def scorer_of(flow: dist.Flow) -> Scorer:
    """The scorer that is exported of a flow, as an eager module."""
    names = [f"x{i}" for i in range(flow.bijector.event_size)]
    return Scorer(flow, names, [f"c{i}" for i in range(flow.bijector.context_size)]).eval()


def contexts(count: int, context_shape: tuple[int, ...] | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Contexts as the flow's training data had them."""
    return None if context_shape is None else (2 * torch.randn(count, *context_shape, dtype=dtype) - 4)
