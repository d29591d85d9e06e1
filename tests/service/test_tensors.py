"""Tensors of the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import InvalidRequest
from service.generated.density.v1 import density_service_pb2 as pb
from service.tensors import decode, encode


@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.dtype(">f4")]), hnp.array_shapes(min_side=0)))
def test_round_trip_is_exact(array: np.ndarray) -> None:
    back = decode(encode(array), "rows")
    assert back.shape == array.shape
    assert back.dtype.itemsize == array.dtype.itemsize
    np.testing.assert_array_equal(back, array)


def test_decoding_does_not_copy() -> None:
    message = encode(np.ones((4, 3), np.float32))
    assert (
        np.shares_memory(decode(message, "rows"), np.frombuffer(message.data, np.uint8))
        or not decode(message, "rows").flags.owndata
    )


@pytest.mark.parametrize(
    ("tensor", "fields", "text"),
    [
        (pb.Tensor(), ["rows.data_type", "rows.shape"], "DATA_TYPE_UNSPECIFIED given"),
        (pb.Tensor(data_type=7, shape=[1, 1], data=b"1234"), ["rows.data_type"], "7 given; DATA_TYPE_FLOAT32 or"),
        (
            pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[2, 3], data=b"12345"),
            ["rows.data"],
            r"has 5 bytes; 24 expected for shape \[2, 3\] of float32",
        ),
        (
            pb.Tensor(data_type=pb.DATA_TYPE_FLOAT64, shape=[-1, 3], data=b""),
            ["rows.shape"],
            r"\[-1, 3\] has a negative length",
        ),
        (
            pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[2**62, 2**62], data=b""),
            ["rows.data"],
            "has 0 bytes; 85070591730234615865843651857942052864 expected",
        ),
        (
            pb.Tensor(data_type=pb.DATA_TYPE_FLOAT64, shape=[0, 2**62], data=b""),
            ["rows.shape"],
            r"2 dimensions of lengths \[0, 4611686018427387904\] given",
        ),
        (
            pb.Tensor(data_type=pb.DATA_TYPE_FLOAT64, shape=[1] * 100, data=bytes(8)),
            ["rows.shape"],
            "100 dimensions of lengths",
        ),
    ],
)
def test_what_does_not_fit_is_named(tensor: pb.Tensor, fields: list[str], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as raised:
        decode(tensor, "rows")
    assert [violation.field for violation in raised.value.violations] == fields
