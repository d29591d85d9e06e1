"""What the gateway asks of whatever computes densities, and the errors it may answer with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flowmodel.runtime.noise import Draw

if TYPE_CHECKING:
    from flowmodel.artefact.store import PublishedModel

__all__ = ["Draw", "Engine", "EngineError", "EngineUnavailable", "FloatArray", "ModelKey", "RequestRejected"]

FloatArray = NDArray[np.floating[Any]]
"""Rows, contexts and log-densities: float32 or float64, never anything else."""


class ModelKey(NamedTuple):
    """One published version of one model, as ``wine/3``."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class EngineError(Exception):
    """The model or the engine failed; asking again with the same input is not expected to help."""


class EngineUnavailable(EngineError):  # noqa: N818 - an outage, named as gRPC names its status
    """The engine is gone, starting or restarting; the same call may well succeed a little later."""


class RequestRejected(EngineError):  # noqa: N818 - a refusal, the engine itself is well
    """The model cannot take this input: wrong width, a context missing, a type it does not know.

    Attributes:
        reason: upper snake case, for programs.
        field: the part of the request that is wrong, e.g. ``"rows"``.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


@runtime_checkable
class Engine(Protocol):
    """Holds loaded models and answers for them; every method may be called while others are under way.

    Two engines given the same call answer with the same bits on the same machine. An engine does not batch, queue
    or time out: that is the gateway's work, and one call here is one pass through the model.
    """

    name: str
    """``"torchserve"`` or ``"inprocess"``."""

    @property
    def healthy(self) -> bool:
        """Whether every loaded model can be expected to answer now."""
        ...

    async def start(self) -> None:
        """Make the engine ready to load models.

        Raises:
            EngineError: it cannot be started; the text says why and what to change.
        """
        ...

    async def close(self) -> None:
        """End everything that ``start`` and ``load`` began. Safe to call twice, and without a start."""
        ...

    async def load(self, published: PublishedModel) -> None:
        """Load one published version; when this returns, the model answers.

        Loading a version that is loaded already does nothing.

        Raises:
            EngineError: the model cannot be loaded.
            EngineUnavailable: the engine is not up.
        """
        ...

    async def unload(self, key: ModelKey) -> None:
        """Let go of one version. Unloading one that is not loaded does nothing."""
        ...

    async def log_prob(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray:
        """Natural log-density of each row in data units.

        Args:
            key: a loaded model.
            rows: ``[N, D]``, finite, N at least 1.
            context: ``[N, C]`` for a conditional model, else None.

        Returns:
            ``[N]`` in the model's dtype.

        Raises:
            RequestRejected: the input does not fit the model.
            EngineUnavailable: the engine is not up, or went away during the call.
            EngineError: the model is not loaded, or failed.
        """
        ...

    def log_prob_at_once(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray | None:
        """What ``log_prob`` answers, where that takes less time than to wait for it would; None anywhere else.

        Raises:
            RequestRejected, EngineUnavailable, EngineError: as ``log_prob``.
        """
        ...

    async def sample(
        self, key: ModelKey, draws: Sequence[Draw], context: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Samples for several draws, one after the other, each with its log-density.

        Args:
            key: a loaded model.
            draws: which rows of which seeds; N is the sum of their counts.
            context: ``[N, C]`` for a conditional model, else None.

        Returns:
            Samples ``[N, D]`` and log-densities ``[N]``, in the model's dtype.

        Raises:
            RequestRejected, EngineUnavailable, EngineError: as ``log_prob``.
        """
        ...
