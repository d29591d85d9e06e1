"""The registry of base distributions; one listed here is tested for exactness, samples, export and the way back."""

from __future__ import annotations

import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    StudentT,
    Uniform,
)

BASES = (
    "normal",
    "laplace",
    "student-t",
    "uniform",
    "mixture",
    "mixture-logits",
    "elementwise-mixture",
    "block-mixture",
)

BASE_EVENT_SHAPES = [(), (1,), (4,), (2, 3)]


def base(name: str, event_shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Distribution:
    """A distribution of that name over events of that shape, its parameters all different."""
    generator = torch.Generator().manual_seed(7)

    def values(*shape: int) -> torch.Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator).to(dtype)

    dims = len(event_shape)
    loc, scale = 4 * values(*event_shape) - 2, 0.5 + values(*event_shape)
    single = {
        "normal": lambda: Normal(loc, scale),
        "laplace": lambda: Laplace(loc, scale),
        "student-t": lambda: StudentT(2.5 + 4 * values(*event_shape), loc, scale),
        "uniform": lambda: Uniform(loc - 3, loc + 3 * scale),
    }
    if name in single:
        return _independent(single[name](), dims)
    count = 3
    if name in ("mixture", "mixture-logits"):
        components = Normal(6 * values(count, *event_shape) - 3, 0.3 + values(count, *event_shape))
        weights = Categorical(values(count)) if name == "mixture" else Categorical(logits=3 * values(count))
        return MixtureSameFamily(weights, _independent(components, dims))
    # Over blocks of the last dimension ("block-mixture"), or over each dimension alone.
    inner = min(1, dims) if name == "block-mixture" else 0
    outer = event_shape[: dims - inner]
    shape = (*outer, count, *event_shape[dims - inner :])
    components = Normal(6 * values(*shape) - 3, 0.3 + values(*shape))
    mixture = MixtureSameFamily(Categorical(values(*outer, count)), _independent(components, inner))
    return _independent(mixture, dims - inner)


def _independent(distribution: Distribution, dims: int) -> Distribution:
    return Independent(distribution, dims) if dims else distribution
