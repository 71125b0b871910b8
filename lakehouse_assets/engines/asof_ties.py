"""Rows of one key and one instant in an order that does not depend on how they came.

What belongs here: the order of values, which is Spark's: NULL first, then false, numbers, texts by their bytes, -0.0
before 0.0, NaN last. What does not: searching.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class Settler:
    """Orders rows of a table that are tied."""

    def __init__(self, table: pa.Table, order: Sequence[str]) -> None:
        self._columns = [table[name] for name in order]
        self._whole: dict[int, pa.ChunkedArray] = {}

    def settled(
        self, rows: npt.NDArray[np.int64], codes: npt.NDArray[np.int32], times: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Row numbers that stand by code and time, with those of equal code and time in order."""
        same = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
        at, run = _runs(np.arange(len(rows)) if same.any() else np.arange(0), same)
        rows = rows.copy() if len(at) else rows
        for index in range(len(self._columns)):
            if not len(at):
                break
            key = _ranks(self._taken(index, rows[at]))
            if ((key[1:] < key[:-1]) & (run[1:] == run[:-1])).any():
                order = np.lexsort((key, run))
                rows[at], key = rows[at[order]], key[order]
            at, run = _runs(at, (run[1:] == run[:-1]) & (key[1:] == key[:-1]))
        return rows

    def _taken(self, index: int, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
        """Some values of a column, which is put into one piece once: Arrow would do it each time."""
        if index not in self._whole:
            self._whole[index] = pa.table([self._columns[index]], names=["c"]).combine_chunks()["c"]
        return self._whole[index].take(pa.array(rows))


def _runs(
    at: npt.NDArray[np.int64], same: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of places those that are tied with a neighbour, and the number of their run; `same`: each with the one before."""
    if not len(at):
        return at, at
    tied = np.append(same, False) | np.append(False, same)
    run = np.cumsum(np.append(False, ~same))
    return at[tied], run[tied]


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Numbers in the order of the values; 0 for NULL."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pa.chunked_array([_total(column.cast(pa.float64()))], pa.int64())
    ranks = pc.rank(column, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
    if column.null_count:
        ranks[column.is_null().to_numpy()] = 0
    return ranks


def _total(column: pa.ChunkedArray) -> pa.Array:
    """Floats as integers in a total order: -0.0 before 0.0, every NaN after every number."""
    values = np.array(column.fill_null(0.0).to_numpy())
    values[np.isnan(values)] = np.nan
    bits = values.view(np.int64)
    return pa.array(bits ^ ((bits >> 63) & np.iinfo(np.int64).max), mask=column.is_null().to_numpy())
