"""Plans: what a model shall be, before anybody knows the shape of its data.

A plan is a frozen dataclass. It can be printed, compared, hashed and written as JSON; its values are checked when
it is made. ``plan.build(shape)`` makes the concrete ``torch.nn.Module``. A plan in JSON together with a state dict
is a whole model, so nothing in an artefact is ever pickled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flowmodel.errors import PlanError

_KIND = "plan"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Base of every plan; each subclass is known to :func:`plan_from_json` by its class name."""

    _known: ClassVar[dict[str, type[Plan]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Plan._known[cls.__name__] = cls

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values: its class name under ``plan`` and each field under its own name.

        Example:
            >>> import flowmodel.bijectors as bij
            >>> bij.Invert(bij.Permute()).to_json()
            {'plan': 'Invert', 'bijector': {'plan': 'Permute', 'permutation': None}}
        """
        fields = {field.name: _to_json(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {_KIND: type(self).__name__, **fields}


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
    return plan_class(**{name: _from_json(value[name]) for name in given})


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
