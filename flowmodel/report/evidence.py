"""What a report is drawn from: held-out rows, and what the flow says of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from flowmodel.distributions import Flow
from flowmodel.errors import ShapeMismatchError
from flowmodel.report.drawing import short

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]
Rows = npt.ArrayLike | torch.Tensor

_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows and their log-densities.

    Args:
        rows: ``[N, D]``.
        context: ``[N, C]`` for a conditional flow.
        log_prob: ``[N]`` in nats; -inf outside the supports, NaN where a value is missing.
    """

    rows: Matrix
    context: Matrix | None
    log_prob: Vector

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Which rows are finite and have a finite log-density."""
        return np.isfinite(self.log_prob) & np.isfinite(self.rows).all(1)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything measured.

    Args:
        model: The flow, called with arrays.
        names: Of the D features.
        context_names: Of the C context values.
        held_out: Rows the flow was not trained on.
        row_numbers: ``[N]``, what the held-out rows are called.
        counted: Whether these are their places among the held-out rows.
        training: Rows it was trained on, if there are any to compare with.
        samples: Rows drawn from the flow, for the contexts of held-out rows where it takes any.
    """

    model: Model
    names: Sequence[str]
    context_names: Sequence[str]
    held_out: Part
    row_numbers: npt.NDArray[np.int64]
    counted: bool
    training: Part | None
    samples: Part

    @property
    def parts(self) -> dict[str, Part]:
        """The sets of rows by name, in the order in which they are drawn."""
        training = {} if self.training is None else {"training": self.training}
        return {"held-out": self.held_out, **training, "samples": self.samples}

    @property
    def reference(self) -> Matrix:
        """Rows that show what is usual: those trained on, else those held out; finite ones only."""
        part = self.training if self.training is not None else self.held_out
        rows = part.rows[part.scored]
        return rows if len(rows) else part.rows[np.isfinite(part.rows).all(1)]

    def value_text(self, column: int, value: float) -> str:
        """A value of a column, to a thousandth of what is usual for its spread."""
        return short(value, self._steps[column] or None)

    @cached_property
    def _steps(self) -> list[float]:
        reference = self.reference
        if len(reference) < 2:
            return [0.0] * len(self.names)
        spread = np.quantile(reference, 0.95, axis=0) - np.quantile(reference, 0.05, axis=0)
        return [float(step) for step in spread / 100]


class Model:
    """A flow called with arrays ``[N, D]``, batch by batch, on its device and in its dtype.

    Raises:
        ShapeMismatchError: The flow has a batch shape, and so is several densities.
    """

    def __init__(self, flow: Flow) -> None:
        if tuple(flow.batch_shape):
            raise ShapeMismatchError(
                f"report: a flow of batch shape {tuple(flow.batch_shape)} given, which is several densities; give one "
                "of batch shape (), with the contexts as context="
            )
        # A copy over the same weights that answers -inf outside the supports, where an error would end the report.
        self.flow = copy.copy(flow)
        self.flow._validate_args = False
        self.size = flow.bijector.event_size
        self.context_size = 0 if flow.context_shape is None else flow.bijector.context_size

    @property
    def device(self) -> torch.device:
        """Where the flow is."""
        return self.flow.context_location.device

    def rows(self, values: Rows, what: str) -> Matrix:
        """Rows of any event shape as ``[N, D]``."""
        return self._matrix(values, self.size, what)

    def contexts(self, values: Rows | None, count: int, what: str) -> Matrix | None:
        """Contexts as ``[N, C]``, one for each row; one alone stands for all."""
        if values is None:
            if self.context_size and self.flow.conditioned_on is None:
                raise ShapeMismatchError(
                    f"report: the flow takes a context and {what} is missing; give one for each row"
                )
            return None
        contexts = self._matrix(values, self.context_size, what)
        if len(contexts) not in (1, count):
            raise ShapeMismatchError(f"report: {what} has {len(contexts)} rows; expected {count}, one for each row")
        return np.repeat(contexts, count, axis=0) if len(contexts) != count else contexts

    def part(self, rows: Matrix, context: Matrix | None) -> Part:
        """Rows with their log-densities."""
        return Part(rows, context, self.log_prob(rows, context))

    @torch.no_grad()
    def log_prob(self, rows: Matrix, context: Matrix | None) -> Vector:
        """Log-densities ``[N]``."""
        pieces = [np.zeros(0)]
        for start in range(0, len(rows), _AT_ONCE):
            value, given = self._tensors(rows, context, slice(start, start + _AT_ONCE))
            pieces.append(self.flow.log_prob(value, given).double().cpu().numpy())
        return np.concatenate(pieces)

    @torch.no_grad()
    def noise(self, rows: Matrix, context: Matrix | None) -> Matrix:
        """Rows taken to the noise ``[N, D]``, whole numbers spread over their cells as in training."""
        generator = torch.Generator().manual_seed(0)
        pieces = [np.zeros((0, self.size))]
        for start in range(0, len(rows), _AT_ONCE):
            value, given = self._tensors(rows, context, slice(start, start + _AT_ONCE))
            flat = self.flow.bijector.jitter(value.reshape(len(value), -1), generator)
            pieces.append(
                self.flow.normalize(flat.reshape(value.shape), given).double().cpu().numpy().reshape(flat.shape)
            )
        return np.concatenate(pieces)

    def samples(self, count: int, context: Matrix | None, seed: int) -> Matrix:
        """Rows ``[count, D]`` drawn from the flow; torch's global generator is left as it is."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            given = None if context is None else self._given(context)
            drawn = self.flow.sample((count,), given)
        return drawn.double().cpu().numpy().reshape(count, self.size)

    def _tensors(self, rows: Matrix, context: Matrix | None, piece: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        value = torch.as_tensor(rows[piece], dtype=self.flow.data_dtype, device=self.device)
        given = None if context is None else self._given(context[piece])
        return value.reshape(-1, *self.flow.event_shape), given

    def _given(self, context: Matrix) -> torch.Tensor:
        return torch.as_tensor(context, device=self.device).reshape(-1, *(self.flow.context_shape or ()))

    def _matrix(self, values: Rows, width: int, what: str) -> Matrix:
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        size = array.size // max(len(array), 1) if array.ndim else 0
        if array.ndim < 1 or (len(array) and size != width) or not width:
            raise ShapeMismatchError(
                f"report: {what} of shape {array.shape} given; expected rows of {width} "
                f"{'value' if width == 1 else 'values'} each"
            )
        return np.ascontiguousarray(array.reshape(len(array), width), dtype=np.float64)


def gather(
    flow: Flow,
    rows: Rows,
    *,
    context: Rows | None = None,
    training_rows: Rows | None = None,
    training_context: Rows | None = None,
    samples: int = 4000,
    feature_names: Sequence[str] | None = None,
    context_names: Sequence[str] | None = None,
    row_numbers: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Evidence:
    """Measure a flow on held-out rows; arguments as of :func:`~flowmodel.report.report_of`."""
    model = Model(flow)
    held_out = model.rows(rows, "rows")
    given = model.contexts(context, len(held_out), "context")
    training = None
    if training_rows is not None:
        trained_on = model.rows(training_rows, "training_rows")
        training = model.part(trained_on, model.contexts(training_context, len(trained_on), "training_context"))
    for_samples = None
    if given is not None:
        finite = given[np.isfinite(given).all(1)]
        # Every context as often as every other, as far as whole numbers allow.
        for_samples = np.resize(finite, (samples if len(finite) else 0, given.shape[1]))
        samples = len(for_samples)
    drawn = model.samples(samples, for_samples, seed)
    return Evidence(
        model=model,
        names=_names(feature_names, model.size, "x", "feature_names"),
        context_names=_names(context_names, model.context_size, "c", "context_names"),
        held_out=model.part(held_out, given),
        row_numbers=np.arange(1, len(held_out) + 1) if row_numbers is None else _numbers(row_numbers, len(held_out)),
        counted=row_numbers is None,
        training=training,
        samples=model.part(drawn, for_samples),
    )


def _names(given: Sequence[str] | None, size: int, letter: str, what: str) -> list[str]:
    names = [f"{letter}{place}" for place in range(size)] if given is None else [str(name) for name in given]
    if len(names) != size:
        raise ShapeMismatchError(f"report: {len(names)} {what} given; expected {size}")
    return names


def _numbers(given: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    numbers = np.asarray(given, dtype=np.int64).ravel()
    if len(numbers) != count:
        raise ShapeMismatchError(f"report: {len(numbers)} row_numbers given for {count} rows")
    return numbers
