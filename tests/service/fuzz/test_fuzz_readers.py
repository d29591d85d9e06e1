"""Readers of every content type on changed bodies, on bodies of odd structure, and on noise."""

from __future__ import annotations

import io
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bodies import ARROW, CSV, FEATURES, JSON, NDJSON, NPY, arrow_stream, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leaks import Watch
from mutation import case_random, mutated

from service.errors import InvalidRequest
from service.signature import Signature
from service.web.formats import FORMATS, Table
from service.web.formats.format import joined

SIGNATURES = (
    Signature("wine", (3,), None, FEATURES, ()),
    Signature("pair", (3,), (2,), FEATURES, ("left", "right")),
    Signature("square", (2, 2), None, ("a", "b", "c", "d"), ()),
)
MOST = 4096
ROWS = np.random.default_rng(0).standard_normal((5, 3))
CONTEXT = ROWS[:, :2].copy()
TABLE = pa.table({name: ROWS[:, index] for index, name in enumerate(FEATURES)})

ARROW_TYPES = (
    *(pa.float64(), pa.float16(), pa.int8(), pa.uint64(), pa.bool_(), pa.null(), pa.string(), pa.binary(), pa.date32()),
    *(
        pa.decimal128(5, 2),
        pa.list_(pa.float32(), 2),
        pa.struct([("x", pa.int32())]),
        pa.dictionary(pa.int8(), pa.string()),
    ),
)

_unpickling = threading.local()


def _see_unpickling(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and getattr(_unpickling, "forbidden", False):
        _unpickling.happened = arguments


sys.addaudithook(_see_unpickling)


@pytest.fixture(autouse=True)
def _nothing_is_unpickled() -> Iterator[None]:
    _unpickling.forbidden, _unpickling.happened = True, None
    yield
    _unpickling.forbidden = False
    assert _unpickling.happened is None


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


class Evil:
    """Would give itself away if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 / 0",)


def good_bodies() -> list[tuple[str, bytes]]:
    bodies = [
        (content_type, write_rows(content_type, ROWS.astype(kind), context))
        for content_type in FORMATS
        for kind in (np.float32, np.float64)
        for context in (None, CONTEXT.astype(kind))
    ]
    bodies += [(NPY, npy(ROWS.astype(kind))) for kind in ("<i8", ">f8", "<u2", "?", "<c16", "<f2", "S3", "<U2")]
    bodies += [(NPY, npy(array)) for array in (np.asfortranarray(ROWS), ROWS[:, 0], ROWS[:0], np.zeros((5, 2, 2)))]
    bodies += [(NPY, npy(np.array([Evil()] * 3, object), pickled=True))]
    bodies += [(ARROW, arrow_stream(TABLE, compression=name)) for name in ("zstd", "lz4")]
    words = pa.array(["1", None, "x", "4", "5"]).dictionary_encode()
    bodies += [(ARROW, arrow_stream(TABLE.set_column(0, "alpha", words)))]
    bodies += [
        (CSV, b"1,2,3\n4,5,6\r\n\r\n"),
        (CSV, b'"alpha","beta","gamma","note"\n1,2,3,"a,\nb"\n'),
        (CSV, b"alpha;beta\n"),
    ]
    bodies += [(NDJSON, b'{"alpha": 1, "beta": 2, "gamma": null}\n[1, 2, "NaN"]\n\n"x"\n')]
    return [*bodies, (JSON, b'{"rows": [[1, [2], null], [], {}], "context": 1e400}')]


def same(one: Table, other: Table) -> bool:
    if (one.context is None) != (other.context is None):
        return False
    contexts = () if one.context is None or other.context is None else (one.context, other.context)
    return (
        np.array_equal(one.rows, other.rows, equal_nan=True)
        and (not contexts or np.array_equal(*contexts, equal_nan=True))
        and [error.row for error in one.unreadable] == [error.row for error in other.unreadable]
    )


def check(content_type: str, body: bytes, signature: Signature, chance: random.Random) -> str:
    """Read the body whole and in pieces; empty when both bear it and agree, else what went wrong."""
    offered = FORMATS[content_type]
    try:
        whole: Table | None = offered.read(body, signature)
    except InvalidRequest:
        whole = None
    except Exception as error:
        return f"read: {error!r}"
    reader = offered.reader(signature, MOST)
    if reader is None:
        return ""
    try:
        at, tables = 0, []
        while at < len(body):
            size = chance.choice((1, 3, 17, 64, MOST))
            tables += reader.feed(body[at : at + size])
            at += size
        parts: Table | None = joined([*tables, *reader.finish()])
    except InvalidRequest:
        # In pieces, one that is too long is refused, which is no difference that matters.
        return "" if whole is None or len(body) > MOST else "read whole, refused in pieces"
    except Exception as error:
        return f"in pieces: {error!r}"
    if whole is None:
        return "refused whole, read in pieces"
    return "" if parts is not None and same(whole, parts) else "not the same whole and in pieces"


def test_changed_bodies_are_read_or_refused(share: Callable[[float], int]) -> None:
    bodies, cases, found = good_bodies(), share(0.5), []
    watch = Watch(cases)
    for number in range(cases):
        chance = case_random("readers", number)
        content_type, body = chance.choice(bodies)
        if chance.random() < 0.05:
            body = chance.randbytes(chance.randrange(300))
        elif chance.random() < 0.9:
            body = mutated(chance, body)
        if chance.random() < 0.05:
            content_type = chance.choice(list(FORMATS))
        if wrong := check(content_type, body, chance.choice(SIGNATURES), chance):
            found.append(f"case {number}, {content_type}: {wrong} of {body!r}")
        watch.tick()
    assert not found, f"{len(found)} cases:\n" + "\n".join(found[:10])
    watch.check()


def test_structures_that_nobody_thought_of(share: Callable[[float], int]) -> None:
    number = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
    cell = st.one_of(
        number.map(str), st.text(max_size=4), st.sampled_from(["", '"', "NA", "null", "-", "1_0", "0x1", "\u0661"])
    )
    csv = st.lists(st.lists(cell, max_size=5).map(",".join), max_size=6).map("\n".join).map(str.encode)
    leaf = st.one_of(number, st.none(), st.booleans(), st.text(max_size=3), st.sampled_from(["NaN", "Infinity"]))
    value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
    table = st.fixed_dictionaries({}, optional={"rows": value, "context": value, "other": leaf})
    header = st.fixed_dictionaries(
        {},
        optional={
            "descr": st.one_of(
                st.sampled_from(["<f4", "<f8", "|O", "<f16", "<M8[s]", "|V8", "f4", "<f999"]), leaf, value
            ),
            "shape": st.one_of(st.lists(st.integers(-1, 10**12), max_size=4).map(tuple), leaf),
            "fortran_order": leaf,
            "more": leaf,
        },
    )

    def npy_file(parts: tuple[dict[str, Any], bytes, bytes]) -> bytes:
        text, rest, version = repr(parts[0]).encode(), parts[1], parts[2]
        length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
        return b"\x93NUMPY" + version + length + text + rest

    npy_body = st.tuples(header, st.binary(max_size=60), st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\4\0"])).map(
        npy_file
    )
    kinds = st.sampled_from(ARROW_TYPES)
    names = st.sampled_from([*FEATURES, "left", "right", "", "other"])
    columns = st.lists(st.tuples(names, kinds), max_size=6)

    def arrow_body(parts: tuple[list[tuple[str, pa.DataType]], int]) -> bytes:
        chosen, rows = parts
        arrays = [pa.nulls(rows, kind) for _, kind in chosen]
        return arrow_stream(pa.Table.from_arrays(arrays, names=[name for name, _ in chosen]))

    arrow_streams = st.tuples(columns, st.integers(0, 4)).map(arrow_body)
    bodies = st.one_of(
        st.tuples(st.just(CSV), csv),
        st.tuples(st.just(JSON), table.map(repr_json)),
        st.tuples(st.just(NDJSON), st.lists(value, max_size=4).map(lambda rows: b"\n".join(map(repr_json, rows)))),
        st.tuples(st.just(NPY), npy_body),
        st.tuples(st.just(ARROW), arrow_streams),
    )

    @settings(
        max_examples=share(0.02),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies, st.sampled_from(SIGNATURES), st.integers(0, 100))
    def every(typed: tuple[str, bytes], signature: Signature, seed: int) -> None:
        wrong = check(*typed, signature, random.Random(seed))
        assert not wrong, (wrong, typed)

    every()


def repr_json(value: Any) -> bytes:
    """JSON with Python's own NaN and infinities, which JSON does not know."""
    import json

    return json.dumps(value).encode()
