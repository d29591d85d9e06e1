"""Normalizing flows: train one on a table, export it, and publish it for exact log-densities and samples.

Example:
    >>> import torch, flowmodel
    >>> import flowmodel.bijectors as bij, flowmodel.distributions as dist
    >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    >>> flow = dist.Flow(base, bij.Compose([bij.Invert(bij.AffineAutoregressive()), bij.Standardize()]))
    >>> rows = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 3 + 5
    >>> result = flowmodel.fit(flow, rows, max_epochs=2)
    >>> flow.log_prob(rows).shape
    torch.Size([500])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmodel.artefact.publish import publish
    from flowmodel.artefact.scorer import export_scorer
    from flowmodel.artefact.weights import load
    from flowmodel.training import fit

__version__ = "0.1.0"

__all__ = ["__version__", "export_scorer", "fit", "load", "publish"]

# Looked up on first use, so that the online half can import `flowmodel.runtime` and `flowmodel.artefact.store` without
# the training code and what it needs.
_LAZY = {
    "export_scorer": "flowmodel.artefact.scorer",
    "fit": "flowmodel.training",
    "load": "flowmodel.artefact.weights",
    "publish": "flowmodel.artefact.publish",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
