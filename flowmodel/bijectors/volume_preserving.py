"""The family of bijectors that leave volumes as they are."""

import dataclasses
from typing import ClassVar

from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Bijector, BijectorPlan


@dataclasses.dataclass(frozen=True)
class VolumePreserving(BijectorPlan):
    """Family of bijectors whose Jacobian has the determinant 1 or -1 everywhere."""

    domain: ClassVar[Constraint] = constraints.real_vector
    codomain: ClassVar[Constraint] = constraints.real_vector


class VolumePreservingBijector(Bijector):
    """A built map of that family."""

    @property
    def constant_log_det(self) -> bool:
        """Always: the log-determinant is 0."""
        return True
