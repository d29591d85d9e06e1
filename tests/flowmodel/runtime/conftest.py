"""Exported flows, small enough to make for every run and wide enough to take torch's vectorised paths."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import export_scorer

MakeScorer = Callable[..., Path]


@pytest.fixture(scope="session")
def make_scorer(tmp_path_factory: pytest.TempPathFactory) -> MakeScorer:
    """``make_scorer(dims, context=0, hidden=64)``: the scorer of a random flow, the same each time."""
    folder = tmp_path_factory.mktemp("scorers")

    def make(dims: int, context: int = 0, hidden: int = 64) -> Path:
        path = folder / f"{dims}-{context}-{hidden}.pt"
        if path.exists():
            return path
        base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(dims), torch.ones(dims)), 1)
        network = params.DenseAutoregressive(hidden_dims=(hidden, hidden))
        layers = [bij.AffineAutoregressive(network), bij.Permute(), bij.AffineAutoregressive(network)]
        flow = dist.Flow(base, bij.Compose(layers), context_shape=(context,) if context else None)
        generator = torch.Generator().manual_seed(dims)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        names = [f"f{i}" for i in range(dims)]
        return export_scorer(flow, path, feature_names=names, context_names=[f"c{i}" for i in range(context)])

    return make
