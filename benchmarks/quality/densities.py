"""Densities in closed form, each with exact samples, so that a model's gap to the truth is exact on the same rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    VonMises,
)


@dataclasses.dataclass(frozen=True)
class Density:
    """A density to learn.

    Args:
        sample: from a number of rows to ``[N, D]``, drawn with torch's global generator, float64.
        log_prob: from ``[N, D]`` to ``[N]``, nats.
    """

    sample: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]


def gaussian() -> Density:
    """Eight correlated Normals; condition number of the covariance near 100."""
    generator = torch.Generator().manual_seed(8)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    covariance = rotation @ torch.diag(torch.logspace(-1, 1, 8, dtype=torch.float64)) @ rotation.T
    return _of(MultivariateNormal(torch.zeros(8, dtype=torch.float64), (covariance + covariance.T) / 2))


def banana() -> Density:
    """Rosenbrock's valley in two dimensions: x ~ N(1, 1), y ~ N(x^2, 0.3)."""

    def sample(count: int) -> Tensor:
        x = 1 + _randn(count)
        return torch.stack([x, x**2 + 0.3 * _randn(count)], 1)

    def log_prob(rows: Tensor) -> Tensor:
        x, y = rows.unbind(1)
        return _normal(x, 1, 1) + _normal(y, x**2, 0.3)

    return Density(sample, log_prob)


def funnel() -> Density:
    """Neal's funnel (2003): three columns of N(0, e^v), and last v ~ N(0, 3), 3 being the deviation."""

    def sample(count: int) -> Tensor:
        v = 3 * _randn(count)
        return torch.cat([torch.exp(v / 2)[:, None] * _randn(count, 3), v[:, None]], 1)

    def log_prob(rows: Tensor) -> Tensor:
        v = rows[:, 3:]
        return _normal(v, 0, 3).sum(1) + _normal(rows[:, :3], 0, torch.exp(v / 2)).sum(1)

    return Density(sample, log_prob)


def moons() -> Density:
    """Two crescents that reach into each other: radius N(2, 0.2), angle von Mises, so that the ends fade out."""
    centres = torch.tensor([[-1.0, -0.5], [1.0, 0.5]], dtype=torch.float64)
    angles = [VonMises(torch.tensor(side * math.pi / 2, dtype=torch.float64), 3.0) for side in (1, -1)]

    def sample(count: int) -> Tensor:
        which = torch.randint(2, (count,))
        angle = torch.stack([each.sample((count,)) for each in angles])[which, torch.arange(count)]
        radius = 2 + 0.2 * _randn(count)
        return centres[which] + radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    def log_prob(rows: Tensor) -> Tensor:
        parts = []
        for centre, angle in zip(centres, angles, strict=True):
            x, y = (rows - centre).unbind(1)
            radius = torch.hypot(x, y)
            # Radii below nought, ten deviations away, are left out: less than 1e-22 of the mass.
            parts.append(_normal(radius, 2, 0.2) + angle.log_prob(torch.atan2(y, x)) - radius.log())
        return torch.logsumexp(torch.stack(parts), 0) - math.log(2)

    return Density(sample, log_prob)


def rings() -> Density:
    """Two rings about one centre, radii N(1, 0.1) and N(2.5, 0.15), half of the rows each."""

    def sample(count: int) -> Tensor:
        outer = torch.randint(2, (count,), dtype=torch.float64)
        radius = 1 + 1.5 * outer + (0.1 + 0.05 * outer) * _randn(count)
        angle = 2 * math.pi * torch.rand(count, dtype=torch.float64)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    def log_prob(rows: Tensor) -> Tensor:
        radius = rows.norm(dim=1)
        both = torch.logaddexp(_normal(radius, 1, 0.1), _normal(radius, 2.5, 0.15))
        return both - math.log(4 * math.pi) - radius.log()

    return Density(sample, log_prob)


def eight_gaussians() -> Density:
    """Eight Normals of deviation 0.3 on a circle of radius 2."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    parts = Independent(Normal(means, torch.full_like(means, 0.3)), 1)
    return _of(MixtureSameFamily(Categorical(torch.ones(8, dtype=torch.float64)), parts))


def student() -> Density:
    """Four correlated columns, multivariate Student t of three degrees of freedom (Kotz and Nadarajah 2004)."""
    size, freedom = 4, 3.0
    shape = 0.5 * torch.ones(size, size, dtype=torch.float64) + 0.5 * torch.eye(size, dtype=torch.float64)
    factor = torch.linalg.cholesky(shape)
    constant = math.lgamma((freedom + size) / 2) - math.lgamma(freedom / 2) - size / 2 * math.log(freedom * math.pi)
    constant -= float(factor.diagonal().log().sum())

    def sample(count: int) -> Tensor:
        chi_squared = torch.distributions.Chi2(torch.tensor(freedom, dtype=torch.float64)).sample((count, 1))
        return _randn(count, size) @ factor.T / torch.sqrt(chi_squared / freedom)

    def log_prob(rows: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(factor, rows.T, upper=False)
        return constant - (freedom + size) / 2 * torch.log1p(white.square().sum(0) / freedom)

    return Density(sample, log_prob)


def mixture() -> Density:
    """Six correlated Normals in five dimensions, some of them apart and some overlapping."""
    generator = torch.Generator().manual_seed(5)
    means = 2.5 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    factors = 0.5 * torch.randn(6, 5, 5, generator=generator, dtype=torch.float64)
    covariances = factors @ factors.mT + 0.1 * torch.eye(5, dtype=torch.float64)
    weights = torch.arange(1, 7, dtype=torch.float64)
    return _of(MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances)))


DENSITIES: dict[str, Callable[[], Density]] = {
    "gaussian": gaussian,
    "banana": banana,
    "funnel": funnel,
    "moons": moons,
    "rings": rings,
    "eight Gaussians": eight_gaussians,
    "Student t": student,
    "mixture": mixture,
}


def _of(distribution: Distribution) -> Density:
    return Density(lambda count: distribution.sample((count,)), distribution.log_prob)


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _normal(value: Tensor, mean: Tensor | float, deviation: Tensor | float) -> Tensor:
    deviation = torch.as_tensor(deviation, dtype=torch.float64)
    return -0.5 * ((value - mean) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)
