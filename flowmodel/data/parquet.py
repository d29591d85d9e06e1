"""Parquet files, read through Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowmodel.data.reading import Reading, cell_problem, non_finite_problems
from flowmodel.data.table import find_columns
from flowmodel.errors import DataError


def read(path: Path, wanted: Sequence[str] | None, first_only: bool) -> Reading:
    """Read numeric columns (integers, floating point, decimals) as float64; a null is a problem of its row.

    Raises:
        DataError: Not a Parquet file, a damaged one, an unknown column, or a column that does not hold numbers.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = tuple(wanted if wanted is not None else file.schema_arrow.names)
            indices = find_columns(file.schema_arrow.names, columns, str(path))
            for name, index in zip(columns, indices, strict=True):
                check_numeric(path, file, name, file.schema_arrow.types[index])
            table = file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)}); write it again") from error
    rows = np.empty((table.num_rows, len(columns)))
    for place, name in enumerate(columns):
        rows[:, place] = table.column(name).cast(pa.float64(), safe=False).to_numpy()
    return Reading(columns, rows, non_finite_problems(columns, rows, first_only))


def check_numeric(path: Path, file: Any, name: str, kind: Any) -> None:
    """Raise ``DataError`` unless a column holds numbers."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return
    first = next(
        (row for batch in file.iter_batches(batch_size=1, columns=[name]) for row in batch[0].to_pylist()), None
    )
    raise DataError(f"{path}: {cell_problem(0, name, f'{first!r} (the column is of type {kind})')}")


def first_line(error: Exception) -> str:
    """An error of Arrow, for a message."""
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
