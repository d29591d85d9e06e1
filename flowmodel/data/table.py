"""A table: names of columns, one float64 matrix, and where it came from."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flowmodel.errors import DataError

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers with named columns.

    Args:
        columns: Names of the D columns, in order, without repetition.
        rows: The values, float64 ``[N, D]``.
        source: What messages call the table: a file's path, or a word.
        bad_rows: What is wrong with each row that cannot be used, by 0-based row; such a row is NaN throughout. Empty
            unless the table was read with ``bad_rows="keep"``.

    Example:
        >>> table = Table(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]), "example")
        >>> table.select(["b"]).rows.tolist()
        [[2.0], [4.0]]
    """

    columns: tuple[str, ...]
    rows: Matrix
    source: str
    bad_rows: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, columns: Sequence[str]) -> Table:
        """The same rows with these columns, in this order.

        Raises:
            DataError: A name is not a column of this table, or is asked for twice.
        """
        indices = find_columns(self.columns, columns, self.source)
        return Table(tuple(columns), np.ascontiguousarray(self.rows[:, indices]), self.source, self.bad_rows)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the column names and values: the same whatever kind of file the table was read from."""
        digest = hashlib.sha256("\x00".join(self.columns).encode())
        digest.update(b"\x00%d\x00%d\x00" % self.rows.shape)
        little_endian: npt.NDArray[Any] = np.ascontiguousarray(self.rows, dtype="<f8")
        digest.update(little_endian.data)
        return digest.hexdigest()


def find_columns(available: Sequence[str], wanted: Sequence[str], source: str) -> list[int]:
    """Positions of the wanted columns among those available.

    Raises:
        DataError: A wanted column is missing (the nearest names are given), is asked for twice, or its name stands more
            than once in the table.
    """
    if not wanted:
        raise DataError(f"{source}: no column was chosen; the columns are {quoted(available)}")
    counts = Counter(available)
    for name in wanted:
        if name not in counts:
            near = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
            hint = f"the nearest are {quoted(near)}" if near else f"the columns are {quoted(available)}"
            raise DataError(f"{source}: there is no column {name!r}; {hint}")
        if counts[name] > 1:
            places = ", ".join(str(place + 1) for place, other in enumerate(available) if other == name)
            raise DataError(
                f"{source}: {counts[name]} columns are called {name!r} (columns {places}); "
                "give every column its own name"
            )
    for name, times in Counter(wanted).items():
        if times > 1:
            raise DataError(f"{source}: column {name!r} was asked for {times} times; name each column once")
    positions = {name: place for place, name in enumerate(available)}
    return [positions[name] for name in wanted]


def quoted(names: Sequence[str], most: int = 12) -> str:
    """Names for a message: quoted, and cut where there are too many to read."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
