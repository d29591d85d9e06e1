"""Both directions of an autoregressive layer by torch: the definition, which runs wherever torch does."""

import torch
from torch import Tensor

from flowmodel.bijectors.degree_walk import DegreeWalk, InvertByDegree
from flowmodel.parameters.dense_autoregressive import MADE


def push(made: MADE, walk: DegreeWalk, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Noise ``[B, D]`` to data and the log-determinant ``[B]``, in one dense pass."""
    ordered = made.ordered(x)
    y, log_slope = walk.transformer.push(ordered, made.outputs(ordered, context))
    return made.unordered(y), log_slope.sum(0)


def pull(made: MADE, walk: DegreeWalk, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Data to noise, one degree at a time, differentiable once by the implicit gradient."""
    ordered, first_bias, skip = made.ordered(y).contiguous(), made.first_bias(context), made.folded_skip()
    weights, biases = made.folded_weights(), made.later_biases()
    if torch.compiler.is_exporting():
        # torch.export looks into an autograd.Function, and an exported program has no use for the gradient.
        first_bias, skip = first_bias.detach(), None if skip is None else skip.detach()
        weights, biases = [weight.detach() for weight in weights], [bias.detach() for bias in biases]
        x, log_slope, _, _ = walk.invert(ordered.detach(), first_bias, weights, biases, skip)
        return made.unordered(x), log_slope.sum(0)
    x, log_det = InvertByDegree.apply(walk, ordered, first_bias, skip, *weights, *biases)  # type: ignore[no-untyped-call]
    return made.unordered(x), log_det
