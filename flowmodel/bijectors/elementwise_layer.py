"""The elementwise layer: a transformer whose learnt parameters are the same for every row."""

import copy

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, Folded
from flowmodel.bijectors.transformer import Transformer
from flowmodel.parameters.base import Parameters, as_conditioner
from flowmodel.parameters.tensor import Tensor as TensorPlan


def check_unconditional(owner: str, params_fn: Parameters | None) -> TensorPlan:
    """The plan of the parameters, the default one for ``None``.

    Raises:
        PlanError: ``params_fn`` is another plan than ``params.Tensor()``.
    """
    return as_conditioner(owner, params_fn, TensorPlan, "params.Tensor()")


class ElementwiseBijector(Bijector):
    """The layer that :class:`~flowmodel.bijectors.Affine` and :class:`~flowmodel.bijectors.Spline` build.

    Args:
        event_shape: shape of one event.
        context_shape: shape of one context; the layer takes it and does not depend on it.
        transformer: the function applied to each dimension.
        plan_name: the name of the plan.
    """

    def __init__(
        self,
        event_shape: torch.Size,
        context_shape: torch.Size | None,
        transformer: Transformer,
        plan_name: str = "Elementwise",
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.plan_name = plan_name
        self.transformer = transformer
        self.parameters_of_dims = TensorPlan().build(self.event_size, 0, transformer.params_per_dim)

    @property
    def constant_log_det(self) -> bool:
        """Whether the log-determinant is the same for every x."""
        return self.transformer.constant_log_slope

    @property
    def reads_context(self) -> bool:
        """No: a context passes it by."""
        return False

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        y, log_slope = self.transformer.push(x.T, self.parameters_of_dims.values.unsqueeze(-1))
        return y.T, log_slope.sum(0).expand(x.shape[0])

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        x, log_slope = self.transformer.pull(y.T, self.parameters_of_dims.values.unsqueeze(-1))
        return x.T, log_slope.sum(0).expand(y.shape[0])

    def fold(self) -> Folded:
        """The layer with its parameters as constants."""
        return FoldedElementwise(self.parameters_of_dims.values, self.transformer)


class FoldedElementwise(Folded):
    """The layer for TorchScript: parameters ``[D, P, 1]`` as a buffer."""

    values: Tensor

    def __init__(self, values: Tensor, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = copy.deepcopy(transformer)
        self.register_buffer("values", values.detach().clone().unsqueeze(-1))

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        y, log_slope = self.transformer.push(x.to(self.values.dtype).t(), self.values)
        return y.t(), log_slope.sum(0).expand(x.shape[0])

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        x, log_slope = self.transformer.pull(y.to(self.values.dtype).t(), self.values)
        return x.t(), log_slope.sum(0).expand(y.shape[0])
