"""Choosing the versions of a model that answer, in its store: what ``flowmodel models`` and the admin API both do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flowmodel.errors import ServingError

if TYPE_CHECKING:
    from flowmodel.artefact.serving import Serving
    from flowmodel.artefact.store import ModelStore


class Rollout:
    """The choice of versions of one model; a running service follows it at its next look at the store.

    Every method writes the choice in one step and returns it; version directories are never touched.

    Args:
        store: where the model is.
        name: the model.

    Raises:
        ModelNotFoundError: there is no such model.
    """

    def __init__(self, store: ModelStore, name: str) -> None:
        store.check_model(name)
        self._store = store
        self._name = name

    def default(self, version: int | None) -> Serving:
        """Let a version answer requests that name none; ``None`` for the newest, whichever it is.

        Raises:
            ServingError: there is no such version, or it is retired.
        """
        return self._change(lambda serving: serving.with_default(version, self._versions()))

    def rollback(self) -> Serving:
        """Go back to the default before.

        Raises:
            ServingError: there is none.
        """
        return self._change(lambda serving: serving.rolled_back(self._versions()))

    def retire(self, version: int, *, force: bool = False) -> Serving:
        """Let a version answer no more.

        Raises:
            ServingError: there is no such version, or it is the default and ``force`` is not given.
        """
        return self._change(lambda serving: serving.with_retired(version, self._versions(), force=force))

    def restore(self, version: int) -> Serving:
        """Let a retired version answer again.

        Raises:
            ServingError: it is not retired.
        """
        return self._change(lambda serving: serving.with_restored(version))

    def canary(self, version: int | None, weight: float = 0.05) -> Serving:
        """Let a version answer a share of the requests that name none; ``None`` to end that.

        Raises:
            ServingError: there is no such version, it is the default or retired, takes other columns than the default,
                or the weight is not above 0 and at most 1.
        """
        return self._change(
            lambda serving: self._alike(version, serving.with_canary(version, weight, self._versions()))
        )

    def shadow(self, version: int | None) -> Serving:
        """Score what the default scores on another version as well, to compare; ``None`` to end that.

        Raises:
            ServingError: there is no such version, it is the default or retired, or takes other columns.
        """
        return self._change(lambda serving: self._alike(version, serving.with_shadow(version, self._versions())))

    def _change(self, change: Callable[[Serving], Serving]) -> Serving:
        return self._store.change_serving(self._name, change)

    def _versions(self) -> list[int]:
        return self._store.versions(self._name)

    def _alike(self, version: int | None, serving: Serving) -> Serving:
        """See that a version takes what the default takes, for the same requests meet either."""
        default = serving.default_of(self._versions())
        if version is None or default is None:
            return serving
        one, other = (self._store.manifest(self._name, number) for number in (default, version))
        for what in ("event_shape", "feature_names", "context_shape", "context_names"):
            given, expected = getattr(other, what), getattr(one, what)
            if given != expected:
                raise ServingError(
                    f"version {version} has {what} {given}, the default version {default} {expected}; requests that "
                    "name no version must fit both"
                )
        return serving
