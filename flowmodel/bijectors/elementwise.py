"""The family of bijectors that treat every scalar of an event alone."""

import dataclasses

from flowmodel.bijectors.base import BijectorPlan


@dataclasses.dataclass(frozen=True)
class Elementwise(BijectorPlan):
    """Family of bijectors that map every scalar by itself, by learnt parameters or, if :class:`Fixed`, by none."""
