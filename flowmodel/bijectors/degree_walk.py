r"""The exact inverse of an autoregressive layer without D passes of its network, and its gradient.

The layer is :math:`y_i = f(x_i; \theta_i(x_{<i}))`, its parameters those of a MADE whose hidden units are sorted by
degree, f a :class:`~flowmodel.bijectors.transformer.Transformer`. Inverting it is forward substitution: once
:math:`x_1 \dots x_t` are known, exactly the hidden units of degree t can be computed, and they are all that the
parameters of :math:`x_{t+1}` still lack. So each masked weight is used once, where an inversion by D full passes would
use each weight D times.

The gradient needs no graph through those steps. With :math:`\ell_i = \log \partial f / \partial x_i`,
:math:`S = \sum_i \ell_i` and the adjoints :math:`\bar x, \bar S` of the results, implicit differentiation of
:math:`g(x, w) = y` in the network's weights w gives

.. math:: J^\top \lambda = \bar x + \bar S\, \nabla_x S, \qquad \bar y = \lambda, \qquad
          \bar w = \bar S\, \partial_w S - \lambda^\top \partial_w g,

where J is triangular, so that lambda too is found one degree at a time, from the last to the first. In terms of the
network's outputs the right-hand side is a vector-Jacobian product with the seeds
:math:`\bar\theta_i = \bar S\, \partial\ell_i / \partial\theta_i - \lambda_i\, \partial f_i / \partial\theta_i`, and

.. math:: \lambda_i = \Big(\bar x_i + \bar S\, \frac{\partial \ell_i}{\partial x_i}
          + \sum_{m > i} \bar\theta_m \frac{\partial\theta_m}{\partial x_i}\Big) \Big/
          \frac{\partial f_i}{\partial x_i}.

Everything here is feature-major, ``[units, B]``: the units of one degree are then a contiguous block of rows, and each
product writes its result where it belongs. TorchScript runs the very same code in the exported scorer.
"""

from typing import Any

import torch
from torch import Tensor

from flowmodel.bijectors.transformer import Transformer
from flowmodel.parameters.activations import activate, activation_slope


class DegreeWalk(torch.nn.Module):
    """Inverts one autoregressive layer, whose weights it is given.

    Args:
        transformer: the function that the network's outputs are the parameters of.
        offsets: for each hidden layer and each t below D, the number of units with a degree of at most t.
        nonlinearity: name of the activation.
    """

    offsets: list[list[int]]

    def __init__(self, transformer: Transformer, offsets: list[list[int]], nonlinearity: str) -> None:
        super().__init__()
        self.transformer = transformer
        self.params_per_dim = transformer.params_per_dim
        self.offsets = offsets
        self.nonlinearity = nonlinearity

    @torch.jit.export
    def invert(
        self, y: Tensor, first_bias: Tensor, weights: list[Tensor], biases: list[Tensor], skip: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The inverse at ``y``.

        Args:
            y: data ``[D, B]``, dimensions in the order of the autoregression.
            first_bias: bias of the first hidden layer, ``[H, 1]``, or ``[H, B]`` with a context's part in it.
            weights: masked weights of the hidden layers and of the output, ``[H1, D], [H2, H1], ..., [P D, HL]``.
            biases: biases of all layers but the first hidden one, each ``[n, 1]``.
            skip: masked weight from the inputs to the outputs, ``[P D, D]``, or ``None``.

        Returns:
            ``x[D, B]``; log dx/dy of each dimension ``[D, B]``; the network's outputs ``[D, P, B]``; and the hidden
            activations, each ``[H, B]``.
        """
        dims, rows, size = y.shape[0], y.shape[1], self.params_per_dim
        x, log_slope = torch.empty_like(y), torch.empty_like(y)
        outputs = torch.empty([dims, size, rows], dtype=y.dtype, device=y.device)
        hidden: list[Tensor] = []
        for layer in range(len(self.offsets)):
            hidden.append(torch.empty([weights[layer].shape[0], rows], dtype=y.dtype, device=y.device))
        last = len(self.offsets) - 1
        for t in range(dims):
            below, known = x, t
            for layer in range(len(self.offsets)):
                start = self.offsets[layer][t - 1] if t > 0 else 0
                stop = self.offsets[layer][t]
                if stop > start:
                    bias = first_bias if layer == 0 else biases[layer - 1]
                    block = torch.addmm(bias[start:stop], weights[layer][start:stop, :known], below[:known])
                    hidden[layer][start:stop] = activate(block, self.nonlinearity)
                below, known = hidden[layer], stop
            first, end = size * t, size * (t + 1)
            torch.addmm(biases[last][first:end], weights[last + 1][first:end, :known], below[:known], out=outputs[t])
            if skip is not None:
                outputs[t].addmm_(skip[first:end, :t], x[:t])
            x[t], log_slope[t] = self.transformer.pull(y[t], outputs[t])
        return x, log_slope, outputs, hidden


class InvertByDegree(torch.autograd.Function):
    """:meth:`DegreeWalk.invert` with the implicit gradient of this module's text; first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, walk: DegreeWalk, y: Tensor, first_bias: Tensor, skip: Tensor | None, *weights_and_biases: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``y[D, B]`` to ``x[D, B]`` and the log-determinant ``[B]`` of that map."""
        count = len(walk.offsets) + 1
        weights, biases = list(weights_and_biases[:count]), list(weights_and_biases[count:])
        x, log_slope, outputs, hidden = walk.invert(y, first_bias, weights, biases, skip)
        ctx.save_for_backward(x, outputs, skip, *hidden, *weights)
        ctx.walk = walk
        ctx.bias_is_per_row = first_bias.shape[1] == y.shape[1] and first_bias.shape[1] != 1
        return x, log_slope.sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, x_bar: Tensor, log_det_bar: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoints of ``y``, of the first bias, of the skip connections, and of every weight and bias."""
        walk: DegreeWalk = ctx.walk
        x, outputs, skip, *rest = ctx.saved_tensors
        layers = len(walk.offsets)
        hidden, weights = rest[:layers], rest[layers:]
        # S is the log-determinant of the map from x to y, the negative of what forward returned.
        seeds, deltas, y_bar = sweep_degrees_back(walk, x_bar, -log_det_bar, x, outputs, hidden, weights, skip)
        adjoints = [*deltas, seeds]
        weight_bars = [adjoint @ below.T for adjoint, below in zip(adjoints, [x, *hidden], strict=True)]
        bias_bars = [adjoint.sum(1, keepdim=True) for adjoint in adjoints[1:]]
        first_bias_bar = deltas[0] if ctx.bias_is_per_row else deltas[0].sum(1, keepdim=True)
        skip_bar = None if skip is None else seeds @ x.T
        return (None, y_bar, first_bias_bar, skip_bar, *weight_bars, *bias_bars)


def sweep_degrees_back(
    walk: DegreeWalk,
    x_bar: Tensor,
    s_bar: Tensor,
    x: Tensor,
    outputs: Tensor,
    hidden: list[Tensor],
    weights: list[Tensor],
    skip: Tensor | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Solve :math:`J^T lambda = a` from the last degree to the first.

    Args:
        walk: the walk that led to ``x``.
        x_bar: adjoint of x, ``[D, B]``.
        s_bar: adjoint of S, ``[B]``.
        x: the inverse, ``[D, B]``; with ``outputs`` and ``hidden`` as :meth:`DegreeWalk.invert` returned them.
        outputs: the network's outputs, ``[D, P, B]``.
        hidden: hidden activations, each ``[H, B]``.
        weights: the masked weights.
        skip: the masked weight of the skip connections, or ``None``.

    Returns:
        The seeds at the outputs ``[P D, B]``, the adjoints of each hidden layer's pre-activations, lambda ``[D, B]``.
    """
    dims, size = x.shape[0], walk.params_per_dim
    of = walk.transformer.derivatives(x, outputs)
    inverse_slope = torch.exp(-of.log_slope)
    x_bar = x_bar + s_bar * of.log_slope_x
    seeds = s_bar * of.log_slope_params
    flat_seeds = seeds.view(dims * size, -1)
    lam = torch.empty_like(x)
    deltas = [activation_slope(h, walk.nonlinearity) for h in hidden]

    for t in range(dims - 1, -2, -1):
        # Units of degree t + 1 read x[t] and steer the outputs from t + 1 on, whose seeds are all known by now.
        if t + 1 < dims:
            _pull_back_units(t + 1, flat_seeds[size * (t + 1) :], deltas, weights, walk.offsets, size)
        if t < 0:
            break
        known = walk.offsets[0][t]
        back = weights[0][known:, t] @ deltas[0][known:]
        if skip is not None:
            back += skip[size * (t + 1) :, t] @ flat_seeds[size * (t + 1) :]
        lam[t] = (x_bar[t] + back) * inverse_slope[t]
        seeds[t].addcmul_(lam[t], of.value_params[t], value=-1)
    return flat_seeds, deltas, lam


def _pull_back_units(
    degree: int,
    seeds: Tensor,
    deltas: list[Tensor],
    weights: list[Tensor],
    offsets: list[list[int]],
    params_per_dim: int,
) -> None:
    """Turn the slopes held in ``deltas`` for the units of one degree into the adjoints of their pre-activations.

    ``seeds`` are those of the outputs that read units of this degree: dimensions from ``degree`` on, counted from 0.
    """
    above, known_above = seeds, params_per_dim * degree
    for layer in range(len(offsets) - 1, -1, -1):
        start = offsets[layer][degree - 1] if degree > 0 else 0
        stop = offsets[layer][degree]
        if stop > start:
            deltas[layer][start:stop] *= weights[layer + 1][known_above:, start:stop].T @ above
        above, known_above = deltas[layer][start:], start
