"""Tables from files: read, checked, split; everything that can be wrong with data is said here, before training."""

from flowmodel.data.checks import check_enough_rows, check_finite, check_varied
from flowmodel.data.read import read_table
from flowmodel.data.split import Split, split_rows
from flowmodel.data.table import Table

__all__ = ["Split", "Table", "check_enough_rows", "check_finite", "check_varied", "read_table", "split_rows"]
