r"""MADE: a masked network whose output for dimension i reads only the dimensions before it.

Every unit carries a *degree*. Inputs have degrees 1 to D in the order of the autoregression, hidden units degrees 0 to
D - 1 in even shares, and the outputs of dimension i read hidden units of degree below i. A hidden unit of degree m
reads inputs and hidden units of degree at most m (Germain et al. 2015, arXiv:1502.03509). Units of degree 0 read the
context alone, so that already the first dimension depends on it. Without a context they are constants, and still earn
their place: the first dimension, which otherwise had nothing but its bias, learns as fast as the others.

Hidden units are kept sorted by degree. That makes "all units of degree at most t" a prefix, which is what lets
:mod:`flowmodel.bijectors.degree_walk` invert the network by one degree at a time.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal

import torch

from flowmodel.errors import PlanError, ShapeMismatchError
from flowmodel.parameters.activations import activation_name
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.network import dense_pass


@dataclasses.dataclass(frozen=True)
class DenseAutoregressive(Parameters):
    """Plan of a dense autoregressive network (MADE).

    Args:
        hidden_dims: width of each hidden layer; ``None`` takes two layers of :func:`default_width` units.
        nonlinearity: one of :data:`~flowmodel.parameters.activations.ACTIVATIONS`, or a class of torch such as
            ``torch.nn.ReLU``, which is noted by its name.
        permutation: ``permutation[k]`` is the dimension that comes at place ``k`` of the autoregression; ``None``
            keeps the order of the columns.
        skip_connections: let the outputs also read the inputs directly, by a linear map. If ``"fitted"``, only the
            first output of each dimension, the shift of an affine layer, reads them, by weights that no step of
            training moves: they are 0 unless ``fit`` finds the Normal that they can make to do best on rows held out.

    Raises:
        PlanError: a width is not a positive whole number, the activation is unknown, or the permutation is none.

    Example:
        >>> import flowmodel.parameters as params
        >>> params.DenseAutoregressive(hidden_dims=(64, 64))
        DenseAutoregressive(hidden_dims=(64, 64), nonlinearity='relu', permutation=None, skip_connections=False)
    """

    hidden_dims: tuple[int, ...] | None = None
    nonlinearity: str | type[torch.nn.Module] = "relu"
    permutation: tuple[int, ...] | None = None
    skip_connections: bool | Literal["fitted"] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", check_hidden_dims("DenseAutoregressive", self.hidden_dims))
        object.__setattr__(self, "nonlinearity", activation_name("DenseAutoregressive", self.nonlinearity))
        if self.permutation is not None:
            object.__setattr__(self, "permutation", check_permutation("DenseAutoregressive", self.permutation))
        if not isinstance(self.skip_connections, bool) and self.skip_connections != "fitted":
            raise PlanError(
                f"DenseAutoregressive: skip_connections={self.skip_connections!r} given; expected True, False or "
                "'fitted'"
            )

    def build(self, event_size: int, context_size: int, params_per_dim: int) -> MADE:
        """The network for ``event_size`` dimensions.

        Raises:
            ShapeMismatchError: a hidden layer is too narrow to hold every degree, or the permutation is of
                another size.
        """
        width = default_width(event_size)
        hidden_dims = self.hidden_dims or (width, width)
        for place, hidden in enumerate(hidden_dims):
            if hidden < event_size:
                raise ShapeMismatchError(
                    f"DenseAutoregressive: hidden_dims[{place}]={hidden} units cannot carry the {event_size} degrees "
                    f"that an event of {event_size} dimensions needs: the last dimensions would not see those before "
                    f"them. Give at least {event_size} units or leave hidden_dims=None"
                )
        if self.permutation is not None and len(self.permutation) != event_size:
            raise ShapeMismatchError(
                f"DenseAutoregressive: permutation of {len(self.permutation)} places given for an event of "
                f"{event_size} dimensions; give one place for each dimension"
            )
        order = self.permutation or tuple(range(event_size))
        degrees = [hidden_degrees(hidden, event_size) for hidden in hidden_dims]
        name = activation_name("DenseAutoregressive", self.nonlinearity)
        return MADE(order, degrees, context_size, params_per_dim, name, self.skip_connections)


def default_width(event_size: int) -> int:
    """Hidden units taken for D dimensions: 8 for each, at least 64, past 512 only as many as 2 for each need.

    Example:
        >>> [default_width(d) for d in (1, 2, 21, 63, 784)]
        [64, 64, 192, 512, 1568]
    """
    wanted = max(64, min(8 * event_size, 512), 2 * event_size)
    return 32 * math.ceil(wanted / 32)


def hidden_degrees(units: int, event_size: int) -> list[int]:
    """Degrees of ``units`` hidden units, sorted, each degree of 0 to D - 1 in an even share.

    Example:
        >>> hidden_degrees(5, 3)
        [0, 0, 1, 1, 2]
    """
    return [unit * event_size // units for unit in range(units)]


def check_hidden_dims(owner: str, hidden_dims: Sequence[int] | None) -> tuple[int, ...] | None:
    """The widths as a tuple.

    Raises:
        PlanError: there is none, or one is not a whole number above 0.
    """
    if hidden_dims is None:
        return None
    widths = _whole_numbers(hidden_dims)
    if not widths or min(widths) < 1:
        raise PlanError(
            f"{owner}: hidden_dims={hidden_dims!r} given; expected one or more whole numbers above 0, such as (64, 64)"
        )
    return widths


def check_permutation(owner: str, permutation: Any) -> tuple[int, ...]:
    """The permutation as a tuple; FlowTorch's programs give a ``torch.LongTensor``.

    Raises:
        PlanError: it does not hold each of 0 to n - 1 once.
    """
    places = _whole_numbers(permutation)
    if not places or sorted(places) != list(range(len(places))):
        most = f"{len(permutation) - 1}" if hasattr(permutation, "__len__") and len(permutation) > 1 else "D - 1"
        raise PlanError(
            f"{owner}: permutation={permutation!r} given; expected each whole number from 0 to {most} once, such as "
            "(2, 0, 1) for three dimensions"
        )
    return places


def _whole_numbers(given: Any) -> tuple[int, ...]:
    """The numbers of a sequence; none if it holds something else."""
    try:
        return () if any(isinstance(number, bool) for number in given) else tuple(map(operator.index, given))
    except TypeError:
        return ()


class MADE(torch.nn.Module):
    """The masked network: ``x[B, D]``, ``context[B, C]`` to ``[B, D, P]``.

    Weights are held for inputs in the order of the autoregression; ``order`` brings columns into it. The rows of the
    output weight are grouped by dimension: row ``i * P + p`` is parameter ``p`` of the dimension at place ``i``.

    Args:
        order: ``order[k]`` is the dimension at place ``k`` of the autoregression.
        degrees: the sorted degrees of the units of each hidden layer.
        context_size: number of context values, 0 for none.
        params_per_dim: P.
        nonlinearity: name of the activation.
        skip_connections: which outputs also read the inputs directly.
    """

    order: torch.Tensor
    skip_mask: torch.Tensor

    def __init__(
        self,
        order: tuple[int, ...],
        degrees: list[list[int]],
        context_size: int,
        params_per_dim: int,
        nonlinearity: str,
        skip_connections: bool | Literal["fitted"] = False,
    ) -> None:
        super().__init__()
        event_size = len(order)
        self.event_size = event_size
        self.context_size = context_size
        self.params_per_dim = params_per_dim
        self.nonlinearity = nonlinearity
        self.natural_order = list(order) == list(range(event_size))
        # offsets[l][t]: how many units of hidden layer l have a degree of at most t.
        self.offsets = [[bisect.bisect_right(layer, t) for t in range(event_size)] for layer in degrees]
        self.register_buffer("order", torch.tensor(order))

        inputs = list(range(1, event_size + 1))
        masks = [_mask(above, below, strict=False) for below, above in itertools.pairwise([inputs, *degrees])]
        outputs = [place for place in inputs for _ in range(params_per_dim)]
        masks.append(_mask(outputs, degrees[-1], strict=True))
        for layer, mask in enumerate(masks):
            self.register_buffer(f"mask_{layer}", mask, persistent=False)
        self.weights = torch.nn.ParameterList([_masked_uniform(mask) for mask in masks[:-1]])
        self.weights.append(torch.zeros_like(masks[-1]))
        self.biases = torch.nn.ParameterList([_bias(mask) for mask in masks[:-1]])
        self.biases.append(torch.zeros(event_size * params_per_dim))
        self.context_weight = (
            torch.nn.Parameter(_masked_uniform(torch.ones(len(degrees[0]), context_size))) if context_size else None
        )
        self.skip_weight: torch.nn.Parameter | None = None
        if skip_connections:
            skip_mask = _mask(outputs, inputs, strict=True)
            if skip_connections == "fitted":
                skip_mask[torch.arange(len(outputs)) % params_per_dim != 0] = 0
            self.register_buffer("skip_mask", skip_mask, persistent=False)
            trained = skip_connections != "fitted"
            self.skip_weight = torch.nn.Parameter(torch.zeros_like(skip_mask), requires_grad=trained)

    @property
    def permutation(self) -> torch.Tensor:
        """``order``, under FlowTorch's name."""
        return self.order

    def masks(self) -> list[torch.Tensor]:
        """The masks, one for each weight: 1 where a unit may read another, else 0."""
        return [getattr(self, f"mask_{layer}") for layer in range(len(self.weights))]

    def folded_weights(self) -> list[torch.Tensor]:
        """The weights with their masks multiplied in, as the network uses them."""
        return [weight * mask for weight, mask in zip(self.weights, self.masks(), strict=True)]

    def folded_skip(self) -> torch.Tensor | None:
        """The weight of the skip connections with its mask multiplied in, ``[D P, D]``, or ``None``."""
        return None if self.skip_weight is None else self.skip_weight * self.skip_mask

    def first_bias(self, context: torch.Tensor | None) -> torch.Tensor:
        """What the first hidden layer adds to its inputs' part: ``[H, 1]``, or ``[H, B]`` with a context."""
        bias: torch.Tensor = self.biases[0][:, None]
        if self.context_weight is None or context is None:
            return bias
        return torch.addmm(bias, self.context_weight, context.T)

    def later_biases(self) -> list[torch.Tensor]:
        """The biases of all layers but the first, each ``[n, 1]``."""
        return [bias[:, None] for bias in list(self.biases)[1:]]

    def ordered(self, x: torch.Tensor) -> torch.Tensor:
        """Rows ``x[B, D]`` as ``[D, B]`` in the order of the autoregression."""
        return x.T if self.natural_order else x.T.index_select(0, self.order)

    def unordered(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`ordered`."""
        return x.T if self.natural_order else x.index_select(0, torch.argsort(self.order)).T

    def outputs(self, ordered: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """The parameters for ``ordered[D, B]`` in one dense pass: ``[D, P, B]``, in the order of the autoregression."""
        out = dense_pass(
            ordered,
            self.first_bias(context),
            self.folded_weights(),
            self.later_biases(),
            self.folded_skip(),
            self.nonlinearity,
        )
        return out.view(self.event_size, self.params_per_dim, -1)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """The parameters of all dimensions in one dense pass: ``[B, D, P]``, in the order of the columns."""
        out = self.outputs(self.ordered(x), context)
        out = out if self.natural_order else out.index_select(0, torch.argsort(self.order))
        return out.permute(2, 0, 1)


def _mask(above: list[int], below: list[int], *, strict: bool) -> torch.Tensor:
    reads, read = torch.tensor(above)[:, None], torch.tensor(below)[None, :]
    return ((reads > read) if strict else (reads >= read)).to(torch.get_default_dtype())


def _masked_uniform(mask: torch.Tensor) -> torch.Tensor:
    """Weights of variance 1/(3 n), n counting the inputs that a unit may read, as ``torch.nn.Linear`` draws them."""
    fan_in = mask.sum(1, keepdim=True).clamp(min=1)
    return (torch.rand_like(mask) * 2 - 1) / fan_in.sqrt()


def _bias(mask: torch.Tensor) -> torch.Tensor:
    fan_in = mask.sum(1).clamp(min=1)
    return (torch.rand_like(fan_in) * 2 - 1) / fan_in.sqrt()
