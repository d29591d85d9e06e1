r"""An affine autoregressive layer set to the Normal of greatest likelihood, in closed form.

A layer whose shifts read their inputs directly can be any linear map to or from a triangle. With :math:`m` the mean and
:math:`L` the Cholesky factor of the covariance of what it models, :math:`y = m + L x` is one, and
:math:`x = L^{-1}(y - m)` is another: row i of either is a regression of column i on those before it.
"""

import torch
from torch import Tensor

from flowmodel.bijectors.affine_transformer import AffineTransformer
from flowmodel.bijectors.autoregressive_layer import AutoregressiveBijector
from flowmodel.bijectors.base import Bijector
from flowmodel.bijectors.invert import InvertBijector
from flowmodel.bijectors.scale import from_log_scale

_LEAST_OWN_SPREAD = 1e-2
"""What a column must have of its own beside the columns before it, as a share of its spread."""

_LARGEST_SCALE = 400.0
"""What the scale, and what it divides by, must stay below: well within the limits of a bounded one."""


def can_be_gaussian(bijector: Bijector) -> bool:
    """Whether it is a layer with ``skip_connections="fitted"`` and a free scale, as yet untrained, or its inverse.

    Example:
        >>> import flowmodel.bijectors as bij, flowmodel.parameters as params
        >>> plan = bij.Invert(bij.AffineAutoregressive(params.DenseAutoregressive(skip_connections="fitted")))
        >>> can_be_gaussian(plan(shape=torch.Size([3])))
        True
    """
    layer = _layer(bijector)
    if layer is None or not isinstance(layer.transformer, AffineTransformer) or layer.transformer.clamp_values:
        return False
    skip = layer.made.skip_weight
    if skip is None or skip.requires_grad or layer.transformer.scale_fn not in ("bounded", "exp"):
        return False
    return not any(bool(weights.any()) for weights in (layer.made.weights[-1], layer.made.biases[-1], skip))


@torch.no_grad()
def become_gaussian_(bijector: Bijector, mean: Tensor, covariance: Tensor) -> bool:
    """Let noise of mean 0 and covariance I correspond to data of these moments.

    Args:
        bijector: one that :func:`can_be_gaussian`.
        mean: of the data of this bijector, ``[D]``, float64.
        covariance: of the same, ``[D, D]``.

    Returns:
        Whether it was set. It was not where the Normal is degenerate, or all but so: rows were few, a column follows
        from others, or spreads are too far from 1.
    """
    layer = _layer(bijector)
    skip = None if layer is None else layer.made.skip_weight
    if layer is None or skip is None or not isinstance(layer.transformer, AffineTransformer):
        return False
    made, order = layer.made, layer.made.order
    mean, covariance = mean[order], covariance[order][:, order]
    spread = covariance.diagonal().sqrt()
    factor, failed = torch.linalg.cholesky_ex(covariance / spread / spread[:, None])
    own = factor.diagonal()
    scale = own * spread
    # A column without any spread gives NaN, which is in no limits.
    fits = (own > _LEAST_OWN_SPREAD) & (scale > 1 / _LARGEST_SCALE) & (scale < _LARGEST_SCALE)
    if failed or not bool(fits.all()):
        return False
    matrix, shift = spread[:, None] * factor, mean
    if isinstance(bijector, InvertBijector):
        identity = torch.eye(len(mean), dtype=matrix.dtype, device=matrix.device)
        matrix = torch.linalg.solve_triangular(matrix, identity, upper=False)
        shift = -(matrix @ mean)
    u = from_log_scale(matrix.diagonal().log(), layer.transformer.scale_fn)
    skip[0 :: made.params_per_dim] = matrix.tril(-1).to(skip)
    made.biases[-1].copy_(torch.stack([shift, u], 1).flatten())
    return True


def _layer(bijector: Bijector) -> AutoregressiveBijector | None:
    inner = bijector.inner if isinstance(bijector, InvertBijector) else bijector
    return inner if isinstance(inner, AutoregressiveBijector) else None
