"""A flow in native code, read out of the buffers of its exported scorer."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowmodel.kernel import library
from flowmodel.kernel.elementwise import FUNCTIONS, fixed_numbers, standardize_numbers, supports_numbers

ACTIVATIONS = ("relu", "tanh", "elu", "leaky_relu", "sigmoid", "softplus")
SCALES = ("bounded", "exp", "softplus", "sigmoid")
"""In the order of the enumerations in ``layer.hpp`` and ``transformer.hpp``."""


BASES = ("FoldedNormal", "FoldedLaplace", "FoldedStudentT", "FoldedUniform")
"""In the order of the enumeration in ``base.hpp``."""


class NotCoveredError(Exception):
    """The flow holds a part that the native code does not have; TorchScript answers in its place."""


class NativeFlow:
    """The flow of a ``scorer.pt``, on the CPU, without torch. Its methods may be called from several threads at once.

    Args:
        scorer: the TorchScript module, or the eager one that it was made from.
        instruction_set: one of :func:`flowmodel.kernel.library.available`; the fastest if absent.

    Raises:
        NotCoveredError: a part of the flow is not covered, or nothing was compiled for this processor.
    """

    def __init__(self, scorer: Any, instruction_set: str | None = None) -> None:
        names = library.available()
        if not names:
            raise NotCoveredError(f"{library.SWITCH}=0, or no native library was compiled for this processor")
        self.instruction_set = instruction_set or names[0]
        self._library = library.load(self.instruction_set)
        self._locked_library = library.load(self.instruction_set, locked=True)
        self.event_size = int(scorer.event_size)
        self.context_size = int(scorer.context_size)
        self._rows_in_float64 = bool(scorer.takes_float64)
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if scorer.like.dtype == torch.float64 else np.float32)
        handle = self._library.flow_new(int(self.dtype == np.float64), self.event_size, self.context_size)
        self._handle = ctypes.c_void_p(handle)
        weakref.finalize(self, self._library.flow_delete, ctypes.c_void_p(handle))
        if self.context_size:
            self._call("flow_standardize_context", _float64(scorer.context_location), _float64(scorer.context_scale))
        self._add(scorer.bijector, False)
        self._set_base(scorer.base)
        self._call("flow_finish", _int64(scorer.integers), int(scorer.takes_float64))

    def log_prob(
        self, rows: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1, *, locked: bool = False
    ) -> NDArray[Any]:
        """Log-density of rows, the same bits whatever they are computed beside and by however many threads.

        Args:
            rows: ``[N, D]``, float32 or float64.
            context: ``[N, C]``, or ``None``.
            threads: how many may compute in this process, all calls together; a call always has its own.
            locked: keep the interpreter lock, which is let go of otherwise.

        Returns:
            ``[N]``.
        """
        with np.errstate(over="ignore"):  # what overflows has the density of infinity, which is what torch makes of it
            rows = np.ascontiguousarray(rows, None if self._rows_in_float64 else self.dtype)
        result = np.empty(len(rows), self.dtype)
        arguments = (rows, rows.dtype == np.float64, _float64(context), len(rows), threads, result)
        self._call("flow_log_prob", *arguments, locked=locked)
        return result

    def sample(
        self, noise: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Normal ``noise[N, noise_size]`` to samples ``[N, D]`` and their log-densities ``[N]``, by so many threads."""
        rows = np.empty((len(noise), self.event_size), self.dtype)
        log_prob = np.empty(len(noise), self.dtype)
        self._call("flow_sample", _float64(noise), _float64(context), len(noise), threads, rows, log_prob)
        return rows, log_prob

    def _call(self, function: str, *arguments: Any, locked: bool = False) -> None:
        # The arrays are named here, and so live as long as the call, during which other threads may run.
        plain = [a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a for a in arguments]
        getattr(self._locked_library if locked else self._library, function)(self._handle, *plain)

    def _add(self, part: Any, inverted: bool) -> None:
        """Add a folded part, and those inside it, from noise to data."""
        kind = _kind(part)
        if kind == "FoldedCompose":
            for inner in list(part.parts.children())[:: -1 if inverted else 1]:
                self._add(inner, inverted)
        elif kind == "FoldedInvert":
            self._add(part.inner, not inverted)
        elif kind == "FoldedPermute":
            self._call("flow_permutation", _int64(part.place if inverted else part.permutation))
        elif kind == "FoldedStandardize":
            self._call("flow_columns", int(inverted), 0, float(part.log_det), *standardize_numbers(part, self.dtype))
        elif kind == "FoldedSupports":
            gives_float64 = int(part.noise_like.dtype == torch.float64)
            self._call("flow_columns", int(inverted), gives_float64, 0.0, *supports_numbers(part, self.dtype))
        elif kind in FUNCTIONS:
            numbers = fixed_numbers(part, kind, self.dtype)
            self._call("flow_fixed", int(inverted), FUNCTIONS.index(kind), *numbers)
        elif kind == "FoldedAutoregressive":
            self._add_autoregressive(part, inverted)
        elif kind == "FoldedCoupling":
            self._add_coupling(part, inverted)
        elif kind == "FoldedElementwise":
            self._call("flow_elementwise", int(inverted))
            self._set_transformer(part.transformer)
            self._call("flow_values", self._numbers(part.values))
        else:
            raise NotCoveredError(kind)

    def _add_autoregressive(self, part: Any, inverted: bool) -> None:
        network = part.network
        activation = ACTIVATIONS.index(network.nonlinearity)
        self._call("flow_autoregressive", int(inverted), 0, activation, _int64(part.order))
        self._set_transformer(part.walk.transformer)
        weights, biases = network.weights(), network.biases()
        for weight, bias, offsets in zip(weights, biases, [*part.walk.offsets, None], strict=True):
            self._add_linear(weight, bias, offsets)
        if network.has_context:
            self._call("flow_context", self._numbers(network.context_weight))
        if network.has_skip:
            self._call("flow_skip", self._numbers(network.skip_weight))

    def _add_coupling(self, part: Any, inverted: bool) -> None:
        """The autoregressive layer whose first dimensions stay, and whose units all read these and nothing else."""
        network, kept, size = part.network, int(part.split), self.event_size
        activation = ACTIVATIONS.index(network.nonlinearity)
        self._call("flow_autoregressive", int(inverted), kept, activation, np.arange(size))
        self._set_transformer(part.transformer)
        weights, biases = list(network.weights()), list(network.biases())
        no_outputs = kept * int(part.transformer.params_per_dim)
        weights[0] = torch.nn.functional.pad(weights[0], (0, size - kept))
        weights[-1] = torch.nn.functional.pad(weights[-1], (0, 0, no_outputs, 0))
        biases[-1] = torch.nn.functional.pad(biases[-1], (0, 0, no_outputs, 0))
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            self._add_linear(weight, bias, [0] * kept + [len(weight)] * (size - kept))
        self._add_linear(weights[-1], biases[-1], None)
        if network.has_context:
            self._call("flow_context", self._numbers(network.context_weight))

    def _add_linear(self, weight: torch.Tensor, bias: torch.Tensor, offsets: list[int] | None) -> None:
        places = None if offsets is None else np.asarray(offsets, np.int64)
        units, inputs = weight.shape
        self._call("flow_linear", units, inputs, self._numbers(weight), self._numbers(bias), places)

    def _set_transformer(self, transformer: Any) -> None:
        kind = _kind(transformer)
        if kind == "AffineTransformer":
            low, high = float(transformer.low), float(transformer.high)
            scale, clamps = SCALES.index(transformer.scale_fn), int(transformer.clamp_values)
            self._call("flow_affine", scale, clamps, low, high)
        elif kind == "SplineTransformer":
            bound, shift = float(transformer.bound), float(transformer.slope_shift)
            self._call("flow_spline", int(transformer.order == "linear"), int(transformer.count_bins), bound, shift)
        else:
            raise NotCoveredError(kind)

    def _set_base(self, base: Any) -> None:
        kind = _kind(base)
        if kind == "FoldedNormalMixture":
            blocks, components, _ = base.loc.shape
            numbers = [self._numbers(values) for values in (base.log_factor, base.loc, base.scale)]
            self._call("flow_mixture", blocks, components, *numbers, _float64(base.bounds))
        elif kind in BASES:
            ends = (base.low, base.high) if kind == "FoldedUniform" else (base.loc, base.scale)
            degrees = self._numbers(base.df) if kind == "FoldedStudentT" else None
            numbers = [self._numbers(values) for values in ends]
            self._call("flow_base", BASES.index(kind), *numbers, degrees, float(base.log_normaliser))
        else:
            raise NotCoveredError(f"base {kind}")

    def _numbers(self, tensor: torch.Tensor) -> NDArray[Any]:
        return np.ascontiguousarray(tensor.detach().cpu().numpy(), self.dtype)


def _kind(module: Any) -> str:
    """The class name of a module, eager or TorchScript."""
    return str(getattr(module, "original_name", type(module).__name__))


def _float64(values: Any) -> Any:
    if values is None:
        return None
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    return np.ascontiguousarray(array, np.float64)


def _int64(tensor: torch.Tensor) -> NDArray[np.int64]:
    return np.ascontiguousarray(tensor.cpu().numpy(), np.int64)
