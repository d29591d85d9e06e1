"""The maps between the line and the supports of columns, as functions that TorchScript reads too.

Columns come sorted by kind: first those of all real numbers, then those with one bound, then those with two. All is
float64. What is near a bound is measured from that bound, so that both tails keep their digits.
"""

import torch
from torch import Tensor


def line_to_one_bound(x: Tensor, bound: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """``y = bound + sign exp(x)``, and the log-determinant of each scalar."""
    return bound + sign * torch.exp(x), x


def one_bound_to_line(y: Tensor, bound: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """``x = log(sign (y - bound))``, and the log-determinant of each scalar."""
    x = torch.log(sign * (y - bound))
    return x, -x


def line_to_two_bounds(z: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """``y = low + (high - low) Phi(z)``, Phi the normal distribution function, and the log-determinant of each scalar.

    From the nearer bound, so that 1 - Phi(z) is never formed.
    """
    below = z < 0
    # torch.special.ndtr is 0 from -10 on; erfc keeps all its digits down to -37.
    tail = 0.5 * torch.erfc(torch.where(below, -z, z) * 0.7071067811865476)
    part = (high - low) * tail
    return torch.where(below, low + part, high - part), log_normal(z) + torch.log(high - low)


def two_bounds_to_line(above: Tensor, below: Tensor, width: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """``z`` with ``Phi(z) = above / width``, and the log-determinant of each scalar.

    Args:
        above: distance of ``y`` from the lower bound.
        below: its distance from the upper bound, which gives the digits where it is the smaller.
        width: distance of the bounds.
        least: the least share of the width told from none.
    """
    nearer_low = above <= below
    share = torch.where(nearer_low, above, below) / width
    # Where a NaN stands it stays.
    tail = torch.special.ndtri(torch.maximum(share, least))
    z = torch.where(nearer_low, tail, -tail)
    return z, -log_normal(z) - torch.log(width)


def log_normal(z: Tensor) -> Tensor:
    """Logarithm of the standard normal density."""
    return -0.5 * z * z - 0.9189385332046727


def pull_columns(
    y: Tensor, kinds: list[int], one: Tensor, two: Tensor, cut: Tensor, order: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """Data ``[B, D]`` to the line ``[B, D]`` and the log-determinant ``[B]``, -inf for a row outside.

    Args:
        y: the data.
        kinds: how many columns have no bound, one, and two.
        one: rows ``bound, sign`` for each column with one bound.
        two: rows ``low, high, wraps, least`` for each column with two; ``wraps`` is 1 for a circle, else 0.
        cut: where each column with two bounds starts: its low, or on a circle the cut.
        order: the columns sorted by kind.
        place: the inverse of ``order``.
    """
    sorted_y = y.to(torch.float64).index_select(1, order)
    real, half, both = torch.split(sorted_y, kinds, 1)
    # A value outside is replaced by one inside, so that no gradient is NaN, and its row marked. NaN is not outside.
    outside = torch.isinf(real)
    out = outside.any(1)
    real = torch.where(outside, torch.zeros_like(real), real)
    bound, sign = one[0], one[1]
    outside = (sign * half <= sign * bound) | torch.isinf(half)
    out = out | outside.any(1)
    half_x, half_log_det = one_bound_to_line(torch.where(outside, bound + sign, half), bound, sign)
    low, high, least = two[0], two[1], two[3]
    circle = two[2] > 0
    width = high - low
    outside = torch.where(circle, torch.isinf(both), (both <= low) | (both >= high))
    out = out | outside.any(1)
    both = torch.where(outside, low + 0.5 * width, both)
    turned = torch.remainder(both - cut, width)
    above = torch.where(circle, turned, both - low)
    below = torch.where(circle, width - turned, high - both)
    both_x, both_log_det = two_bounds_to_line(above, below, width, least)
    log_det = half_log_det.sum(1) + both_log_det.sum(1)
    log_det = torch.where(out, torch.full_like(log_det, -float("inf")), log_det)
    return torch.cat([real, half_x, both_x], 1).index_select(1, place), log_det


def push_columns(
    x: Tensor, kinds: list[int], one: Tensor, two: Tensor, cut: Tensor, order: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """The line to data, and the log-determinant ``[B]``; arguments as of :func:`pull_columns`."""
    real, half_x, both_x = torch.split(x.to(torch.float64).index_select(1, order), kinds, 1)
    half, half_log_det = line_to_one_bound(half_x, one[0], one[1])
    low, high = two[0], two[1]
    circle = two[2] > 0
    both, both_log_det = line_to_two_bounds(both_x, low, high)
    turned = low + torch.remainder(both - low + (cut - low), high - low)
    both = torch.where(circle, turned, both)
    y = torch.cat([real, half, both], 1).index_select(1, place)
    return y, half_log_det.sum(1) + both_log_det.sum(1)


def within(y: Tensor, low: Tensor, high: Tensor, closed: Tensor, dtype: torch.dtype) -> Tensor:
    """``y`` in ``dtype``, moved to the nearest number of that dtype inside (low, high), or [low, high) where closed."""
    least, most = low.to(dtype), high.to(dtype)
    exact = least.to(torch.float64)
    short = torch.where(closed, exact < low, exact <= low)
    least = torch.where(short, torch.nextafter(least, torch.full_like(least, float("inf"))), least)
    over = most.to(torch.float64) >= high
    most = torch.where(over, torch.nextafter(most, torch.full_like(most, -float("inf"))), most)
    return torch.minimum(torch.maximum(y.to(dtype), least), most)
