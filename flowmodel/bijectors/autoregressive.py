"""The family of bijectors whose parameters for one dimension depend on the dimensions before it."""

import dataclasses
from typing import ClassVar

from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import BijectorPlan


@dataclasses.dataclass(frozen=True)
class Autoregressive(BijectorPlan):
    """Family of bijectors with a triangular Jacobian, their parameters given by a masked network."""

    domain: ClassVar[Constraint] = constraints.real_vector
    codomain: ClassVar[Constraint] = constraints.real_vector
