"""Engines: what holds published models and computes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.engines.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

    from service.engines.torchserve.shared import SharedTorchServe
    from service.settings import Settings

__all__ = ["create"]


def create(settings: Settings, torchserve: SharedTorchServe | None = None, leases: Path | None = None) -> Engine:
    """The engine that the settings ask for, not started yet.

    Args:
        settings: see there.
        torchserve: the one that several gateways share, unless the settings name one that runs elsewhere.
        leases: folder by which several gateways share one that runs elsewhere.
    """
    # Imported here: each engine brings much that the other has no use for, torch on one side, TorchServe on the other.
    if settings.engine == "inprocess":
        from service.engines.inprocess import InProcessEngine

        return InProcessEngine(settings.threads)
    from service.engines.torchserve.engine import TorchServeEngine
    from service.engines.torchserve.leases import Leases
    from service.engines.torchserve.options import TorchServeOptions

    options = TorchServeOptions.from_settings(settings)
    if options.address is not None:
        return TorchServeEngine(options, leases=Leases(leases))
    return TorchServeEngine(options, shared=torchserve)
