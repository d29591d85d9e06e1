"""Whether held-out rows, taken to the noise, are spread as the base distribution says they are.

The probability integral transform of a dimension is ``u = F(z)``, F its distribution function under the base. Under the
right model u is uniform (Dawid 1984), so the distance of its empirical distribution function from the diagonal is that
of Kolmogorov and Smirnov, and one band holds all of the curve at once.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import torch
from torch.distributions import Distribution, Independent

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

_DRAWS = 20_000
"""Of the base, where its distribution function is not known."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The noise of held-out rows against the base distribution, dimension by dimension.

    Args:
        uniforms: ``[N, D]``, the probability integral transform of each value, sorted within each dimension.
        distances: ``[D]``, of Kolmogorov and Smirnov.
        band: The distance that a dimension of the right model exceeds with a probability of 5 %.
        exact: Whether the distribution function is that of the base, or of draws from it.
    """

    uniforms: Matrix
    distances: Vector
    band: float
    exact: bool

    @property
    def outside(self) -> int:
        """How many dimensions leave the band."""
        return int((self.distances > self.band).sum())

    def curve(self, dimension: int, points: int = 129) -> tuple[Vector, Vector]:
        """Levels, and there the empirical distribution function minus the diagonal; its extremes are among them."""
        sorted_u = self.uniforms[:, dimension]
        places = np.unique(np.linspace(0, len(sorted_u) - 1, points).astype(int))
        above = np.arange(1, len(sorted_u) + 1) / len(sorted_u) - sorted_u
        below = above - 1 / len(sorted_u)
        places = np.union1d(places, [int(above.argmax()), int(below.argmin())])
        level = np.concatenate([[0.0], np.repeat(sorted_u[places], 2), [1.0]])
        height = np.concatenate([[0.0], np.stack([below[places], above[places]], axis=1).ravel(), [0.0]])
        return level, height


def calibration(base: Distribution, noise: Matrix, seed: int = 0) -> Calibration:
    """Compare noise with the distribution it should have.

    Args:
        base: Distribution of the noise, of an event of D values.
        noise: ``[N, D]``, finite, at least two rows.
        seed: Of the draws that stand for a distribution function nobody knows.

    Example:
        >>> base = torch.distributions.Normal(torch.zeros(1), torch.ones(1))
        >>> calibration(base, np.array([[-0.6745], [0.6745]])).distances.round(3)
        array([0.25])
    """
    known = _distribution_function(base, noise)
    if known is not None:
        uniforms, band = known, ks_band(len(noise))
    else:
        draws = _draws(base, noise.shape[1], seed)
        places = [np.searchsorted(draws[:, k], noise[:, k], side="right") for k in range(noise.shape[1])]
        uniforms = np.stack(places, axis=1) / len(draws)
        # Both distribution functions are empirical.
        band = ks_band(len(noise) * len(draws) / (len(noise) + len(draws)))
    uniforms = np.sort(uniforms, axis=0)
    return Calibration(uniforms, ks_distances(uniforms), band, exact=known is not None)


def ks_distances(uniforms: Matrix) -> Vector:
    """Largest distance of the empirical distribution function from the diagonal, of each sorted column of ``[N, D]``.

    Example:
        >>> ks_distances(np.array([[0.25], [0.75]]))
        array([0.25])
    """
    count = len(uniforms)
    step = np.arange(count)[:, None] / count
    distances: Vector = np.maximum((step + 1 / count - uniforms).max(0), (uniforms - step).max(0))
    return distances


def ks_band(count: float) -> float:
    """The distance that ``count`` uniform numbers exceed with a probability of 5 %.

    By the formula of Stephens (1970), right to 1 % from two numbers on.

    Example:
        >>> round(ks_band(100), 3)
        0.134
    """
    root = math.sqrt(count)
    return 1.358 / (root + 0.12 + 0.11 / root)


def _distribution_function(base: Distribution, noise: Matrix) -> Matrix | None:
    inner = base
    while isinstance(inner, Independent):
        inner = inner.base_dist
    value = torch.from_numpy(noise).reshape(-1, *base.batch_shape, *base.event_shape)
    parameter = next((p for p in vars(inner).values() if isinstance(p, torch.Tensor)), torch.empty(0))
    try:
        uniforms = inner.cdf(value.to(parameter))
    except (NotImplementedError, RuntimeError, ValueError):
        return None
    if uniforms.shape != value.shape:
        return None
    return uniforms.double().cpu().numpy().reshape(noise.shape).clip(0.0, 1.0)


@torch.no_grad()
def _draws(base: Distribution, width: int, seed: int) -> Matrix:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draws = base.sample(torch.Size((_DRAWS,)))
    return np.sort(draws.double().cpu().numpy().reshape(_DRAWS, width), axis=0)
