"""Rows that no density can be trained on are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from flowmodel.data import check_enough_rows, check_finite, check_varied
from flowmodel.errors import DataError


def test_a_missing_value_is_named_by_column_and_row():
    rows = np.array([[1.0, 2.0], [3.0, np.nan], [np.inf, 4.0]])
    with pytest.raises(
        DataError, match=r"data: row 2, column 'b': found NaN or a missing value.* \(and 1 more such rows\)"
    ):
        check_finite(rows, ["a", "b"], "data")
    check_finite(rows[:1], ["a", "b"], "data")


@pytest.mark.parametrize("value", [0.0, 7.5, 0.1 + 0.2, 1e300])
def test_a_column_of_one_value_is_refused_up_to_its_last_bit(value):
    rows = np.column_stack([np.arange(10.0), np.full(10, value)])
    rows[3, 1] = np.nextafter(value, value + 1) if value else value
    with pytest.raises(DataError, match=r"data: column 'b' has one value, .*, in all 10 rows; .* leave it out"):
        check_varied(rows, ["a", "b"], "data")


def test_a_large_offset_is_no_constant():
    check_varied(1.7e9 + np.arange(10.0).reshape(-1, 1), ["unix time"], "data")


def test_too_few_rows():
    with pytest.raises(DataError, match="data: there are no rows; expected at least 3"):
        check_enough_rows(0, 3, "data")
    with pytest.raises(DataError, match="data: 5 rows are fewer than needed for 30 dimensions; expected at least 30"):
        check_enough_rows(5, 30, "data")
    with pytest.raises(DataError, match="data: 1 row is fewer than needed for 1 dimension; expected at least 2"):
        check_enough_rows(1, 1, "data")
    check_enough_rows(30, 30, "data")
