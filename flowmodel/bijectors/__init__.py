"""Bijectors: shape-agnostic plans, and the modules that ``plan.build(shape)`` makes of them."""

from flowmodel.bijectors.affine import Affine
from flowmodel.bijectors.affine_autoregressive import AffineAutoregressive
from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.bijectors.compose import Compose
from flowmodel.bijectors.invert import Invert
from flowmodel.bijectors.permute import Permute
from flowmodel.bijectors.spline import Spline
from flowmodel.bijectors.spline_autoregressive import SplineAutoregressive
from flowmodel.bijectors.standardize import Standardize
from flowmodel.bijectors.supports import Supports
from flowmodel.supports import Bounded, Integer, Periodic, Positive, Real, Support

__all__ = [
    "Affine",
    "AffineAutoregressive",
    "Bijector",
    "BijectorPlan",
    "Bounded",
    "Compose",
    "Folded",
    "Integer",
    "Invert",
    "Periodic",
    "Permute",
    "Positive",
    "Real",
    "Spline",
    "SplineAutoregressive",
    "Standardize",
    "Support",
    "Supports",
]
