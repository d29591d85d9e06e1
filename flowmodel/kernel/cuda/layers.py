"""What an exported scorer computes, as autoregressive layers with a gather and a scale before each and after the last.

Permutations, orders of the autoregression, unconditional affine layers, standardisation and the base's location and
scale all move and stretch single dimensions. Between two autoregressive layers they are one :class:`Gather`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from flowmodel.kernel.native_flow import ACTIVATIONS, SCALES, NotCoveredError


@dataclasses.dataclass(frozen=True)
class Gather:
    """``out[d] = (v[source[d]] - centre[d]) * scale[d] + shift[d]``, in float64."""

    source: NDArray[np.int64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    @classmethod
    def of(cls, source: NDArray[np.int64]) -> Self:
        """A reordering alone."""
        zeros = np.zeros(len(source))
        return cls(source, zeros, zeros + 1, zeros)

    def take(self, source: NDArray[np.int64]) -> Gather:
        """This, then a reordering."""
        return Gather(*(value[source] for value in dataclasses.astuple(self)))

    def grow(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Gather:
        """This, then ``scale * v + shift``; only where nothing was shrunk before."""
        return dataclasses.replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def shrink(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Gather:
        """This, then ``(v - shift) / scale``; only where nothing was grown before.

        What is taken off comes first, so that a large location cancels before anything is rounded.
        """
        return dataclasses.replace(self, centre=self.centre + shift / self.scale, scale=self.scale / scale)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One affine autoregressive layer, its dimensions in the order of the autoregression.

    Attributes:
        solves_in_pull: whether the density solves for x; under ``Invert`` sampling does.
        order: the dimension at each place.
        activation: index into :data:`~flowmodel.kernel.native_flow.ACTIVATIONS`.
        scale: index into :data:`~flowmodel.kernel.native_flow.SCALES`.
        limits: between which the raw scale is clamped.
        weights: masked, of the hidden layers and the outputs, ``[n, m]``.
        biases: each ``[n]``.
        offsets: for each hidden layer and each t, the number of units with a degree of at most t.
        context: what the first hidden layer reads of the context, ``[H, C]``, or ``None``.
        skip: from the inputs to the outputs, ``[2 D, D]``, or ``None``.
    """

    solves_in_pull: bool
    order: NDArray[np.int64]
    activation: int
    scale: int
    limits: tuple[float, float]
    weights: list[NDArray[np.float32]]
    biases: list[NDArray[np.float32]]
    offsets: list[list[int]]
    context: NDArray[np.float32] | None
    skip: NDArray[np.float32] | None


Route = tuple[list[tuple[Gather, Layer]], Gather]
"""The layers in the order in which they are met, each after its gather; then the last gather."""


class FlowLayers:
    """The layers of a scorer.

    Args:
        scorer: the TorchScript module, or the eager one that it was made from.

    Attributes:
        event_size: D.
        context_size: C.
        takes_float64: whether data may be given in float64.
        constant: what every row's log-density has in common.

    Raises:
        NotCoveredError: a part of the flow is not covered.
    """

    def __init__(self, scorer: Any) -> None:
        base = scorer.base
        if _kind(base) != "FoldedNormal":
            raise NotCoveredError(f"base {_kind(base)}")
        if scorer.has_integers:
            raise NotCoveredError("columns of whole numbers")
        if base.scale.dtype != torch.float32:
            raise NotCoveredError(f"numbers of {base.scale.dtype}")
        self.event_size = int(scorer.event_size)
        self.context_size = int(scorer.context_size)
        self.takes_float64 = bool(scorer.takes_float64)
        self.context_location, self.context_scale = _float64(scorer.context_location), _float64(scorer.context_scale)
        self._location, self._scale = _float64(base.loc), _float64(base.scale)
        self._parts: list[NDArray[np.int64] | tuple[NDArray[np.float64], NDArray[np.float64]] | Layer] = []
        self.constant = -float(base.log_normaliser)
        self._read(scorer.bijector, False)
        if not any(isinstance(part, Layer) for part in self._parts):
            raise NotCoveredError("no autoregressive layer")

    def pull(self) -> Route:
        """From data to standardised noise."""
        steps: list[tuple[Gather, Layer]] = []
        gather = Gather.of(np.arange(self.event_size))
        for part in reversed(self._parts):
            if isinstance(part, Layer):
                steps.append((gather.take(part.order), part))
                gather = Gather.of(np.argsort(part.order))
            elif isinstance(part, tuple):
                gather = gather.shrink(*part)
            else:
                gather = gather.take(np.argsort(part))
        return steps, gather.shrink(self._scale, self._location)

    def push(self) -> Route:
        """From standard normal noise to data."""
        steps: list[tuple[Gather, Layer]] = []
        gather = Gather.of(np.arange(self.event_size)).grow(self._scale, self._location)
        for part in self._parts:
            if isinstance(part, Layer):
                steps.append((gather.take(part.order), part))
                gather = Gather.of(np.argsort(part.order))
            elif isinstance(part, tuple):
                gather = gather.grow(*part)
            else:
                gather = gather.take(part)
        return steps, gather

    def _read(self, part: Any, inverted: bool) -> None:
        """Add a folded part, and those inside it, from noise to data."""
        kind = _kind(part)
        if kind == "FoldedCompose":
            for inner in list(part.parts.children())[:: -1 if inverted else 1]:
                self._read(inner, inverted)
        elif kind == "FoldedInvert":
            self._read(part.inner, not inverted)
        elif kind == "FoldedPermute":
            self._parts.append((part.place if inverted else part.permutation).cpu().numpy())
        elif kind == "FoldedStandardize":
            self._add_affine(_float64(part.scale), _float64(part.location), inverted)
        elif kind == "FoldedElementwise" and _kind(part.transformer) == "AffineTransformer":
            values = part.values.detach().cpu()
            shift, log_scale = part.transformer.push(torch.zeros(self.event_size, 1, dtype=values.dtype), values)
            self._add_affine(np.exp(_float64(log_scale.expand_as(shift))), _float64(shift), inverted)
        elif kind == "FoldedAutoregressive" and _kind(part.walk.transformer) == "AffineTransformer":
            self._parts.append(_layer(part, inverted))
        else:
            raise NotCoveredError(f"{kind}{' inside Invert' if inverted else ''}")

    def _add_affine(self, scale: NDArray[np.float64], shift: NDArray[np.float64], inverted: bool) -> None:
        """Data are ``scale * noise + shift``, or the other way round."""
        if inverted:
            scale, shift = 1 / scale, -shift / scale
        self._parts.append((scale, shift))
        self.constant -= float(np.log(scale).sum())


def _layer(part: Any, inverted: bool) -> Layer:
    transformer, network = part.walk.transformer, part.network
    linear = list(network.layers.children())
    unlimited = (-float("inf"), float("inf"))
    return Layer(
        solves_in_pull=not inverted,
        order=part.order.cpu().numpy(),
        activation=ACTIVATIONS.index(network.nonlinearity),
        scale=SCALES.index(transformer.scale_fn),
        limits=(float(transformer.low), float(transformer.high)) if transformer.clamp_values else unlimited,
        weights=[_float32(layer.weight) for layer in linear],
        biases=[_float32(layer.bias).reshape(-1) for layer in linear],
        offsets=[[int(count) for count in of_layer] for of_layer in part.walk.offsets],
        context=_float32(network.context_weight) if network.has_context else None,
        skip=_float32(network.skip_weight) if network.has_skip else None,
    )


def _kind(module: Any) -> str:
    """The class name of a module, eager or TorchScript."""
    return str(getattr(module, "original_name", type(module).__name__))


def _float64(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().numpy().astype(np.float64).reshape(-1)


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy().astype(np.float32)
