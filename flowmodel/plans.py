"""Plans: what a model shall be, before anybody knows the shape of its data.

A plan is a frozen dataclass. It can be printed, compared, hashed and written as JSON; its values are checked when
it is made. ``plan.build(shape)`` makes the concrete ``torch.nn.Module``. A plan in JSON together with a state dict
is a whole model, so nothing in an artefact is ever pickled.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from flowmodel.errors import AbstractPlanError, ArgumentError, PlanError

_KIND = "plan"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Base of every plan; each subclass is known to :func:`plan_from_json` by its class name.

    Raises:
        ArgumentError: an argument is unknown or missing.
        AbstractPlanError: the class is a family of plans and not one of them.
    """

    _known: ClassVar[dict[str, type[Plan]]] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A plan, its arguments left to ``__init__``."""
        refuse_family(cls)
        check_arguments(cls.__name__, cls.__init__, (None, *args), kwargs)
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Plan._known[cls.__name__] = cls

    def __copy__(self) -> Self:
        """The plan itself, for it never changes."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The plan itself, for it never changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Class and fields, by which a copy in another process is made, and checked, anew."""
        return _made_of, (type(self), {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values: its class name under ``plan`` and each field under its own name.

        Example:
            >>> import flowmodel.bijectors as bij
            >>> bij.Invert(bij.Permute()).to_json()
            {'plan': 'Invert', 'bijector': {'plan': 'Permute', 'permutation': None}}
        """
        fields = {field.name: _to_json(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {_KIND: type(self).__name__, **fields}


def _made_of(plan_class: type[Plan], fields: dict[str, Any]) -> Any:
    return plan_class(**fields)


def refuse_family(cls: type) -> None:
    """Raise an :class:`~flowmodel.errors.AbstractPlanError` if ``cls`` is a family and not one of its members."""
    if not inspect.isabstract(cls):
        return
    members = sorted(known.__name__ for known in Plan._known.values() if issubclass(known, cls) and not _hidden(known))
    advice = f"use one of {', '.join(members)}" if members else "use a plan such as AffineAutoregressive()"
    raise AbstractPlanError(f"{cls.__name__} names a family and cannot be made itself; {advice}")


def check_arguments(
    owner: str, called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], example: str = ""
) -> None:
    """Raise an :class:`~flowmodel.errors.ArgumentError` unless ``called`` takes these arguments."""
    signature = inspect.signature(called)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        taken = ", ".join(list(signature.parameters)[1:])
        such = f", such as {example}" if example else ""
        raise ArgumentError(f"{owner}: {error}; expected {owner}({taken}){such}") from None


def plan_from_json(value: Mapping[str, Any]) -> Plan:
    """The plan that :meth:`Plan.to_json` wrote.

    Raises:
        PlanError: the value names no known plan, or its fields are not those of that plan.
    """
    kind = value.get(_KIND)
    if not isinstance(kind, str) or kind not in Plan._known:
        raise PlanError(f"unknown plan {kind!r}: expected one of {', '.join(sorted(Plan._known))}")
    plan_class = Plan._known[kind]
    expected = {field.name for field in dataclasses.fields(plan_class)}
    given = set(value) - {_KIND}
    if given - expected:
        raise PlanError(f"{kind} has no field {sorted(given - expected)}: its fields are {sorted(expected)}")
    plan: Plan = plan_class(**{name: _from_json(value[name]) for name in given})
    return plan


def _to_json(value: Any) -> Any:
    if isinstance(value, Plan):
        return value.to_json()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plan_from_json(value)
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    return value


def _hidden(cls: type) -> bool:
    return inspect.isabstract(cls) or cls.__name__.startswith("_")
