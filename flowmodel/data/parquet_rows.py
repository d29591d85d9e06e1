"""Rows of a Parquet file that need not fit into memory: read in chunks, in file order or shuffled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flowmodel.data import parquet
from flowmodel.data.moments import Moments
from flowmodel.data.reading import non_finite_problems
from flowmodel.data.table import Matrix, find_columns
from flowmodel.errors import DataError

Numbers = npt.NDArray[np.int64]

CHUNK_ROWS = 2**18


class Scan(NamedTuple):
    """What one pass over rows told.

    Args:
        moments: Of the columns, features first.
        fingerprint: SHA-256 of names and values; for a whole file that of the ``Table`` with the same content.
    """

    moments: Moments
    fingerprint: str


class ParquetRows:
    """Rows of a Parquet file, or of one part of it, of which only a chunk is in memory at a time.

    A shuffled pass takes the row groups of the file in random order, and mixes their rows in a buffer of
    ``chunk_rows``. A file that is sorted by something is mixed well if its row groups are smaller than that.

    Args:
        path: The file.
        columns: Features, in order; by default all columns that are no contexts.
        context_columns: Contexts, in order.
        chunk_rows: Most rows in memory at a time.

    Raises:
        DataError: Not a Parquet file, an unknown column, or one that does not hold numbers.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"a": range(100), "b": range(100)}), f"{folder}/rows.parquet")
        ...     train, validation, test = ParquetRows(f"{folder}/rows.parquet", ["a"]).split(seed=1)
        ...     [part.scan().moments.count for part in (train, validation, test)]
        [83, 10, 7]
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str] | None = None,
        context_columns: Sequence[str] = (),
        *,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        if chunk_rows < 2:
            raise DataError(f"chunk_rows={chunk_rows}; expected at least 2")
        self.source, self.chunk_rows = str(path), chunk_rows
        self._path = Path(path)
        if not self._path.is_file():
            raise DataError(f"{path}: there is no such file; expected a Parquet file")
        try:
            with self._open() as file:
                names = file.schema_arrow.names
                chosen = [name for name in names if name not in context_columns] if columns is None else columns
                self.columns, self.context_columns = tuple(chosen), tuple(context_columns)
                for index in find_columns(names, self.all_columns, self.source):
                    parquet.check_numeric(self._path, file, names[index], file.schema_arrow.types[index])
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({parquet.first_line(error)}); write it again"
            ) from error
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.largest_row_group = max(sizes, default=0)
        self._seed, self._from, self._to = 0, 0.0, 1.0
        self._scan: Scan | None = None

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Features and contexts, as the columns of a chunk are."""
        return self.columns + self.context_columns

    @property
    def values(self) -> int:
        """Numbers in the file's chosen columns."""
        return int(self._starts[-1]) * len(self.all_columns)

    def split(
        self, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
    ) -> tuple[ParquetRows, ParquetRows, ParquetRows]:
        """Training, validation and test rows, by a hash of each row's number.

        The parts do not overlap and together are all rows; seed and file decide them, not the size of the chunks.

        Raises:
            DataError: A fraction is out of range.
        """
        for name, fraction in (("validation", validation), ("test", test)):
            if not 0 <= fraction < 1 or validation + test >= 1:
                raise DataError(
                    f"{name} fraction {fraction} is out of range; expected 0 up to, not including, 1 for both together"
                )
        bounds = ((validation + test, 1.0), (0.0, validation), (validation, validation + test))
        train, held_out, tested = (self._part(seed, low, high) for low, high in bounds)
        return train, held_out, tested

    def chunks(self) -> Iterator[Matrix]:
        """All rows in file order: ``[N, D + C]``, features first."""
        for rows, _ in self._read(range(len(self._starts) - 1), self.chunk_rows):
            yield rows

    def shuffled(self, random: np.random.Generator) -> Iterator[Matrix]:
        """All rows in random order, as pieces ``[N, D + C]`` of at most ``chunk_rows``."""
        buffer: Matrix = np.empty((self.chunk_rows, len(self.all_columns)))
        filled, kept = 0, self.chunk_rows // 2
        for piece, _ in self._read(random.permutation(len(self._starts) - 1).tolist(), max(1, self.chunk_rows // 8)):
            while len(piece):
                taken = min(len(piece), self.chunk_rows - filled)
                buffer[filled : filled + taken] = piece[:taken]
                filled, piece = filled + taken, piece[taken:]
                if filled == self.chunk_rows:
                    random.shuffle(buffer, axis=0)
                    yield buffer[kept:].copy()
                    filled = kept
        random.shuffle(buffer[:filled], axis=0)
        if filled:
            yield buffer[:filled].copy()

    def scan(self) -> Scan:
        """One pass over all rows: count, moments, range and fingerprint; done once.

        Raises:
            DataError: A value is missing or infinite; the text names row and column.
        """
        if self._scan is None:
            moments, digest = Moments(len(self.all_columns)), hashlib.sha256("\x00".join(self.all_columns).encode())
            whole = (self._from, self._to) == (0.0, 1.0)
            part = b"" if whole else f"{self._seed} {self._from} {self._to} of ".encode()
            digest.update(b"\x00%b%d\x00%d\x00" % (part, self._starts[-1], len(self.all_columns)))
            for chunk in self.chunks():
                moments.add(chunk)
                digest.update(np.ascontiguousarray(chunk, dtype="<f8").data)
            self._scan = Scan(moments, digest.hexdigest())
        return self._scan

    def sample(self, count: int) -> tuple[Matrix, Numbers]:
        """At most so many of the rows, each as likely as any other, and their places in the file, counted from 0.

        They are in file order, and always the same ones.
        """
        rows: Matrix = np.empty((0, len(self.all_columns)))
        numbers: Numbers = np.empty(0, np.int64)
        keys: Matrix = np.empty(0)
        random = np.random.default_rng(self._seed)
        for chunk, places in self._read(range(len(self._starts) - 1), self.chunk_rows):
            rows, numbers = np.concatenate([rows, chunk]), np.concatenate([numbers, places])
            keys = np.concatenate([keys, random.random(len(chunk))])
            if len(rows) > count:
                smallest = np.sort(np.argpartition(keys, count)[:count])
                rows, numbers, keys = rows[smallest], numbers[smallest], keys[smallest]
        return rows, numbers

    def _part(self, seed: int, low: float, high: float) -> ParquetRows:
        part = ParquetRows(self._path, self.columns, self.context_columns, chunk_rows=self.chunk_rows)
        part._seed, part._from, part._to = seed, low, high
        return part

    def _open(self) -> Any:
        # Buffered streams, so that a row group larger than memory is not read as a whole.
        return pq.ParquetFile(self._path, buffer_size=2**20, pre_buffer=False)

    def _read(self, groups: Sequence[int], most: int) -> Iterator[tuple[Matrix, Numbers]]:
        """The rows of these row groups that belong to this part, and their places in the file."""
        with self._open() as file:
            for group in groups:
                number = int(self._starts[group])
                for batch in file.iter_batches(batch_size=most, row_groups=[group], columns=list(self.all_columns)):
                    rows = self._matrix(batch, number)
                    places = np.arange(number, number + len(rows))
                    kept = self._kept(places.astype(np.uint64))
                    number += len(rows)
                    yield (rows, places) if kept is None else (rows[kept], places[kept])

    def _matrix(self, batch: Any, number: int) -> Matrix:
        rows = np.empty((batch.num_rows, len(self.all_columns)))
        for place, name in enumerate(self.all_columns):
            rows[:, place] = batch.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if not math.isfinite(float(rows.sum())):
            for problem in non_finite_problems(self.all_columns, rows, True, number).values():
                raise DataError(f"{self.source}: {problem}")
        return rows

    def _kept(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_] | None:
        if (self._from, self._to) == (0.0, 1.0):
            return None
        # SplitMix64 (Steele, Lea and Flood 2014): a row's place between 0 and 1.
        state = numbers + np.uint64(_mixed(self._seed))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        place = ((state ^ (state >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
        kept: npt.NDArray[np.bool_] = (place >= self._from) & (place < self._to)
        return kept


def _mixed(seed: int) -> int:
    """A start for the hash of row numbers; neighbouring seeds must not give shifted splits."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
