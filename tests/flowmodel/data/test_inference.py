"""Supports guessed from data, with care; columns that others decide; values that repeat."""

from __future__ import annotations

import numpy as np
import pytest

from flowmodel.data import Table, check_supported, dependent_columns, find_atoms, infer_supports
from flowmodel.errors import DataError
from flowmodel.supports import Bounded, Integer, Periodic, Positive, Real

RANDOM = np.random.default_rng(7)
COLUMNS = {
    "normal": (RANDOM.normal(5, 2, 400), None),
    "lognormal": (RANDOM.lognormal(0, 1, 400), Positive()),
    "shifted": (RANDOM.normal(100, 1, 400), None),
    "lognormal with a nought": (np.append(RANDOM.lognormal(0, 1, 399), 0.0), None),
    "share": (RANDOM.beta(1.2, 1.2, 400), Bounded(0, 1)),
    "share of the middle": (RANDOM.beta(20, 20, 400), None),
    "share with a one": (np.append(RANDOM.beta(1.2, 1.2, 399), 1.0), None),
    "counts": (RANDOM.poisson(3, 400), Integer(0)),
    "years": (RANDOM.integers(1990, 2020, 400), Integer()),
    "differences": (RANDOM.integers(-5, 5, 400), Integer()),
    "distinct whole numbers": (RANDOM.permutation(400) * 10.0, None),
    "halves": (RANDOM.integers(0, 9, 400) / 2, None),
}


def table_of(**columns):
    return Table(tuple(columns), np.column_stack([np.asarray(c, dtype=float) for c in columns.values()]), "data.csv")


@pytest.mark.parametrize("name", list(COLUMNS))
def test_a_column_is_guessed(name):
    values, support = COLUMNS[name]
    found = infer_supports(table_of(**{name: values}))
    assert (found[name].support if name in found else None) == support
    assert not infer_supports(table_of(**{name: values}), declared=[name])


def test_a_few_rows_are_too_few_to_guess_from():
    assert not infer_supports(table_of(a=RANDOM.lognormal(0, 1, 49)))


def test_the_reason_is_said():
    assert infer_supports(table_of(a=[1, 1, 2, 2, 2]))["a"].reason == "2 different values in 5 rows, all of them whole"


@pytest.mark.parametrize(
    ("support", "values", "text"),
    [
        (
            Positive(),
            [1, 0, -1],
            "data.csv: row 2, column 'a': found 0, expected numbers above 0 .and 1 more such rows",
        ),
        (Bounded(0, 1), [0.5, 1], "row 2, column 'a': found 1, expected numbers between, not at, 0 and 1; correct"),
        (Integer(0, 5), [1, 6], "found 6, expected whole numbers from 0 to 5; .* such as whole numbers of any size"),
        (Integer(0), [1, 2.5], "found 2.5, expected whole numbers from 0"),
        (Integer(), [1, 2.5], "found 2.5, expected whole numbers; .* such as real numbers"),
    ],
)
def test_a_value_outside_is_named(support, values, text):
    table = table_of(a=values)
    with pytest.raises(DataError, match=text):
        check_supported(table.rows, table.columns, [support], table.source)


def test_values_inside_pass():
    table = table_of(a=[1, 2], b=[0.1, 0.9], c=[-5, 725])
    check_supported(table.rows, table.columns, [Integer(1, 2), Bounded(0, 1), Periodic(0, 360)], table.source)
    check_supported(table.rows, table.columns, [Positive(), Positive(), Real()], table.source)


def test_dependent_columns_are_named_with_their_sources():
    a, b, c = RANDOM.normal(size=(3, 500))
    near = a - 2 * b + 1e-8 * RANDOM.normal(size=500)
    far = a + b + 1e-3 * RANDOM.normal(size=500)
    table = table_of(a=a + 1e3, b=b, c=c, again=a + 1e3, near=5 * near - 7, far=far, fahrenheit=c * 1.8 + 32)
    found = {one.column: one for one in dependent_columns(table)}
    assert set(found) == {"again", "near", "fahrenheit"}
    assert str(found["again"]) == "column again is the same as a in every row"
    assert found["near"].sources == ("a", "b")
    assert 1e-9 < found["near"].residual < 1e-7
    assert str(found["fahrenheit"]).startswith("column fahrenheit follows from c (up to ")


def test_as_many_columns_as_rows_are_not_called_dependent():
    assert dependent_columns(Table(("a", "b", "c"), RANDOM.normal(size=(3, 3)), "few")) == []


def test_a_value_that_repeats_is_named():
    rain = np.where(np.arange(100) < 34, 0.0, RANDOM.normal(size=100))
    found = find_atoms(table_of(rain=rain, other=RANDOM.normal(size=100)))
    assert [str(atom) for atom in found] == ["column rain is exactly 0 in 34% of the rows"]
