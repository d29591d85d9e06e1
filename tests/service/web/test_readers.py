"""The readers of every content type alone: in pieces as they arrive, cut off, with the wrong columns, and mutated."""

from __future__ import annotations

import gc
import io
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from service.errors import InvalidRequest
from service.signature import Signature
from service.web.formats import FORMATS, Table
from service.web.formats.format import joined

sys.path.insert(0, str(Path(__file__).parent))

from bodies import ARROW, BINARY, CSV, FEATURES, JSON, NDJSON, NPY, arrow, arrow_stream, write_rows

SIGNATURE = Signature("wine", (3,), None, FEATURES, ())
PAIR = Signature("pair", (3,), (2,), FEATURES, ("left", "right"))
STREAMED = [name for name in FORMATS if FORMATS[name].reader(SIGNATURE, 1000) is not None]
ROWS = np.random.default_rng(0).standard_normal((17, 3)).astype(np.float32)
MOST = 1 << 20


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def read(content_type: str, body: bytes, size: int, signature: Signature = SIGNATURE, most: int = MOST) -> Table:
    """The body read in pieces of a size."""
    reader = FORMATS[content_type].reader(signature, most)
    tables = [table for piece in pieces(body, size) for table in reader.feed(piece)]
    return joined([*tables, *reader.finish()])


def test_every_type_but_json_is_read_as_it_arrives() -> None:
    assert [name for name in FORMATS if name != JSON] == STREAMED


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("content_type", STREAMED)
def test_pieces_of_any_size_give_the_whole(content_type: str, size: int) -> None:
    table = read(content_type, write_rows(content_type, ROWS), size)
    np.testing.assert_array_equal(table.rows.astype(np.float32), ROWS)
    assert table.context is None
    assert table.unreadable == []


@pytest.mark.parametrize("content_type", STREAMED)
def test_contexts_are_told_from_features(content_type: str) -> None:
    context = ROWS[:, :2] * 2
    table = read(content_type, write_rows(content_type, ROWS, context), 50, PAIR)
    np.testing.assert_array_equal(table.rows.astype(np.float32), ROWS)
    np.testing.assert_array_equal(table.context.astype(np.float32), context)


@pytest.mark.parametrize("content_type", [CSV, NDJSON])
@pytest.mark.parametrize("size", [1, 10_000])
def test_malformed_lines_keep_their_place_and_number(content_type: str, size: int) -> None:
    lines = write_rows(content_type, ROWS).decode().splitlines()
    first = len(lines) - len(ROWS)
    lines[first + 4] = "1,2,x" if content_type == CSV else '[1, 2, "x"]'
    lines[first + 9] = "1,2" if content_type == CSV else "[1, 2"
    table = read(content_type, "\n".join(lines).encode(), size)
    assert [error.row for error in table.unreadable] == [4, 9]
    assert [f"line {first + row + 1}:" in error.message for row, error in zip((4, 9), table.unreadable, strict=True)]
    assert "gamma is" in table.unreadable[0].message
    good = [row for row in range(17) if row not in (4, 9)]
    np.testing.assert_array_equal(table.rows[good].astype(np.float32), ROWS[good])


def test_ndjson_names_its_values_in_any_order_and_ignores_others() -> None:
    body = b'{"gamma": 3, "id": "x", "alpha": 1, "beta": 2}\n\n[1, 2, 3]\r\n{"alpha": "NaN", "beta": 0, "gamma": 0}'
    table = read(NDJSON, body, 10_000)
    np.testing.assert_array_equal(table.rows[:2], [[1, 2, 3], [1, 2, 3]])
    assert np.isnan(table.rows[2, 0])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"7", "7 given; a list of numbers or an object expected"),
        (b"[1, 2]", "2 values given; 3 expected"),
        (b'{"alpha": 1}', "beta is missing"),
        (b"[1, 2, null]", "gamma is null; a number expected"),
        (b"[1, 2, true, 4]", "4 values given"),
        (b"[1, 2, 3], [4, 5, 6]", "is not JSON"),
        (b"[1, 2,", "is not JSON"),
    ],
)
def test_a_wrong_ndjson_line_says_what_is_wrong(line: bytes, text: str) -> None:
    table = read(NDJSON, b"[1, 2, 3]\n" + line + b"\n[4, 5, 6]\n", 10_000)
    assert text in table.unreadable[0].message
    np.testing.assert_array_equal(table.rows[[0, 2]], [[1, 2, 3], [4, 5, 6]])


def test_rows_that_would_join_over_a_line_do_not() -> None:
    table = read(NDJSON, b"[1, 2, 3], [4, 5\n6]\n[7, 8, 9]\n", 10_000)
    assert [error.row for error in table.unreadable] == [0, 1]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", "<i4", "u1", "<i8"])
def test_npy_of_any_number(dtype: str) -> None:
    rows = np.arange(12).reshape(4, 3).astype(dtype)
    table = read(NPY, write_rows(NPY, rows), 100)
    assert table.rows.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(table.rows, np.arange(12).reshape(4, 3))


def npy(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


class Bomb:
    """What tells that it was unpickled."""

    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


@pytest.mark.parametrize("content_type", FORMATS)
def test_a_body_that_is_cut_off_never_gives_a_row_that_was_not_in_it(content_type: str) -> None:
    body = write_rows(content_type, ROWS)
    refused = 0
    for end in range(1, len(body)):
        try:
            table = FORMATS[content_type].read(body[:end], SIGNATURE)
        except InvalidRequest:
            refused += 1
            continue
        cut = {error.row for error in table.unreadable}
        refused += bool(cut)
        good = [row for row in range(len(table.rows)) if row not in cut]
        if content_type == CSV and body[end - 1 : end] != b"\n" and good:
            # Nothing tells a whole last number from the beginning of a longer one.
            good.pop()
        np.testing.assert_array_equal(table.rows[good].astype(np.float32), ROWS[good])
    assert refused > 0


def narrow(content_type: str) -> bytes:
    """Five rows of two columns where the model has three."""
    if content_type == CSV:
        return b"alpha,beta\n" + b"1,2\n" * 5
    if content_type == ARROW:
        return arrow({"alpha": ROWS[:5, 0], "beta": ROWS[:5, 1]})
    return write_rows(content_type, np.ones((5, 2)))


@pytest.mark.parametrize("content_type", [name for name in FORMATS if name != NDJSON])
def test_rows_of_another_width_are_refused(content_type: str) -> None:
    def checked() -> None:
        SIGNATURE.check_rows(FORMATS[content_type].read(narrow(content_type), SIGNATURE).rows, 100)

    with pytest.raises(InvalidRequest) as refused:
        checked()
    assert refused.value.reason in ("WRONG_SHAPE", "MISSING_COLUMN", "TRUNCATED")


CASES = [
    ("npy of objects", NPY, npy(np.array([[Bomb()] * 3], object)), "MALFORMED_NPY", "pickled objects"),
    ("a bare pickle", NPY, pickle.dumps(Bomb()), "MALFORMED_NPY", "does not begin as an .npy file"),
    ("npy of text", NPY, npy(np.array([["a"] * 3])), "WRONG_TYPE", "<U1 given; float32 or float64"),
    ("npy of complex", NPY, npy(np.ones((2, 3), complex)), "WRONG_TYPE", "complex128 given"),
    ("npy too narrow", NPY, npy(np.ones((4, 2))), "WRONG_SHAPE", "shape [4, 2] given, [N, 3] expected"),
    ("npy of one row", NPY, npy(np.ones(3)), "WRONG_SHAPE", "shape [3] given"),
    ("npy in Fortran order", NPY, npy(np.asfortranarray(np.ones((4, 3)))), "WRONG_SHAPE", "np.ascontiguousarray"),
    ("npy without rows", NPY, npy(np.ones((0, 3))), "NO_ROWS", "has no row"),
    ("npy cut off", NPY, npy(np.ones((4, 3)))[:-24], "TRUNCATED", "3 rows given where its header says 4"),
    ("npy cut in a number", NPY, npy(np.ones((4, 3)))[:-3], "TRUNCATED", "21 bytes over"),
    ("npy cut in its header", NPY, npy(np.ones((4, 3)))[:40], "MALFORMED_NPY", "40 bytes given that are no header"),
    ("npy too long", NPY, npy(np.ones((4, 3))) + npy(np.ones((1, 3)))[-24:], "TRUNCATED", "5 rows given where"),
    ("npy with a giant header", NPY, b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 99, "MALFORMED_NPY", "at most"),
    ("npy with code for a header", NPY, npy(np.ones((1, 3))).replace(b"'descr'", b"exit(1)"), "MALFORMED_NPY", ""),
    ("arrow without a column", ARROW, arrow({"alpha": ROWS[:, 0], "beta": ROWS[:, 1]}), "MISSING_COLUMN", "gamma"),
    ("arrow of text", ARROW, arrow(dict.fromkeys(FEATURES, np.array(["x"]))), "WRONG_TYPE", "column of string given"),
    ("arrow without rows", ARROW, arrow(dict.fromkeys(FEATURES, ROWS[:0, 0])), "NO_ROWS", "has no row"),
    ("arrow cut off", ARROW, write_rows(ARROW, ROWS)[:-40], "TRUNCATED", "ends in the middle of a message"),
    ("arrow of nothing", ARROW, b"abcdefgh", "MALFORMED_ARROW", "does not begin with the mark"),
    ("arrow of a file", ARROW, b"ARROW1\0\0" + write_rows(ARROW, ROWS), "MALFORMED_ARROW", "does not begin"),
    ("arrow with a negative length", ARROW, b"\xff\xff\xff\xff\xff\xff\xff\xff", "MALFORMED_ARROW", "is negative"),
    (
        "arrow with a giant message",
        ARROW,
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        "CHUNK_TOO_LARGE",
        "longer than 1048576",
    ),
    ("octets cut off", BINARY, write_rows(BINARY, ROWS)[:-1], "TRUNCATED", "16 rows and 11 bytes over"),
    ("csv without a column", CSV, b"alpha,beta\n1,2\n", "MISSING_COLUMN", "gamma: column missing"),
    ("csv with semicolons", CSV, b"alpha;beta;gamma\n1,5;2;3\n", "MALFORMED_CSV", "has semicolons between its columns"),
    ("csv with tabs", CSV, b"alpha\tbeta\tgamma\n1\t2\t3\n", "MALFORMED_CSV", "has tabs between its columns"),
    ("csv with semicolons, no header", CSV, b"1,5;2,5;3,5\n", "MALFORMED_CSV", "points in decimal numbers"),
    ("csv without rows", CSV, b"alpha,beta,gamma\n", "NO_ROWS", "has no row below its header"),
    ("csv of another width", CSV, b"1,2\n", "WRONG_SHAPE", "no header and 2 columns; 3 expected"),
    ("csv of one endless line", CSV, b"1," * 600_000, "CHUNK_TOO_LARGE", "a line is longer than 1048576"),
    ("ndjson without rows", NDJSON, b"\n\n", "NO_ROWS", "has no row"),
]


@pytest.mark.parametrize("size", [1, 4096])
def test_a_truth_among_numbers_is_no_number(size: int) -> None:
    table = read(NDJSON, b"[1, 2, false]\n[1, 2, 3]\n", size)
    assert [error.row for error in table.unreadable] == [0]
    assert "gamma is false; a number expected" in table.unreadable[0].message


@pytest.mark.parametrize("size", [5, 4096, 1 << 21])
@pytest.mark.parametrize(
    ("content_type", "body", "reason", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_body_that_cannot_be_read_is_refused(
    content_type: str, body: bytes, reason: str, text: str, size: int
) -> None:
    if size == 5 and len(body) > 100_000:
        size = 4096
    if reason == "CHUNK_TOO_LARGE" and content_type == CSV:
        size = 4096
    with pytest.raises(InvalidRequest) as refused:
        read(content_type, body, size)
    assert refused.value.reason == reason
    assert text in str(refused.value)
    assert not Bomb.fired


def test_csv_says_that_a_row_is_one_line() -> None:
    table = read(CSV, b'alpha,note,beta,gamma\n1,"a\nb",2,3\n1,an inch is 1",2,3\n', 4096)
    assert [error.row for error in table.unreadable] == [0, 1]
    assert "line 2: 2 columns given; 4 expected; a quote is open at its end, and a row is one line" in (
        table.unreadable[0].message
    )
    np.testing.assert_array_equal(table.rows[2], [1, 2, 3])


def test_arrow_takes_columns_by_name_and_nulls_as_errors() -> None:
    table = pa.table(
        {
            "kind": pa.array(["red", "white", None, "red", "red"]).dictionary_encode(),
            "gamma": pa.array([1.0, None, 3.0, 4.0, 5.0]),
            "alpha": pa.array([1, 2, 3, 4, 5], pa.int32()),
            "beta": pa.array([0.5, 0.5, 0.5, 0.5, None], pa.float32()),
        }
    )
    read_in = read(ARROW, arrow_stream(table, batch_rows=2), 11)
    np.testing.assert_array_equal(read_in.rows[[0, 2, 3]], [[1, 0.5, 1], [3, 0.5, 3], [4, 0.5, 4]])
    assert [(error.row, error.field) for error in read_in.unreadable] == [(1, "gamma"), (4, "beta")]


def test_arrow_keeps_single_precision_single() -> None:
    assert read(ARROW, write_rows(ARROW, ROWS), 1000).rows.dtype == np.float32
    assert read(ARROW, write_rows(ARROW, ROWS.astype(np.float64)), 1000).rows.dtype == np.float64


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_arrow_is_read_up_to_what_it_inflates_to(compression: str) -> None:
    def body(rows: int) -> bytes:
        table = pa.table({name: np.zeros(rows) for name in FEATURES})
        return arrow_stream(table, batch_rows=rows, compression=compression)

    assert read(ARROW, body(1000), 100).rows.shape == (1000, 3)
    bomb = body(1_000_000)
    assert len(bomb) < MOST / 4
    with pytest.raises(InvalidRequest, match=r"when inflated, is longer than 1048576 bytes"):
        read(ARROW, bomb, 4096)


@pytest.mark.parametrize("content_type", FORMATS)
def test_mutated_bodies_are_read_or_refused(content_type: str) -> None:
    """Whatever a byte is changed to, the reader gives rows of the right width or says what is wrong."""
    random = np.random.default_rng(5)
    body = write_rows(content_type, ROWS)
    refused = 0
    for _ in range(1000):
        mutated = bytearray(body)
        for place in random.integers(len(body), size=random.integers(1, 4)):
            mutated[place] = random.integers(256)
        mutated = mutated[: random.integers(1, len(body) + 1)] if random.random() < 0.3 else mutated
        try:
            table = FORMATS[content_type].read(bytes(mutated), SIGNATURE)
        except InvalidRequest:
            refused += 1
        else:
            assert content_type == JSON or table.rows.shape[1:] == (3,)
            assert table.rows.dtype in (np.float32, np.float64)
            refused += bool(table.unreadable)
    assert refused > 10


def test_npy_headers_are_read_by_several_threads() -> None:
    """Python 3.11's parser of literals fails when another thread takes over in the middle of it, as in a collection."""
    body, found = npy(np.ones((2, 3))), list[object]()

    def pause(phase: str, information: object) -> None:
        time.sleep(1e-5)

    def read_at(depth: int) -> None:
        if depth:
            read_at(depth - 1)
            return
        try:
            for _ in range(60):
                found.append(len(read(NPY, body, 1000).rows))
        except SystemError as error:
            found.append(error)

    threads = [threading.Thread(target=read_at, args=(10 * number,)) for number in range(8)]
    before = gc.get_threshold()
    gc.set_threshold(5)
    gc.callbacks.append(pause)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(pause)
        gc.set_threshold(*before)
    assert set(found) == {2}
