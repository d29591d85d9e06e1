r"""Monotone rational splines on [-bound, bound], the identity outside, with continuous slopes.

Both orders cut the square :math:`[-B, B]^2` into K bins by K + 1 knots with a positive slope at each, 1 at the two
outermost, and put one rational piece into each bin:

* ``linear``: two ratios of linear functions, meeting where a fraction :math:`\lambda` of the bin's width is passed
  (Dolatabadi, Erfani and Leckie 2020, arXiv:2001.05168);
* ``quadratic``: one ratio of quadratic functions (Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032).

From raw parameters widths and heights come by a softmax, slopes by a softplus, lambda by a sigmoid, each kept away from
its limits by the constants that FlowTorch uses, so that the same numbers give the same function as there.

Each piece is measured from the nearer of its two ends. With the reflection that needs, every sum below has terms of one
sign: nothing cancels, knots map to knots exactly, and no branch that is not taken can bring a NaN into the gradient.

Plain functions of tensors, feature-major (values ``[..., B]``, parameters ``[..., P, B]``), which TorchScript takes as
they are; hence the literals in the place of named constants.
"""

import torch
from torch import Tensor

ORDERS = ("linear", "quadratic")
"""Names accepted by ``Spline(order=...)``."""


def spline_parameter_count(count_bins: int, order: str) -> int:
    """Raw parameters of one spline: K widths, K heights, K - 1 inner slopes, and K lambdas where it is linear.

    Example:
        >>> spline_parameter_count(8, "linear"), spline_parameter_count(8, "quadratic")
        (31, 23)
    """
    return 4 * count_bins - 1 if order == "linear" else 3 * count_bins - 1


def rational_spline(
    value: Tensor,
    params: Tensor,
    count_bins: int,
    bound: float,
    order: str,
    inverse: bool,
    slope_shift: float = 0.0,
    edge_slope: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Evaluate splines, or their inverses.

    Args:
        value: ``[..., B]``.
        params: raw parameters ``[..., P, B]``, or ``[..., P, 1]`` where all rows share them.
        count_bins: K.
        bound: half the width of the square.
        order: ``linear`` or ``quadratic``.
        inverse: whether ``value`` is y and x is asked for.
        slope_shift: added to the raw slopes before the softplus.
        edge_slope: slope at the two outermost knots. FlowTorch 0.8 has 0.999 there, which makes its densities jump.

    Returns:
        The mapped value, and the logarithm of the slope of the map that was taken, both ``[..., B]``.
    """
    widths = _knots(params.narrow(-2, 0, count_bins), bound)
    heights = _knots(params.narrow(-2, count_bins, count_bins), bound)
    raw_slopes = params.narrow(-2, 2 * count_bins, count_bins - 1)
    edge = torch.full_like(params.narrow(-2, 0, 1), edge_slope)
    # 1e-3 is the least slope, 0.025 the least distance of lambda from 0 and from 1.
    table = [widths, heights, edge, torch.nn.functional.softplus(raw_slopes + slope_shift) + 1e-3, edge]
    if order == "linear":
        table.append(0.025 + 0.95 * torch.sigmoid(params.narrow(-2, 3 * count_bins - 1, count_bins)))

    outside = (value < -bound) | (value > bound)
    # Clamped, so that what lies outside is evaluated where the piece is well behaved, and then thrown away.
    inside = value.clamp(-bound, bound)
    inner = (heights if inverse else widths).narrow(-2, 1, count_bins - 1)
    bins = (inside.unsqueeze(-2) >= inner).sum(-2, keepdim=True)
    # Of each curve the knots at both ends of the bin; of lambda, which comes last, one. Made on the device: a copy from
    # the host could not be captured in a CUDA graph.
    ends = torch.arange(7 if order == "linear" else 6, device=value.device)
    places = torch.div(ends, 2, rounding_mode="floor") * (count_bins + 1) + ends % 2
    rows = bins + places.unsqueeze(-1)
    shape = list(rows.shape)
    shape[-2] = -1
    knots = torch.cat(table, -2).expand(shape).gather(-2, rows)
    if order == "linear":
        mapped, log_slope = _linear_piece(inside, knots, inverse)
    else:
        mapped, log_slope = _quadratic_piece(inside, knots, inverse)
    return torch.where(outside, value, mapped), log_slope.masked_fill(outside, 0.0)


def _knots(raw: Tensor, bound: float) -> Tensor:
    """Raw lengths ``[..., K, B]`` to K + 1 knots from -bound to bound; no bin is shorter than 1e-3 of the whole."""
    count = raw.shape[-2]
    lengths = 1e-3 + (1 - 1e-3 * count) * torch.softmax(raw, -2)
    inner = 2 * bound * lengths.narrow(-2, 0, count - 1).cumsum(-2) - bound
    end = torch.full_like(raw.narrow(-2, 0, 1), bound)
    return torch.cat([-end, inner, end], -2)


def _linear_piece(value: Tensor, knots: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    r"""One bin of the linear order.

    With weights 1 and :math:`w_b = \sqrt{d_0 / d_1}` at the two knots and :math:`w_c` where the halves meet, the half
    of length L and height H next to a knot of weight w maps a distance t from that knot (in widths of the bin) to

    .. math:: g = \frac{w_c H t}{w (L - t) + w_c t}, \qquad t = \frac{w L g}{w_c (H - g) + w g}, \qquad
              \frac{dg}{dt} = \frac{w w_c H L}{(w (L - t) + w_c t)^2} = \frac{(w_c (H - g) + w g)^2}{w w_c H L}.
    """
    x_low, x_high, y_low, y_high = knots.select(-2, 0), knots.select(-2, 1), knots.select(-2, 2), knots.select(-2, 3)
    slope_low, slope_high, share = knots.select(-2, 4), knots.select(-2, 5), knots.select(-2, 6)
    width, height, rest = x_high - x_low, y_high - y_low, 1 - share
    weight_high = torch.sqrt(slope_low / slope_high)
    weight_middle = (share * slope_low + rest * weight_high * slope_high) * width / height
    unit = height / (rest + share * weight_high)
    height_low = unit * share * weight_high

    # The second half is the first one reflected.
    if inverse:
        second = value - y_low > height_low
        near = torch.where(second, y_high - value, value - y_low)
    else:
        second = value - x_low > share * width
        near = torch.where(second, x_high - value, value - x_low)
    length = torch.where(second, rest, share)
    weight = torch.where(second, weight_high, torch.ones_like(weight_high))
    half_height = torch.where(second, unit * rest, height_low)
    steepness = weight * weight_middle * half_height * length
    if inverse:
        denominator = weight_middle * (half_height - near) + weight * near
        far = width * weight * length * near / denominator
        return torch.where(second, x_high - far, x_low + far), torch.log(steepness * width) - 2 * torch.log(denominator)
    t = near / width
    denominator = weight * (length - t) + weight_middle * t
    far = weight_middle * half_height * t / denominator
    return torch.where(second, y_high - far, y_low + far), torch.log(steepness / width) - 2 * torch.log(denominator)


def _quadratic_piece(value: Tensor, knots: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    r"""One bin of the quadratic order.

    With r and s the slopes at the near and at the far knot over the bin's mean slope, a distance t from the near knot
    (in widths of the bin) maps to :math:`\gamma` (in heights of the bin),

    .. math:: \gamma = \frac{t^2 + r t (1 - t)}{1 + (r + s - 2) t (1 - t)}, \qquad
              \alpha t^2 + (1 - \alpha) t = \gamma, \quad \alpha = 1 - r + \gamma (r + s - 2).

    The discriminant is :math:`(1 - \alpha)^2 + 4 \alpha \gamma = (1 + \alpha)^2 - 4 \alpha (1 - \gamma)`. Of its two
    forms that one is taken which adds, by the sign of alpha, and so for the root, by the sign of 1 - alpha.
    """
    x_low, x_high, y_low, y_high = knots.select(-2, 0), knots.select(-2, 1), knots.select(-2, 2), knots.select(-2, 3)
    width, height = x_high - x_low, y_high - y_low
    mean_slope = height / width
    low, high = (y_low, y_high) if inverse else (x_low, x_high)
    upper = value - low > high - value
    near = torch.where(upper, high - value, value - low)
    slope_near = torch.where(upper, knots.select(-2, 5), knots.select(-2, 4)) / mean_slope
    slope_far = torch.where(upper, knots.select(-2, 4), knots.select(-2, 5)) / mean_slope
    if inverse:
        part = near / height
        alpha = 1 - slope_near + part * (slope_near + slope_far - 2)
        beta = slope_near * (1 - part) - slope_far * part + 2 * part
        discriminant = torch.where(alpha < 0, (1 + alpha) ** 2 - 4 * alpha * (1 - part), beta**2 + 4 * alpha * part)
        root = torch.sqrt(discriminant)
        t = torch.where(beta < 0, root - beta, 2 * part) / torch.where(beta < 0, 2 * alpha, beta + root)
    else:
        t = near / width
    rest = 1 - t
    both = t * rest
    denominator = 1 - 2 * both + (slope_near + slope_far) * both
    numerator = slope_far * t * t + 2 * both + slope_near * rest * rest
    log_slope = torch.log(mean_slope * numerator) - 2 * torch.log(denominator)
    if inverse:
        far = width * t
        return torch.where(upper, x_high - far, x_low + far), -log_slope
    far = height * t * (t + slope_near * rest) / denominator
    return torch.where(upper, y_high - far, y_low + far), log_slope
