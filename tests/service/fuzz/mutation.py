"""Random messages of any kind, and bytes changed at random; every case is made from its number alone."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

WORDS = (
    "",
    "wine",
    "pair",
    "1",
    "2",
    "rows",
    "count",
    "log_prob",
    "density.v1.DensityService",
    "x" * 300,
    "ü\0",
    "-1",
    "0",
)
INTEGERS = (0, 1, 2, 3, 7, -1, 100, 1000, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 1e308, -1e-308, 1e38)
CHUNKS = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x80" * 12,
    b"\n",
    b",",
    b'"',
    b"{",
    b"]",
    b"NaN",
    b"1e999",
    b"\xef\xbb\xbf",
    b"\x93NUMPY",
)


def case_random(*number: object) -> random.Random:
    """The source of all chance in one case."""
    return random.Random("/".join(map(str, number)))


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The bytes with one to four changes: bits, values, cut, repeated, inserted, exchanged."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                del changed[at : at + chance.randint(1, 16)]
            case 3:
                changed[at:at] = changed[at : at + chance.randint(1, 64)] * chance.randint(1, 3)
            case 4:
                changed[at:at] = chance.choice(CHUNKS)
            case 5:
                del changed[at:]
            case 6 if len(changed) >= 8:
                at = chance.randrange(len(changed) - 7)
                value = chance.choice(INTEGERS) % 2**64
                changed[at : at + 8] = struct.pack("<Q", value)
            case _:
                changed[at:at] = chance.randbytes(chance.randint(1, 16))
    return bytes(changed)


def random_message(chance: random.Random, kind: Descriptor, depth: int = 0) -> Message:
    """A message whose fields hold anything that their types let through."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.4:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE and depth > 3:
            continue
        count = chance.choice((1, 1, 1, 2, 5)) if field.is_repeated else 1
        for _ in range(count):
            _set(chance, message, field, depth)
    return message


def _set(chance: random.Random, message: Message, field: FieldDescriptor, depth: int) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        kind: Descriptor = field.message_type
        if kind.GetOptions().map_entry:
            return
        made = random_message(chance, kind, depth + 1)
        target = getattr(message, field.name)
        (target.add() if field.is_repeated else target).CopyFrom(made)
        return
    value = _scalar(chance, field)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _scalar(chance: random.Random, field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return struct.pack("<6f", *(chance.choice(FLOATS[:6]) for _ in range(6)))[
                : chance.choice((24, 24, 12, 5, 0))
            ]
        return chance.choice(WORDS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([value.number for value in field.enum_type.values] + [9])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice(FLOATS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    bits = 64 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
    signed = field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return min(max(chance.choice(INTEGERS), low), high)
