"""What every bijector is: a plan, the module built from it, and the folded module that is exported.

``forward`` maps base noise x to data y. The primitive is the pair, value and log-determinant of the Jacobian of the map
that was taken; single values derive from it. Nothing is cached.
"""

import abc
import dataclasses
import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.domain import over_event
from flowmodel.errors import ArgumentError, DtypeMismatchError, PlanError, ShapeMismatchError, UnbuiltPlanError
from flowmodel.plans import Plan, refuse_family


@dataclasses.dataclass(frozen=True)
class BijectorPlan(Plan, abc.ABC):
    """Plan of a bijector; agnostic of shape until :meth:`build`.

    Attributes:
        domain: what the noise may be, as one of torch's constraints; of the class, and where it depends on the values
            of a plan (``Compose``, ``Invert``) of that plan.
        codomain: what the data may be.

    Raises:
        AbstractPlanError: the class is a family of bijectors and not one of them.
    """

    domain: ClassVar[Constraint] = constraints.real
    codomain: ClassVar[Constraint] = constraints.real

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in vars(cls) and not getattr(cls.build, "__isabstractmethod__", False):
            cls.build = _with_shapes(cls.build)  # type: ignore[method-assign]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A plan; with ``shape=`` among the arguments the bijector built from it, as FlowTorch has it."""
        if "shape" in kwargs:
            shape, context_shape = kwargs.pop("shape"), kwargs.pop("context_shape", None)
            return cls(*args, **kwargs)(shape=shape, context_shape=context_shape)
        return super().__new__(cls, *args, **kwargs)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            owner = type(self).__name__
            if not name.startswith("_") and hasattr(Bijector, name):
                raise UnbuiltPlanError(
                    f"{owner}: .{name} asked of the plan; only what is built from it has that. Build it by "
                    f"dist.Flow(base_dist, plan), or by plan(shape=torch.Size([3])), and use .{name} of the result"
                )
            raise AttributeError(f"{owner!r} object has no attribute {name!r}")

    @abc.abstractmethod
    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "Bijector":
        """The concrete bijector for events of ``event_shape``, its parameters new.

        Raises:
            ArgumentError: one of the two is no shape.
            ShapeMismatchError: the plan cannot be built for that shape.
        """

    def __call__(
        self, *misplaced: object, shape: torch.Size | None = None, context_shape: torch.Size | None = None
    ) -> "Bijector":
        """The same as :meth:`build`, in the words of FlowTorch.

        Raises:
            ArgumentError: no shape is given, or something beside it.
        """
        owner = type(self).__name__
        if misplaced or shape is None:
            given = f"a {type(misplaced[0]).__name__}" if misplaced else "nothing"
            raise ArgumentError(
                f"{owner}: the plan was called with {given}; expected the shape of an event by its name, "
                "plan(shape=torch.Size([3])). What that builds, and not the plan, is what takes tensors"
            )
        return self.build(shape, context_shape)

    @property
    def next_to_data(self) -> bool:
        """Whether it means what it says only as the last part, with nothing between it and the data."""
        return False

    def image(self, of: Constraint) -> Constraint:
        """Where the data lie if the noise lies in ``of``, a part of the domain; at its widest the codomain."""
        return self.codomain

    def preimage(self, of: Constraint) -> Constraint:
        """Where the noise lies if the data lie in ``of``, a part of the codomain; at its widest the domain."""
        return self.domain


class Folded(torch.nn.Module, abc.ABC):
    """A bijector made ready for TorchScript: masks multiplied in, shapes flat, nothing left to check.

    ``push`` maps noise to data and ``pull`` data to noise, ``[B, D]`` and ``context[B, C]`` to ``[B, D]`` and the
    log-determinant ``[B]`` of the map taken.
    """

    @abc.abstractmethod
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""

    @abc.abstractmethod
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""


class Bijector(torch.nn.Module, abc.ABC):
    """An invertible map between events of one shape.

    Args:
        event_shape: shape of one event.
        context_shape: shape of one context, or ``None`` where the map depends on none.
    """

    gives_float64: bool = False
    """Whether ``pull`` may hand on float64 in a flow of float32; ``Compose`` sets it where the part before takes it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A new module, its arguments left to ``__init__``."""
        refuse_family(cls)
        return super().__new__(cls)

    def __init__(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> None:
        super().__init__()
        # What the user wrote: bijectors are named by their plans in errors.
        self.plan_name = type(self).__name__.removesuffix("Bijector")
        self.event_shape = torch.Size(event_shape)
        self.context_shape = None if context_shape is None else torch.Size(context_shape)
        if not self.event_size:
            raise ShapeMismatchError(
                f"{self.plan_name}: event shape {tuple(event_shape)} given, which holds no number; expected every "
                "size to be at least 1"
            )

    @property
    def event_size(self) -> int:
        """Number of scalars in an event."""
        return math.prod(self.event_shape)

    @property
    def context_size(self) -> int:
        """Number of scalars in a context; 0 where there is none."""
        return 0 if self.context_shape is None else math.prod(self.context_shape)

    @property
    def domain(self) -> Constraint:
        """What one event of noise may be: all real events, unless a bijector says otherwise."""
        return over_event(constraints.real, len(self.event_shape))

    @property
    def codomain(self) -> Constraint:
        """What one event of data may be: all real events, unless a bijector says otherwise."""
        return over_event(constraints.real, len(self.event_shape))

    @property
    def takes_float64(self) -> bool:
        """Whether ``pull`` reads float64, and gains by it, in a flow of float32 too."""
        return False

    @property
    def constant_log_det(self) -> bool:
        """Whether the log-determinant is the same for every x; closed forms of entropy and divergence rest on it."""
        return False

    @property
    def reads_context(self) -> bool:
        """Whether the map depends on the context it is given; so it is taken to, unless a bijector says otherwise."""
        return self.context_shape is not None

    @abc.abstractmethod
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise ``x[B, D]`` to data ``[B, D]`` and the log-determinant ``[B]`` of that map."""

    @abc.abstractmethod
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data ``y[B, D]`` to noise ``[B, D]`` and the log-determinant ``[B]`` of that map.

        A row outside the codomain gives finite noise and the log-determinant -inf, a row with NaN gives NaN.
        """

    @abc.abstractmethod
    def fold(self) -> Folded:
        """A copy of the map for TorchScript, sharing no parameters with this module."""

    def standardize_(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Let data-dependent parts learn from ``y[B, D]``; returns the data as the part before this one sees them."""
        own = next(self.parameters(), y)
        return self.pull(y.to(own.dtype), context)[0]

    def integers(self) -> Tensor:
        """Which of the D columns of the data hold whole numbers, ``[D]`` booleans; none, unless a bijector says so."""
        return torch.zeros(self.event_size, dtype=torch.bool)

    def jitter(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training rows ``y[B, D]`` with each whole number spread over its cell; the rows as they are where none is."""
        return y

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data, and log abs det of the Jacobian dy/dx.

        Args:
            x: ``[..., *event_shape]``.
            context: ``[..., *context_shape]``; leading shapes are broadcast against each other.

        Returns:
            ``y[..., *event_shape]`` and ``log_det[...]``.

        Raises:
            ShapeMismatchError: a trailing shape differs from the one this bijector was built for.
        """
        rows, flat_context, batch_shape = self._flatten(x, context)
        y, log_det = self.push(rows, flat_context)
        return y.reshape(batch_shape + self.event_shape), log_det.reshape(batch_shape)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise, and log abs det of the Jacobian dx/dy; shapes and errors as in :meth:`forward_and_log_det`."""
        rows, flat_context, batch_shape = self._flatten(y, context)
        x, log_det = self.pull(rows, flat_context)
        return x.reshape(batch_shape + self.event_shape), log_det.reshape(batch_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Noise to data."""
        return self.forward_and_log_det(x, context)[0]

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Data to noise."""
        return self.inverse_and_log_det(y, context)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Log abs det of dy/dx at ``x``; ``y`` stands in torch's signature and is not read."""
        return self.forward_and_log_det(x, context)[1]

    def _flatten(self, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        owner = self.plan_name
        batch_shape = leading_shape(owner, "value", value, self.event_shape)
        if self.context_shape is None:
            if context is not None:
                raise ShapeMismatchError(
                    f"{owner}: context of shape {tuple(context.shape)} given, but it was built without one; "
                    "build it with context_shape=..., or leave the context out"
                )
            return value.reshape(-1, self.event_size), None, batch_shape
        if context is None:
            raise ShapeMismatchError(
                f"{owner}: no context given; expected one of shape [..., {', '.join(map(str, self.context_shape))}]"
            )
        context_batch = leading_shape(owner, "context", context, self.context_shape)
        try:
            batch_shape = torch.broadcast_shapes(batch_shape, context_batch)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ShapeMismatchError(
                f"{owner}: value has leading shape {tuple(batch_shape)} and context {tuple(context_batch)}, which do "
                "not broadcast; give one context for each value, or one for all"
            ) from None
        value = value.expand(batch_shape + self.event_shape)
        context = context.expand(batch_shape + self.context_shape)
        return value.reshape(-1, self.event_size), context.reshape(-1, self.context_size), batch_shape


def as_plan(owner: str, given: Any) -> BijectorPlan:
    """``given`` as the plan of a bijector; a class of plans without required arguments is called.

    Raises:
        PlanError: it is something else; the text says what was probably meant.
    """
    if isinstance(given, BijectorPlan):
        return given
    if isinstance(given, type) and issubclass(given, BijectorPlan):
        required = [
            field.name
            for field in dataclasses.fields(given)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        if required and not inspect.isabstract(given):
            raise PlanError(
                f"{owner}: the class {given.__name__} given, which needs {', '.join(required)}; expected a plan made "
                f"of it, {given.__name__}({', '.join(f'{name}=...' for name in required)})"
            )
        plan: BijectorPlan = given()
        return plan
    if isinstance(given, Bijector):
        raise PlanError(
            f"{owner}: {given.plan_name}, a bijector already built for events of shape "
            f"{tuple(given.event_shape)}, given; expected its plan. Give the plan here and, to go on with the built "
            "weights, load them: flow.bijector.load_state_dict(bijector.state_dict())"
        )
    raise PlanError(f"{owner}: {given!r} given; expected the plan of a bijector, such as bij.AffineAutoregressive()")


def _with_shapes(build: Callable[..., Bijector]) -> Callable[..., Bijector]:
    """A plan's ``build`` that takes tuples for shapes, and refuses what is none."""

    @functools.wraps(build)
    def checked(self: BijectorPlan, event_shape: torch.Size, context_shape: torch.Size | None = None) -> Bijector:
        owner = type(self).__name__
        context = None if context_shape is None else as_shape(owner, "context_shape", context_shape)
        return build(self, as_shape(owner, "event_shape", event_shape), context)

    return checked


def as_shape(owner: str, name: str, given: Any) -> torch.Size:
    """``given`` as a shape.

    Raises:
        ArgumentError: it is no sequence of whole numbers from 0 on.
    """
    try:
        sizes = [operator.index(size) for size in given]
    except TypeError:
        sizes = [-1]
    if any(size < 0 for size in sizes):
        example = f"({given},)" if isinstance(given, int) and given >= 0 else "(3,)"
        raise ArgumentError(f"{owner}: {name}={given!r} given; expected a tuple of whole numbers, such as {example}")
    return torch.Size(sizes)


def check_same_kind(owner: str, value: Tensor, own: Tensor) -> None:
    """Raise a :class:`DtypeMismatchError` unless ``value`` has the dtype and device of the parameter ``own``."""
    if value.dtype != own.dtype or value.device != own.device:
        where = f"{own.dtype}" if value.device == own.device else f"{own.device}, {own.dtype}"
        raise DtypeMismatchError(
            f"{owner}: value of {value.dtype} on {value.device} given, its parameters are {own.dtype} on {own.device}; "
            f"move the value by value.to({where}), or the flow by flow.to(...)"
        )


def leading_shape(owner: str, what: str, value: Tensor, trailing: torch.Size) -> torch.Size:
    """The shape of ``value`` before its ``trailing`` one.

    Raises:
        ArgumentError: ``value`` is no tensor.
        ShapeMismatchError: ``value`` does not end in ``trailing``.
    """
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"{owner}: {what} is a {type(value).__name__}; expected a tensor, which torch.as_tensor({what}) makes of it"
        )
    cut = value.dim() - len(trailing)
    if cut < 0 or value.shape[cut:] != trailing:
        shape = ", ".join(["...", *map(str, trailing)])
        turned = len(trailing) == 1 and value.shape[:1] == trailing and value.dim() == 2
        fix = f"transpose it, {what}.T" if turned else f"give [{shape}], or build for events of the shape that you have"
        if what == "context" and not turned:
            fix = f"give [{shape}], or build with the context_shape that you have"
        raise ShapeMismatchError(
            f"{owner}: {what} of shape {tuple(value.shape)} given; expected it to end in {tuple(trailing)}: {fix}"
        )
    return value.shape[:cut]
