"""Parameters that depend on nothing: one learnable number each."""

from __future__ import annotations

import dataclasses

import torch

from flowmodel.errors import ShapeMismatchError
from flowmodel.parameters.base import Parameters


@dataclasses.dataclass(frozen=True)
class Tensor(Parameters):
    """Plan of unconditional parameters, the conditioner of elementwise bijectors.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.parameters as params
        >>> affine = bij.Affine(params.Tensor())(shape=torch.Size([3]))
        >>> affine(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def build(self, event_size: int, context_size: int, params_per_dim: int) -> ParameterTensor:
        """The module that holds ``[D, P]`` learnable numbers.

        Raises:
            ShapeMismatchError: a context was declared, which bare parameters would silently ignore.
        """
        if context_size:
            raise ShapeMismatchError(
                f"params.Tensor cannot depend on a context, and a context of {context_size} values was declared; "
                "use params.DenseAutoregressive in a part that shall read the context"
            )
        return ParameterTensor(event_size, params_per_dim)


class ParameterTensor(torch.nn.Module):
    """``[D, P]`` learnable numbers, the same for every row."""

    def __init__(self, event_size: int, params_per_dim: int) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(event_size, params_per_dim))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """The parameters, repeated for each of the B rows of ``x[B, D]``: ``[B, D, P]``."""
        return self.values.expand(x.shape[0], -1, -1)
