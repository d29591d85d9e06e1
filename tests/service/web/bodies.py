"""Bodies of every content type, written and read as a client would, without the service's own code."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flowmodel.artefact.scorer import SCRIPTING

CSV = "text/csv"
JSON = "application/json"
NDJSON = "application/x-ndjson"
BINARY = "application/octet-stream"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"

FEATURES = ("alpha", "beta", "gamma")
CONTEXTS = ("left", "right")


@dataclass(frozen=True)
class Answer:
    """Log-densities ``[N]`` and, for the types that tell, each row's error."""

    log_prob: np.ndarray
    errors: list[str | None] | None


def write_rows(content_type: str, rows: np.ndarray, context: np.ndarray | None = None) -> bytes:
    """Rows as a client would write them."""
    table = rows if context is None else np.column_stack((rows, context))
    names = FEATURES if context is None else (*FEATURES, *CONTEXTS)
    if content_type == JSON:
        values = {"rows": text(rows)} | ({} if context is None else {"context": text(context)})
        return json.dumps(values).encode()
    if content_type == CSV:
        return "\n".join([",".join(names), *(",".join(map(repr, row)) for row in table.tolist()), ""]).encode()
    if content_type == NDJSON:
        return "".join(json.dumps(row) + "\n" for row in text(table)).encode()
    if content_type == NPY:
        file = io.BytesIO()
        np.save(file, table)
        return file.getvalue()
    if content_type == ARROW:
        return arrow(dict(zip(names, table.T, strict=True)))
    assert content_type == BINARY, f"these tests write no {content_type} yet"
    return table.astype("<f4").tobytes()


def _npy(content: bytes) -> np.ndarray:
    # Which parses the header by ``ast``, beside threads of the same test that publish.
    with SCRIPTING:
        return np.load(io.BytesIO(content), allow_pickle=False)


def text(values: np.ndarray) -> Any:
    """Nested lists, what is not finite as ProtoJSON writes it."""
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [[value if np.isfinite(value) else names[str(value)] for value in row] for row in values.tolist()]


def arrow(columns: dict[str, Any], batch_rows: int = 3) -> bytes:
    """A stream of several small batches."""
    table = pa.table({name: pa.array(np.ascontiguousarray(column)) for name, column in columns.items()})
    return arrow_stream(table, batch_rows)


def arrow_stream(table: pa.Table, batch_rows: int = 3, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue().to_pybytes()


def read_scores(content_type: str, content: bytes) -> Answer:
    """The answer to ``:logProb``."""
    if content_type == JSON:
        values = json.loads(content)
        errors = [None] * len(values["log_prob"])
        for error in values.get("row_errors", ()):
            errors[error["row"]] = error["message"]
        return Answer(np.array([float(value) for value in values["log_prob"]], np.float32), errors)
    if content_type == CSV:
        header, *lines = content.decode().splitlines()
        assert header == "log_prob,error"
        cells = [line.partition(",") for line in lines]
        return Answer(
            np.array([float(value) for value, _, _ in cells], np.float32),
            [error.strip('"') or None for _, _, error in cells],
        )
    if content_type == NDJSON:
        rows = [json.loads(line) for line in content.splitlines()]
        errors = [row["error"]["message"] if "error" in row else None for row in rows]
        return Answer(np.array([float(row["log_prob"]) for row in rows], np.float32), errors)
    if content_type == NPY:
        return Answer(_npy(content), None)
    if content_type == ARROW:
        table = pa.ipc.open_stream(content).read_all()
        assert table.schema.names == ["log_prob", "error"]
        return Answer(table["log_prob"].to_numpy(), table["error"].to_pylist())
    assert content_type == BINARY
    return Answer(np.frombuffer(content, "<f4"), None)


def read_samples(content_type: str, content: bytes, width: int) -> np.ndarray:
    """The answer to ``:sample`` with its log-densities as last column."""
    names = [*FEATURES, "log_prob"]
    if content_type == JSON:
        values = json.loads(content)
        return np.column_stack((values["samples"], values["log_prob"])).astype(np.float32)
    if content_type == CSV:
        header, *lines = content.decode().splitlines()
        assert header == ",".join(names)
        return np.array([line.split(",") for line in lines], np.float32)
    if content_type == NDJSON:
        rows = [json.loads(line) for line in content.splitlines()]
        assert list(rows[0]) == names
        return np.array([list(row.values()) for row in rows], np.float32)
    if content_type == NPY:
        return _npy(content)
    if content_type == ARROW:
        table = pa.ipc.open_stream(content).read_all()
        assert table.schema.names == names
        return np.column_stack([column.to_numpy() for column in table.columns])
    return np.frombuffer(content, "<f4").reshape(-1, width)
