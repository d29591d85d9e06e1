"""What torch's distributions offer and a flow has no closed form of, refused with the way to estimate it."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor
from torch.distributions import Distribution

from flowmodel.errors import NoClosedFormError


class WithoutClosedForms(Distribution):
    """A distribution of which density and samples are known, and moments and quantiles are not."""

    @property
    def mean(self) -> Tensor:
        """Refused: what a bijector does to a mean has no closed form."""
        self._refuse("mean", "flow.sample((10_000,)).mean(0)")

    @property
    def variance(self) -> Tensor:
        """Refused, as :attr:`mean` is."""
        self._refuse("variance", "flow.sample((10_000,)).var(0)")

    @property
    def mode(self) -> Tensor:
        """Refused, as :attr:`mean` is."""
        self._refuse("mode", "y = flow.sample((10_000,)); y[flow.log_prob(y).argmax(0)]")

    def cdf(self, value: Any) -> NoReturn:
        """Refused, as :attr:`mean` is."""
        self._refuse("distribution function", "(flow.sample((10_000,)) <= value).all(-1).double().mean(0)")

    def icdf(self, value: Any) -> NoReturn:
        """Refused, as :attr:`mean` is."""
        self._refuse("quantile", "flow.sample((10_000,)).quantile(value, 0), of each dimension alone")

    def _refuse(self, name: str, estimate: str) -> NoReturn:
        raise NoClosedFormError(f"Flow: the {name} has no closed form; estimate it by {estimate}")
