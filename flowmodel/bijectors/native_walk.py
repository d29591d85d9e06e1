"""The affine autoregressive layer by native code, where that is installed and agrees with torch.

:mod:`flowmodel.bijectors.autoregressive_maps` is the definition, and computes whatever is not covered: other
transformers, other devices and dtypes, ``torch.compile``, ``torch.export``, ``torch.func``, forward-mode derivatives.
The environment variable ``FLOWMODEL_NATIVE=0`` turns the native code off.

The gradient is the one of :mod:`flowmodel.bijectors.degree_walk`; in the dense direction the same sweep over the
degrees has nothing to solve for. What the masks leave out is neither multiplied nor stored. Results are the same to the
bit for the same number of threads, and those of a row whatever their number.
"""

from __future__ import annotations

import bisect
import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowmodel.bijectors import autoregressive_maps
from flowmodel.bijectors.affine_transformer import AffineTransformer
from flowmodel.bijectors.degree_walk import DegreeWalk
from flowmodel.bijectors.eager import runs_eagerly
from flowmodel.bijectors.transformer import Transformer
from flowmodel.kernel import library
from flowmodel.kernel.native_layer import LayerShape, NativeLayer
from flowmodel.parameters.dense_autoregressive import MADE

_LOG = logging.getLogger(__name__)

_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-8}
"""How far native results may be from torch's, as a share of their norm; rounding is some hundred times below."""

_ORDINARY = (Tensor, torch.nn.Parameter)

_CHECKED_ROWS = (3, 70)
"""Few rows, and more than one tile of many."""


class NativeWalk:
    """Computes a layer natively where it can; whether it agrees with torch is found at the first use in each dtype.

    Args:
        made: the network of the layer.
        transformer: its transformer.
    """

    def __init__(self, made: MADE, transformer: Transformer) -> None:
        self._shape = _shape_of(made, transformer)
        self._layers: dict[torch.dtype, NativeLayer | None] = {}

    def __reduce__(self) -> Any:
        # What a copy may use is found anew where the copy is.
        return _undecided, (self._shape,)

    def map(
        self, made: MADE, walk: DegreeWalk, solve: bool, given: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """One direction of the layer.

        Args:
            made: the network.
            walk: the walk with the transformer.
            solve: whether ``given`` is data and noise is wanted, or the other way round.
            given: ``[B, D]``.
            context: ``[B, C]``, or ``None``.

        Returns:
            What was wanted and the log-determinant ``[B]`` of the map taken, or ``None`` if torch has to compute them.
        """
        if self._shape is None or not runs_eagerly():
            return None
        parameters = _parameters(made)
        if not _plain(given, context, parameters):
            return None
        native = self._layer(given.dtype)
        if native is None:
            return None
        return _apply(native, made, walk, solve, given, context, parameters)

    def _layer(self, dtype: torch.dtype) -> NativeLayer | None:
        if dtype not in self._layers:
            usable = self._shape is not None and library.available()
            self._layers[dtype] = _agreeing(self._shape, dtype) if usable else None
        return self._layers[dtype]


class _Walk(torch.autograd.Function):
    """What the two directions share."""

    @staticmethod
    def run(
        ctx: Any,
        solve: bool,
        native: NativeLayer,
        made: MADE,
        walk: DegreeWalk,
        given: Tensor,
        context: Tensor | None,
        parameters: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        found, log_det, saved = native.forward(parameters, solve, given, context, save=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(given, context, saved, *parameters)
        ctx.native, ctx.made, ctx.walk = native, made, walk
        return found, log_det

    @staticmethod
    def run_back(ctx: Any, solve: bool, found_bar: Tensor | None, log_det_bar: Tensor | None) -> tuple[Any, ...]:
        _, _, _, wants_given, wants_context, *wants = ctx.needs_input_grad
        if found_bar is None and log_det_bar is None:
            return (None,) * (5 + len(wants))
        given, context, saved, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled() or not runs_eagerly() or _batched(found_bar) or _batched(log_det_bar):
            # A gradient to be differentiated again, or a batch of gradients: torch knows the way.
            return (None, None, None, *_torch_gradient(ctx, solve, given, context, parameters, found_bar, log_det_bar))
        given_bar, context_bar, gradients = ctx.native.backward(
            parameters,
            solve,
            context,
            saved,
            None if found_bar is None else found_bar.contiguous(),
            None if log_det_bar is None else log_det_bar.contiguous(),
            (wants_given, wants_context, any(wants)),
        )
        bars = [None] * len(wants) if gradients is None else gradients
        wanted = (bar if wish else None for bar, wish in zip(bars, wants, strict=True))
        return (None, None, None, given_bar, context_bar, *wanted)


class NativePush(_Walk):
    """Noise to data."""

    @staticmethod
    def forward(
        ctx: Any, native: NativeLayer, made: MADE, walk: DegreeWalk, x: Tensor, context: Tensor | None, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``x[B, D]``, ``context[B, C]`` and the parameters to y and the log-determinant ``[B]``."""
        return _Walk.run(ctx, False, native, made, walk, x, context, rest)

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor | None, log_det_bar: Tensor | None) -> tuple[Any, ...]:
        """The adjoints of x, of the context and of each parameter; differentiable again."""
        return _Walk.run_back(ctx, False, y_bar, log_det_bar)


class NativePull(_Walk):
    """Data to noise."""

    @staticmethod
    def forward(
        ctx: Any, native: NativeLayer, made: MADE, walk: DegreeWalk, y: Tensor, context: Tensor | None, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``y[B, D]``, ``context[B, C]`` and the parameters to x and the log-determinant ``[B]``."""
        return _Walk.run(ctx, True, native, made, walk, y, context, rest)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, x_bar: Tensor | None, log_det_bar: Tensor | None) -> tuple[Any, ...]:
        """The adjoints of y, of the context and of each parameter; first derivatives only."""
        return _Walk.run_back(ctx, True, x_bar, log_det_bar)


def _apply(
    native: NativeLayer,
    made: MADE,
    walk: DegreeWalk,
    solve: bool,
    given: Tensor,
    context: Tensor | None,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    given, context = given.contiguous(), None if context is None else context.contiguous()
    if torch.is_grad_enabled() and (
        given.requires_grad
        or (context is not None and context.requires_grad)
        or any(parameter.requires_grad for parameter in parameters)
    ):
        function = NativePull if solve else NativePush
        result: tuple[Tensor, Tensor] = function.apply(native, made, walk, given, context, *parameters)  # type: ignore[no-untyped-call]
        return result
    found, log_det, _ = native.forward(parameters, solve, given, context, save=False)
    return found, log_det


def _torch_gradient(
    ctx: Any,
    solve: bool,
    given: Tensor,
    context: Tensor | None,
    parameters: Sequence[Tensor],
    found_bar: Tensor | None,
    log_det_bar: Tensor | None,
) -> list[Tensor | None]:
    """The adjoints of what was given, of the context and of each parameter, by autograd through torch's own map."""
    wishes = [
        tensor if wish else None
        for tensor, wish in zip([given, context, *parameters], ctx.needs_input_grad[3:], strict=True)
    ]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        results = _TorchLayer(ctx.made, ctx.walk, solve).at(parameters, given, context)
        pairs = [
            (result, bar) for result, bar in zip(results, (found_bar, log_det_bar), strict=True) if bar is not None
        ]
        bars = iter(
            torch.autograd.grad(
                [result for result, _ in pairs],
                [tensor for tensor in wishes if tensor is not None],
                [bar for _, bar in pairs],
                create_graph=again,
                allow_unused=True,
            )
        )
    return [None if tensor is None else next(bars) for tensor in wishes]


def _batched(adjoint: Tensor | None) -> bool:
    """Whether it is many adjoints in one, as ``torch.autograd.grad(..., is_grads_batched=True)`` gives."""
    return adjoint is not None and torch._C._functorch.is_legacy_batchedtensor(adjoint)


def _plain(given: Tensor, context: Tensor | None, parameters: Sequence[Tensor]) -> bool:
    """Whether there are rows, and all tensors are ordinary ones in one dtype on the CPU."""
    dtype = given.dtype
    if dtype not in _TOLERANCES or given.shape[0] == 0:
        return False
    for tensor in (given, *parameters) if context is None else (given, context, *parameters):
        if type(tensor) not in _ORDINARY or not tensor.is_cpu or tensor.dtype != dtype:
            return False
    return all(parameter.is_contiguous() for parameter in parameters)


def _parameters(made: MADE) -> list[Tensor]:
    """As :class:`~flowmodel.kernel.native_layer.NativeLayer` wants them."""
    # The iterators of a ParameterList take ten times as long as a look inside, which parametrisations do not stand.
    inside = [*made.weights._parameters.values(), *made.biases._parameters.values()]
    layers: list[Tensor] = [parameter for parameter in inside if parameter is not None]
    if len(layers) != 2 * len(made.offsets) + 2:
        layers = [*made.weights, *made.biases]
    # The native code knows the masks of degrees, and not that fitted connections lead to the shifts alone.
    fitted = made.skip_weight is not None and not made.skip_weight.requires_grad
    skip = made.folded_skip() if fitted else made.skip_weight
    return [*layers, *(weight for weight in (made.context_weight, skip) if weight is not None)]


def _names(made: MADE) -> list[str]:
    """The names of :func:`_parameters`."""
    layers = range(len(made.weights))
    names = [f"weights.{layer}" for layer in layers] + [f"biases.{layer}" for layer in layers]
    rest = ("context_weight", "skip_weight")
    return names + [name for name in rest if getattr(made, name) is not None]


class _TorchLayer(torch.nn.Module):
    """One direction of a layer as a module, so that it can be called with other parameters."""

    def __init__(self, made: MADE, walk: DegreeWalk, solve: bool) -> None:
        super().__init__()
        self.made, self.walk, self.solve = made, walk, solve

    def forward(self, given: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        direction = autoregressive_maps.pull if self.solve else autoregressive_maps.push
        return direction(self.made, self.walk, given, context)

    def at(self, parameters: Sequence[Tensor], given: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        values = {f"made.{name}": value for name, value in zip(_names(self.made), parameters, strict=True)}
        result: tuple[Tensor, Tensor] = torch.func.functional_call(self, values, (given, context))
        return result


def _shape_of(made: MADE, transformer: Transformer) -> LayerShape | None:
    """What the native code has to know, or ``None`` if it does not cover the layer."""
    if type(transformer) is not AffineTransformer or type(made) is not MADE:
        return None
    return LayerShape(
        order=tuple(made.order.tolist()),
        widths=tuple(weight.shape[0] for weight in list(made.weights)[:-1]),
        offsets=tuple(tuple(layer) for layer in made.offsets),
        context_size=made.context_size,
        activation=made.nonlinearity,
        scale_fn=transformer.scale_fn,
        limits=(transformer.low, transformer.high) if transformer.clamp_values else None,
        skips=made.skip_weight is not None,
    )


def _undecided(shape: LayerShape | None) -> NativeWalk:
    walk = NativeWalk.__new__(NativeWalk)
    walk._shape, walk._layers = shape, {}
    return walk


@functools.cache
def _agreeing(shape: LayerShape, dtype: torch.dtype) -> NativeLayer | None:
    """The native layer, unless it disagrees with torch.

    Both compute a layer of that shape with weights of the check's own: the answer must not depend on how far a training
    has come, for the training resumed there has to repeat the bits of the one that went through.
    """
    native = NativeLayer(shape, dtype)
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        difference = max(_difference(native, shape, dtype, solve) for solve in (False, True))
    if difference <= _TOLERANCES[dtype]:
        return native
    _LOG.warning(
        "torch computes the autoregressive layers of %d dimensions, not the native code: their results are %.3g of "
        "their norm apart, and rounding explains %.0e",
        len(shape.order),
        difference,
        _TOLERANCES[dtype],
    )
    return None


def _difference(native: NativeLayer, shape: LayerShape, dtype: torch.dtype, solve: bool) -> float:
    """The largest distance of native results and gradients from torch's, as a share of the norm of each."""
    degrees = [
        [bisect.bisect_right(offsets, unit) for unit in range(width)]
        for offsets, width in zip(shape.offsets, shape.widths, strict=True)
    ]
    made = MADE(shape.order, degrees, shape.context_size, 2, shape.activation, shape.skips).to(dtype)
    low, high = shape.limits or (0.0, 0.0)
    walk = DegreeWalk(
        AffineTransformer(shape.scale_fn, shape.limits is not None, low, high), made.offsets, shape.activation
    )
    layer = _TorchLayer(made, walk, solve)
    parameters = _parameters(made)
    with torch.no_grad():
        for parameter in parameters:
            parameter += torch.randn_like(parameter) * 0.3 / parameter[0].numel() ** 0.5
    distances = [0.0]
    for rows in _CHECKED_ROWS:
        given = torch.randn(rows, len(shape.order), dtype=dtype, requires_grad=True)
        context = torch.randn(rows, shape.context_size, dtype=dtype, requires_grad=True) if shape.context_size else None
        leaves = [given, *parameters] if context is None else [given, context, *parameters]
        bars = [torch.randn_like(given), torch.randn(rows, dtype=dtype)]
        expected = layer.at(parameters, given, context)
        found = _apply(native, made, walk, solve, given, context, parameters)
        pairs = [*zip(found, expected, strict=True)]
        pairs += zip(*(torch.autograd.grad(results, leaves, bars) for results in (found, expected)), strict=True)
        for one, other in pairs:
            distance, norm = float((one - other).detach().norm()), float(other.detach().norm())
            distances.append(distance / norm if norm else distance)
    return float("inf") if any(distance != distance for distance in distances) else max(distances)
