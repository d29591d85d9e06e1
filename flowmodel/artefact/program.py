"""A flow as modules with one ``forward`` each, which is what ``torch.export`` takes.

``torch.compile`` needs no such thing: ``torch.compile(flow.log_prob)`` and ``torch.compile(flow.sample)`` work, and so
do training steps through them. An exported program holds the weights as they were, runs without this library, and gives
no gradients through the inverse of an autoregressive layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowmodel.distributions.flow import Flow


class LogProb(torch.nn.Module):
    """Log-density: ``value[N, *event_shape]`` and ``context[N, *context_shape]`` to ``[N]``.

    Args:
        flow: the flow, which is shared, not copied.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> from flowmodel.artefact.program import LogProb
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> flow = dist.Flow(base, bij.Invert(bij.AffineAutoregressive()))
        >>> rows = torch.randn(8, 2)
        >>> program = torch.export.export(LogProb(flow), (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))
        >>> torch.allclose(program.module()(torch.zeros(1, 2)), flow.log_prob(torch.zeros(1, 2)))
        True
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-density of each value, in nats."""
        return self.flow.log_prob(value, context)


class Sample(torch.nn.Module):
    """Samples from noise given from outside: ``noise[N, noise_size]`` to ``[N, *event_shape]``.

    The same noise gives the same samples as the scorer of a published model does.

    Args:
        flow: the flow; its bijector is shared, its base distribution copied.

    Attributes:
        noise_size: how many standard normal numbers a sample takes.

    Raises:
        ExportError: the base distribution is of no family that can be exported.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> from flowmodel.artefact.program import Sample
        >>> base = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2), torch.ones(2)), 1)
        >>> sample = Sample(dist.Flow(base, bij.AffineAutoregressive()))
        >>> noise = torch.randn(8, sample.noise_size)
        >>> program = torch.export.export(sample, (noise,), dynamic_shapes=({0: torch.export.Dim("rows")},))
        >>> program.module()(torch.randn(3, sample.noise_size)).shape
        torch.Size([3, 2])
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.base = flow.base.fold()
        self.noise_size = self.base.noise_size

    def forward(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """One sample for each row of noise, columns of whole numbers rounded."""
        flow = self.flow
        draw = self.base.from_noise(noise).reshape(noise.shape[0], *flow.event_shape)
        return flow.rounded(flow.bijector(draw, flow.standard_context(context)))
