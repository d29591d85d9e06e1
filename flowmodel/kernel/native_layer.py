"""One affine autoregressive layer in native code: both directions and their gradient, on tensors where they are."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowmodel.kernel import library
from flowmodel.kernel.native_flow import ACTIVATIONS, SCALES


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """All that the native code has to know of a layer beside its parameters.

    Args:
        order: ``order[k]`` is the dimension at place k of the autoregression.
        widths: units of each hidden layer.
        offsets: for each hidden layer and each t below D, the number of units with a degree of at most t.
        context_size: number of context values.
        activation: one of :data:`ACTIVATIONS`.
        scale_fn: one of :data:`SCALES`.
        limits: those that u is clamped to, or ``None``.
        skips: whether the outputs also read the inputs directly.
    """

    order: tuple[int, ...]
    widths: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...]
    context_size: int
    activation: str
    scale_fn: str
    limits: tuple[float, float] | None
    skips: bool


class NativeLayer:
    """The layer of one shape in one dtype, for any parameters.

    Args:
        shape: what the layer looks like.
        dtype: ``torch.float32`` or ``torch.float64``.
        instruction_set: one of :func:`flowmodel.kernel.library.available`; the fastest if absent.

    Parameters are a list: the weights ``[n, m]`` of the hidden layers and of the outputs, unmasked; the biases ``[n]``
    of the same; the context's weight ``[H, C]`` if there is a context; that of the skip connections ``[2 D, D]`` if
    there are any. Every tensor is contiguous, on the CPU and of ``dtype``. The interpreter lock is released while it
    computes, on at most ``torch.get_num_threads()`` threads.
    """

    def __init__(self, shape: LayerShape, dtype: torch.dtype, instruction_set: str | None = None) -> None:
        names = library.available()
        self._library = library.load(instruction_set or names[0])
        numbers = [int(dtype == torch.float64), len(shape.order), shape.context_size, len(shape.widths)]
        numbers += [ACTIVATIONS.index(shape.activation), SCALES.index(shape.scale_fn)]
        numbers += [int(shape.limits is not None), int(shape.skips), *shape.widths, *shape.order]
        numbers += [place for layer in shape.offsets for place in layer]
        self._shape = (ctypes.c_int64 * len(numbers))(*numbers)
        self._limits = (ctypes.c_double * 2)(*(shape.limits or (0.0, 0.0)))
        self._layers, self._context, self._skips = len(shape.widths) + 1, shape.context_size > 0, shape.skips
        self._pointers = ctypes.c_void_p * (2 * self._layers + 2)
        self._saved: tuple[int, int] = (-1, 0)

    def forward(
        self, parameters: Sequence[Tensor], solve: bool, given: Tensor, context: Tensor | None, save: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Either direction of the layer.

        Args:
            parameters: as above.
            solve: whether ``given`` is y, the data, and x is wanted; or the other way round.
            given: ``[B, D]``.
            context: ``[B, C]``, or ``None``.
            save: whether :meth:`backward` will be called.

        Returns:
            The other one of x and y; the log-determinant ``[B]`` of the map taken; and what :meth:`backward` needs.

        Raises:
            MemoryError: there is not enough memory.
        """
        rows = given.shape[0]
        found, log_det, saved = torch.empty_like(given), given.new_empty(rows), None
        if save:
            if self._saved[0] != rows:
                self._saved = rows, self._library.layer_saved_size(self._shape, rows)
            saved = given.new_empty(self._saved[1])
        self._check(
            self._library.layer_forward(
                self._shape,
                self._limits,
                self._addresses(parameters),
                solve,
                given.data_ptr(),
                None if context is None else context.data_ptr(),
                rows,
                torch.get_num_threads(),
                found.data_ptr(),
                log_det.data_ptr(),
                None if saved is None else saved.data_ptr(),
            )
        )
        return found, log_det, saved

    def backward(
        self,
        parameters: Sequence[Tensor],
        solve: bool,
        context: Tensor | None,
        saved: Tensor,
        found_bar: Tensor | None,
        log_det_bar: Tensor | None,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
        """The adjoints of what :meth:`forward` was given.

        Args:
            parameters: as they were; with ``solve``, ``context`` and ``saved`` of that call.
            solve: as above.
            context: as above.
            saved: as above.
            found_bar: adjoint ``[B, D]`` of what was found; ``None`` for zero.
            log_det_bar: adjoint ``[B]`` of the log-determinant; ``None`` for zero.
            wanted: whether the adjoints of ``given``, of ``context`` and of the parameters are wanted.

        Returns:
            These three, ``None`` where not wanted.

        Raises:
            MemoryError: there is not enough memory.
        """
        adjoint = found_bar if found_bar is not None else log_det_bar
        if adjoint is None:
            return None, None, None
        rows = adjoint.shape[0]
        given_bar = adjoint.new_empty(rows, self._shape[1]) if wanted[0] else None
        context_bar = adjoint.new_empty(context.shape) if wanted[1] and context is not None else None
        gradients = [torch.empty_like(parameter) for parameter in parameters] if wanted[2] else None
        self._check(
            self._library.layer_backward(
                self._shape,
                self._limits,
                self._addresses(parameters),
                solve,
                None if context is None else context.data_ptr(),
                saved.data_ptr(),
                rows,
                torch.get_num_threads(),
                None if found_bar is None else found_bar.data_ptr(),
                None if log_det_bar is None else log_det_bar.data_ptr(),
                None if given_bar is None else given_bar.data_ptr(),
                None if context_bar is None else context_bar.data_ptr(),
                None if gradients is None else self._addresses(gradients),
            )
        )
        return given_bar, context_bar, gradients

    def _addresses(self, tensors: Sequence[Tensor]) -> Any:
        addresses = [tensor.data_ptr() for tensor in tensors]
        if self._skips and not self._context:
            addresses.insert(2 * self._layers, 0)
        return self._pointers(*addresses)

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise MemoryError("not enough memory for an autoregressive layer and its gradient; give fewer rows at once")
