"""The exported scorer: TorchScript that a bare torch loads, with masks and preprocessing inside.

The file describes itself: ``event_size``, ``context_size``, ``feature_names`` and ``context_names`` are its attributes.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowmodel.distributions.flow import Flow
from flowmodel.errors import ExportError


class Scorer(torch.nn.Module):
    """A folded flow: log-density and samples of flat rows.

    Args:
        flow: the trained flow; its weights are copied.
        feature_names: a name for each of the D dimensions.
        context_names: a name for each of the C context values.
    """

    event_size: int
    context_size: int
    feature_names: list[str]
    context_names: list[str]
    takes_float64: bool
    context_location: Tensor
    context_scale: Tensor

    def __init__(self, flow: Flow, feature_names: Sequence[str], context_names: Sequence[str]) -> None:
        super().__init__()
        self.event_size = flow.bijector.event_size
        self.context_size = flow.bijector.context_size
        self.feature_names = list(feature_names)
        self.context_names = list(context_names)
        self.takes_float64 = flow.data_dtype == torch.float64
        self.base = flow.base.fold(self.event_size)
        self.bijector = flow.bijector.fold()
        self.register_buffer("context_location", flow.context_location.clone())
        self.register_buffer("context_scale", flow.context_scale.clone())

    @torch.jit.export
    def log_prob(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of ``rows[N, D]`` (float32 or float64) given ``context[N, C]``: ``[N]``, in nats."""
        standard_context = self._standard_context(rows, context)
        if not self.takes_float64:
            rows = rows.to(self.base.loc.dtype)
        noise, log_det = self.bijector.pull(rows, standard_context)
        return self.base.log_prob(noise) + log_det

    @torch.jit.export
    def sample(self, noise: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standard normal ``noise[N, D]`` to samples ``[N, D]`` and their log-density ``[N]``."""
        draw = self.base.from_noise(noise)
        rows, log_det = self.bijector.push(draw, self._standard_context(noise, context))
        return rows, self.base.log_prob(draw) - log_det

    def _standard_context(self, rows: Tensor, context: Tensor | None) -> Tensor | None:
        if rows.dim() != 2 or rows.size(1) != self.event_size:
            raise RuntimeError(f"rows of shape {rows.shape} given; expected [N, {self.event_size}]")
        if self.context_size == 0:
            if context is not None:
                raise RuntimeError("a context was given, and this model takes none")
            return None
        if context is None:
            raise RuntimeError(f"no context given; expected [N, {self.context_size}]")
        if context.dim() != 2 or context.size(0) != rows.size(0) or context.size(1) != self.context_size:
            raise RuntimeError(f"context of shape {context.shape} given; expected [N, {self.context_size}]")
        return (context.to(torch.float64) - self.context_location) / self.context_scale


def export_scorer(
    flow: Flow,
    path: str | Path,
    *,
    feature_names: Sequence[str] | None = None,
    context_names: Sequence[str] | None = None,
) -> Path:
    """Write the TorchScript scorer of a flow.

    Args:
        flow: the flow; it is left as it is.
        path: file to write.
        feature_names: a name for each dimension; ``x0, x1, ...`` if absent.
        context_names: a name for each context value; ``c0, c1, ...`` if absent.

    Returns:
        ``path``.

    Raises:
        ExportError: a part of the flow cannot be exported, or the names are of another number.

    Example:
        >>> import tempfile, torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> from flowmodel.artefact.scorer import export_scorer
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> flow = dist.Flow(base, bij.AffineAutoregressive())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scorer = torch.jit.load(str(export_scorer(flow, f"{folder}/scorer.pt")))
        >>> scorer.log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """
    features = _names("feature_names", feature_names, "x", flow.bijector.event_size)
    contexts = _names("context_names", context_names, "c", flow.bijector.context_size)
    scorer = Scorer(flow, features, contexts).eval()
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream and still what the artefact promises; docs/architecture.md has the plan.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(scorer), str(path))
    return Path(path)


def _names(what: str, given: Sequence[str] | None, prefix: str, count: int) -> list[str]:
    names = [f"{prefix}{i}" for i in range(count)] if given is None else [str(name) for name in given]
    if len(names) != count or len(set(names)) != count:
        raise ExportError(f"{what}={names} given; expected {count} different names")
    return names
