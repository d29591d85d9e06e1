"""Requests and answers between numpy and the wire, for both clients."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.client.errors import InvalidRequestError
from service.generated.density.v1 import density_service_pb2 as pb

FloatArray = NDArray[np.float32] | NDArray[np.float64]

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")

Calls = Generator[Request, Response, Result]
"""The calls that one question takes: yields each request, is sent its answer, returns the result."""

REQUEST_BYTES = 8 * 1024**2
"""Most bytes of rows, or of samples, in one call; what is larger is split into several."""

RESULT_BYTES = 16 * 1024**3
"""Most bytes of samples collected for one question: a count beyond it is a mistake, or wants several questions."""

FIRST_SAMPLES = 1024
"""Most samples of a first call, whose answer tells how large a sample is."""

_DTYPES: dict[int, np.dtype[np.float32] | np.dtype[np.float64]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True)
class RowError:
    """Why one row has no log-density: ``row`` counts from 0 in the rows that were given."""

    row: int
    message: str


@dataclass(frozen=True)
class Scores:
    """Log-densities ``[N]`` in nats, NaN where ``row_errors`` says why, and the version that computed them."""

    log_prob: FloatArray
    row_errors: list[RowError]
    model: str
    version: str


@dataclass(frozen=True)
class Samples:
    """Samples ``[count, *event_shape]``, their log-densities ``[count]``, and the seed that repeats them."""

    samples: FloatArray
    log_prob: FloatArray
    seed: int
    model: str
    version: str


@dataclass(frozen=True)
class VersionInfo:
    """One loaded version of a model."""

    version: str
    created: datetime
    event_shape: tuple[int, ...]
    feature_names: tuple[str, ...]
    context_names: tuple[str, ...]
    held_out_nll: float | None


@dataclass(frozen=True)
class ModelInfo:
    """A model, its loaded versions and the one that answers by default."""

    name: str
    default_version: str
    versions: tuple[VersionInfo, ...]


def score_calls(
    model: str, rows: ArrayLike, context: ArrayLike | None, version: int | str | None
) -> Calls[pb.LogProbRequest, pb.LogProbResponse, Scores]:
    """``LogProb`` calls of at most ``REQUEST_BYTES`` of rows each, all of the version that answered the first."""
    matrix, contexts = floats(rows), None if context is None else floats(context, "context")
    total = len(matrix) if matrix.ndim else 0
    step = max(1, REQUEST_BYTES // max(1, matrix[:1].nbytes)) if total else 1
    parts: list[FloatArray] = []
    errors: list[RowError] = []
    answered = version_text(version)
    # A scalar or no rows at all is one call as well: the service says what is wrong with it.
    for start in range(0, max(total, 1), step):
        part = matrix[start : start + step] if total else matrix
        request = pb.LogProbRequest(model=model, version=answered, rows=tensor_of(part))
        if contexts is not None:
            request.context.CopyFrom(tensor_of(_part_of_context(contexts, start, len(part) if total else 0, total)))
        answer = yield request
        parts.append(array_of(answer.log_prob))
        errors += [RowError(start + error.row, error.error.message) for error in answer.row_errors]
        answered = answer.version
    return Scores(_joined(parts), errors, model, answered)


def draw_calls(
    model: str, count: int, seed: int | None, context: ArrayLike | None, version: int | str | None
) -> Calls[pb.SampleRequest, pb.SampleResponse, Samples]:
    """``Sample`` calls of one seed, so that a repeated call draws the same again; sizes follow the first answer's."""
    seed, count = seed_of(seed), whole(count, "count")
    contexts = None if context is None else floats(context, "context")
    samples: list[FloatArray] = []
    log_probs: list[FloatArray] = []
    answered, start, size = version_text(version), 0, min(count, FIRST_SAMPLES)
    while True:
        request = pb.SampleRequest(
            model=model, version=answered, count=size, seed=seed, with_log_prob=True, start=start
        )
        if contexts is not None:
            request.context.CopyFrom(tensor_of(_part_of_context(contexts, start, size, count)))
        answer = yield request
        samples.append(array_of(answer.samples))
        log_probs.append(array_of(answer.log_prob))
        answered, start = answer.version, start + size
        row_bytes = samples[0][:1].nbytes
        if count * row_bytes > RESULT_BYTES:
            most = RESULT_BYTES // row_bytes
            text = f"{count} given; at most {most} samples of {model} are held in memory at once, draw them in parts"
            raise InvalidRequestError("INVALID_ARGUMENT", text, reason="INVALID_COUNT", violations={"count": text})
        if start >= count:
            return Samples(_joined(samples), _joined(log_probs), seed, model, answered)
        size = min(count - start, max(1, REQUEST_BYTES // row_bytes))


def list_calls() -> Calls[pb.ListModelsRequest, pb.ListModelsResponse, list[ModelInfo]]:
    """``ListModels`` calls, page by page."""
    found: list[ModelInfo] = []
    token = ""
    while True:
        answer = yield pb.ListModelsRequest(page_token=token)
        found += [model_info(model) for model in answer.models]
        token = answer.next_page_token
        if not token:
            return found


def _part_of_context(contexts: FloatArray, start: int, size: int, total: int) -> FloatArray:
    """The contexts of a part of the rows; a single context serves them all."""
    one_for_each = contexts.ndim > 1 and len(contexts) == total and total > 1
    return contexts[start : start + size] if one_for_each else contexts


def model_info(model: pb.Model) -> ModelInfo:
    """A model as the service describes it."""
    versions = tuple(
        VersionInfo(
            version=item.version,
            created=item.create_time.ToDatetime(),
            event_shape=tuple(item.event_shape),
            feature_names=tuple(item.feature_names),
            context_names=tuple(item.context_names),
            held_out_nll=item.held_out_nll if item.HasField("held_out_nll") else None,
        )
        for item in model.versions
    )
    return ModelInfo(model.name, model.default_version, versions)


def _joined(parts: list[FloatArray]) -> FloatArray:
    return parts[0] if len(parts) == 1 else cast(FloatArray, np.concatenate(parts))


def version_text(version: int | str | None) -> str:
    """A version as the wire writes it; empty for the default one."""
    return "" if version is None else str(version)


def floats(values: ArrayLike, field: str = "rows") -> FloatArray:
    """float32 and float64 as they are, whole numbers and lists as float64.

    Raises:
        InvalidRequestError: they are no numbers, or rows of unequal length.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise _invalid(field, "of unequal length given; an array with a number in each cell expected") from None
    if array.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        return array
    # numpy would make numbers of digits, dates and truths, and leave out imaginary parts.
    given = f"{array.dtype} given" if array.ndim else f"{str(values)[:40]!r} given"
    if array.dtype.kind not in "fiuO" or (array.dtype.kind == "O" and not array.ndim):
        raise _invalid(field, f"{given}; float32, float64 or whole numbers expected")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise _invalid(field, f"{given}; numbers expected in every cell: {error}") from None


def seed_of(seed: int | None) -> int:
    """The seed of a request; one that is drawn where none is given, whole wherever it is written as a JSON number.

    Raises:
        InvalidRequestError: it is none that the wire can carry.
    """
    return secrets.randbits(53) if seed is None else whole(seed, "seed", 0, 2**64 - 1)


def whole(value: int, field: str, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """A whole number that the wire can carry.

    Raises:
        InvalidRequestError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise _invalid(field, f"{value!r} given; a whole number expected") from None
    if not least <= number <= most:
        raise _invalid(field, f"{value} given; {least} to {most} expected")
    return number


def _invalid(field: str, text: str) -> InvalidRequestError:
    return InvalidRequestError("INVALID_ARGUMENT", f"{field}: {text}", reason="WRONG_TYPE", violations={field: text})


def tensor_of(array: FloatArray) -> pb.Tensor:
    """An array as the wire writes it."""
    kind = pb.DATA_TYPE_FLOAT32 if array.dtype.itemsize == 4 else pb.DATA_TYPE_FLOAT64
    return pb.Tensor(data_type=kind, shape=array.shape, data=array.astype(_DTYPES[kind], copy=False).tobytes())


def array_of(tensor: pb.Tensor) -> FloatArray:
    """The array of a message, as a copy that may be written to."""
    array = np.frombuffer(tensor.data, _DTYPES[tensor.data_type]).reshape(tuple(tensor.shape))
    return cast(FloatArray, array.copy())
