"""Bijectors: shape-agnostic plans, and the modules that ``plan.build(shape)`` makes of them.

``standard_bijectors`` lists, by name, every plan that can be made without arguments, ``invertible_bijectors`` those of
them with both directions (all), ``meta_bijectors`` the families, and the plans made of other plans.
"""

from flowmodel.bijectors.affine import Affine
from flowmodel.bijectors.affine_autoregressive import AffineAutoregressive
from flowmodel.bijectors.affine_coupling import AffineCoupling
from flowmodel.bijectors.affine_fixed import AffineFixed
from flowmodel.bijectors.autoregressive import Autoregressive
from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.bijectors.compose import Compose
from flowmodel.bijectors.elementwise import Elementwise
from flowmodel.bijectors.elu import ELU
from flowmodel.bijectors.exp import Exp
from flowmodel.bijectors.fixed import Fixed
from flowmodel.bijectors.invert import Invert
from flowmodel.bijectors.leaky_relu import LeakyReLU
from flowmodel.bijectors.permute import Permute
from flowmodel.bijectors.power import Power
from flowmodel.bijectors.sigmoid import Sigmoid
from flowmodel.bijectors.softplus import Softplus
from flowmodel.bijectors.spline import Spline
from flowmodel.bijectors.spline_autoregressive import SplineAutoregressive
from flowmodel.bijectors.spline_coupling import SplineCoupling
from flowmodel.bijectors.standardize import Standardize
from flowmodel.bijectors.supports import Supports
from flowmodel.bijectors.tanh import Tanh
from flowmodel.bijectors.volume_preserving import VolumePreserving
from flowmodel.supports import Bounded, Integer, Periodic, Positive, Real, Support

standard_bijectors: list[tuple[str, type[BijectorPlan]]] = [
    ("Affine", Affine),
    ("AffineAutoregressive", AffineAutoregressive),
    ("AffineCoupling", AffineCoupling),
    ("AffineFixed", AffineFixed),
    ("ELU", ELU),
    ("Exp", Exp),
    ("LeakyReLU", LeakyReLU),
    ("Permute", Permute),
    ("Power", Power),
    ("Sigmoid", Sigmoid),
    ("Softplus", Softplus),
    ("Spline", Spline),
    ("SplineAutoregressive", SplineAutoregressive),
    ("SplineCoupling", SplineCoupling),
    ("Standardize", Standardize),
    ("Tanh", Tanh),
]

invertible_bijectors: list[tuple[str, type[BijectorPlan]]] = list(standard_bijectors)

meta_bijectors: list[tuple[str, type[BijectorPlan] | type[Bijector]]] = [
    ("Elementwise", Elementwise),
    ("Autoregressive", Autoregressive),
    ("Fixed", Fixed),
    ("Bijector", Bijector),
    ("Compose", Compose),
    ("Invert", Invert),
    ("VolumePreserving", VolumePreserving),
]

__all__ = [
    "ELU",
    "Affine",
    "AffineAutoregressive",
    "AffineCoupling",
    "AffineFixed",
    "Autoregressive",
    "Bijector",
    "BijectorPlan",
    "Bounded",
    "Compose",
    "Elementwise",
    "Exp",
    "Fixed",
    "Folded",
    "Integer",
    "Invert",
    "LeakyReLU",
    "Periodic",
    "Permute",
    "Positive",
    "Power",
    "Real",
    "Sigmoid",
    "Softplus",
    "Spline",
    "SplineAutoregressive",
    "SplineCoupling",
    "Standardize",
    "Support",
    "Supports",
    "Tanh",
    "VolumePreserving",
    "invertible_bijectors",
    "meta_bijectors",
    "standard_bijectors",
]
