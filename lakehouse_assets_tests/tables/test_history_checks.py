"""The invariants of tables with history, asked of rows that keep them and of rows that break them, on both engines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.lake.values import Number
from lakehouse_assets.sql.scd import Shape
from lakehouse_assets.tables.base import Work, upstream
from lakehouse_assets.tables.corrections import rewind
from lakehouse_assets.tables.history_checks import Findings, check, fates, quarantined, touched, well_formed
from lakehouse_assets.tables.history_events import History
from lakehouse_assets_tests.tables.history_lab import HistoryLab, engine_of, history, lab, of, rm, up
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture

ENGINES = ("embedded", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow]))
SHAPE = Shape(("k",), ("_sequence",), ("ts",), ("k", "a", "b"), tracked=("a",))
PAIRS = replace(SHAPE, sequence=("_sequence_1", "_sequence_2"), names=("x", "y"))
SOFT = replace(SHAPE, soft="gone")
NOTHING = replace(SHAPE, tracked=())


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    return engine_of(request)


def columns(kind: pa.DataType) -> pa.Schema:
    """The columns of a target whose sequence has that type."""
    named = {
        "k": pa.string(),
        "a": pa.string(),
        "b": pa.int64(),
        "gone": pa.bool_(),
        "__START_AT": kind,
        "__END_AT": kind,
    }
    return pa.schema(list(named.items()))


def judged(engine: Engine, shape: Shape, *rows: tuple[Any, ...]) -> dict[str, int]:
    """The faults of rows (key, a, start, end, maybe the flag of soft deletes)."""
    kind: pa.DataType = pa.int64()
    if len(shape.names) > 1:
        kind = pa.struct([("x", pa.int64()), ("y", pa.int64())])

    def point(value: Any) -> Any:
        return dict(zip("xy", value, strict=True)) if isinstance(value, tuple) else value

    made = [
        {"k": k, "a": a, "b": 1, "gone": gone == [True], "__START_AT": point(start), "__END_AT": point(end)}
        for k, a, start, end, *gone in rows
    ]
    relation = engine.from_arrow(pa.Table.from_pylist(made, schema=columns(kind)))
    found = well_formed(engine, shape, relation)
    assert found.counts == {"rows_checked": len(rows)}
    return dict(found.faults)


WELL: dict[str, tuple[Shape, tuple[tuple[Any, ...], ...]]] = {
    "periods that touch and differ": (SHAPE, (("p", "x", 1, 5), ("p", "y", 5, None))),
    "a gap between equal periods": (SHAPE, (("p", "x", 1, 5), ("p", "x", 7, None))),
    "NULL differs from a value": (SHAPE, (("p", None, 1, 5), ("p", "y", 5, None))),
    "keys that have nothing to do with each other": (SHAPE, (("p", "x", 1, None), ("q", "x", 1, None))),
    "a deleted key": (SHAPE, (("p", "x", 1, 5),)),
    "a soft delete that is undone": (SOFT, (("p", "x", 1, 5, True), ("p", "x", 5, None, False))),
    "the second part decides": (PAIRS, (("p", "x", (1, 2), (1, 3)), ("p", "y", (1, 3), None))),
    "a NULL part comes first": (PAIRS, (("p", "x", (1, None), (1, 3)), ("p", "y", (1, 3), None))),
}
ILL: dict[str, tuple[Shape, tuple[tuple[Any, ...], ...], dict[str, int]]] = {
    "ends where it starts": (SHAPE, (("p", "x", 5, 5),), {"end_not_after_start": 1}),
    "ends before it starts": (SHAPE, (("p", "x", 5, 3), ("q", "x", 5, 3)), {"end_not_after_start": 2}),
    "overlaps": (SHAPE, (("p", "x", 1, 6), ("p", "y", 5, None)), {"overlaps_next": 1}),
    "an open row before another": (SHAPE, (("p", "x", 1, None), ("p", "y", 5, 9)), {"overlaps_next": 1}),
    "two open rows": (SHAPE, (("p", "x", 1, None), ("p", "y", 5, None)), {"overlaps_next": 1, "several_open": 2}),
    "two rows with one start": (SHAPE, (("p", "x", 1, 5), ("p", "y", 1, 5)), {"overlaps_next": 1, "start_is_doubled": 1}),
    "equal neighbours": (SHAPE, (("p", "x", 1, 5), ("p", "x", 5, None)), {"equals_next": 1}),
    "equal neighbours of NULL": (SHAPE, (("p", None, 1, 5), ("p", None, 5, None)), {"equals_next": 1}),
    "neighbours where nothing is tracked": (NOTHING, (("p", "x", 1, 5), ("p", "y", 5, None)), {"equals_next": 1}),
    "no key": (SHAPE, ((None, "x", 1, 5),), {"key_is_null": 1}),
    "no start": (SHAPE, (("p", "x", None, None),), {"start_is_null": 1}),
    "a pair that ends before it starts": (PAIRS, (("p", "x", (1, 3), (1, 2)),), {"end_not_after_start": 1}),
    "pairs that overlap": (PAIRS, (("p", "x", (1, 1), (2, 0)), ("p", "y", (1, 9), None)), {"overlaps_next": 1}),
    "pairs that are equal neighbours": (PAIRS, (("p", "x", (1, 1), (1, 9)), ("p", "x", (1, 9), None)), {"equals_next": 1}),
}  # fmt: skip


def test_periods_that_are_a_history_have_no_faults(embedded: Engine) -> None:
    """Design 7.5: what may be, may be."""
    assert {name: judged(embedded, shape, *rows) for name, (shape, rows) in WELL.items()} == {key: {} for key in WELL}


def test_periods_that_are_no_history_are_counted_by_fault(embedded: Engine) -> None:
    """Design 7.5: start < end, no overlap, at most one open row, one row a start, no equal neighbours that touch."""
    found = {name: judged(embedded, shape, *rows) for name, (shape, rows, _) in ILL.items()}
    assert found == {name: faults for name, (_, _, faults) in ILL.items()}


@pytest.mark.parametrize("shape", [SHAPE, PAIRS], ids=["one column", "two columns"])
def test_both_engines_count_the_same_faults(engine: Engine, shape: Shape) -> None:
    """All cases of a shape at once, each under keys of its own."""
    cases = [(name, rows) for name, (of_case, rows, _) in ILL.items() if of_case is shape]
    cases += [(name, rows) for name, (of_case, rows) in WELL.items() if of_case is shape]
    rows = [(k and f"{name} {k}", *rest) for name, own in cases for k, *rest in own]
    wanted: Counter[str] = Counter()
    for name, _ in cases:
        wanted.update(ILL[name][2] if name in ILL else {})
    assert judged(engine, shape, *rows) == dict(wanted)


def test_type_1_has_each_key_once(embedded: Engine) -> None:
    """A key that is NULL or there three times is counted, and shown."""
    rows = pa.table({"k": ["p", "q", "q", "q", None], "a": list("vwxyz")})
    found = well_formed(embedded, replace(SHAPE, scd=1), embedded.from_arrow(rows))
    assert found.faults == {"key_is_null": 1, "key_is_doubled": 2}
    assert found.examples == (
        {"k": None, "faults": ["key_is_null"]},
        {"k": "q", "faults": ["key_is_doubled"]},
        {"k": "q", "faults": ["key_is_doubled"]},
    )


def test_the_first_three_of_what_is_wrong_are_shown(embedded: Engine) -> None:
    """By key and start, each with its faults."""
    rows = [{"k": f"k{n}", "a": "x", "__START_AT": 5, "__END_AT": 5} for n in range(5)]
    table = pa.Table.from_pylist(rows, schema=columns(pa.int64()))
    shown = well_formed(embedded, SHAPE, embedded.from_arrow(table)).examples
    assert [row["k"] for row in shown] == ["k0", "k1", "k2"]
    assert shown[0] == {"k": "k0", "__START_AT": 5, "__END_AT": 5, "faults": ["end_not_after_start"]}


def work_of(it: HistoryLab) -> Work:
    """The work of a lake with the engine that makes its tables."""
    return replace(it.work, engine=it.makes)


def checked(it: HistoryLab) -> dict[str, Findings]:
    """Every question about `silver.t`."""
    return check(work_of(it), it.catalog.entities[-1])


def test_every_event_has_one_fate(engine: Engine, tmp_path: Path) -> None:
    """Design 7.3: applied, superseded, quarantined, filtered and retracted add up, truncates and copies among them."""
    given = {"where": "b < 100", "apply_as_truncates": "op = 't'", "stored_as_scd_type": 1}
    it = lab(tmp_path, engine, history(**given))
    it.batch(
        *of("p", up(1, "x", 1), up(1, "x", 1), up(2, "y", 2), up(9, "z", 200)),
        *of("q", up(3, "v", 1), up(3, "w", 1), rm(None, b=1)),
        *of(None, up(5, "n", 1)), *of("r", up(7, "r", 1)),
        {"k": None, "ts": 4, "op": "t", "a": None, "b": 1},
    )  # fmt: skip
    found = checked(it)
    assert found["primary_key"].passed
    assert found["fates"].passed, found["fates"]
    assert found["fates"].counts == {
        "events_checked": 10, "applied": 2, "superseded": 3, "quarantined": 4, "filtered": 1, "retracted": 0
    }  # fmt: skip


def test_a_truncate_settles_a_contradiction(embedded: Engine, tmp_path: Path) -> None:
    """It is a delete of every key at its sequence: what contradicts there is superseded, not quarantined."""
    it = lab(tmp_path, embedded, history(apply_as_truncates="op = 't'"))
    it.batch(*of("p", up(5, "x"), up(5, "y"), rm(5, "a")), *of("q", up(5, "x"), up(5, "y")))
    it.batch({"k": None, "ts": 5, "op": "t", "a": None, "b": None})
    found = checked(it)["fates"]
    assert found.passed, found
    assert (found.counts["superseded"], found.counts["quarantined"]) == (4, 0)


def test_deletes_are_copies_whatever_they_carry(embedded: Engine, tmp_path: Path) -> None:
    """What a delete says besides its key counts for nothing: the second one of a sequence is a copy."""
    it = lab(tmp_path, embedded)
    it.batch(*of("p", up(1, "x"), rm(5, "y"), rm(5, "z")))
    assert checked(it)["fates"].counts["superseded"] == 1


def test_an_event_that_was_retracted_has_that_fate(embedded: Engine, tmp_path: Path) -> None:
    """It is no longer applied, and its row went with it."""
    it = lab(tmp_path, embedded)
    it.batch(*of("p", up(1, "x"), up(5, "y")))
    rewind(work_of(it), it.catalog.entities[-1].table, after=[3])
    found = checked(it)
    assert all(each.passed for each in found.values())
    assert (found["fates"].counts["applied"], found["fates"].counts["retracted"]) == (1, 1)
    assert found["history_well_formed"].counts == {"rows_checked": 1}


@pytest.fixture
def broken(embedded: Engine, tmp_path: Path) -> HistoryLab:
    """A lake whose quarantine holds one contradiction and one event without a sequence."""
    it = lab(tmp_path, embedded)
    it.batch(*of("p", up(1, "x"), up(1, "y"), up(None, "z"), up(7, "w")))
    return it


def put(it: HistoryLab, *rows: dict[str, Any]) -> None:
    """Replace the rows of the quarantine behind the back of the log."""
    box = upstream(it.work, it.catalog.entities[-1].table.quarantine)
    table = pa.Table.from_pylist(list(rows), schema=box.schema)
    it.engine.replace(box, it.engine.from_arrow(table), Number("somebody", 1))


def test_the_quarantine_is_compared_with_the_fates(broken: HistoryLab) -> None:
    """Rows that are missing, too many, there twice or for other reasons are told apart."""
    name = broken.catalog.entities[-1].table.quarantine
    rows = broken.engine.rows(broken.engine.read(upstream(broken.work, name)))
    assert checked(broken)["fates"].passed
    first, second, third = sorted(rows, key=lambda row: str(row["_reasons"]))
    put(broken, first, first, second | {"_reasons": ["mood"]}, third | {"_event": "x"})
    found = checked(broken)["fates"]
    assert found.faults == {
        "doubled_in_quarantine": 2,
        "missing_in_quarantine": 1,
        "other_reasons_in_quarantine": 1,
        "surplus_in_quarantine": 1,
    }
    assert {"event", "reasons", "kept_reasons", "fault"} == set(found.examples[0])


def test_a_quarantine_that_is_gone_is_missed(broken: HistoryLab) -> None:
    """Where there is no table, every quarantined event is missing."""
    entity, work = broken.catalog.entities[-1], broken.work
    kept = History(work, entity, upstream(work, entity.table.changes))
    assert fates(kept, None).faults == {"missing_in_quarantine": 3}


def test_only_the_keys_that_changed_are_asked_about(embedded: Engine, tmp_path: Path) -> None:
    """What a version changed: its keys, NULL among them; an unchanged table has none, and no version means all."""
    it = lab(tmp_path, embedded)
    it.batch(*of("p", up(1, "x")), *of("q", up(1, "y")))
    entity, work = it.catalog.entities[-1], work_of(it)
    before = upstream(work, entity.table.changes).version
    it.batch(*of("q", up(5, "z")), *of(None, up(5, "z")))
    log = upstream(work, entity.table.changes)
    of_new = touched(embedded, log, ["k"], before)
    assert of_new is not None
    assert sorted(row["k"] or "" for row in embedded.rows(of_new)) == ["", "q"]
    found = fates(History(work, entity, log), quarantined(work, entity), of_new)
    assert found.passed
    assert found.counts["events_checked"] == 3
    nothing = touched(embedded, log, ["k"], log.version)
    assert nothing is not None
    assert embedded.rows(nothing) == []
    assert touched(embedded, log, ["k"], None) is None
