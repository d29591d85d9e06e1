"""From the file given to ``flowmodel train`` to its rows: all in memory, or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowmodel.cli.chunked_data import ChunkedData
from flowmodel.cli.training_data import TableData
from flowmodel.data import Table, check_enough_rows, check_varied, read_table, split_rows
from flowmodel.data.parquet_rows import CHUNK_ROWS, ParquetRows
from flowmodel.errors import DataError

_MOST_BYTES_IN_MEMORY = 2**30


def read_training_data(
    path: Path,
    columns: Sequence[str] | None,
    contexts: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
    chunk_rows: int | None = None,
) -> TableData | ChunkedData:
    """Read, check and split a file.

    Args:
        path: The file.
        columns: Columns whose density is learnt; all that are no contexts by default.
        contexts: Columns it depends on.
        validation: Fraction of rows that choose the weights.
        test: Fraction of rows for the test.
        seed: Of the split.
        chunk_rows: Rows of a chunk, for a Parquet file that is not to be read as a whole; by default only one whose
            values take more than 1 GiB is read so.

    Raises:
        DataError: The file cannot be trained on; the text names row and column.
    """
    if path.suffix.lower() == ".parquet" and path.is_file():
        check_roles(path, columns, contexts)
        rows = ParquetRows(path, columns, contexts, chunk_rows=chunk_rows or CHUNK_ROWS)
        if chunk_rows is not None or rows.values * 8 > _MOST_BYTES_IN_MEMORY:
            return ChunkedData(rows, validation=validation, test=test, seed=seed)
    elif chunk_rows is not None:
        raise DataError(f"{path}: only Parquet files can be read in chunks; leave out --chunk-rows, or write it as one")
    features, context_table = read_features(path, columns, contexts)
    check_enough_rows(len(features), len(features.columns), features.source)
    for part in (features, context_table):
        if part is not None:
            check_varied(part.rows, part.columns, part.source)
    split = split_rows(len(features), validation=validation, test=test, seed=seed)
    check_enough_rows(len(split.train), len(features.columns), f"{path}, training part")
    return TableData(features, context_table, split)


def read_features(path: Path, columns: Sequence[str] | None, contexts: Sequence[str]) -> tuple[Table, Table | None]:
    """The feature and context columns of a file.

    Raises:
        DataError: As ``read_table``, or a column is to be both feature and context.
    """
    check_roles(path, columns, contexts)
    table = read_table(path, None if columns is None else [*columns, *contexts])
    chosen = columns if columns is not None else [name for name in table.columns if name not in contexts]
    return table.select(chosen), table.select(contexts) if contexts else None


def check_roles(path: Path, columns: Sequence[str] | None, contexts: Sequence[str]) -> None:
    """Raise ``DataError`` if a column is to be both feature and context."""
    both = [name for name in contexts if columns is not None and name in columns]
    if both:
        raise DataError(f"{path}: column {both[0]!r} is asked for as feature and as context; choose one")
