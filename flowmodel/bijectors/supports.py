"""Supports of columns: positive, bounded, whole and periodic values, each mapped from the whole line."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.bijectors.compose import ComposeBijector
from flowmodel.bijectors.domain import constraint_of, over_event
from flowmodel.bijectors.standardize import KeepsFloat64
from flowmodel.bijectors.support_maps import pull_columns, push_columns, within
from flowmodel.errors import DataError, PlanError, ShapeMismatchError
from flowmodel.supports import Integer, Periodic, Support


@dataclasses.dataclass(frozen=True)
class Supports(BijectorPlan):
    r"""Plan of a map from the line to the support of each column. Put it last in a ``Compose``, after ``Standardize``.

    ==================== ======================================= ===============================================
    support              data of x                               log of the derivative
    ==================== ======================================= ===============================================
    ``Real()``           x                                       0
    ``Positive()``       exp x                                   x
    ``Bounded(a, b)``    a + (b - a) :math:`\Phi(x)`             :math:`\log \varphi(x) + \log(b - a)`
    ``Integer(a, b)``    as between a - 1/2 and b + 1/2          likewise; without bounds as ``Real``
    ``Periodic(a, p)``   as ``Bounded``, on the circle cut open  likewise
    ==================== ======================================= ===============================================

    A whole number stands for its cell of width 1 (dequantisation: Theis, van den Oord and Bethge 2016,
    arXiv:1511.01844): the flow is trained on rows spread over their cells, and its density at the whole number is the
    probability by the midpoint rule. A circle is cut where ``flow.standardize_`` finds it emptiest.

    A row with a value outside its support has the log-density -inf. Everything is computed in float64.

    Args:
        columns: a support for each dimension of the (flattened) event, or one for all.

    Raises:
        PlanError: ``columns`` holds something else than supports, or nothing.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> flow = dist.Flow(base, bij.Supports((bij.Positive(), bij.Bounded(0, 1))))
        >>> flow.log_prob(torch.tensor([[1.0, 0.5], [-1.0, 0.5]]))
        tensor([-0.9189,    -inf])
    """

    columns: Sequence[Support] | Support

    def __post_init__(self) -> None:
        if not isinstance(self.columns, Support):
            object.__setattr__(self, "columns", tuple(self.columns) if _is_sequence(self.columns) else (self.columns,))
        columns = self.listed
        if not columns:
            raise PlanError("Supports: no columns given; expected a support for each, such as bij.Positive()")
        for place, support in enumerate(columns):
            if not isinstance(support, Support):
                raise PlanError(
                    f"Supports: columns[{place}] is {support!r}; expected one of bij.Real(), bij.Positive(), "
                    "bij.Bounded(low, high), bij.Integer(low, high), bij.Periodic(low, period)"
                )
        intervals = {support.interval for support in columns}
        codomain = constraint_of(intervals.pop()) if len(intervals) == 1 else InSupports(columns, 1)
        # Of the values of this plan, where other bijectors have it of their class.
        object.__setattr__(self, "codomain", codomain)

    @property
    def listed(self) -> tuple[Support, ...]:
        """The supports as a tuple; of length 1 where one stands for all columns."""
        return (self.columns,) if isinstance(self.columns, Support) else tuple(self.columns)

    @property
    def next_to_data(self) -> bool:
        """Whether a column is whole or periodic: what is neither rounded nor turned back is then no data."""
        return any(isinstance(support, Integer | Periodic) for support in self.listed)

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "SupportsBijector":
        """The concrete map.

        Raises:
            ShapeMismatchError: there are more or fewer supports than dimensions.
        """
        size = math.prod(event_shape)
        if isinstance(self.columns, Support):
            return SupportsBijector(event_shape, context_shape, (self.columns,) * size)
        if len(self.listed) != size:
            raise ShapeMismatchError(
                f"Supports: {len(self.listed)} supports given for an event of shape {tuple(event_shape)} with {size} "
                "dimensions; give one for each dimension, or a single support for all"
            )
        return SupportsBijector(event_shape, context_shape, self.listed)


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


class InSupports(Constraint):
    """Events whose every scalar lies in the interval of its own support."""

    def __init__(self, supports: Sequence[Support], event_dim: int) -> None:
        self.supports = tuple(supports)
        self._event_dim = event_dim
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """Number of dimensions of an event."""
        return self._event_dim

    def check(self, value: Tensor) -> Tensor:
        """Which events lie inside."""
        rows = value.flatten(-self._event_dim) if self._event_dim else value.unsqueeze(-1)
        low, high = torch.tensor([s.interval for s in self.supports], dtype=torch.float64, device=value.device).T
        inside: Tensor = ((rows > low) & (rows < high)).all(-1)
        return inside

    def __repr__(self) -> str:
        return f"InSupports({', '.join(map(repr, self.supports))})"


class SupportsBijector(KeepsFloat64, Bijector):
    """The map built from :class:`Supports`."""

    float64_buffers: ClassVar[tuple[str, ...]] = ("cut", "one", "two", "low", "high")
    cut: Tensor
    one: Tensor
    two: Tensor
    low: Tensor
    high: Tensor
    order: Tensor
    place: Tensor
    whole: Tensor
    closed: Tensor
    like: Tensor

    def __init__(
        self, event_shape: torch.Size, context_shape: torch.Size | None, supports: tuple[Support, ...]
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.supports = supports
        bounds = [_bounds(support) for support in supports]
        kind = [sum(map(math.isfinite, pair)) for pair in bounds]
        self.kinds = [kind.count(number) for number in range(3)]
        order = torch.tensor(sorted(range(len(kind)), key=kind.__getitem__), dtype=torch.long)
        # The bounds are the plan's; only the cuts are learnt, so only they are saved.
        self._add("order", order)
        self._add("place", torch.argsort(order))
        one = [bounds[column] for column in order.tolist() if kind[column] == 1]
        one = [(low, 1.0) if math.isfinite(low) else (high, -1.0) for low, high in one]
        self._add("one", torch.tensor(one, dtype=torch.float64).reshape(-1, 2).T.contiguous())
        two = [_two(supports[column]) for column in order.tolist() if kind[column] == 2]
        self._add("two", torch.tensor(two, dtype=torch.float64).reshape(-1, 4).T.contiguous())
        ends = torch.tensor(bounds, dtype=torch.float64).reshape(-1, 2).T.contiguous()
        self._add("low", ends[0].clone())
        self._add("high", ends[1].clone())
        self._add("whole", torch.tensor([isinstance(support, Integer) for support in supports], dtype=torch.bool))
        self._add("closed", torch.tensor([isinstance(support, Periodic) for support in supports], dtype=torch.bool))
        self.register_buffer("cut", self.two[0].clone())
        # An empty tensor that follows .to(dtype), to know in which dtype the rest of the flow works.
        self._add("like", torch.empty(0))

    @property
    def _two_bounds(self) -> list[int]:
        """The columns that have a place in ``cut``, in its order."""
        columns: list[int] = self.order[self.kinds[0] + self.kinds[1] :].tolist()
        return columns

    def _add(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    @property
    def codomain(self) -> Constraint:
        """Each scalar in its interval."""
        intervals = {support.interval for support in self.supports}
        if len(intervals) == 1:
            return over_event(constraint_of(intervals.pop()), len(self.event_shape))
        return InSupports(self.supports, len(self.event_shape))

    @property
    def constant_log_det(self) -> bool:
        """Only without any bound."""
        return self.kinds[1] + self.kinds[2] == 0

    @property
    def takes_float64(self) -> bool:
        """Data are read in float64."""
        return True

    @property
    def reads_context(self) -> bool:
        """No: a context passes it by."""
        return False

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, strictly inside the supports also after rounding to the dtype of the flow."""
        y, log_det = push_columns(x, self.kinds, self.one, self.two, self.cut, self.order, self.place)
        dtype = self.like.dtype
        return within(y, self.low, self.high, self.closed, dtype), log_det.to(dtype)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data, of either floating dtype, to noise; a row outside its support gets the log-determinant -inf."""
        x, log_det = pull_columns(y, self.kinds, self.one, self.two, self.cut, self.order, self.place)
        return x if self.gives_float64 else x.to(self.like.dtype), log_det.to(self.like.dtype)

    def standardize_(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Cut each circle where ``y[N, D]`` leaves it emptiest; returns the rows on the line.

        Raises:
            DataError: a value lies outside its support.
        """
        y = y.detach().to(torch.float64)
        self._check_inside(y)
        cut = self.two[0].clone()
        for place, column in enumerate(self._two_bounds):
            support = self.supports[column]
            if isinstance(support, Periodic):
                cut[place] = emptiest(y[:, column], support.low, support.period)
        self.cut = cut
        return self.pull(y, context)[0]

    def integers(self) -> Tensor:
        """The columns declared ``Integer``."""
        return self.whole.clone()

    def jitter(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Rows ``y[B, D]`` with each whole number spread evenly over its cell.

        Args:
            y: the rows.
            generator: where the noise is drawn from; untouched if no column is whole.
        """
        if not bool(self.whole.any()):
            return y
        device = torch.device("cpu") if generator is None else generator.device
        columns = self.whole.nonzero().flatten()
        noise = torch.rand(len(y), len(columns), dtype=torch.float64, generator=generator, device=device).to(y.device)
        middle = y.index_select(1, columns).to(torch.float64)
        # The ends of a cell are kept out of it: there the density of a bounded column is 0.
        open_ends = torch.zeros(len(columns), dtype=torch.bool, device=y.device)
        spread = within(middle + (noise - 0.5), middle - 0.5, middle + 0.5, open_ends, y.dtype)
        return y.index_copy(1, columns, spread)

    def cuts(self) -> dict[int, float]:
        """Where the circle of each periodic column is cut, by column."""
        both = zip(self._two_bounds, self.cut.tolist(), strict=True)
        return {column: cut for column, cut in both if isinstance(self.supports[column], Periodic)}

    def fold(self) -> Folded:
        """The map as constants."""
        return FoldedSupports(self, torch.float64 if self.gives_float64 else self.like.dtype)

    def _check_inside(self, y: Tensor) -> None:
        # Whole numbers may have been spread over their cells, so all columns are held to their intervals.
        low = torch.where(self.closed, -math.inf, self.low)
        high = torch.where(self.closed, math.inf, self.high)
        outside = (~((y > low) & (y < high))).nonzero()
        if len(outside):
            row, column = outside[0].tolist()
            raise DataError(
                f"row {row}, dimension {column} is {y[row, column].item():g}; its support is "
                f"{self.supports[column].words}: remove the row or declare another support"
            )


def supports_of(bijector: Bijector) -> SupportsBijector | None:
    """The part of a bijector that holds the supports of its data, if there is one next to them."""
    while isinstance(bijector, ComposeBijector):
        bijector = bijector.chain[-1]
    return bijector if isinstance(bijector, SupportsBijector) else None


def _bounds(support: Support) -> tuple[float, float]:
    """The ends of what is written of a support: for a circle one turn."""
    if isinstance(support, Periodic):
        return support.low, support.low + support.period
    return support.interval


def _two(support: Support) -> tuple[float, float, float, float]:
    # On a circle the cut itself is a value like any other, so it gets the density of a point a rounding beside it.
    circle = isinstance(support, Periodic)
    return (*_bounds(support), float(circle), 2.0**-53 if circle else torch.finfo(torch.float64).tiny)


def emptiest(values: Tensor, low: float, period: float) -> float:
    """Where a circle holds fewest of the values: the middle of the widest gap in the emptiest stretch.

    Stretches are those between a value and the k-th after it, k the square root of their number: with k = 1 the gap
    would be one of chance wherever values are many.

    Example:
        >>> emptiest(torch.tensor([350.0, 10.0, 30.0]), 0.0, 360.0)
        190.0
    """
    turned = torch.remainder(values.to(torch.float64) - low, period).sort().values
    k = max(1, math.isqrt(len(turned)))
    again = torch.cat([turned, turned[: k + 1] + period])
    start = int((again[k : k + len(turned)] - turned).argmax())
    stretch = again[start : start + k + 1]
    widest = int(stretch.diff().argmax())
    middle = 0.5 * (stretch[widest] + stretch[widest + 1])
    return low + float(torch.remainder(middle, period))


class FoldedSupports(Folded):
    """The supports' maps in float64, the noise side in the dtype that the part before takes."""

    kinds: list[int]
    one: Tensor
    two: Tensor
    cut: Tensor
    low: Tensor
    high: Tensor
    order: Tensor
    place: Tensor
    closed: Tensor
    noise_like: Tensor
    data_like: Tensor

    def __init__(self, bijector: SupportsBijector, noise_dtype: torch.dtype) -> None:
        super().__init__()
        self.kinds = list(bijector.kinds)
        for name in ("one", "two", "cut", "low", "high", "order", "place", "closed"):
            self.register_buffer(name, getattr(bijector, name).clone())
        self.register_buffer("noise_like", torch.empty(0, dtype=noise_dtype, device=bijector.cut.device))
        self.register_buffer("data_like", bijector.like.clone())

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        y, log_det = push_columns(x, self.kinds, self.one, self.two, self.cut, self.order, self.place)
        dtype = self.data_like.dtype
        return within(y, self.low, self.high, self.closed, dtype), log_det.to(dtype)

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        x, log_det = pull_columns(y, self.kinds, self.one, self.two, self.cut, self.order, self.place)
        return x.to(self.noise_like.dtype), log_det.to(self.data_like.dtype)
