"""Every kind of file is read to the same table, and every way in which one can be wrong is said by name."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_breast_cancer

from flowmodel.data import read_table
from flowmodel.errors import DataError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cancer():
    return load_breast_cancer()


@pytest.fixture(params=["csv", "tsv", "parquet", "npy"])
def cancer_file(request, cancer, tmp_path):
    path = tmp_path / f"cancer.{request.param}"
    names = list(cancer.feature_names)
    if request.param == "parquet":
        pq.write_table(pa.table(dict(zip(names, cancer.data.T, strict=True))), path)
    elif request.param == "npy":
        np.save(path, cancer.data)
        names = [f"x{column}" for column in range(30)]
    else:
        cells = "," if request.param == "csv" else "\t"
        lines = [cells.join(names), *(cells.join(repr(float(value)) for value in row) for row in cancer.data)]
        write(path, "\n".join(lines) + "\n")
    return path, names


def test_a_real_table_is_read_exactly_from_every_kind_of_file(cancer_file, cancer):
    path, names = cancer_file
    table = read_table(path)
    assert list(table.columns) == names
    assert table.rows.dtype == np.float64
    np.testing.assert_array_equal(table.rows, cancer.data)
    chosen = read_table(path, [names[7], names[2]])
    np.testing.assert_array_equal(chosen.rows, cancer.data[:, [7, 2]])


def test_fingerprint_depends_on_values_and_names_not_on_the_kind_of_file(cancer_file, cancer, tmp_path):
    path, names = cancer_file
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table(dict(zip(names, cancer.data.T, strict=True))), other)
    fingerprint = read_table(path).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    assert read_table(other).fingerprint() == fingerprint
    renamed = tmp_path / "renamed.parquet"
    pq.write_table(pa.table(dict(zip(["z", *names[1:]], cancer.data.T, strict=True))), renamed)
    assert read_table(renamed).fingerprint() != fingerprint
    assert read_table(path, names[:2]).fingerprint() != fingerprint


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("a;b\r\n1;2\r\n3;4", ("a", "b"), [[1, 2], [3, 4]]),
        ('\ufeff"a", b \n"1", 2 \n+3,4e0\n', ("a", "b"), [[1, 2], [3, 4]]),
        ("a,b\n\n1,2\n\n3,4\n\n", ("a", "b"), [[1, 2], [3, 4]]),
        ('"the ""a""\ncolumn",b\n1,2\n3,4\n', ('the "a"\ncolumn', "b"), [[1, 2], [3, 4]]),
    ],
)
def test_csv_dialects(tmp_path, text, columns, rows):
    table = read_table(write(tmp_path / "t.csv", text))
    assert table.columns == columns
    np.testing.assert_array_equal(table.rows, rows)


def test_columns_that_are_not_chosen_may_hold_anything(tmp_path):
    path = write(tmp_path / "t.csv", "id,a,b,a\nx,1,2,\ny,3,4,text\n")
    np.testing.assert_array_equal(read_table(path, ["b"]).rows, [[2], [4]])
    with pytest.raises(DataError, match=r"2 columns are called 'a' \(columns 2, 4\); give every column its own name"):
        read_table(path, ["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the file is empty; expected a table of numbers"),
        ("\n\n", r"the file is empty; expected a header line"),
        ("a,b\n", r"there are column names but no rows"),
        ("1,2\n3,4\n", r"line 1 holds numbers; expected the column names there: add a header line, for instance x0,x1"),
        ("a,\n1,2\n", r"line 1: column 2 has no name"),
        ("a,b,a\n1,2,3\n", r"2 columns are called 'a' \(columns 1, 3\)"),
        ("a,b\n1,2\n3,M\n", r"row 2 \(line 3\), column 'b': found the text 'M', expected a finite number"),
        ("a,b\n1,2\n\n3,M\n", r"row 2 \(line 4\), column 'b': found the text 'M'"),
        ("a,b\n1,1_000\n", r"row 1 \(line 2\), column 'b': found the text '1_000'"),
        ("a,b\n1,2\n,4\n", r"row 2 \(line 3\), column 'a': found a missing value, expected a finite number"),
        ("a,b\n1,NaN\n", r"row 1 \(line 2\), column 'b': found a missing value \('NaN'\)"),
        ("a,b\n1,-inf\n", r"row 1 \(line 2\), column 'b': found '-inf', which is infinite"),
        ("a,b\n1,1e999\n", r"row 1 \(line 2\), column 'b': found '1e999', which is infinite"),
        ("a,b\n1,2\n3\n", r"row 2 \(line 3\): found 1 cell, expected 2 as in the header; correct or remove the row"),
        ("a,b\n1,2\n3,4,5\n", r"row 2 \(line 3\): found 3 cells, expected 2"),
    ],
)
def test_a_wrong_csv_file_is_named_with_row_line_and_column(tmp_path, text, message):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DataError, match=re.escape(str(path)) + ": " + message):
        read_table(path)


def test_a_csv_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\xff\n1,2\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_table(path)


def test_unknown_columns_get_the_nearest_names(tmp_path):
    path = write(tmp_path / "t.csv", "mean radius,mean area,worst area\n1,2,3\n")
    with pytest.raises(DataError, match="there is no column 'mean raduis'; the nearest are 'mean radius'"):
        read_table(path, ["mean raduis"])
    with pytest.raises(
        DataError, match="there is no column 'q'; the columns are 'mean radius', 'mean area', 'worst area'"
    ):
        read_table(path, ["q"])
    with pytest.raises(DataError, match="column 'mean area' was asked for 2 times"):
        read_table(path, ["mean area", "mean area"])
    with pytest.raises(DataError, match="no column was chosen"):
        read_table(path, [])


def test_a_path_that_is_no_readable_file_is_said_so(tmp_path):
    with pytest.raises(DataError, match="there is no such file; check the path"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="is a directory"):
        read_table(tmp_path)
    with pytest.raises(
        DataError, match=r"the extension '.xlsx' says no known kind of file; expected .csv, .tsv, .parquet or"
    ):
        read_table(write(tmp_path / "t.xlsx", "x"))
    with pytest.raises(DataError, match="a name without extension"):
        read_table(write(tmp_path / "table", "x"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"an array of shape \(5,\); expected two dimensions, rows and columns; .*reshape\(-1, 1\)"),
        (np.zeros((2, 3, 4)), r"an array of shape \(2, 3, 4\); expected two dimensions"),
        (np.zeros((5, 2), dtype=complex), r"dtype complex128; expected real numbers"),
        (np.array([["a", "b"]]), r"dtype <U1; expected real numbers"),
        (np.zeros((0, 2)), "no rows"),
        (np.zeros((2, 0)), "has no columns"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), r"row 2, column 'x1': found NaN or a missing value"),
        (np.array([[1.0, 2.0], [-np.inf, 3.0]]), r"row 2, column 'x0': found minus infinity"),
    ],
)
def test_a_wrong_npy_file_is_refused(tmp_path, array, message):
    path = tmp_path / "t.npy"
    np.save(path, array)
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_an_npy_file_of_objects_is_never_unpickled(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.array([[1, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects"):
        read_table(path)
    path.write_bytes(b"\x93NUMPY\x01\x00 cut short")
    with pytest.raises(DataError, match="not a readable NPY file"):
        read_table(path)
    path.write_bytes(b"no array at all")
    with pytest.raises(DataError, match="is no NPY file"):
        read_table(path)


def test_a_wrong_parquet_file_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 2], "b": [1.5, None], "c": ["x", "y"], "d": [1.0, np.inf]}), path)
    with pytest.raises(DataError, match=r"row 1, column 'c': found 'x' \(the column is of type string\)"):
        read_table(path)
    with pytest.raises(DataError, match=r"row 2, column 'b': found NaN or a missing value"):
        read_table(path, ["a", "b"])
    with pytest.raises(DataError, match=r"row 2, column 'd': found infinity"):
        read_table(path, ["d"])
    np.testing.assert_array_equal(read_table(path, ["a"]).rows, [[1], [2]])
    path.write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(path)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_bad_rows_can_be_kept_with_their_reasons(tmp_path, kind):
    values = np.array([[1.0, 2.0], [np.nan, 3.0], [4.0, 5.0], [6.0, -np.inf]])
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        write(path, "x0,x1\n1,2\noops,3\n4,5\n6,7,8\n")
    elif kind == "parquet":
        pq.write_table(pa.table({"x0": values[:, 0], "x1": values[:, 1]}), path)
    else:
        np.save(path, values)
    table = read_table(path, bad_rows="keep")
    assert sorted(table.bad_rows) == [1, 3]
    assert "column 'x0'" in table.bad_rows[1]
    np.testing.assert_array_equal(table.rows, [[1, 2], [np.nan, np.nan], [4, 5], [np.nan, np.nan]])
    assert table.select(["x1"]).bad_rows == table.bad_rows
