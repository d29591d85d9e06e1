"""Versions of one small model."""

from __future__ import annotations

from pathlib import Path

import torch

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params

FEATURES = ("alpha", "beta", "gamma")
"""As in the bodies that the web tests write."""


def publish(store: Path, seed: int, *, width: int = 32) -> int:
    """Publish another version of ``wine``; another seed is another flow, a greater width a slower one."""
    torch.manual_seed(seed)
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1)
    network = params.DenseAutoregressive((width, width))
    flow = dist.Flow(base, bij.Compose([bij.AffineAutoregressive(network), bij.Permute(), bij.Affine()]))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flowmodel.publish(flow, store, "wine", feature_names=FEATURES).version
