"""The cases that change data is known for: batches of events of one key, and what a person says comes of them.

All of them run in one lake, under every declaration of `TABLES`; each tells what one of these tables shows.
What belongs here: declarations and cases. What does not: running them (`test_history_cases.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from lakehouse_assets_tests.tables.history_lab import declared, history, of, rm, up
from lakehouse_assets_tests.tables.history_model import Declaration

_A, _BOTH = frozenset("a"), frozenset("ab")
_NULLS, _SOFT = {"ignore_null_updates": True}, {"lakehouse": {"history": {"soft_deletes": "gone"}}}
TABLES: Mapping[str, tuple[dict[str, Any], Declaration]] = {
    "all": ({}, declared()),
    "pinned": ({"track_history_column_list": ["a"]}, declared(tracked=("a",))),
    "untracked": ({"track_history_except_column_list": ["A"]}, declared(tracked=("b",))),
    "nothing": ({"track_history_column_list": []}, declared(tracked=())),
    "sequenced": ({"except_column_list": ["id", "op"]}, declared(columns=("k", "ts", "a", "b"))),
    "one": ({"stored_as_scd_type": 1}, declared(scd=1)),
    "nulls": (_NULLS, declared(inherits=_BOTH)),
    "nulls_a": ({"ignore_null_updates_column_list": ["a"]}, declared(inherits=_A)),
    "nulls_not_b": ({"ignore_null_updates_except_column_list": ["b"]}, declared(inherits=_A)),
    "nulls_pinned": (_NULLS | {"track_history_column_list": ["a"]}, declared(inherits=_BOTH, tracked=("a",))),
    "nulls_one": (_NULLS | {"stored_as_scd_type": 1}, declared(scd=1, inherits=_BOTH)),
    "soft": (_SOFT, declared(soft="gone")),
    "soft_pinned": (_SOFT | _NULLS | {"track_history_column_list": ["a"]}, declared(soft="gone", inherits=_BOTH, tracked=("a",))),
    "soft_one": (_SOFT | {"stored_as_scd_type": 1}, declared(scd=1, soft="gone")),
    "where": ({"where": "b < 100"}, declared(where=lambda row: row["b"] is not None and row["b"] < 100)),
    "renamed": ({"lakehouse": {"history": {"start_at": "valid_from", "end_at": "valid_to"}}}, declared(start="valid_from", end="valid_to")),
}  # fmt: skip
"""Tables over one stream: the fields of the entity, and the same as the model takes it."""


def entities(*names: str) -> list[dict[str, Any]]:
    """The entities of some of `TABLES` (default: all)."""
    return [history(name, **TABLES[name][0]) for name in names or TABLES]


def shown(name: str) -> tuple[str, ...]:
    """The columns of one of `TABLES`."""
    of_table = TABLES[name][1]
    flag = (of_table.soft,) if of_table.soft else ()
    return (*of_table.columns, *flag, *((of_table.start, of_table.end) if of_table.scd == 2 else ()))


@dataclass(frozen=True)
class Case:
    """Batches of events of one key, and what one of `TABLES` shows of it then.

    Attributes:
        rows: values of `a` (and `b`, where they are longer; and the flag of soft deletes), start and end.
        broken: sequence and reason of the events in quarantine.
    """

    table: str
    batches: tuple[tuple[Mapping[str, Any], ...], ...]
    rows: tuple[tuple[Any, ...], ...]
    broken: tuple[tuple[Any, str], ...] = ()
    columns: tuple[str, ...] = ("a",)

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns of `rows`."""
        of_table = TABLES[self.table][1]
        return (*self.columns, *((of_table.start, of_table.end) if of_table.scd == 2 else ()))


def case(table: str, *batches: Any, rows: Sequence[tuple[Any, ...]], broken: Any = (), columns: str = "a") -> Case:
    """A case; a batch is an event or a tuple of them."""
    cut = tuple(batch if isinstance(batch, tuple) else (batch,) for batch in batches)
    return Case(table, cut, tuple(rows), tuple(broken), tuple(columns.split()))


_TIE = ((10, "ambiguous_sequence"), (10, "ambiguous_sequence"))
CASES: Mapping[str, Case] = {
    "first upsert": case("all", up(5, "x"), rows=[("x", 5, None)]),
    "update": case("all", up(5, "x"), up(9, "y"), rows=[("x", 5, 9), ("y", 9, None)]),
    "no-op update": case("pinned", up(5, "x", 1), up(9, "x", 2), rows=[("x", 2, 5, None)], columns="a b"),
    "no-op update by default": case("all", up(5, "x", 1), up(9, "x", 1), rows=[("x", 5, None)]),
    "equal data and a tracked sequence": case("sequenced", up(5, "x"), up(9, "x"), rows=[("x", 5, 9), ("x", 9, None)]),
    "late upsert before the first row": case("all", up(9, "y"), up(5, "x"), rows=[("x", 5, 9), ("y", 9, None)]),
    "late upsert inside a closed interval": case(
        "all", (up(5, "x"), up(20, "z")), up(12, "y"), rows=[("x", 5, 12), ("y", 12, 20), ("z", 20, None)]
    ),
    "Alice and Charlie": case(
        "pinned", (up(5, "Alice", 1), up(10, "Alice", 2)), (up(15, "Alice", 3), up(20, "Charlie", 4)),
        rows=[("Alice", 3, 5, 20), ("Charlie", 4, 20, None)], columns="a b",
    ),
    "late Bob between Alices": case(
        "pinned", (up(5, "Alice", 1), up(10, "Alice", 2)), (up(15, "Alice", 3), up(20, "Charlie", 4)), up(12, "Bob", 5),
        rows=[("Alice", 2, 5, 12), ("Bob", 5, 12, 15), ("Alice", 3, 15, 20), ("Charlie", 4, 20, None)], columns="a b",
    ),
    "late no-op inside a run": case(
        "pinned", up(5, "x", 1), up(15, "x", 3), up(10, "x", 2), rows=[("x", 3, 5, None)], columns="a b"
    ),
    "late no-op that heads a run": case(
        "pinned", up(10, "x", 2), up(5, "x", 1), rows=[("x", 2, 5, None)], columns="a b"
    ),
    "late no-op that ends a closed run": case(
        "pinned", (up(5, "x", 1), up(20, "y", 3)), up(10, "x", 2), rows=[("x", 2, 5, 20), ("y", 3, 20, None)], columns="a b"
    ),
    "late delete in the place of an upsert": case(
        "pinned", (up(5, "x", 1), up(10, "y", 2), up(20, "x", 3)), rm(10), up(12, "x", 4),
        rows=[("x", 1, 5, 10), ("x", 3, 12, None)], columns="a b",
    ),
    "delete of a live key": case("all", up(5, "x"), rm(9), rows=[("x", 5, 9)]),
    "delete before its upsert": case("all", rm(9), up(5, "x"), rows=[("x", 5, 9)]),
    "delete before its upsert, type 1": case("one", rm(9), up(5, "x"), rows=[]),
    "upsert after an early delete": case("all", rm(9), up(12, "y"), up(5, "x"), rows=[("x", 5, 9), ("y", 12, None)]),
    "late delete inside history": case(
        "all", (up(5, "x"), up(20, "y")), rm(12), rows=[("x", 5, 12), ("y", 20, None)]
    ),
    "late delete inside a run": case(
        "pinned", (up(5, "x", 1), up(20, "x", 2)), rm(12), rows=[("x", 1, 5, 12), ("x", 2, 20, None)], columns="a b"
    ),
    "late delete, type 1": case("one", (up(5, "x"), up(20, "y")), rm(12), rows=[("y",)]),
    "delete twice": case("all", up(5, "x"), rm(9), rm(12), rows=[("x", 5, 9)]),
    "delete twice, the earlier one late": case("all", up(5, "x"), rm(12), rm(9), rows=[("x", 5, 9)]),
    "delete of an unknown key": case("all", rm(9), rows=[]),
    "re-insert after a delete": case("all", up(5, "x"), rm(9), up(12, "x"), rows=[("x", 5, 9), ("x", 12, None)]),
    "re-insert after a delete, type 1": case("one", up(5, "x"), rm(9), up(12, "y"), rows=[("y",)]),
    "same sequence, identical event": case("all", (up(5, "x"), up(5, "x")), up(5, "x"), rows=[("x", 5, None)]),
    "same sequence, upsert and delete": case("all", up(3, "w"), (up(5, "x"), rm(5)), rows=[("w", 3, 5)]),
    "same sequence, the delete later": case("all", up(3, "w"), up(5, "x"), rm(5), rows=[("w", 3, 5)]),
    "same sequence, the upsert later": case("all", up(3, "w"), rm(5), up(5, "x"), rows=[("w", 3, 5)]),
    "same sequence, upsert and delete, type 1": case("one", (up(5, "x"), rm(5)), rows=[]),
    "same sequence, the delete later, type 1": case("one", up(5, "x"), rm(5), rows=[]),
    "same sequence, the upsert later, type 1": case("one", rm(5), up(5, "x"), rows=[]),
    "same sequence, two upserts": case("all", up(5, "x"), (up(10, "y"), up(10, "z")), rows=[("x", 5, None)], broken=_TIE),
    "same sequence, two upserts in turn": case("all", (up(5, "x"), up(10, "y")), up(10, "z"), rows=[("x", 5, None)], broken=_TIE),
    "same sequence, two upserts, type 1": case("one", (up(5, "x"), up(10, "y")), up(10, "z"), rows=[("x",)], broken=_TIE),
    "same sequence, two upserts and nothing else": case("one", up(10, "y"), up(10, "z"), rows=[], broken=_TIE),
    "same sequence, two upserts, under a row": case(
        "pinned", (up(10, "y", 1), up(20, "w", 3)), up(10, "y", 2), rows=[("w", 3, 20, None)], broken=_TIE, columns="a b"
    ),
    "same sequence, two upserts, then a delete": case("all", (up(5, "x"), up(10, "y")), up(10, "z"), rm(10), rows=[("x", 5, 10)]),
    "same sequence, two upserts that differ in a column left out": case("all", up(5, "x"), up(5, "x", op="u"), rows=[("x", 5, None)]),
    "same sequence, two deletes that differ": case("all", up(5, "x"), (rm(9, "y", 1), rm(9, "z", 2)), rows=[("x", 5, 9)]),
    "NULL sequence": case("all", up(5, "x"), up(None, "y"), rows=[("x", 5, None)], broken=[(None, "null_sequence")]),
    "NULL sequence of a delete": case("one", up(5, "x"), rm(None), rows=[("x",)], broken=[(None, "null_sequence")]),
    "older event, type 1": case("one", up(9, "y"), up(5, "x"), rows=[("y",)]),
    "all versions of one batch": case("all", (up(9, "z"), up(5, "x"), up(7, "y")), rows=[("x", 5, 7), ("y", 7, 9), ("z", 9, None)]),
    "NULL condition of deletes": case("all", up(5, "x"), up(9, "y", op=None), rows=[("x", 5, 9), ("y", 9, None)]),
    "columns of a delete": case("all", up(5, "x", 1), rm(9, "y", 2), rows=[("x", 1, 5, 9)], columns="a b"),
    "nothing tracked": case("nothing", up(5, "x"), up(9, "y"), rm(12), up(15, "z"), rows=[("y", 5, 12), ("z", 15, None)]),
    "all but one tracked": case("untracked", up(5, "x", 1), up(9, "y", 1), up(12, "z", 2), rows=[("y", 5, 12), ("z", 12, None)]),
    "NULL keeps the value": case("nulls", up(5, "x", 1), up(9, None, 2), rows=[("x", 1, 5, 9), ("x", 2, 9, None)], columns="a b"),
    "NULL keeps the value, type 1": case("nulls_one", up(5, "x", 1), up(9, None, 2), rows=[("x", 2)], columns="a b"),
    "NULL inherits again": case(
        "nulls", (up(5, "x", 1), up(9, None, 2)), up(7, "y", 1),
        rows=[("x", 1, 5, 7), ("y", 1, 7, 9), ("y", 2, 9, None)], columns="a b",
    ),
    "NULL inherits again, type 1": case("nulls_one", (up(5, "x", 1), up(9, None, 2)), up(7, "y", 1), rows=[("y", 2)], columns="a b"),
    "NULL inherits through several": case(
        "nulls_pinned", up(5, "x", 1), up(9), up(12), up(7, None, 4), rows=[("x", 4, 5, None)], columns="a b"
    ),
    "NULL inherits nothing across a delete": case("nulls", up(5, "x", 1), rm(9), up(12, None, 2), rows=[("x", 1, 5, 9), (None, 2, 12, None)], columns="a b"),
    "NULL inherits nothing from a late delete on": case("nulls_one", (up(5, "x", 1), up(12, None, 2)), rm(9), rows=[(None, 2)], columns="a b"),
    "NULL inherits nothing from what is ambiguous": case(
        "nulls_one", (up(5, "x", 1), up(10, "y", 1)), (up(10, "z", 1), up(12, None, 2)), rows=[("x", 2)], broken=_TIE, columns="a b"
    ),
    "NULL keeps the value in a list of columns": case("nulls_a", up(5, "x", 1), up(9), rows=[("x", 1, 5, 9), ("x", None, 9, None)], columns="a b"),
    "NULL keeps the value in all but some": case("nulls_not_b", up(5, "x", 1), up(9), rows=[("x", 1, 5, 9), ("x", None, 9, None)], columns="a b"),
    "NULL that opens no version": case("nulls_pinned", up(5, "x", 1), up(9, None, 2), rows=[("x", 2, 5, None)], columns="a b"),
    "soft delete": case("soft", up(5, "x"), rm(9), rows=[("x", False, 5, 9), ("x", True, 9, None)], columns="a gone"),
    "soft delete between": case(
        "soft", up(5, "x"), up(20, "y"), rm(9), rm(12), rows=[("x", False, 5, 9), ("x", True, 9, 20), ("y", False, 20, None)], columns="a gone"
    ),
    "soft delete of an unknown key": case("soft", rm(9), rows=[], columns="a gone"),
    "soft delete before its upsert": case("soft", rm(9), up(5, "x"), rows=[("x", False, 5, 9), ("x", True, 9, None)], columns="a gone"),
    "soft delete, type 1": case("soft_one", up(5, "x"), rm(9), rows=[("x", True)], columns="a gone"),
    "soft delete undone, type 1": case("soft_one", up(5, "x"), rm(9), up(12, "y"), rows=[("y", False)], columns="a gone"),
    "where": case("where", up(5, "x", 1), up(9, "y", 100), rm(12, "y", 200), rows=[("x", 5, None)]),
    "where is NULL": case("where", up(5, "x", 1), up(9, "y", None), rows=[("x", 5, None)]),
    "renamed columns": case("renamed", up(5, "x"), up(9, "y"), rm(12), rows=[("x", 5, 9), ("y", 9, 12)]),
}  # fmt: skip
"""Name -> case. All of them stand in one stream, each under a key of its own name."""
ROUNDS = max(len(each.batches) for each in CASES.values())


def batches() -> list[list[dict[str, Any]]]:
    """The events of all cases, batch by batch, each with an `id`."""
    ids = count(1)
    found: list[list[dict[str, Any]]] = [[] for _ in range(ROUNDS)]
    for name, each in CASES.items():
        for rows, cut in zip(found, each.batches, strict=False):
            rows.extend({"id": next(ids), **row} for row in of(name, *cut))
    return found
