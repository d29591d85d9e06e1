"""The folded modules of columns and of fixed functions as the numbers that ``columns.hpp`` and ``fixed.hpp`` take."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

FUNCTIONS = ("ExpMap", "SigmoidMap", "SoftplusMap", "TanhMap", "ELUMap", "LeakyReLUMap", "PowerMap", "AffineFixedMap")
"""In the order of the enumeration in ``fixed.hpp``."""

_STANDARD, _REAL, _ONE_BOUND, _TWO_BOUNDS, _CIRCLE = range(5)


class ColumnNumbers(NamedTuple):
    """Of each of D columns."""

    supports: NDArray[np.int64]
    """Its place in the enumeration of ``columns.hpp``."""
    numbers: NDArray[np.float64]
    """``[D, 4]``: low, high, cut, least; location and scale; or bound and sign."""
    first: NDArray[Any]
    """The least number of the flow's dtype that is one of its data."""
    last: NDArray[Any]
    """The greatest."""


def standardize_numbers(part: Any, dtype: np.dtype[Any]) -> ColumnNumbers:
    """Those of a ``FoldedStandardize``."""
    location, scale = _float64(part.location), _float64(part.scale)
    nothing = np.zeros_like(location)
    ends = np.full(len(location), np.inf, dtype)
    supports = np.full(len(location), _STANDARD, np.int64)
    return ColumnNumbers(supports, np.stack([location, scale, nothing, nothing], 1), -ends, ends)


def supports_numbers(part: Any, dtype: np.dtype[Any]) -> ColumnNumbers:
    """Those of a ``FoldedSupports``, whose buffers hold the columns sorted by their number of bounds."""
    reals, halves, _ = (int(count) for count in part.kinds)
    one, two, cut = _float64(part.one), _float64(part.two), _float64(part.cut)
    supports, numbers = [], []
    for place in part.place.tolist():
        if place < reals:
            supports.append(_REAL)
            numbers.append([0.0, 0.0, 0.0, 0.0])
        elif place < reals + halves:
            bound, sign = one[:, place - reals]
            supports.append(_ONE_BOUND)
            numbers.append([bound, sign, 0.0, 0.0])
        else:
            place -= reals + halves
            low, high, wraps, least = two[:, place]
            supports.append(_CIRCLE if wraps else _TWO_BOUNDS)
            numbers.append([low, high, cut[place], least])
    first, last = _first_and_last(_float64(part.low), _float64(part.high), part.closed.cpu().numpy(), dtype)
    return ColumnNumbers(np.asarray(supports, np.int64), np.asarray(numbers), first, last)


def _first_and_last(
    low: NDArray[np.float64], high: NDArray[np.float64], closed: NDArray[np.bool_], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ends of (low, high), or of [low, high) where closed, in a dtype: as ``support_maps.within`` has them."""
    first, last = low.astype(dtype), high.astype(dtype)
    short = np.where(closed, first < low, first <= low)
    with np.errstate(over="ignore", under="ignore"):
        first = np.where(short, np.nextafter(first, dtype.type(np.inf)), first)
        last = np.where(last >= high, np.nextafter(last, dtype.type(-np.inf)), last)
    return np.ascontiguousarray(first), np.ascontiguousarray(last)


def fixed_numbers(part: Any, kind: str, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The numbers of a fixed function, three of them, and of its domain and codomain, five each."""
    numbers = [0.0, 0.0, 0.0]
    if kind == "PowerMap":
        numbers = [float(part.exponent), float(part.log_factor), 0.0]
    elif kind == "AffineFixedMap":
        numbers = [float(part.loc), float(part.scale), float(part.log_slope)]
    domain = _interval(float(part.x_low), float(part.x_high), float(part.x_inside), dtype)
    return np.asarray(numbers, dtype), domain, _interval(part.y_low, part.y_high, part.y_inside, dtype)


def _interval(low: float, high: float, inside: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Its ends, a point inside, and the first and last numbers inside, as ``fixed.within`` has them."""
    smallest = np.finfo(dtype).smallest_normal
    ends = np.asarray([low, high], dtype)
    first = smallest if low == 0 else np.nextafter(ends[0], dtype.type(np.inf)) if low > -math.inf else ends[0]
    last = -smallest if high == 0 else np.nextafter(ends[1], dtype.type(-np.inf)) if high < math.inf else ends[1]
    return np.asarray([*ends, inside, first, last], dtype)


def _float64(tensor: torch.Tensor) -> NDArray[np.float64]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float64)
