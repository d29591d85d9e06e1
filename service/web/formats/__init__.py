"""Content types of HTTP bodies, one module each: how rows are read from one and answers written in it."""

from service.web.formats.arrow_format import ArrowFormat
from service.web.formats.binary_format import BinaryFormat
from service.web.formats.csv_format import CsvFormat
from service.web.formats.format import Format, Table
from service.web.formats.json_format import JsonFormat
from service.web.formats.ndjson_format import NdjsonFormat
from service.web.formats.npy_format import NpyFormat

FORMATS: dict[str, Format] = {
    offered.content_type: offered
    for offered in (JsonFormat(), CsvFormat(), NdjsonFormat(), BinaryFormat(), NpyFormat(), ArrowFormat())
}
"""Every format by its content type."""

__all__ = [
    "FORMATS",
    "ArrowFormat",
    "BinaryFormat",
    "CsvFormat",
    "Format",
    "JsonFormat",
    "NdjsonFormat",
    "NpyFormat",
    "Table",
]
