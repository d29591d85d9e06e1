"""``application/json``: ``{"rows": [[...]], "context": [[...]]}`` in, ``{"model", "version", "log_prob"}`` out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidRequest, Violation
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import Signature
from service.tensors import FloatArray
from service.web.formats.format import Table, number_texts

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MOST_VIOLATIONS = 10


class JsonFormat:
    """JSON, with NaN and infinities as the strings that ProtoJSON writes."""

    content_type = "application/json"

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows, and contexts where the model takes any."""
        values = read_object(body, {"rows", "context"})
        if "rows" not in values:
            raise InvalidRequest.of("MISSING_FIELD", "rows", 'missing; expected {"rows": [[...], ...]}')
        context = values.get("context")
        return Table(
            rows=numbers(values["rows"], "rows", signature.event_size),
            context=None if context is None else numbers(context, "context", signature.context_size),
        )

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """``log_prob`` in the rows' order, and ``row_errors`` when there are any."""
        head = orjson.dumps({"model": served.key.name, "version": str(served.key.version)})[:-1]
        body = head + b',"log_prob":[' + b",".join(number_texts(scores.log_prob, b'"')) + b"]"
        if scores.row_errors:
            errors = [
                {"row": error.row, "reason": error.reason, "message": error.message} for error in scores.row_errors
            ]
            body += b',"row_errors":' + orjson.dumps(errors)
        return body + b"}\n"

    def reader(self, signature: Signature, most: int) -> None:
        """None: a JSON body is one value."""

    def score_writer(self, served: ServedModel) -> None:
        """None: a JSON body is one value."""

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> None:
        """None: a JSON body is one value."""

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """``samples`` nested by the event shape, the seed, and ``log_prob`` when asked for."""
        head = {"model": served.key.name, "version": str(served.key.version), "seed": samples.seed}
        body = orjson.dumps(head)[:-1] + b',"samples":' + _nested_text(samples.samples)
        if with_log_prob:
            body += b',"log_prob":[' + b",".join(number_texts(samples.log_prob, b'"')) + b"]"
        return body + b"}\n"


def read_object(body: bytes, known: set[str]) -> Mapping[str, Any]:
    """The body's JSON object.

    Raises:
        InvalidRequest: it is not JSON, not an object, or has keys that are not known.
    """
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = '; NaN is written as the string "NaN"' if b"NaN" in body or b"Infinity" in body else ""
        raise InvalidRequest.of("MALFORMED_JSON", "body", f"is not JSON: {error}{hint}") from None
    if not isinstance(values, dict):
        raise InvalidRequest.of("MALFORMED_JSON", "body", f"is JSON but no object; expected one with {_listed(known)}")
    unknown = sorted(values.keys() - known)
    if unknown:
        text = f"unknown; expected {_listed(known)}"
        raise InvalidRequest("UNKNOWN_FIELD", [Violation(name, text) for name in unknown[:_MOST_VIOLATIONS]])
    return values


def numbers(value: Any, field: str, width: int) -> FloatArray:
    """A nested list as an array of float64.

    Args:
        value: lists of numbers; null and ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` count as numbers.
        field: its name, for the error.
        width: how many numbers a row should have, for the error.

    Raises:
        InvalidRequest: a part is no number, or the rows are not of one length; each is named.
    """
    if not isinstance(value, list):
        raise InvalidRequest.of("WRONG_TYPE", field, f"{_shown(value)} given; a list of rows expected, as [[1, 2]]")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "fiu" and not _has_truths(value):
            return array.astype(np.float64)
    except ValueError:
        # Rows of different lengths; which ones is found out below.
        pass
    violations: list[Violation] = []
    parsed = _parse(value, field, violations)
    if violations:
        raise InvalidRequest("NOT_A_NUMBER", violations)
    try:
        return np.asarray(parsed, dtype=np.float64)
    except ValueError:
        raise InvalidRequest("WRONG_SHAPE", _ragged(value, field, width)) from None


def _has_truths(value: list[Any]) -> bool:
    """Whether there is a true or a false in nested lists, which numpy would take for 1 and 0 among numbers."""
    return any(map(_has_truths, value)) if value and isinstance(value[0], list) else bool in set(map(type, value))


def _parse(value: Any, path: str, violations: list[Violation]) -> Any:
    """Nested lists of floats; whatever is no number is noted and becomes NaN."""
    if isinstance(value, list):
        return [
            _parse(item, f"{path}[{index}]", violations)
            for index, item in enumerate(value)
            if len(violations) < _MOST_VIOLATIONS
        ]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value is None or (isinstance(value, str) and value in _NON_FINITE):
        return math.nan if value is None else _NON_FINITE[value]
    violations.append(Violation(path, f"{_shown(value)} given; a number expected"))
    return math.nan


def _ragged(value: Sequence[Any], field: str, width: int) -> list[Violation]:
    """The rows that do not have the length they should."""
    violations = []
    for index, row in enumerate(value):
        given = len(row) if isinstance(row, list) else 1
        if given != width or not isinstance(row, list):
            violations.append(Violation(f"{field}[{index}]", f"{given} values given; {width} expected"))
            if len(violations) == _MOST_VIOLATIONS:
                break
    return violations or [Violation(field, "its parts are not all of the same shape")]


def _nested_text(values: FloatArray) -> bytes:
    """Nested lists of numbers; samples are finite but for models gone wrong, which pay for the slow way."""
    if np.isfinite(values).all():
        return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    if values.ndim == 1:
        return b"[" + b",".join(number_texts(values, b'"')) + b"]"
    return b"[" + b",".join(_nested_text(part) for part in values) + b"]"


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
