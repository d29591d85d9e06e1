"""CSV files: Arrow reads a sound file fast; a file it refuses is read again, cell by cell, to say where it is wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from flowmodel.data.reading import Reading, cell_problem, non_finite_problems
from flowmodel.data.table import find_columns
from flowmodel.errors import DataError

DELIMITERS = (",", ";", "\t")
MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "#na"})


class Header(NamedTuple):
    """A CSV file's column names and what stands between its cells."""

    names: list[str]
    delimiter: str


def read(path: Path, wanted: Sequence[str] | None, first_only: bool) -> Reading:
    """Read a CSV file with a header line.

    Raises:
        DataError: Not text, without a header, or an unknown column.
    """
    header = read_header(path)
    columns = tuple(wanted if wanted is not None else header.names)
    places = find_columns(header.names, columns, str(path))
    try:
        rows = _read_fast(path, header, columns)
    except pa.ArrowException:
        return _read_carefully(path, header, columns, places, first_only)
    problems = non_finite_problems(columns, rows, first_only)
    if problems and first_only:
        # Read again up to that cell, for its line and its spelling.
        return _read_carefully(path, header, columns, places, first_only)
    return Reading(columns, rows, problems)


def read_header(path: Path) -> Header:
    """The column names and the delimiter, from the first line that is not blank.

    Raises:
        DataError: The file is not UTF-8 text, is blank, or its first line holds numbers or an empty name.
    """
    for line, record in _records(path, ","):
        counts = {delimiter: sum(cell.count(delimiter) for cell in record) for delimiter in DELIMITERS[1:]}
        counts[","] = len(record) - 1
        delimiter = max(DELIMITERS, key=lambda candidate: counts[candidate])
        names = [name.strip() for name in next(iter(_records(path, delimiter)))[1]]
        if all(_is_number(name) for name in names):
            raise DataError(
                f"{path}: line {line} holds numbers; expected the column names there: add a header line, "
                f"for instance {delimiter.join(f'x{place}' for place in range(min(len(names), 3)))}"
            )
        if "" in names:
            raise DataError(
                f"{path}: line {line}: column {names.index('') + 1} has no name; give every column a name in the header"
            )
        return Header(names, delimiter)
    raise DataError(f"{path}: the file is empty; expected a header line of column names and rows of numbers")


def _read_fast(path: Path, header: Header, columns: tuple[str, ...]) -> np.ndarray:
    table = pacsv.read_csv(
        path,
        # Names are given, not read, so that a name in quotes or between blanks is spelled as `read_header` spells it.
        read_options=pacsv.ReadOptions(column_names=header.names, skip_rows_after_names=1),
        parse_options=pacsv.ParseOptions(delimiter=header.delimiter),
        convert_options=pacsv.ConvertOptions(
            column_types={name: pa.float64() for name in columns}, include_columns=list(columns)
        ),
    )
    rows = np.empty((table.num_rows, len(columns)))
    for place, name in enumerate(columns):
        rows[:, place] = table.column(name).to_numpy()
    return rows


def _read_carefully(
    path: Path, header: Header, columns: tuple[str, ...], places: list[int], first_only: bool
) -> Reading:
    rows: list[list[float]] = []
    problems: dict[int, str] = {}
    records = iter(_records(path, header.delimiter))
    next(records)
    for row, (line, record) in enumerate(records):
        values = [np.nan] * len(columns)
        problem = _width_problem(row, line, len(record), len(header.names))
        if problem is None:
            cells = [record[place].strip() for place in places]
            values = [_number(cell) for cell in cells]
            problem = _first_cell_problem(row, line, columns, cells, values)
        rows.append(values)
        if problem is not None:
            problems[row] = problem
            if first_only:
                break
    return Reading(columns, np.array(rows, dtype=np.float64).reshape(len(rows), len(columns)), problems)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the 1-based number of its last line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for record in reader:
                if record:
                    yield reader.line_num, record
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV file ({error}); write it again") from error


def _width_problem(row: int, line: int, given: int, expected: int) -> str | None:
    if given == expected:
        return None
    return (
        f"row {row + 1} (line {line}): found {given} {'cell' if given == 1 else 'cells'}, expected {expected} as in "
        "the header; correct or remove the row"
    )


def _first_cell_problem(
    row: int, line: int, columns: Sequence[str], cells: Sequence[str], values: Sequence[float]
) -> str | None:
    for column, cell, value in zip(columns, cells, values, strict=True):
        if np.isfinite(value):
            continue
        if cell.lower() in MISSING:
            found = f"a missing value ({cell!r})" if cell else "a missing value"
        elif np.isinf(value):
            found = f"{cell!r}, which is infinite"
        else:
            found = f"the text {cell!r}"
        return cell_problem(row, column, found, line)
    return None


def _number(cell: str) -> float:
    # Python reads 1_000 as a number; in a data file it is a slip.
    try:
        return float(cell) if "_" not in cell else np.nan
    except ValueError:
        return np.nan


def _is_number(cell: str) -> bool:
    return not np.isnan(_number(cell))
