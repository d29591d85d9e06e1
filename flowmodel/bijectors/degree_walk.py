r"""The exact inverse of an affine autoregressive layer without D passes of its network, and its gradient.

The layer is :math:`y_i = \mu_i(x_{<i}) + \sigma_i(x_{<i})\, x_i`, its parameters those of a MADE whose hidden units
are sorted by degree. Inverting it is forward substitution: once :math:`x_1 \dots x_t` are known, exactly the hidden
units of degree t can be computed, and they are all that the parameters of :math:`x_{t+1}` still lack. So each masked
weight is used once, where an inversion by D full passes would use each weight D times.

The gradient needs no graph through those steps. With :math:`S = \sum_i \log\sigma_i` and the adjoints
:math:`\bar x, \bar S` of the results, implicit differentiation of :math:`g(x, \theta) = y` gives

.. math:: J^\top \lambda = \bar x + \bar S\, \nabla_x S, \qquad \bar y = \lambda, \qquad
          \bar\theta = \bar S\, \partial_\theta S - \lambda^\top \partial_\theta g,

where J is triangular, so that lambda too is found one degree at a time, from the last to the first. In terms of the
network's raw outputs the right-hand side is a vector-Jacobian product with the seeds
:math:`\bar\mu_i = -\lambda_i` and :math:`\bar u_i = (\bar S - \lambda_i \sigma_i x_i)\, d\log\sigma_i/du_i`.

Everything here is feature-major, ``[units, B]``: the units of one degree are then a contiguous block of rows, and each
product writes its result where it belongs. The functions are plain enough for TorchScript, which runs the very same
code in the exported scorer.
"""

from typing import Any

import torch
from torch import Tensor

from flowmodel.bijectors.scale import log_scale, log_scale_slope
from flowmodel.parameters.activations import activate, activation_slope


def invert_by_degree(
    y: Tensor,
    first_bias: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    offsets: list[list[int]],
    nonlinearity: str,
    scale_fn: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Invert one affine autoregressive layer.

    Args:
        y: data ``[D, B]``, dimensions in the order of the autoregression.
        first_bias: bias of the first hidden layer, ``[H, 1]``, or ``[H, B]`` with a context's part in it.
        weights: masked weights of the hidden layers and of the output, ``[H1, D], [H2, H1], ..., [2 D, HL]``.
        biases: biases of all layers but the first hidden one, each ``[n, 1]``.
        offsets: for each hidden layer and each t below D, the number of units with a degree of at most t.
        nonlinearity: name of the activation.
        scale_fn: name of the scale function.

    Returns:
        ``x[D, B]``; the raw outputs ``[2 D, B]`` (rows 2 i and 2 i + 1: mu and u of dimension i); and the hidden
        activations, each ``[H, B]``.
    """
    dims, rows = y.shape[0], y.shape[1]
    x = torch.empty_like(y)
    outputs = torch.empty([2 * dims, rows], dtype=y.dtype, device=y.device)
    hidden: list[Tensor] = []
    for layer in range(len(offsets)):
        hidden.append(torch.empty([weights[layer].shape[0], rows], dtype=y.dtype, device=y.device))
    last = len(offsets) - 1
    for t in range(dims):
        below, known = x, t
        for layer in range(len(offsets)):
            start = offsets[layer][t - 1] if t > 0 else 0
            stop = offsets[layer][t]
            if stop > start:
                bias = first_bias if layer == 0 else biases[layer - 1]
                block = torch.addmm(bias[start:stop], weights[layer][start:stop, :known], below[:known])
                hidden[layer][start:stop] = activate(block, nonlinearity)
            below, known = hidden[layer], stop
        torch.addmm(
            biases[last][2 * t : 2 * t + 2],
            weights[last + 1][2 * t : 2 * t + 2, :known],
            below[:known],
            out=outputs[2 * t : 2 * t + 2],
        )
        x[t] = (y[t] - outputs[2 * t]) * torch.exp(-log_scale(outputs[2 * t + 1], scale_fn))
    return x, outputs, hidden


class InvertByDegree(torch.autograd.Function):
    """:func:`invert_by_degree` with the implicit gradient of this module's text; first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        first_bias: Tensor,
        offsets: list[list[int]],
        nonlinearity: str,
        scale_fn: str,
        *weights_and_biases: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """``y[D, B]`` to ``x[D, B]`` and ``S[B]``, the log-determinant of the map from x to y."""
        count = len(offsets) + 1
        weights, biases = list(weights_and_biases[:count]), list(weights_and_biases[count:])
        x, outputs, hidden = invert_by_degree(y, first_bias, weights, biases, offsets, nonlinearity, scale_fn)
        ctx.save_for_backward(x, outputs, *hidden, *weights)
        ctx.offsets, ctx.nonlinearity, ctx.scale_fn = offsets, nonlinearity, scale_fn
        ctx.bias_is_per_row = first_bias.shape[1] == y.shape[1] and first_bias.shape[1] != 1
        return x, log_scale(outputs[1::2], scale_fn).sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, x_bar: Tensor, s_bar: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoints of ``y``, of the first bias, and of every weight and bias."""
        layers = len(ctx.offsets)
        x, outputs, *rest = ctx.saved_tensors
        hidden, weights = rest[:layers], rest[layers:]
        seeds, deltas, y_bar = sweep_degrees_back(
            x_bar, s_bar, x, outputs, hidden, weights, ctx.offsets, ctx.nonlinearity, ctx.scale_fn
        )
        adjoints = [*deltas, seeds]
        weight_bars = [adjoint @ below.T for adjoint, below in zip(adjoints, [x, *hidden], strict=True)]
        bias_bars = [adjoint.sum(1, keepdim=True) for adjoint in adjoints[1:]]
        first_bias_bar = deltas[0] if ctx.bias_is_per_row else deltas[0].sum(1, keepdim=True)
        return (y_bar, first_bias_bar, None, None, None, *weight_bars, *bias_bars)


def sweep_degrees_back(
    x_bar: Tensor,
    s_bar: Tensor,
    x: Tensor,
    outputs: Tensor,
    hidden: list[Tensor],
    weights: list[Tensor],
    offsets: list[list[int]],
    nonlinearity: str,
    scale_fn: str,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Solve :math:`J^T lambda = a` from the last degree to the first.

    Args:
        x_bar: adjoint of x, ``[D, B]``.
        s_bar: adjoint of S, ``[B]``.
        x: the inverse, ``[D, B]``; with ``outputs`` and ``hidden`` as :func:`invert_by_degree` returned them.
        outputs: raw outputs ``[2 D, B]``.
        hidden: hidden activations, each ``[H, B]``.
        weights: the masked weights.
        offsets: as in :func:`invert_by_degree`.
        nonlinearity: name of the activation.
        scale_fn: name of the scale function.

    Returns:
        The seeds at the outputs ``[2 D, B]``, the adjoints of each hidden layer's pre-activations, lambda ``[D, B]``.
    """
    dims = x.shape[0]
    log_sigma = log_scale(outputs[1::2], scale_fn)
    inverse_sigma, sigma_x = torch.exp(-log_sigma), torch.exp(log_sigma) * x
    slope = log_scale_slope(outputs[1::2], scale_fn)
    seeds, lam = torch.empty_like(outputs), torch.empty_like(x)
    deltas = [activation_slope(h, nonlinearity) for h in hidden]

    for t in range(dims - 1, -2, -1):
        # Units of degree t + 1 read x[t] and steer the outputs from t + 1 on, whose seeds are all known by now.
        if t + 1 < dims:
            _pull_back_units(t + 1, seeds, deltas, weights, offsets)
        if t < 0:
            break
        known = offsets[0][t]
        back = weights[0][known:, t] @ deltas[0][known:]
        lam[t] = (x_bar[t] + back) * inverse_sigma[t]
        seeds[2 * t] = -lam[t]
        seeds[2 * t + 1] = (s_bar - lam[t] * sigma_x[t]) * slope[t]
    return seeds, deltas, lam


def _pull_back_units(
    degree: int, seeds: Tensor, deltas: list[Tensor], weights: list[Tensor], offsets: list[list[int]]
) -> None:
    """Turn the slopes held in ``deltas`` for the units of one degree into the adjoints of their pre-activations."""
    above, known_above = seeds, 2 * degree
    for layer in range(len(offsets) - 1, -1, -1):
        start = offsets[layer][degree - 1] if degree > 0 else 0
        stop = offsets[layer][degree]
        if stop > start:
            deltas[layer][start:stop] *= weights[layer + 1][known_above:, start:stop].T @ above[known_above:]
        above, known_above = deltas[layer], start
