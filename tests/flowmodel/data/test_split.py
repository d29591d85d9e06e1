"""The split is a partition, the same for the same seed, and says when it cannot be made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmodel.data import split_rows
from flowmodel.errors import DataError


@given(
    count=st.integers(10, 500),
    validation=st.floats(0, 0.4),
    test=st.floats(0, 0.4),
    seed=st.integers(0, 2**32),
)
def test_the_parts_are_a_partition(count, validation, test, seed):
    split = split_rows(count, validation=validation, test=test, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(count))
    assert len(split.validation) == (max(1, round(validation * count)) if validation else 0)
    assert len(split.test) == (max(1, round(test * count)) if test else 0)


def test_the_seed_decides():
    first, again, other = (split_rows(100, seed=seed) for seed in (3, 3, 4))
    for part, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, same)
    assert not np.array_equal(first.test, other.test)


def test_a_split_that_cannot_be_made_is_refused():
    with pytest.raises(DataError, match="2 rows cannot be split into 1 for validation and 1 for the test"):
        split_rows(2)
    with pytest.raises(DataError, match=r"validation fraction 1.0 is out of range"):
        split_rows(10, validation=1.0)
    with pytest.raises(DataError, match=r"test fraction -0.1 is out of range"):
        split_rows(10, test=-0.1)
