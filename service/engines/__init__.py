"""Engines: what holds published models and computes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.engines.engine import Engine

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["create"]


def create(settings: Settings) -> Engine:
    """The engine that the settings ask for, not started yet."""
    # Imported here: each engine brings much that the other has no use for, torch on one side, TorchServe on the other.
    if settings.engine == "inprocess":
        from service.engines.inprocess import InProcessEngine

        return InProcessEngine(settings.threads)
    from service.engines.torchserve import TorchServeEngine, TorchServeOptions

    return TorchServeEngine(TorchServeOptions.from_settings(settings))
