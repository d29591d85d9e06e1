"""What is packed comes out again, and nothing else is taken for an envelope."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from flowmodel.runtime.envelope import EnvelopeError, pack, unpack

ARRAYS = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(["<f4", "<f8"]).flatmap(
        lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    max_size=3,
)


@given(ARRAYS)
def test_round_trip(arrays: dict[str, np.ndarray]) -> None:
    header, unpacked = unpack(pack({"op": "x", "n": 1}, arrays))
    assert header == {"op": "x", "n": 1}
    assert unpacked.keys() == arrays.keys()
    for name, array in arrays.items():
        assert unpacked[name].dtype == array.dtype
        np.testing.assert_array_equal(unpacked[name], array)


def test_arrays_are_views_of_the_buffer() -> None:
    buffer = bytearray(pack({}, {"rows": np.ones((2, 2))}))
    _, arrays = unpack(buffer)
    buffer[-8:] = struct.pack("<d", 5.0)
    assert arrays["rows"][1, 1] == 5.0


def test_other_layouts_are_written_little_endian_and_row_major() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    _, arrays = unpack(pack({}, {"a": array}))
    np.testing.assert_array_equal(arrays["a"], array)
    assert arrays["a"].dtype == np.dtype("<f4")


@pytest.mark.parametrize("dtype", [np.int64, np.float16, "U1", object])
def test_refuses_to_pack_other_types(dtype: object) -> None:
    with pytest.raises(EnvelopeError, match="float32 and float64"):
        pack({}, {"a": np.zeros(2, dtype)})


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for buffer in (data, b"FME1" + data):
        with pytest.raises(EnvelopeError):
            unpack(buffer)


@given(st.data())
def test_damage_never_gets_further_than_an_envelope_error(data: st.DataObject) -> None:
    buffer = bytearray(pack({"op": "log_prob"}, {"rows": np.ones((3, 2), "<f4"), "context": np.ones(3)}))
    position = data.draw(st.integers(0, len(buffer) - 1))
    buffer[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EnvelopeError):
        unpack(buffer)


def test_every_truncation_and_extension_is_refused() -> None:
    buffer = pack({"op": "log_prob"}, {"rows": np.ones((3, 2), "<f4")})
    for length in range(len(buffer)):
        with pytest.raises(EnvelopeError):
            unpack(buffer[:length])
    with pytest.raises(EnvelopeError, match="should be"):
        unpack(buffer + b"\0" * 8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([["a", "<i4", [1]]], "'<i4'"),
        ([["a", "<f4", [-1]]], "shape"),
        ([["a", "<f4", [2**62, 2**62]]], "shape"),
        ([["a", "<f4", [2**40, 2**40]]], "needs"),
        ([["a", "<f4", [True]]], "shape"),
        ([["a", "<f4", [1] * 9]], "9 dimensions"),
        ([["a", "<f4"]], "described"),
        ([["a", "<f4", [0]], ["a", "<f4", [0]]], "name of its own"),
        ([[1, "<f4", [0]]], "name of its own"),
        ("rows", "list the arrays"),
    ],
)
def test_wrong_descriptions_are_refused(arrays: object, message: str) -> None:
    head = json.dumps({"header": {}, "arrays": arrays}).encode()
    start = struct.pack("<4sI", b"FME1", len(head)) + head
    with pytest.raises(EnvelopeError, match=message):
        unpack(start + bytes(-len(start) % 8))
