"""The exported scorer: TorchScript that a bare torch loads, with masks and preprocessing inside.

The file describes itself: ``event_size``, ``context_size``, ``feature_names`` and ``context_names`` are its attributes.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, Folded
from flowmodel.bijectors.invert import FoldedInvert
from flowmodel.distributions.flow import Flow
from flowmodel.errors import ExportError

SCRIPTING = threading.RLock()
"""One thread compiles at a time.

TorchScript redefines a class that two threads compile at once, and Python 3.11's ``ast``, by which it reads the source,
fails when two are in the midst of it (gh-106905, mended in 3.11.8).
"""


class Scorer(torch.nn.Module):
    """A folded flow: log-density and samples of flat rows.

    Args:
        flow: the trained flow; its weights are copied.
        feature_names: a name for each of the D dimensions.
        context_names: a name for each of the C context values.
    """

    event_size: int
    context_size: int
    noise_size: int
    feature_names: list[str]
    context_names: list[str]
    takes_float64: bool
    has_integers: bool
    context_location: Tensor
    context_scale: Tensor
    integers: Tensor
    like: Tensor

    def __init__(self, flow: Flow, feature_names: Sequence[str], context_names: Sequence[str]) -> None:
        super().__init__()
        self.event_size = flow.bijector.event_size
        self.context_size = flow.bijector.context_size
        self.feature_names = list(feature_names)
        self.context_names = list(context_names)
        self.takes_float64 = flow.data_dtype == torch.float64
        self.base = flow.base.fold()
        self.noise_size = self.base.noise_size
        self.bijector = folded(flow.bijector)
        self.register_buffer("context_location", flow.context_location.clone())
        self.register_buffer("context_scale", flow.context_scale.clone())
        self.register_buffer("integers", flow.bijector.integers().to(flow.context_scale.device).reshape(-1).clone())
        self.has_integers = bool(self.integers.any())
        # An empty tensor in the dtype of the answers.
        self.register_buffer("like", torch.empty(0, dtype=flow.dtype))

    @torch.jit.export
    def log_prob(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of ``rows[N, D]`` (float32 or float64) given ``context[N, C]``: ``[N]``, in nats."""
        return self._log_prob(rows, self._standard_context("rows", rows, self.event_size, context))

    @torch.jit.export
    def sample(self, noise: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standard normal ``noise[N, noise_size]`` to samples ``[N, D]`` and their log-density ``[N]``.

        Columns of whole numbers are rounded, and the density is then that of the rounded rows.
        """
        standard_context = self._standard_context("noise", noise, self.noise_size, context)
        draw = self.base.from_noise(noise)
        rows, log_det = self.bijector.push(draw, standard_context)
        if self.has_integers:
            # Adding 0 turns -0 into 0.
            rows = torch.where(self.integers, torch.round(rows) + 0.0, rows)
            return rows, self._log_prob(rows, standard_context)
        return rows, self.base.log_prob(draw) - log_det

    def _log_prob(self, rows: Tensor, standard_context: Tensor | None) -> Tensor:
        if not self.takes_float64:
            rows = rows.to(self.like.dtype)
        noise, log_det = self.bijector.pull(rows, standard_context)
        return self.base.log_prob(noise) + log_det

    def _standard_context(self, what: str, rows: Tensor, width: int, context: Tensor | None) -> Tensor | None:
        if rows.dim() != 2 or rows.size(1) != width:
            raise RuntimeError(f"{what} of shape {rows.shape} given; expected [N, {width}]")
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
        ExportError: a part of the flow cannot be exported, the names are of another number, or the file cannot be
            written.

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
    check_exportable(flow)
    features = _names("feature_names", feature_names, "x", flow.bijector.event_size)
    contexts = _names("context_names", context_names, "c", flow.bijector.context_size)
    scorer = Scorer(flow, features, contexts).eval()
    script = _scripted(scorer)
    # Through memory, because torch ends the whole process when it cannot write a file to its end.
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(script, written)
    try:
        Path(path).write_bytes(written.getbuffer())
    except OSError as error:
        raise ExportError(f"cannot write the scorer {path}: {error.strerror or error}") from None
    return Path(path)


def check_exportable(flow: Flow) -> None:
    """Raise an :class:`~flowmodel.errors.ExportError` that names what keeps a flow from being exported, if anything.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> check_exportable(dist.Flow(torch.distributions.Cauchy(torch.zeros(()), torch.ones(())), bij.Affine()))
        Traceback (most recent call last):
        flowmodel.errors.ExportError: base distribution Cauchy cannot be exported; use Normal, ...
    """
    if not isinstance(flow, Flow):
        raise ExportError(
            f"flow={flow!r} given; expected a flow, such as dist.Flow(base_dist, bij.AffineAutoregressive())"
        )
    flow.base.check_exportable()
    if flow.conditioned_on is not None or flow.batch_shape:
        raise ExportError(
            f"a flow of batch shape {tuple(flow.batch_shape)}, as condition() and expand() give it, cannot be "
            "exported; export the flow that it was made from, whose model takes a context with each row"
        )
    folded(flow.bijector)


def folded(bijector: Bijector) -> Folded:
    """The bijector for TorchScript.

    Raises:
        ExportError: it, or a part of it, has no such form; the text names the part's class.
    """
    try:
        return bijector.fold()
    except NotImplementedError:
        # A chain fails by one of its parts, and the innermost that fails is the one to name.
        for part in reversed([part for part in bijector.modules() if isinstance(part, Bijector)]):
            with contextlib.suppress(Exception):
                part.fold()
                continue
            break
        raise ExportError(
            f"bijector {type(part).__name__} cannot be exported: its fold() is not implemented; have it return a "
            "flowmodel.bijectors.Folded"
        ) from None


def _scripted(scorer: Scorer) -> torch.jit.ScriptModule:
    with SCRIPTING, warnings.catch_warnings():
        # TorchScript is deprecated upstream and still what the artefact promises; docs/architecture.md has the plan.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script: torch.jit.ScriptModule = torch.jit.script(scorer)
        except RuntimeError as error:
            culprit = _first_unscriptable([part for part in scorer.bijector.modules() if isinstance(part, Folded)])
            raise ExportError(
                f"bijector {culprit} cannot be exported: TorchScript refuses its push or pull. {error}"
            ) from None
    return script


def _first_unscriptable(parts: Sequence[Folded]) -> str:
    for part in reversed(parts):
        try:
            # Whose two methods call those of the part: alone, TorchScript compiles only what is marked for it.
            torch.jit.script(FoldedInvert(part))
        except RuntimeError:
            return type(part).__name__
    return type(parts[0]).__name__


def _names(what: str, given: Sequence[str] | None, prefix: str, count: int) -> list[str]:
    names = [f"{prefix}{i}" for i in range(count)] if given is None else [str(name) for name in given]
    if len(names) != count or len(set(names)) != count:
        raise ExportError(f"{what}={names} given; expected {count} different names")
    return names
