"""Which versions of a model answer: ``NAME/serving.json``, the one file of a store that changes.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from flowmodel.errors import ServingError

SERVING = "serving.json"
FORMAT_VERSION = 1
"""The format that this code writes, and the newest that it reads."""

LATEST = "latest"
"""As ``default``: whichever version is the newest."""

_HISTORY = 20
"""Past defaults that are remembered."""


class Canary(NamedTuple):
    """A version that answers a share of the requests that name none."""

    version: int
    weight: float


@dataclasses.dataclass(frozen=True)
class Serving:
    """Which versions of one model answer. Without a file, the newest one does.

    Args:
        default: version that answers requests that name none; ``None`` for the newest.
        history: versions that were the default before, oldest first; ``rollback`` takes the last.
        retired: versions that no longer answer, ascending.
        canary: version that answers some of the requests that name none.
        shadow: version that scores the same rows in the background, for comparison only.
        extra: keys that this version of the code does not know; kept as they are.

    Example:
        >>> serving = Serving().with_default(2, [1, 2, 3])
        >>> serving.default_of([1, 2, 3]), serving.rolled_back([1, 2, 3]).default
        (2, 3)
    """

    default: int | None = None
    history: tuple[int, ...] = ()
    retired: tuple[int, ...] = ()
    canary: Canary | None = None
    shadow: int | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Serving:
        """Read the file's text.

        Raises:
            ServingError: it is not JSON, of a newer format, or a value makes no sense; the text names the key.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ServingError(f"not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ServingError(f"holds {_kind(values)}; a JSON object expected")
        values = dict(values)
        written = values.pop("format_version", FORMAT_VERSION)
        if not _is_version(written):
            raise ServingError(f"format_version is {written!r}; {FORMAT_VERSION} expected")
        if written > FORMAT_VERSION:
            raise ServingError(
                f"is of format {written}; this flowmodel reads formats up to {FORMAT_VERSION}, install a newer one"
            )
        default = values.pop("default", LATEST)
        return cls(
            default=None if default == LATEST else _version(default, "default", f' or "{LATEST}"'),
            history=_versions(values.pop("history", []), "history"),
            retired=tuple(sorted(set(_versions(values.pop("retired", []), "retired")))),
            canary=_canary(values.pop("canary", None)),
            shadow=_optional_version(values.pop("shadow", None), "shadow"),
            extra=values,
        )

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "default": LATEST if self.default is None else self.default,
                "history": list(self.history),
                "retired": list(self.retired),
                "canary": None if self.canary is None else self.canary._asdict(),
                "shadow": self.shadow,
                **self.extra,
            },
            indent=2,
        )

    def servable(self, versions: Sequence[int]) -> list[int]:
        """Those of the store's versions that may answer, newest first."""
        return sorted(set(versions) - set(self.retired), reverse=True)

    def default_of(self, versions: Sequence[int]) -> int | None:
        """The version that answers requests that name none; ``None`` when it is not among those that may answer."""
        servable = self.servable(versions)
        if self.default is not None:
            return self.default if self.default in servable else None
        return servable[0] if servable else None

    def candidates(self, versions: Sequence[int]) -> list[int]:
        """Versions that may answer by default, the one to try first in front.

        Of the newest versions one that is damaged gives way to the one before; a version that was chosen gives way to
        those that were the default before it.
        """
        if self.default is None:
            return self.servable(versions)
        default = self.default_of(versions)
        return [*([default] if default is not None else []), *reversed(self._past(versions))]

    def previous_of(self, versions: Sequence[int]) -> int | None:
        """What ``rolled_back`` would make the default; ``None`` when there is nothing to go back to."""
        past = self._past(versions)
        return past[-1] if past else None

    def with_default(self, version: int | None, versions: Sequence[int]) -> Serving:
        """Another default, or the newest for ``None``; a canary or shadow that becomes the default ends as such.

        Raises:
            ServingError: the version is not in the store, or retired.
        """
        if version is not None:
            self._check_servable(version, versions, "made the default")
        new = dataclasses.replace(self, default=version)
        now, then = self.default_of(versions), new.default_of(versions)
        if version == self.default:
            return new
        history = [*self._past(versions), *([now] if now is not None and now != then else [])]
        if version is None and then is not None:
            # What is published from here on was a default as well.
            history.append(then)
        return dataclasses.replace(new, history=tuple(history[-_HISTORY:]))._without_roles_of(then)

    def rolled_back(self, versions: Sequence[int]) -> Serving:
        """The default before the present one, pinned.

        Raises:
            ServingError: there is none.
        """
        past = self._past(versions)
        if not past:
            raise ServingError(
                "there is no earlier default to go back to; name a version with `flowmodel models default`"
            )
        rolled = dataclasses.replace(self, default=past[-1], history=tuple(past[:-1][-_HISTORY:]))
        return rolled._without_roles_of(past[-1])

    def with_retired(self, version: int, versions: Sequence[int], *, force: bool = False) -> Serving:
        """Without a version; it ends as canary and shadow too.

        Args:
            version: the one that shall answer no more.
            versions: all the store has.
            force: retire even the default; the one before it is the default then, or whatever is left.

        Raises:
            ServingError: there is no such version, or it is the default and ``force`` is not given.
        """
        if version not in versions:
            raise ServingError(f"there is no version {version} to retire; versions: {_listed(versions)}")
        is_default = self.default_of(versions) == version
        if is_default and not force:
            raise ServingError(
                f"version {version} is the default and answers requests; make another one the default first, or "
                "force it"
            )
        retired = dataclasses.replace(
            self, retired=tuple(sorted({*self.retired, version})), history=self._without(version)
        )._without_roles_of(version)
        if is_default and self.default is not None:
            past = retired._past(versions)
            left = retired.servable(versions)
            pinned = past[-1] if past else left[0] if left else None
            retired = dataclasses.replace(retired, default=pinned, history=tuple(past[:-1]))
        return retired._without_roles_of(retired.default_of(versions))

    def with_restored(self, version: int) -> Serving:
        """A retired version may answer again.

        Raises:
            ServingError: it is not retired.
        """
        if version not in self.retired:
            raise ServingError(f"version {version} is not retired; retired: {_listed(self.retired)}")
        return dataclasses.replace(self, retired=tuple(other for other in self.retired if other != version))

    def with_canary(self, version: int | None, weight: float, versions: Sequence[int]) -> Serving:
        """A version for a share of the requests that name none; none for ``None``.

        Raises:
            ServingError: the version cannot be one, or the weight is not above 0 and at most 1.
        """
        _check_weight(weight)
        if version is None:
            return dataclasses.replace(self, canary=None)
        self._check_beside_default(version, versions, "the canary")
        return dataclasses.replace(self, canary=Canary(version, float(weight)))

    def with_shadow(self, version: int | None, versions: Sequence[int]) -> Serving:
        """A version to compare with the default in the background; none for ``None``.

        Raises:
            ServingError: the version cannot be one.
        """
        if version is not None:
            self._check_beside_default(version, versions, "the shadow")
        return dataclasses.replace(self, shadow=version)

    def _past(self, versions: Sequence[int]) -> list[int]:
        """Defaults before the present one, oldest first, that may still answer.

        While the newest version is the default, each version published since the last recorded one was it in turn.
        """
        past = list(self.history)
        if self.default is None:
            since = past[-1] if past else 0
            past += sorted(version for version in versions if version > since)
        servable, now = self.servable(versions), self.default_of(versions)
        past = [version for version in past if version in servable]
        while past and past[-1] == now:
            past.pop()
        return past

    def _without(self, version: int) -> tuple[int, ...]:
        return tuple(other for other in self.history if other != version)

    def _without_roles_of(self, version: int | None) -> Serving:
        canary = None if self.canary is not None and self.canary.version == version else self.canary
        return dataclasses.replace(self, canary=canary, shadow=None if self.shadow == version else self.shadow)

    def _check_servable(self, version: int, versions: Sequence[int], role: str) -> None:
        if version in self.retired:
            raise ServingError(
                f"version {version} is retired and cannot be {role}; bring it back with "
                "`flowmodel models retire --undo`"
            )
        if version not in versions:
            raise ServingError(f"there is no version {version} to be {role}; versions: {_listed(versions)}")

    def _check_beside_default(self, version: int, versions: Sequence[int], role: str) -> None:
        self._check_servable(version, versions, role)
        if version == self.default_of(versions):
            raise ServingError(f"version {version} is the default; {role} must be another one")


def _canary(value: object) -> Canary | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not {"version", "weight"} <= value.keys():
        raise ServingError(f'canary is {value!r}; null or {{"version": 3, "weight": 0.1}} expected')
    _check_weight(value["weight"], "canary.weight")
    return Canary(_version(value["version"], "canary.version"), float(value["weight"]))


def _check_weight(weight: object, key: str = "weight") -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1:
        raise ServingError(f"{key} is {weight!r}; a number above 0 and at most 1 expected")


def _versions(value: object, key: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ServingError(f"{key} is {value!r}; a list of versions expected")
    return tuple(_version(item, key) for item in value)


def _optional_version(value: object, key: str) -> int | None:
    return None if value is None else _version(value, key)


def _version(value: object, key: str, other: str = "") -> int:
    if not _is_version(value):
        raise ServingError(f"{key} holds {value!r}; a version such as 3{other} expected")
    return value


def _is_version(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(versions)[-20:])) or "none"
