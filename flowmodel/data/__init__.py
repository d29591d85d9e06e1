"""Tables from files: read, checked, split; everything that can be wrong with data is said here, before training."""

from flowmodel.data.atoms import Atom, find_atoms
from flowmodel.data.checks import check_enough_rows, check_finite, check_supported, check_varied
from flowmodel.data.collinearity import Dependent, dependent_columns
from flowmodel.data.inference import Inferred, infer_supports
from flowmodel.data.read import read_table
from flowmodel.data.split import Split, split_rows
from flowmodel.data.table import Table

__all__ = [
    "Atom",
    "Dependent",
    "Inferred",
    "Split",
    "Table",
    "check_enough_rows",
    "check_finite",
    "check_supported",
    "check_varied",
    "dependent_columns",
    "find_atoms",
    "infer_supports",
    "read_table",
    "split_rows",
]
