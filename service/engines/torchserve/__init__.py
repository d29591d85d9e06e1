"""The engine that computes in TorchServe: a child process, or one that runs elsewhere."""

from service.engines.torchserve.engine import TorchServeEngine
from service.engines.torchserve.options import TorchServeOptions

__all__ = ["TorchServeEngine", "TorchServeOptions"]
