"""Rows read in chunks teach what the same rows in memory do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flowmodel.data import Table
from flowmodel.data.parquet_rows import ParquetRows
from flowmodel.errors import DataError
from flowmodel.training import fit
from flowmodel.training.recipe import default_flow


def written(folder, rows):
    pq.write_table(pa.table(dict(zip("abc", rows.T, strict=True))), folder / "rows.parquet", row_group_size=70)
    return folder / "rows.parquet"


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal((1e9, 0, 5), (1, 2, 3), (1000, 3))


def test_parts_are_disjoint_whole_and_free_of_the_chunks_size(tmp_path, rows):
    path = written(tmp_path, rows)
    small, large = (
        [np.concatenate(list(part.chunks())) for part in ParquetRows(path, chunk_rows=size).split(seed=3)]
        for size in (16, 5000)
    )
    assert all(np.array_equal(one, other) for one, other in zip(small, large, strict=True))
    assert sorted(np.concatenate(small)[:, 1]) == sorted(rows[:, 1])
    part = ParquetRows(path, chunk_rows=16).split(seed=3)[0]
    mixed = np.concatenate(list(part.shuffled(np.random.default_rng(0))))
    assert not np.array_equal(mixed, small[0])
    assert sorted(mixed[:, 1]) == sorted(small[0][:, 1])
    assert ParquetRows(path).scan().fingerprint == Table(("a", "b", "c"), rows, "").fingerprint()


def test_standardisation_is_that_of_the_same_rows_in_memory(tmp_path, rows):
    train, held_out, _ = ParquetRows(written(tmp_path, rows), ["a", "b"], ["c"], chunk_rows=32).split()
    flow = default_flow(2, 1, layers=1, hidden=(4,))
    fit(flow, train, validation=held_out, max_epochs=1)
    exact = np.concatenate(list(train.chunks()))
    standardize = flow.bijector.chain[-1]
    np.testing.assert_allclose(standardize.location, exact[:, :2].mean(0), rtol=1e-12)
    # A column at 1e9 that varies by 1 has only 1e-7 of its spread in each value, whoever adds them up.
    np.testing.assert_allclose(standardize.scale, exact[:, :2].std(0), rtol=1e-7)
    np.testing.assert_allclose(standardize.scale[1], exact[:, 1].std(), rtol=1e-12)
    np.testing.assert_allclose(flow.context_scale, exact[:, 2:].std(0), rtol=1e-12)
    again = default_flow(2, 1, layers=1, hidden=(4,))
    fit(again, train, validation=held_out, max_epochs=1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in flow.state_dict().items())


def test_a_value_that_is_not_finite_is_named_with_its_row_and_column(tmp_path, rows):
    rows[333, 1] = np.nan
    with pytest.raises(DataError, match="row 334, column 'b': found NaN"):
        fit(default_flow(3, layers=1), ParquetRows(written(tmp_path, rows), chunk_rows=50))
