"""Every mistake gets its error when it is made; the text names the part, what was given, what was expected and the fix.

The table goes from the plan by the flow and its tensors to training and export. Mistakes in files, stores and manifests
are tested beside the code that reads these.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flows import normal
from torch.distributions import (
    Beta,
    Categorical,
    Cauchy,
    Dirichlet,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
)

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import export_scorer
from flowmodel.bijectors.domain import interval_of
from flowmodel.errors import (
    AbstractPlanError,
    ArgumentError,
    DataError,
    DomainError,
    DtypeMismatchError,
    ExportError,
    FlowModelError,
    NoClosedFormError,
    PlanError,
    ReparameterisationError,
    ShapeMismatchError,
    TrainingError,
    UnbuiltPlanError,
)
from flowmodel.plans import Plan, plan_from_json

AR = bij.AffineAutoregressive
MADE = params.DenseAutoregressive
Flow = dist.Flow


def base(*shape: int) -> torch.distributions.Distribution:
    return normal(shape, torch.float32)


def flow() -> dist.Flow:
    return Flow(base(3), AR())


def conditional() -> dist.Flow:
    return Flow(base(3), AR(), context_shape=(2,))


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def scalars(shape: int) -> torch.distributions.Distribution:
    return Normal(torch.zeros(shape), torch.ones(shape))


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A mistake, its error, and what the text must hold."""

    make: Callable[[], Any]
    error: type[FlowModelError]
    fragments: tuple[str, ...]


def mistake(make: Callable[[], Any], error: type[FlowModelError], *fragments: str) -> Mistake:
    return Mistake(make, error, fragments)


PLANS = {
    "unknown argument": mistake(
        lambda: AR(hidden=3),
        ArgumentError,
        "AffineAutoregressive",
        "'hidden'",
        "expected AffineAutoregressive(params_fn,",
    ),
    "unknown argument of a conditioner": mistake(
        lambda: MADE(hidden=(3,)), ArgumentError, "DenseAutoregressive", "'hidden'", "(hidden_dims, nonlinearity"
    ),
    "unknown argument of a support": mistake(
        lambda: bij.Integer(lower=0), ArgumentError, "Integer", "'lower'", "expected Integer(low, high)"
    ),
    "too many arguments": mistake(
        lambda: bij.Permute((1, 0), 3), ArgumentError, "Permute: too many", "expected Permute(permutation)"
    ),
    "a missing argument": mistake(
        lambda: bij.Invert(), ArgumentError, "Invert: missing", "'bijector'", "expected Invert(bijector)"
    ),
    "no bijectors": mistake(lambda: bij.Compose([]), PlanError, "Compose: no bijectors", "bij.AffineAutoregressive()"),
    "bijectors not in a sequence": mistake(
        lambda: bij.Compose(3), PlanError, "Compose: bijectors=3 given", "expected a sequence of plans", "bij.Compose(["
    ),
    "one plan in place of a sequence": mistake(
        lambda: bij.Compose(bij.Exp()), PlanError, "Compose: the single plan Exp()", "bij.Compose([Exp()])"
    ),
    "no plan in a chain": mistake(
        lambda: bij.Compose([bij.Exp(), 3]), PlanError, "bijectors[1]: 3 given", "expected the plan of a bijector"
    ),
    "a built bijector in a chain": mistake(
        lambda: bij.Compose([AR()(shape=torch.Size([2]))]),
        PlanError,
        "Compose: bijectors[0]: AffineAutoregressive, a bijector already built for events of shape (2,)",
        "expected its plan",
        "load_state_dict",
    ),
    "a built bijector inverted": mistake(
        lambda: bij.Invert(bij.Exp()(shape=torch.Size([2]))), PlanError, "Invert: Exp, a bijector already built"
    ),
    "a class that needs arguments": mistake(
        lambda: bij.Compose([bij.Supports]), PlanError, "the class Supports", "needs columns", "Supports(columns=...)"
    ),
    "a conditioner for a plan": mistake(
        lambda: Flow(base(2), MADE()), PlanError, "Flow: DenseAutoregressive(", "expected the plan of a bijector"
    ),
    "a list for a conditioner": mistake(
        lambda: AR([64, 64]), PlanError, "params_fn=[64, 64] given", "params.DenseAutoregressive(hidden_dims=(64, 64))"
    ),
    "a coupling network for autoregression": mistake(
        lambda: AR(params.Dense()), PlanError, "AffineAutoregressive: params_fn=Dense(", "params.DenseAutoregressive("
    ),
    "a masked network for coupling": mistake(
        lambda: bij.AffineCoupling(MADE()), PlanError, "AffineCoupling: params_fn=DenseAuto", "params.Dense("
    ),
    "a network for an elementwise bijector": mistake(
        lambda: bij.Spline(MADE()), PlanError, "Spline: params_fn=DenseAutoregressive(", "params.Tensor()"
    ),
    "a family of bijectors": mistake(
        lambda: bij.Elementwise(), AbstractPlanError, "Elementwise names a family", "use one of Affine, AffineFixed"
    ),
    "a family of conditioners": mistake(
        lambda: params.Parameters(), AbstractPlanError, "Parameters names a family", "use one of Dense, DenseAutoreg"
    ),
    "a family of supports": mistake(
        lambda: bij.Support(), AbstractPlanError, "Support names a family", "use one of Bounded, Integer"
    ),
    "widths not in a sequence": mistake(
        lambda: MADE(64), PlanError, "DenseAutoregressive: hidden_dims=64 given", "expected one or more", "(64, 64)"
    ),
    "no widths": mistake(lambda: MADE(()), PlanError, "hidden_dims=() given", "such as (64, 64)"),
    "a width of 0": mistake(lambda: params.Dense((8, 0)), PlanError, "Dense: hidden_dims=(8, 0)", "above 0"),
    "a broken width": mistake(lambda: MADE((64.0,)), PlanError, "hidden_dims=(64.0,) given", "whole numbers above 0"),
    "a truth value for a width": mistake(lambda: MADE((True, 64)), PlanError, "hidden_dims=(True, 64) given"),
    "an unknown activation": mistake(
        lambda: MADE(nonlinearity="relux"), PlanError, "nonlinearity='relux' given", "expected one of relu, tanh"
    ),
    "an activation that has been made": mistake(
        lambda: MADE(nonlinearity=torch.nn.ReLU()), PlanError, "nonlinearity=ReLU() given", "torch.nn.ReLU"
    ),
    "skip connections by a number": mistake(
        lambda: MADE(skip_connections=1), PlanError, "skip_connections=1 given", "expected True, False or 'fitted'"
    ),
    "no permutation": mistake(
        lambda: bij.Permute((1, 1)),
        PlanError,
        "Permute: permutation=(1, 1) given",
        "each whole number from 0 to 1 once",
    ),
    "a permutation of fractions": mistake(
        lambda: MADE(permutation=(0.5, 1)), PlanError, "DenseAutoregressive: permutation=(0.5, 1)", "(2, 0, 1)"
    ),
    "a number for a permutation": mistake(lambda: bij.Permute(3), PlanError, "permutation=3 given", "(2, 0, 1)"),
    "an unknown scale function": mistake(
        lambda: AR(scale_fn="cosh"), PlanError, "scale_fn='cosh' given", "bounded, softplus, exp, sigmoid"
    ),
    "clips in the wrong order": mistake(
        lambda: AR(log_scale_min_clip=3.0, log_scale_max_clip=-5.0), PlanError, "log_scale_min_clip=3.0", "-5.0 and 3.0"
    ),
    "a word for a clip": mistake(lambda: AR(log_scale_min_clip="a"), PlanError, "log_scale_min_clip='a'", "finite"),
    "a word for a switch": mistake(lambda: AR(clamp_values="yes"), PlanError, "clamp_values='yes'", "True or False"),
    "an unknown order": mistake(lambda: bij.Spline(order="cubic"), PlanError, "order='cubic'", "linear, quadratic"),
    "one bin": mistake(lambda: bij.Spline(count_bins=1), PlanError, "count_bins=1 given", "from 2 to 1000", "8"),
    "a negative bound": mistake(lambda: bij.Spline(bound=-1.0), PlanError, "bound=-1.0 given", "above 0", "3.0"),
    "a scale of 0": mistake(lambda: bij.AffineFixed(scale=0), PlanError, "AffineFixed: scale=0", "any other number"),
    "a tensor for a number": mistake(lambda: bij.AffineFixed(zeros(2)), PlanError, "loc=tensor", "a finite number"),
    "an exponent of 0": mistake(lambda: bij.Power(0), PlanError, "Power: exponent=0 given", "any other number"),
    "a split of 0": mistake(lambda: bij.AffineCoupling(split=0), PlanError, "split=0 given", "above 0, or None"),
    "what is no support": mistake(
        lambda: bij.Supports((bij.Real(), 3)), PlanError, "Supports: columns[1] is 3", "expected one of bij.Real()"
    ),
    "bounds in the wrong order": mistake(
        lambda: bij.Bounded(1, 0), PlanError, "Bounded: low=1, high=0", "low below high", "bij.Bounded(0, 1)"
    ),
    "a broken bound of whole numbers": mistake(lambda: bij.Integer(0.5), PlanError, "Integer: low=0.5", "whole number"),
    "a period of 0": mistake(lambda: bij.Periodic(0, 0), PlanError, "period=0 given", "bij.Periodic(0, 360)"),
    "whole columns away from the data": mistake(
        lambda: bij.Compose([bij.Supports(bij.Integer(0)), bij.Standardize()]),
        PlanError,
        "bijectors[0] (Supports) has whole or periodic columns",
        "bijectors[1] (Standardize)",
        "put the first of them last",
    ),
    "the inverse of what is not invertible": mistake(
        lambda: bij.Invert(bij.Supports(bij.Periodic(0, 1))), PlanError, "Invert: Supports", "has no inverse", "last"
    ),
    "an unknown plan in JSON": mistake(
        lambda: plan_from_json({"plan": "Telepathy"}),
        PlanError,
        "unknown plan 'Telepathy'",
        "expected one of",
        "Compose",
    ),
    "an unknown field in JSON": mistake(
        lambda: plan_from_json({"plan": "Permute", "order": 1}), PlanError, "Permute has no field ['order']"
    ),
    "a plan used like a bijector": mistake(
        lambda: AR().parameters(), UnbuiltPlanError, "AffineAutoregressive: .parameters", "plan(shape=torch.Size([3]))"
    ),
    "a plan called with data": mistake(
        lambda: AR()(zeros(5, 3)), ArgumentError, "called with a Tensor", "plan(shape=torch.Size([3]))"
    ),
    "a number for a shape": mistake(lambda: AR()(shape=3), ArgumentError, "event_shape=3 given", "such as (3,)"),
    "a number to build for": mistake(lambda: bij.Exp().build(3), ArgumentError, "Exp: event_shape=3", "such as (3,)"),
    "a number for a context to build for": mistake(
        lambda: AR().build((3,), 2), ArgumentError, "AffineAutoregressive: context_shape=2", "such as (2,)"
    ),
}

CHAINS = {
    "a range that does not chain": mistake(
        lambda: bij.Compose([bij.Sigmoid(), bij.AffineFixed(-3.0), bij.Power()]),
        DomainError,
        "bijectors[1] (AffineFixed) gives numbers between -3 and -2",
        "bijectors[2] (Power) only takes numbers above 0",
        "put a bijector between them",
    ),
    "an inverse that does not chain": mistake(
        lambda: bij.Compose([AR(), bij.Invert(bij.Exp())]),
        DomainError,
        "(AffineAutoregressive) gives all real numbers",
        "(Invert) only takes numbers above 0",
        "Exp",
    ),
    "noise outside the domain": mistake(
        lambda: Flow(base(2), bij.Power()),
        DomainError,
        "base distribution Normal gives all real numbers",
        "only takes numbers above 0",
        "Exp and Softplus",
    ),
    "noise outside an inverted codomain": mistake(
        lambda: Flow(Independent(Gamma(torch.ones(2), torch.ones(2)), 1), bij.Invert(bij.Sigmoid())),
        DomainError,
        "base distribution Gamma gives numbers above 0",
        "numbers between 0 and 1",
    ),
    "discrete noise": mistake(
        lambda: Flow(Poisson(torch.ones(2)), bij.Exp()), DomainError, "Poisson is discrete", "such as Normal"
    ),
    "noise on a simplex": mistake(
        lambda: Flow(Dirichlet(torch.ones(2)), bij.Exp()), DomainError, "Dirichlet gives values that meet", "Compose"
    ),
}

BUILDING = {
    "no plan": mistake(
        lambda: Flow(base(2)),
        ArgumentError,
        "Flow: missing",
        "'bijector'",
        "Flow(base_dist, bij.AffineAutoregressive())",
    ),
    "nothing": mistake(lambda: Flow(), ArgumentError, "Flow: missing", "'base_dist'", "bij.AffineAutoregressive())"),
    "an unknown argument": mistake(
        lambda: Flow(base(2), AR(), contextshape=(2,)), ArgumentError, "Flow: got", "'contextshape'", "context_shape)"
    ),
    "None for a plan": mistake(
        lambda: Flow(base(2), None), PlanError, "Flow: None given", "bij.AffineAutoregressive()"
    ),
    "a module for a plan": mistake(
        lambda: Flow(base(2), torch.nn.Linear(2, 2)), PlanError, "Flow: Linear(", "expected the plan of a bijector"
    ),
    "a built bijector": mistake(
        lambda: Flow(base(2), bij.SplineAutoregressive()(shape=torch.Size([2]))),
        PlanError,
        "Flow: SplineAutoregressive, a bijector already built for events of shape (2,)",
        "load_state_dict",
    ),
    "changed over": mistake(
        lambda: Flow(AR(), base(2)), PlanError, "the bijector stands first", "expected Flow(base_dist, bijector)"
    ),
    "no distribution": mistake(
        lambda: Flow(3, AR()),
        PlanError,
        "base_dist=3 given",
        "expected a distribution",
        "torch.distributions.Independent(",
    ),
    "a class of distributions": mistake(
        lambda: Flow(Normal, AR()), PlanError, "base_dist=<class", "Normal(torch.zeros(2), torch.ones(2))"
    ),
    "a flow for a base": mistake(
        lambda: Flow(flow(), AR()), PlanError, "a Flow given as the base", "bij.Compose([flow.plan, bijector])"
    ),
    "a base of whole numbers": mistake(
        lambda: Flow(Normal(torch.zeros(2).long(), torch.ones(2).long()), bij.Affine()),
        PlanError,
        "base distribution Normal of torch.int64",
        "expected floating-point parameters",
    ),
    "an event without numbers": mistake(
        lambda: Flow(base(0), AR()), ShapeMismatchError, "Normal has the event shape (0,)", "at least 1"
    ),
    "a scalar event under autoregression": mistake(
        lambda: Flow(scalars(2), AR()),
        ShapeMismatchError,
        "AffineAutoregressive: event shape ()",
        "at least one dimension",
        "torch.distributions.Independent(base, 1)",
    ),
    "a scalar event under coupling": mistake(
        lambda: Flow(scalars(2), bij.SplineCoupling()),
        ShapeMismatchError,
        "SplineCoupling: event shape ()",
        "torch.distributions.Independent(base, 1)",
    ),
    "a layer too narrow": mistake(
        lambda: Flow(base(9), AR(MADE((16, 8)))),
        ShapeMismatchError,
        "hidden_dims[1]=8",
        "9 dimensions",
        "Give at least 9 units or leave hidden_dims=None",
    ),
    "a permutation of another length": mistake(
        lambda: Flow(base(3), bij.Compose([bij.Affine(), bij.Permute((1, 0))])),
        ShapeMismatchError,
        "Compose: bijectors[1]: Permute: permutation of 2 places",
        "event of shape (3,)",
        "one place for each dimension",
    ),
    "an order of another length": mistake(
        lambda: Flow(base(3), AR(MADE(permutation=(1, 0)))),
        ShapeMismatchError,
        "DenseAutoregressive: permutation of 2 places",
        "event of 3 dimensions",
        "one place for each",
    ),
    "a split that leaves nothing": mistake(
        lambda: Flow(base(2), bij.AffineCoupling(split=2)), ShapeMismatchError, "split=2", "2 dimensions", "at most 1"
    ),
    "supports of another number": mistake(
        lambda: Flow(base(3), bij.Supports((bij.Real(), bij.Positive()))),
        ShapeMismatchError,
        "2 supports",
        "event of shape (3,)",
        "one for each dimension",
    ),
    "a number for a context shape": mistake(
        lambda: Flow(base(2), AR(), context_shape=3), PlanError, "context_shape=3 given", "in a tuple, as (3,)"
    ),
    "a broken context shape": mistake(
        lambda: Flow(base(2), AR(), context_shape=3.0), PlanError, "context_shape=3.0 given", "whole numbers above 0"
    ),
    "a context of size 0": mistake(
        lambda: Flow(base(2), AR(), context_shape=(0,)), PlanError, "context_shape=(0,) given", "above 0"
    ),
    "a context that nothing reads": mistake(
        lambda: Flow(base(2), bij.Compose([bij.Affine(), bij.Permute()]), context_shape=(3,)),
        ShapeMismatchError,
        "context_shape=(3,) given",
        "no part of Compose reads a context",
        "such as bij.AffineAutoregressive()",
    ),
    "a context shape out of its place": mistake(
        lambda: Flow(base(2), AR(), (3,)), ArgumentError, "validate_args=(3,) given", "context_shape=(3,)"
    ),
    "a batch shape that does not broadcast": mistake(
        lambda: flow().expand((4,)).expand((5,)), ShapeMismatchError, "(5,)", "batch shape (4,)", "ends in (4,)"
    ),
    "a number for a batch shape": mistake(
        lambda: flow().expand(4), ArgumentError, "batch_shape=4 given", "a tuple of whole numbers, such as (4,)"
    ),
    "a base that cannot be moved": mistake(
        lambda: Flow(Cauchy(zeros(2), torch.ones(2)), bij.Affine()).double(),
        DtypeMismatchError,
        "base distribution Cauchy cannot be moved from torch.float32 on cpu to torch.float64 on cpu",
        "make the flow anew",
    ),
}

TENSORS = {
    "another width": mistake(
        lambda: flow().log_prob(zeros(5, 4)),
        ShapeMismatchError,
        "Flow: value of shape (5, 4)",
        "end in (3,)",
        "[..., 3]",
    ),
    "rows transposed": mistake(
        lambda: flow().log_prob(zeros(3, 5)), ShapeMismatchError, "value of shape (3, 5)", "transpose it, value.T"
    ),
    "a scalar": mistake(lambda: flow().log_prob(zeros()), ShapeMismatchError, "value of shape ()", "end in (3,)"),
    "a list": mistake(
        lambda: flow().log_prob([[0.0, 0.0, 0.0]]), ArgumentError, "value is a list", "torch.as_tensor(value)"
    ),
    "an array": mistake(lambda: flow().log_prob(np.zeros((2, 3))), ArgumentError, "value is a ndarray", "as_tensor"),
    "whole numbers": mistake(
        lambda: flow().log_prob(zeros(5, 3).long()),
        DtypeMismatchError,
        "value of torch.int64 on cpu",
        "computes in torch.float32 on cpu",
        "value.to(torch.float32)",
    ),
    "double precision": mistake(
        lambda: Flow(base(3), bij.Exp()).log_prob(torch.ones(5, 3).double()),
        DtypeMismatchError,
        "value of torch.float64",
        "torch.float32",
        "value.to(torch.float32)",
    ),
    "complex numbers": mistake(
        lambda: Flow(base(3), bij.Standardize()).log_prob(zeros(5, 3).cfloat()),
        DtypeMismatchError,
        "value of torch.complex64",
        "torch.float32",
    ),
    "another device": mistake(
        lambda: flow().log_prob(torch.empty(5, 3, device="meta")),
        DtypeMismatchError,
        "value on meta",
        "the flow is on cpu",
        "value.to('cpu')",
    ),
    "another batch": mistake(
        lambda: Flow(Independent(Normal(zeros(4, 3), torch.ones(4, 3)), 1), AR()).log_prob(zeros(5, 3)),
        ShapeMismatchError,
        "leading shape (5,)",
        "batch shape (4,)",
        "ends in (4,)",
    ),
    "data to noise": mistake(
        lambda: flow().normalize(zeros(5, 4)), ShapeMismatchError, "Flow: value of shape (5, 4)", "end in (3,)"
    ),
    "a built bijector's inverse": mistake(
        lambda: flow().bijector.inverse(zeros(5, 4)),
        ShapeMismatchError,
        "AffineAutoregressive: value of shape (5, 4)",
        "end in (3,)",
    ),
    "a built bijector's dtype": mistake(
        lambda: AR()(shape=torch.Size([3]))(zeros(5, 3).long()),
        DtypeMismatchError,
        "AffineAutoregressive: value of torch.int64",
        "torch.float32",
        "value.to(torch.float32)",
    ),
    "a built coupling layer's dtype": mistake(
        lambda: bij.SplineCoupling()(shape=torch.Size([3]))(zeros(5, 3).double()),
        DtypeMismatchError,
        "SplineCoupling: value of torch.float64",
        "torch.float32",
    ),
    "a number of samples": mistake(
        lambda: flow().sample(5), ArgumentError, "sample_shape=5 given", "a tuple of whole numbers, such as (5,)"
    ),
    "a number of samples with gradients": mistake(lambda: flow().rsample(5), ArgumentError, "sample_shape=5", "(5,)"),
    "a broken number of samples": mistake(lambda: flow().sample((5.0,)), ArgumentError, "sample_shape=(5.0,)", "whole"),
    "fewer than no samples": mistake(lambda: flow().sample((-5,)), ArgumentError, "sample_shape=(-5,)", "whole"),
    "gradients of whole columns": mistake(
        lambda: Flow(base(2), bij.Supports((bij.Real(), bij.Integer(0)))).rsample((3,)),
        ReparameterisationError,
        "dimension(s) [1]",
        "use sample(), or declare these columns bij.Real()",
    ),
    "gradients of a base without": mistake(
        lambda: Flow(MixtureSameFamily(Categorical(torch.ones(3)), scalars(3)), bij.Affine()).rsample((3,)),
        ReparameterisationError,
        "MixtureSameFamily(Categorical, Normal)",
        "use sample()",
    ),
}

CONTEXTS = {
    "none to a conditional flow": mistake(
        lambda: conditional().log_prob(zeros(5, 3)),
        ShapeMismatchError,
        "no context given",
        "expected one of shape [..., 2]",
        "flow.condition(context)",
    ),
    "none to its samples": mistake(lambda: conditional().sample((5,)), ShapeMismatchError, "no context", "[..., 2]"),
    "one to an unconditional flow": mistake(
        lambda: flow().log_prob(zeros(5, 3), zeros(5, 2)),
        ShapeMismatchError,
        "context of shape (5, 2)",
        "built without one",
        "context_shape=...",
    ),
    "one to its samples": mistake(
        lambda: flow().rsample((5,), zeros(5, 2)), ShapeMismatchError, "context of shape (5, 2)", "without one"
    ),
    "of another width": mistake(
        lambda: conditional().log_prob(zeros(5, 3), zeros(5, 3)),
        ShapeMismatchError,
        "context of shape (5, 3)",
        "end in (2,)",
        "[..., 2]",
    ),
    "that does not broadcast": mistake(
        lambda: conditional().log_prob(zeros(5, 3), zeros(4, 2)),
        ShapeMismatchError,
        "value has leading shape (5,) and context (4,)",
        "one context for each value, or one for all",
    ),
    "that does not broadcast against samples": mistake(
        lambda: conditional().sample((5,), zeros(4, 2)),
        ShapeMismatchError,
        "sample has leading shape (5,) and context (4,)",
        "one for all",
    ),
    "that is an array": mistake(
        lambda: conditional().log_prob(zeros(5, 3), np.zeros(2)), ArgumentError, "context is a ndarray", "as_tensor"
    ),
    "on another device": mistake(
        lambda: conditional().log_prob(zeros(5, 3), torch.empty(2, device="meta")),
        DtypeMismatchError,
        "context on meta",
        "the flow is on cpu",
        "context.to('cpu')",
    ),
    "twice": mistake(
        lambda: conditional().condition(zeros(2)).log_prob(zeros(3), zeros(2)),
        ArgumentError,
        "condition() gave one already",
        "leave it out",
    ),
    "condition an unconditional flow": mistake(
        lambda: flow().condition(zeros(4)), ShapeMismatchError, "context of shape (4,)", "context_shape=(4,)"
    ),
    "condition on another width": mistake(
        lambda: conditional().condition(zeros(5, 3)), ShapeMismatchError, "context of shape (5, 3)", "end in (2,)"
    ),
    "condition on nothing": mistake(lambda: conditional().condition(None), ArgumentError, "context is a NoneType"),
    "condition on more than the batch": mistake(
        lambda: Flow(Independent(Normal(zeros(4, 3), torch.ones(4, 3)), 1), AR(), context_shape=(2,)).condition(
            zeros(5, 2)
        ),
        ShapeMismatchError,
        "leading shape (5,)",
        "batch shape (4,)",
    ),
    "value of another batch than the context": mistake(
        lambda: conditional().condition(zeros(5, 2)).log_prob(zeros(4, 3)), ShapeMismatchError, "(4,)", "(5,)"
    ),
    "of a built bijector": mistake(
        lambda: bij.SplineAutoregressive()(shape=torch.Size([3]), context_shape=torch.Size([2]))(zeros(5, 3)),
        ShapeMismatchError,
        "SplineAutoregressive: no context given",
        "[..., 2]",
    ),
}

VALIDATION = {
    "NaN": mistake(
        lambda: Flow(base(2), AR(), validate_args=True).log_prob(torch.tensor([[0.0, 0.0], [0.0, float("nan")]])),
        DomainError,
        "1 of 2 rows lie outside the support",
        "row 1, [0.0, nan]",
        "expected all real numbers",
        "Remove them",
    ),
    "infinity": mistake(
        lambda: Flow(base(2), AR(), validate_args=True).log_prob(torch.tensor([[0.0, float("inf")]])),
        DomainError,
        "row 0, [0.0, inf]",
        "real numbers",
    ),
    "outside": mistake(
        lambda: Flow(base(2), bij.Exp(), validate_args=True).log_prob(torch.tensor([[1.0, -1.0]])),
        DomainError,
        "row 0, [1.0, -1.0]",
        "expected numbers above 0",
        "validate_args=True",
    ),
}

CLOSED_FORMS = {
    name: mistake(make, NoClosedFormError, "Flow: the ", "estimate it by ", "flow.sample((10_000,))")
    for name, make in {
        "mean": lambda: flow().mean,
        "variance": lambda: flow().variance,
        "standard deviation": lambda: flow().stddev,
        "mode": lambda: flow().mode,
        "entropy": lambda: flow().entropy(),
        "distribution function": lambda: flow().cdf(zeros(3)),
        "quantile": lambda: flow().icdf(torch.tensor(0.5)),
    }.items()
}

TRAINING = {
    "no flow": mistake(lambda: flowmodel.fit(AR(), zeros(100, 3)), ArgumentError, "fit: flow=Aff", "dist.Flow("),
    "another width": mistake(
        lambda: flowmodel.fit(flow(), zeros(100, 2)), DataError, "shape (100, 2)", "expected [N, 3]", "event shape"
    ),
    "words": mistake(lambda: flowmodel.fit(flow(), np.array([["a"] * 3] * 9)), DataError, "<U1", "real numbers"),
    "no rows": mistake(lambda: flowmodel.fit(flow(), zeros(0, 3)), DataError, "there are no rows", "at least 3"),
    "NaN": mistake(
        lambda: flowmodel.fit(flow(), torch.full((100, 3), float("nan"))),
        DataError,
        "row 1, column '0': found NaN",
        "expected a finite number",
        "correct the cell, or leave out",
    ),
    "a column of one value": mistake(
        lambda: flowmodel.fit(flow(), zeros(100, 3)), DataError, "column '0' has one value, 0", "leave it out"
    ),
    "no context": mistake(
        lambda: flowmodel.fit(conditional(), torch.randn(100, 3)), DataError, "context: is missing", "shape (2,)"
    ),
    "a context too much": mistake(
        lambda: flowmodel.fit(flow(), torch.randn(100, 3), context=torch.randn(100, 2)),
        DataError,
        "context: was given",
        "context_shape=..., or leave it out",
    ),
    "fewer contexts than rows": mistake(
        lambda: flowmodel.fit(conditional(), torch.randn(100, 3), context=torch.randn(90, 2)),
        DataError,
        "90 contexts for 100 rows",
        "expected one for each row",
    ),
    "a fraction above 1": mistake(
        lambda: flowmodel.fit(flow(), torch.randn(100, 3), validation=2.0),
        DataError,
        "validation=2.0",
        "between 0 and 1",
    ),
    "a word for a number": mistake(
        lambda: flowmodel.fit(flow(), torch.randn(100, 3), max_epochs="3"),
        TrainingError,
        "max_epochs='3'",
        "at least 1",
    ),
    "a fraction of an epoch": mistake(
        lambda: flowmodel.fit(flow(), torch.randn(100, 3), max_epochs=3.5), TrainingError, "max_epochs=3.5", "a whole"
    ),
    "a value outside its support": mistake(
        lambda: flowmodel.fit(Flow(base(3), bij.Supports(bij.Positive())), torch.randn(100, 3)),
        DataError,
        "column '0'",
        "numbers above 0",
    ),
}

EXPORT = {
    f"base {name}": mistake(
        lambda made=made, plan=plan: export_scorer(Flow(made, plan), "never-written.pt"),
        ExportError,
        f"base distribution {name} cannot be exported",
        "use Normal, Laplace, StudentT or Uniform, or MixtureSameFamily(Categorical, Normal)",
    )
    for name, made, plan in (
        ("Cauchy", Independent(Cauchy(torch.zeros(2), torch.ones(2)), 1), AR()),
        ("Gamma", Independent(Gamma(torch.ones(2), torch.ones(2)), 1), bij.Power()),
        ("Beta", Independent(Beta(torch.ones(2), torch.ones(2)), 1), bij.Affine()),
        ("MultivariateNormal", MultivariateNormal(torch.zeros(2), torch.eye(2)), AR()),
    )
} | {
    "base of half precision": mistake(
        lambda: export_scorer(Flow(normal((2,), torch.bfloat16), AR()), "never-written.pt"),
        ExportError,
        "Normal of bfloat16",
        "expected float32 or float64: flow.float()",
    ),
    "a batch of densities": mistake(
        lambda: export_scorer(Flow(scalars(2), bij.Affine()), "never-written.pt"),
        ExportError,
        "batch shape (2,)",
        "torch.distributions.Independent(base, 1)",
    ),
}

TABLES = {
    "plans": PLANS,
    "chains": CHAINS,
    "building": BUILDING,
    "tensors": TENSORS,
    "contexts": CONTEXTS,
    "validation": VALIDATION,
    "closed forms": CLOSED_FORMS,
    "training": TRAINING,
    "export": EXPORT,
}


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(wrong, id=f"{table}: {name}") for table, rows in TABLES.items() for name, wrong in rows.items()],
)
def test_a_mistake_gets_its_error(wrong):
    with pytest.raises(wrong.error) as raised:
        wrong.make()
    text = str(raised.value)
    assert [fragment for fragment in wrong.fragments if fragment not in text] == [], text
    # What the user wrote is named, never the module that was built from it.
    assert "Bijector:" not in text


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ArgumentError, TypeError),
        (PlanError, ValueError),
        (ShapeMismatchError, ValueError),
        (DtypeMismatchError, TypeError),
        (DomainError, ValueError),
        (UnbuiltPlanError, AttributeError),
        (NoClosedFormError, NotImplementedError),
        (ReparameterisationError, NotImplementedError),
    ],
)
def test_an_error_is_also_what_torch_and_python_would_raise(error, builtin):
    assert issubclass(error, builtin)
    assert issubclass(error, FlowModelError)


def test_a_class_without_arguments_stands_for_its_plan():
    assert Flow(base(2), AR).plan == AR()
    assert bij.Compose([AR, bij.Permute]) == bij.Compose([AR(), bij.Permute()])
    assert AR(MADE) == AR(MADE())
    assert bij.Affine(params.Tensor) == bij.Affine()


def test_a_permutation_may_be_a_tensor_and_is_written_all_the_same():
    plan = bij.Permute(torch.tensor([2, 0, 1]))
    assert plan == bij.Permute((2, 0, 1))
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_copies_and_pickles_keep_plan_support_and_density():
    plan = bij.Compose([AR(), bij.AffineFixed(2.0), bij.Sigmoid()])
    assert copy.deepcopy(plan) is plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    made = Flow(base(2), bij.Compose([AR(), bij.AffineFixed(2.0)]))
    rows = torch.randn(5, 2)
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again.log_prob(rows), made.log_prob(rows))
        assert again.plan == made.plan
        assert interval_of(again.support) == interval_of(made.support) == (-float("inf"), float("inf"))


def test_what_a_plan_has_not_is_an_attribute_error_as_ever():
    assert not hasattr(AR(), "forward")
    assert not hasattr(AR(), "colour")
    with pytest.raises(AttributeError, match="'AffineAutoregressive' object has no attribute 'colour'"):
        _ = AR().colour


@pytest.mark.parametrize(
    "foreign",
    [
        Independent(Gamma(torch.full((2,), 2.0), torch.ones(2), validate_args=True), 1),
        Independent(LogNormal(torch.zeros(2), torch.ones(2), validate_args=True), 1),
        Independent(Beta(torch.full((2,), 2.0), torch.full((2,), 3.0), validate_args=True), 1),
    ],
    ids=lambda made: type(made.base_dist).__name__,
)
def test_a_base_of_limited_support_has_the_density_0_outside_of_it(foreign):
    shifted = Flow(foreign, bij.AffineFixed(loc=10.0))
    rows = torch.tensor([[10.5, 10.5], [9.0, 10.5], [10.5, float("nan")]])
    log_prob = shifted.log_prob(rows)
    torch.testing.assert_close(log_prob[0], foreign.log_prob(rows[0] - 10))
    assert float(log_prob[1]) == -float("inf")
    assert bool(log_prob[2].isnan())
    assert foreign.base_dist._validate_args, "the distribution that was given is left as it was"


def test_a_mistake_in_one_thread_leaves_another_alone():
    shared, right = conditional(), zeros(5, 3)
    expected = shared.log_prob(right, zeros(2)).detach()
    wrong: list[BaseException] = []

    def mistaken() -> None:
        for _ in range(50):
            try:
                shared.log_prob(right, zeros(4, 2))
            except ShapeMismatchError as error:
                wrong.append(error)

    thread = threading.Thread(target=mistaken)
    thread.start()
    answers = [shared.log_prob(right, zeros(2)).detach() for _ in range(50)]
    thread.join()
    assert len(wrong) == 50
    assert all(torch.equal(answer, expected) for answer in answers)


def test_every_plan_refuses_an_argument_that_it_does_not_know():
    plans = [known for known in Plan._known.values() if known.__module__.startswith("flowmodel.")]
    assert len(plans) > 30
    for known in plans:
        with pytest.raises(PlanError, match=known.__name__):
            known(telepathy=1)
