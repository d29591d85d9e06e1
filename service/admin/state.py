"""What the admin API says of a model, what the store asks for and what came of it, and of what is under way."""

from __future__ import annotations

from typing import Any

from flowmodel.artefact.serving import LATEST, Serving
from service.engines.engine import ModelKey
from service.errors import NotFound
from service.gateway import Gateway
from service.registry import ModelRegistry
from service.watcher import StoreWatcher


def model_state(name: str, registry: ModelRegistry, watcher: StoreWatcher) -> dict[str, Any]:
    """A model as JSON-able values.

    Raises:
        NotFound: the store has no such model.
    """
    shelf = watcher.shelf(name)
    if shelf is None:
        known = ", ".join(watcher.names()) or "none"
        raise NotFound(
            "MODEL_NOT_FOUND",
            f"no model {name!r} in the store; models there: {known}",
            resource_type="model",
            resource_name=f"models/{name}",
        )
    default = registry.default(name)
    state: dict[str, Any] = {"name": name, "default_version": _text(default.key.version if default else None)}
    serving = shelf.serving
    if isinstance(serving, Serving):
        canary = serving.canary
        state |= {
            "default": LATEST if serving.default is None else str(serving.default),
            "previous_version": _text(serving.previous_of(shelf.versions)),
            "canary": None if canary is None else {"version": str(canary.version), "weight": canary.weight},
            "shadow": _text(serving.shadow),
        }
    retired = serving.retired if isinstance(serving, Serving) else ()
    state["versions"] = [
        _version_state(ModelKey(name, version), version in retired, registry, watcher) for version in shelf.versions
    ]
    state["problem"] = watcher.problem(name)
    return state


def drain_state(gateway: Gateway) -> dict[str, Any]:
    """What a service that stops has to wait for, as JSON-able values."""
    served = filter(None, map(gateway.registry.get, gateway.registry.loaded()))
    return {
        "draining": gateway.draining,
        "requests": gateway.active,
        "queued_rows": sum(model.log_prob.queue_rows + model.sample.queue_rows for model in served),
        "drain_seconds": gateway.settings.drain_seconds,
    }


def _version_state(key: ModelKey, retired: bool, registry: ModelRegistry, watcher: StoreWatcher) -> dict[str, str]:
    failure = watcher.failure(key)
    served = registry.get(key)
    if served is not None:
        return {"version": str(key.version), "state": "loaded" if served.resident else "unloaded"}
    if retired:
        return {"version": str(key.version), "state": "retired"}
    if failure is not None:
        return {"version": str(key.version), "state": "failed", "reason": failure.reason}
    return {"version": str(key.version), "state": "in store"}


def _text(version: int | None) -> str | None:
    return None if version is None else str(version)
