"""Bijectors: shape-agnostic plans, and the modules that ``plan.build(shape)`` makes of them."""

from flowmodel.bijectors.affine import Affine
from flowmodel.bijectors.affine_autoregressive import AffineAutoregressive
from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.bijectors.compose import Compose
from flowmodel.bijectors.invert import Invert
from flowmodel.bijectors.permute import Permute
from flowmodel.bijectors.standardize import Standardize

__all__ = [
    "Affine",
    "AffineAutoregressive",
    "Bijector",
    "BijectorPlan",
    "Compose",
    "Folded",
    "Invert",
    "Permute",
    "Standardize",
]
