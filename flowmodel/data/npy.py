"""NPY files: one matrix, no names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowmodel.data.reading import Reading, non_finite_problems
from flowmodel.data.table import find_columns
from flowmodel.errors import DataError


def read(path: Path, wanted: Sequence[str] | None, first_only: bool) -> Reading:
    """Read a matrix of real numbers; its columns are called ``x0``, ``x1``, and so on.

    Raises:
        DataError: Not an NPY file, a damaged one, not of rank 2, or not of real numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error).lower():
            raise DataError(
                f"{path}: holds Python objects, or is no NPY file; expected a matrix of numbers: save it with "
                "numpy.save(path, array.astype(float))"
            ) from error
        raise DataError(f"{path}: not a readable NPY file ({error}); write it again with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: holds several arrays; expected one matrix: save it with numpy.save")
    if array.ndim != 2:
        hint = "; a single column is array.reshape(-1, 1)" if array.ndim == 1 else ""
        raise DataError(f"{path}: an array of shape {array.shape}; expected two dimensions, rows and columns{hint}")
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: an array of dtype {array.dtype}; expected real numbers: use array.astype(float)")
    names = [f"x{column}" for column in range(array.shape[1])]
    if not names:
        raise DataError(f"{path}: an array of shape {array.shape} has no columns; expected at least one")
    columns = tuple(wanted if wanted is not None else names)
    rows = array[:, find_columns(names, columns, str(path))].astype(np.float64)
    return Reading(columns, rows, non_finite_problems(columns, rows, first_only))
