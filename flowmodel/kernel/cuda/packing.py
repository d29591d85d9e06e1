"""The layers of a flow as the three flat arrays that the kernel reads, and the blocks of degrees it walks in.

``table`` holds whole numbers: a :data:`STEP_FIELDS` record for each layer, then whatever those point to. ``numbers``
holds in float64 what every row's log-density has in common, then the constants of the gathers. ``weights`` holds every
weight, each unit's inputs in a row that ends at a multiple of :data:`DEPTH` numbers, so that whole vectors are read.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from flowmodel.kernel.cuda.layers import FlowLayers, Gather, Layer, Route

DEPTH = 32
"""Inputs that one product takes at a time."""

MAX_UNITS = 128
"""Most hidden units of a block of degrees, unless a single degree has more."""

STEP_FIELDS = (
    "source",
    "affine",
    "solve",
    "activation",
    "scale",
    "limits",
    "hidden_layers",
    "blocks",
    "block_starts",
    "linear",
    "skip",
)
"""Of a layer: where its gather and its limits are, what it computes, and where its blocks and linear maps are."""

LINEAR_FIELDS = ("weight", "stride", "bias", "units_below", "own", "inputs", "inputs_below", "sees_own_degree")
"""Of a linear map: where its weight and bias are; where it is said how many of its units, and of its inputs, have a
degree below t; the scratch rows of its units and its inputs; and whether units read inputs of their own degree."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """One direction of a flow, ready for the kernel.

    Attributes:
        table: int32.
        numbers: float64.
        weights: float32.
        steps: number of layers.
        last: where the last gather's sources are in ``table``, and its constants in ``numbers``.
        context: where the context's location and scale are in ``numbers``.
        scratch_rows: numbers of scratch that one row of data takes.
        units: most units of a block, a power of two.
        group: how many units of a degree are computed at once, a power of two.
    """

    table: NDArray[np.int32]
    numbers: NDArray[np.float64]
    weights: NDArray[np.float32]
    steps: int
    last: tuple[int, int]
    context: int
    scratch_rows: int
    units: int
    group: int


def pack(layers: FlowLayers, route: Route, *, pull: bool) -> Packed:
    """Lay out one direction of a flow."""
    return _Packing(layers, route, pull).packed


class _Packing:
    def __init__(self, flow: FlowLayers, route: Route, pull: bool) -> None:
        steps, last = route
        self._flow, self._pull = flow, pull
        self._table = [0] * (len(steps) * len(STEP_FIELDS))
        self._numbers = [flow.constant]
        self._weights: list[NDArray[np.float32]] = []
        self._weight_count = 0
        # Scratch rows: what a layer is given, what it finds, context and x, outputs, hidden units.
        dims = flow.event_size
        self._x = 2 * dims + flow.context_size
        self._outputs = self._x + dims
        self._hidden = self._outputs + 2 * dims
        self._scratch_rows = self._hidden
        for step, (gather, layer) in enumerate(steps):
            record = self._step(gather, layer)
            self._table[step * len(STEP_FIELDS) : (step + 1) * len(STEP_FIELDS)] = [record[f] for f in STEP_FIELDS]
        last_at = self._gather(last)
        context = self._add_numbers(flow.context_location)
        self._add_numbers(1 / flow.context_scale)
        in_block = max(_most_units(layer) for _, layer in steps)
        self.packed = Packed(
            np.array(self._table, np.int32),
            np.array(self._numbers, np.float64),
            np.concatenate(self._weights),
            len(steps),
            last_at,
            context,
            self._scratch_rows,
            units=min(MAX_UNITS, max(16, 1 << (in_block - 1).bit_length())),
            group=group_size([width for _, layer in steps for width in _degree_widths(layer)]),
        )

    def _step(self, gather: Gather, layer: Layer) -> dict[str, int]:
        dims, contexts = self._flow.event_size, 0 if layer.context is None else self._flow.context_size
        source, affine = self._gather(gather)
        hidden = len(layer.offsets)
        starts = blocks_of(layer)
        weights = list(layer.weights)
        if layer.context is not None:
            weights[0] = np.concatenate([layer.context, weights[0]], axis=1)
        records: list[int] = []
        inputs, inputs_below, sees_own = self._x - contexts, self._add([contexts + t for t in range(dims + 1)]), 0
        own = self._hidden
        for weight, bias, offsets in zip(weights, layer.biases, [*layer.offsets, None], strict=True):
            below = [2 * t for t in range(dims + 1)] if offsets is None else [0, *offsets]
            at = self._outputs if offsets is None else own
            units_below = self._add(below)
            records += self._linear(weight, bias, units_below, at, inputs, inputs_below, sees_own)
            inputs, inputs_below, sees_own = at, units_below, 1
            own += len(bias)
        self._scratch_rows = max(self._scratch_rows, own - len(layer.biases[-1]))
        skip = 0
        if layer.skip is not None:
            x_below = self._add(range(dims + 1))
            nothing = np.zeros(2 * dims, np.float32)
            skip = self._add(self._linear(layer.skip, nothing, 0, self._outputs, self._x, x_below, 0))
        return {
            "source": source,
            "affine": affine,
            "solve": int(layer.solves_in_pull == self._pull),
            "activation": layer.activation,
            "scale": layer.scale,
            "limits": self._add_numbers(layer.limits),
            "hidden_layers": hidden,
            "blocks": len(starts) - 1,
            "block_starts": self._add(starts),
            "linear": self._add(records),
            "skip": skip,
        }

    def _linear(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        units_below: int,
        own: int,
        inputs: int,
        inputs_below: int,
        sees_own: int,
    ) -> list[int]:
        stride = -(-weight.shape[1] // DEPTH) * DEPTH
        padded = np.pad(weight, ((0, 0), (0, stride - weight.shape[1])))
        places = self._add_weights(padded), stride, self._add_weights(bias)
        return [*places, units_below, own, inputs, inputs_below, sees_own]

    def _gather(self, gather: Gather) -> tuple[int, int]:
        affine = self._add_numbers(np.concatenate([gather.centre, gather.scale, gather.shift]))
        return self._add(gather.source.tolist()), affine

    def _add(self, values: list[int] | range) -> int:
        self._table += values
        return len(self._table) - len(values)

    def _add_numbers(self, values: NDArray[np.float64] | tuple[float, ...]) -> int:
        self._numbers += [float(value) for value in values]
        return len(self._numbers) - len(values)

    def _add_weights(self, values: NDArray[np.float32]) -> int:
        at = self._weight_count
        count = -(-values.size // DEPTH) * DEPTH
        self._weights.append(np.pad(values.reshape(-1), (0, count - values.size)))
        self._weight_count += count
        return at


def blocks_of(layer: Layer) -> list[int]:
    """Where the blocks of degrees start, and D: each takes as many degrees as fit in :data:`MAX_UNITS` units."""
    dims = len(layer.order)
    starts = [0]
    for t in range(1, dims):
        if any(offsets[t] - _below(offsets, starts[-1]) > MAX_UNITS for offsets in layer.offsets):
            starts.append(t)
    return [*starts, dims]


def group_size(widths: list[int]) -> int:
    """How many units of a degree to compute at once, for degrees of so many.

    A product costs as much as so many units and 16 more, for what it waits whatever its size.

    Example:
        >>> [group_size(widths) for widths in ([1, 2], [16, 16, 16, 17], [24, 25], [64])]
        [16, 16, 32, 64]
    """
    return min((16, 32, 64), key=lambda size: sum(-(-width // size) * (size + 16) for width in widths))


def _most_units(layer: Layer) -> int:
    """Of a block, in any hidden layer."""
    return max(
        offsets[stop - 1] - _below(offsets, start)
        for offsets in layer.offsets
        for start, stop in itertools.pairwise(blocks_of(layer))
    )


def _degree_widths(layer: Layer) -> list[int]:
    """Units of each degree in each hidden layer."""
    return [offsets[t] - _below(offsets, t) for offsets in layer.offsets for t in range(len(layer.order))]


def _below(offsets: list[int], t: int) -> int:
    """Units of a degree below t."""
    return offsets[t - 1] if t else 0
