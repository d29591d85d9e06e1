"""Read a file of numbers, whatever its kind, into a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from flowmodel.data import delimited, npy, parquet
from flowmodel.data.reading import Reading
from flowmodel.data.table import Table
from flowmodel.errors import DataError

READERS: dict[str, Callable[[Path, Sequence[str] | None, bool], Reading]] = {
    ".csv": delimited.read,
    ".tsv": delimited.read,
    ".parquet": parquet.read,
    ".npy": npy.read,
}


def read_table(
    path: str | Path, columns: Sequence[str] | None = None, *, bad_rows: Literal["refuse", "keep"] = "refuse"
) -> Table:
    """Read a CSV, Parquet or NPY file.

    A CSV file has a header of column names and one of ``, ; tab`` between cells. The columns of an NPY array are called
    ``x0``, ``x1``, and so on.

    Args:
        path: The file; its extension says its kind.
        columns: Names of the columns to read, in the order wanted; all of the file's by default. Others are not looked
            at, so they may hold text.
        bad_rows: What to do about a row with a missing, infinite or unreadable cell: refuse the file, or keep the row
            as NaN and say in ``Table.bad_rows`` what was wrong.

    Returns:
        The table, float64.

    Raises:
        DataError: The file is missing, empty, of an unknown kind, malformed, without rows or without a wanted column;
            or a row is bad and ``bad_rows`` is ``"refuse"``. The text names file, column and row.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file; check the path (the current directory is {Path.cwd()})")
    if path.is_dir():
        raise DataError(f"{path}: is a directory; expected a {kinds()} file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        given = f"the extension {path.suffix!r}" if path.suffix else "a name without extension"
        raise DataError(f"{path}: {given} says no known kind of file; expected {kinds()}")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; expected a table of numbers")
        reading = reader(path, columns, bad_rows == "refuse")
    except PermissionError as error:
        raise DataError(f"{path}: reading it is not allowed ({error.strerror}); change its permissions") from error
    if not len(reading.rows):
        raise DataError(f"{path}: there are column names but no rows; expected at least one row of numbers")
    if bad_rows == "refuse" and reading.problems:
        raise DataError(f"{path}: {reading.problems[min(reading.problems)]}")
    reading.rows[list(reading.problems)] = np.nan
    return Table(reading.columns, reading.rows, str(path), reading.problems)


def kinds() -> str:
    """The extensions that can be read, for a message."""
    *most, last = READERS
    return f"{', '.join(most)} or {last}"
