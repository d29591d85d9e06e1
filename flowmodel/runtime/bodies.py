"""What a request and its answer look like: envelopes from a gateway; JSON, CSV and raw floats from curl."""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .envelope import EnvelopeError, pack, unpack
from .noise import MAX_SEED, Draw
from .scoring import Scorer, ScoringError

MAX_ANSWER_BYTES = 6_500_000
"""TorchServe kills a worker whose answer is longer than its ``max_response_size``, 6,553,500 unless configured."""

ENVELOPE_TYPE = "application/x-flowmodel-envelope"
JSON_TYPE = "application/json"
CSV_TYPE = "text/csv"
RAW_TYPE = "application/octet-stream"


class Task(NamedTuple):
    """What one request wants computed: densities of ``rows``, or samples for ``draws``."""

    rows: NDArray[Any] | None
    draws: tuple[Draw, ...]
    context: NDArray[Any] | None

    @property
    def size(self) -> int:
        """How many rows come back."""
        return sum(draw.count for draw in self.draws) if self.rows is None else len(self.rows)


class Result(NamedTuple):
    """What came out for one task; ``samples`` is None for densities."""

    log_prob: NDArray[Any]
    samples: NDArray[Any] | None


class Fault(NamedTuple):
    """What is wrong with one request: ``INVALID_ARGUMENT`` or ``INTERNAL``, and the particulars."""

    code: str
    reason: str
    field: str
    message: str

    def answer(self, item: dict[str, Any]) -> tuple[bytes, str]:
        """The answer's bytes and content type: an envelope for an envelope, JSON for all else."""
        if "envelope" in item:
            return pack({"status": "error", **self._asdict()}, {}), ENVELOPE_TYPE
        return json.dumps({"error": self._asdict()}).encode(), JSON_TYPE


class Body(Protocol):
    """A request as it came in, and the way to answer it in kind."""

    content_type: str
    """Of the answer."""

    task: Task
    """What is to be computed; checked for everything but the shapes, which the scorer checks."""

    def answer(self, result: Result) -> bytes:
        """The answer's bytes."""
        ...


def read_body(item: dict[str, Any], content_type: str, scorer: Scorer, model: str, version: str) -> Body:
    """Understand one request as TorchServe hands it over.

    Args:
        item: its parameters by name; a gateway sends ``envelope``, a curl call ``body``.
        content_type: of the body.
        scorer: the model it is for.
        model: name to answer with.
        version: version to answer with.

    Raises:
        ScoringError: it cannot be understood.
    """
    if "envelope" in item:
        return EnvelopeBody(item["envelope"])
    body = item.get("body", item.get("data"))
    if isinstance(body, (dict, list)):
        return JsonBody(body, scorer, model, version)
    if body is None or not len(body):
        raise ScoringError("EMPTY_BODY", "body", "the body is empty; send rows as JSON, CSV or float32")
    if content_type == JSON_TYPE:
        return JsonBody(_parse_json(body), scorer, model, version)
    if content_type == RAW_TYPE:
        return RawBody(body, scorer)
    if content_type.startswith("text/"):
        return CsvBody(body if isinstance(body, str) else _decode(body), scorer)
    raise ScoringError(
        "UNKNOWN_CONTENT_TYPE",
        "body",
        f"content type {content_type or 'missing'!r}; expected {JSON_TYPE}, {CSV_TYPE} or {RAW_TYPE}",
    )


class EnvelopeBody:
    """Binary, from a gateway; answered in an envelope."""

    content_type = ENVELOPE_TYPE

    def __init__(self, data: bytes | bytearray) -> None:
        try:
            header, arrays = unpack(data)
        except EnvelopeError as error:
            raise ScoringError("BAD_ENVELOPE", "envelope", str(error)) from None
        op, context = header.get("op"), arrays.get("context")
        if op == "log_prob" and "rows" in arrays:
            self.task = Task(arrays["rows"], (), context)
        elif op == "sample":
            self.task = Task(None, _draws(header.get("draws")), context)
        else:
            message = f"op {op!r} with arrays {sorted(arrays)}; expected log_prob with rows, or sample with draws"
            raise ScoringError("BAD_ENVELOPE", "envelope", message)

    def answer(self, result: Result) -> bytes:
        """An envelope with ``log_prob`` and, for samples, ``samples``."""
        arrays = {"log_prob": result.log_prob}
        if result.samples is not None:
            arrays["samples"] = result.samples
        return pack({"status": "ok"}, arrays)


class JsonBody:
    """``{"rows": [[...]], "context": [[...]]}`` for densities, ``{"count": 5, "seed": 1}`` for samples."""

    content_type = JSON_TYPE

    def __init__(self, body: Any, scorer: Scorer, model: str, version: str) -> None:
        self._start = f'{{"model":{json.dumps(model)},"version":{json.dumps(version)}'
        body = {"rows": body} if isinstance(body, list) else body
        context = body.get("context")
        self.task = Task(None, (), None if context is None else _matrix("context", context, scorer.context_size))
        if "rows" in body:
            self.task = self.task._replace(rows=_matrix("rows", body["rows"], scorer.event_size))
        elif "count" in body:
            seed = body["seed"] if body.get("seed") is not None else secrets.randbits(53)
            # ProtoJSON writes 64-bit integers as strings, so both are read.
            seed = int(seed) if isinstance(seed, str) and seed.isdecimal() else seed
            self.task = self.task._replace(draws=_draws([[seed, 0, body["count"]]]))
        else:
            message = f"the body has the keys {sorted(map(str, body))}; expected rows, or count and seed"
            raise ScoringError("MISSING_FIELD", "rows", message)

    def answer(self, result: Result) -> bytes:
        """Strict JSON: NaN and the infinities are strings, as in ProtoJSON."""
        parts = [self._start]
        if result.samples is not None:
            rows = ",".join(f"[{_json_numbers(row)}]" for row in result.samples)
            parts.append(f'"seed":{self.task.draws[0].seed},"samples":[{rows}]')
        parts.append(f'"log_prob":[{_json_numbers(result.log_prob)}]')
        if self.task.rows is not None and not (finite := finite_rows(self.task)).all():
            message = "the row holds a value that is not finite"
            errors = [{"row": int(row), "reason": "NOT_FINITE", "message": message} for row in np.flatnonzero(~finite)]
            parts.append(f'"row_errors":{json.dumps(errors)}')
        return (",".join(parts) + "}").encode()


class CsvBody:
    """Rows as text, with a header of feature and context names in any order, or without one in the model's order."""

    content_type = CSV_TYPE

    def __init__(self, text: str, scorer: Scorer) -> None:
        names = scorer.feature_names + scorer.context_names
        lines = [(number, cells) for number, cells in enumerate(csv.reader(io.StringIO(text)), start=1) if cells]
        columns, width = list(range(len(names))), len(names)
        if lines and not all(_is_number(cell) for cell in lines[0][1]):
            header = [cell.strip() for cell in lines.pop(0)[1]]
            missing = [name for name in names if name not in header]
            if missing:
                message = f"the header has no column {', '.join(missing)}; it has {', '.join(header)}"
                raise ScoringError("MISSING_COLUMN", "rows", message)
            columns, width = [header.index(name) for name in names], len(header)
        if not lines:
            raise ScoringError("EMPTY_BODY", "rows", "there are no rows; expected at least one")
        table = np.array([_csv_row(number, cells, columns, width) for number, cells in lines])
        self.task = _split_columns(table, scorer)

    def answer(self, result: Result) -> bytes:
        """One column, ``log_prob``."""
        return "\n".join(["log_prob", *map(_text, result.log_prob), ""]).encode()


class RawBody:
    """Little-endian float32, row after row: the D features, then the C context values of a conditional model."""

    content_type = RAW_TYPE

    def __init__(self, data: bytes | bytearray, scorer: Scorer) -> None:
        width = scorer.event_size + scorer.context_size
        if len(data) % (4 * width):
            message = f"{len(data)} bytes; expected whole rows of {width} float32 values, {4 * width} bytes each"
            raise ScoringError("TRUNCATED_DATA", "rows", message)
        self.task = _split_columns(np.frombuffer(data, "<f4").reshape(-1, width), scorer)

    def answer(self, result: Result) -> bytes:
        """Little-endian float32, one for each row."""
        return result.log_prob.astype("<f4").tobytes()


def finite_rows(task: Task) -> NDArray[np.bool_]:
    """Which rows hold finite values alone, in features and context; ``[N]``."""
    if task.rows is None:
        return np.ones(task.size, bool)
    finite: NDArray[np.bool_] = np.isfinite(task.rows).all(axis=1)
    if task.context is not None and len(task.context) == len(finite):
        finite &= np.isfinite(task.context).all(axis=1)
    return finite


def _draws(given: Any) -> tuple[Draw, ...]:
    def is_draw(item: Any) -> bool:
        return isinstance(item, list) and len(item) == 3 and all(type(number) is int for number in item)

    if not isinstance(given, list) or not given or not all(map(is_draw, given)):
        raise ScoringError("INVALID_DRAW", "draws", f"draws are {given!r:.200}; expected [[seed, start, count], ...]")
    for seed, start, count in given:
        if not 0 <= seed <= MAX_SEED:
            raise ScoringError("INVALID_SEED", "seed", f"seed is {seed}; expected 0 to 2**64 - 1")
        if start < 0:
            raise ScoringError("INVALID_DRAW", "draws", f"start is {start}; expected at least 0")
        if count < 1:
            raise ScoringError(
                "INVALID_COUNT", "count", f"count is {count} from {start}; expected at least 1 from 0 up"
            )
    return tuple(Draw(*item) for item in given)


def _matrix(field: str, given: Any, width: int) -> NDArray[np.float64]:
    """A list of lists of numbers, strings such as "NaN" or nulls as ``[N, width]``."""
    if not isinstance(given, list) or not given or not all(isinstance(row, list) for row in given):
        raise ScoringError("WRONG_SHAPE", field, f"{field} must be a list of at least one list of {width} numbers")
    for index, row in enumerate(given):
        if len(row) != width:
            raise ScoringError("WRONG_SHAPE", field, f"{field}[{index}] has {len(row)} values; expected {width}")
    try:
        return np.array([[_number(value) for value in row] for row in given], np.float64)
    except (ValueError, OverflowError) as error:
        raise ScoringError("NOT_A_NUMBER", field, f"{field}: {error}") from None


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity")):
        raise ValueError(f"{value!r:.80} is not a number")
    return float(value)


def _csv_row(number: int, cells: Sequence[str], columns: Sequence[int], width: int) -> list[float]:
    if len(cells) != width:
        raise ScoringError("WRONG_SHAPE", "rows", f"line {number} has {len(cells)} values; expected {width}")
    try:
        return [float(cells[column]) if cells[column].strip() else float("nan") for column in columns]
    except ValueError as error:
        raise ScoringError("NOT_A_NUMBER", "rows", f"line {number}: {error}") from None


def _split_columns(table: NDArray[Any], scorer: Scorer) -> Task:
    context = table[:, scorer.event_size :] if scorer.context_size else None
    return Task(table[:, : scorer.event_size], (), context)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _parse_json(body: Any) -> Any:
    try:
        parsed = json.loads(bytes(body) if not isinstance(body, str) else body)
    except (ValueError, RecursionError) as error:
        raise ScoringError("MALFORMED_JSON", "body", f"the body is not JSON: {error}") from None
    if not isinstance(parsed, (dict, list)):
        raise ScoringError("MALFORMED_JSON", "body", "the body is JSON, but neither an object nor a list of rows")
    return parsed


def _decode(body: bytes | bytearray) -> str:
    try:
        return bytes(body).decode()
    except UnicodeDecodeError as error:
        raise ScoringError("MALFORMED_CSV", "body", f"the body is not UTF-8: {error}") from None


def _json_numbers(values: NDArray[Any]) -> str:
    if np.isfinite(values).all():
        return ",".join(map(str, values))
    return ",".join(str(value) if np.isfinite(value) else f'"{_text(value)}"' for value in values)


def _text(value: Any) -> str:
    """The shortest text that reads back as the same float, or the names that ProtoJSON gives to the others."""
    if np.isfinite(value):
        return str(value)
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
