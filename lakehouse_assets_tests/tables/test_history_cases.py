"""Tests of tables with history: every case that change data is known for, on both engines.

The cases of one key each (`history_cases.py`) run in one lake, and each is compared with what a person worked out, and
all together with the model. What concerns a whole table stands here in lakes of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import pytest

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets_tests.tables.history_cases import CASES, TABLES, batches, entities, shown
from lakehouse_assets_tests.tables.history_lab import (
    ALL,
    ENGINES,
    PERIOD,
    HistoryLab,
    check_invariants,
    declared,
    engine_of,
    expected,
    history,
    lab,
    of,
    rm,
    up,
)
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture
from lakehouse_assets_tests.tables.history_lab import engine as engine  # a fixture
from lakehouse_assets_tests.tables.history_model import FILTERED, answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass
class World:
    """A lake after all batches, and its rows after each of three stages."""

    lab: HistoryLab
    rows: dict[str, list]
    replayed: dict[str, list]
    rebuilt: dict[str, list]
    events: list[dict]
    again: tuple[str, ...]


AGAIN = {"embedded": ("nulls_pinned", "one", "soft"), "spark": ("nulls_pinned",)}
"""Tables to which everything is fed once more, and that are rebuilt then."""


@pytest.fixture(scope="module", params=ENGINES)
def world(request, tmp_path_factory):
    """All cases, batch by batch; then everything again; then rebuilt."""
    it = HistoryLab(tmp_path_factory.mktemp("world"), *entities(), engine=engine_of(request))
    fed, again = batches(), AGAIN[request.param]
    if request.param == "spark":  # where each batch takes seconds
        fed = [fed[0], [row for rows in fed[1:] for row in rows]]
    for rows in fed:
        it.batch(*rows)
    found = World(it, rows_of(it, TABLES), {}, {}, [row for rows in fed for row in rows], again)
    it.redeclare(*entities(*again))
    it.batch(*found.events[::-1])
    found.replayed = rows_of(it, again)
    for name in again:
        it.run(f"silver.{name}", rebuild=True)
    found.rebuilt = rows_of(it, again)
    return found


def rows_of(it, names):
    """The rows of tables, of their quarantines and of their logs."""
    found = {name: it.found(f"silver.{name}", *shown(name)) for name in names}
    found |= {f"{name}_quarantine": it.found(f"silver.{name}_quarantine", "id", "_reasons") for name in names}
    return found | {f"{name}__changes": it.found(f"silver.{name}__changes", "id", "_filtered") for name in names}


@pytest.mark.parametrize("name", CASES)
def test_case(world, name):
    """Spec changes 5.2, 5.5: target and quarantine of the case, as a person worked them out."""
    case = CASES[name]
    at = [shown(case.table).index(column) for column in case.shown]
    rows = [tuple(row[n] for n in at) for row in world.rows[case.table] if row[0] == name]
    assert sorted(rows, key=repr) == sorted(case.rows, key=repr)
    assert world.lab.columns_of(f"silver.{case.table}") == list(shown(case.table))
    own = {row["id"]: row["ts"] for row in world.events if row["k"] == name}
    broken = [(own[n], *reasons) for n, reasons in world.rows[f"{case.table}_quarantine"] if n in own]
    assert sorted(broken, key=repr) == sorted(case.broken, key=repr)


@pytest.mark.parametrize("name", TABLES)
def test_all_cases_under_every_declaration(world, name):
    """The whole table, its quarantine and its log hold what the model says of the events of all cases."""
    model = answer(TABLES[name][1], world.events)
    assert world.rows[name] == expected(model.rows, *shown(name))
    ids = [row["id"] for row in world.events]
    assert Counter(world.rows[f"{name}_quarantine"]) == Counter((ids[n], why) for n, why in model.reasons.items())
    filtered = {ids[n] for n, fate in model.fates.items() if fate == FILTERED}
    assert world.rows[f"{name}__changes"] == sorted([(id_, id_ in filtered) for id_ in ids], key=repr)


def test_a_replay_changes_nothing(world):
    """Spec changes 5.2: all events once more, backwards, into full tables: the same targets, nothing else in quarantine."""
    for name in world.again:
        assert world.replayed[name] == world.rows[name]
        assert set(world.replayed[f"{name}_quarantine"]) == set(world.rows[f"{name}_quarantine"])
        assert len(world.replayed[f"{name}__changes"]) == 2 * len(world.events)


def test_a_full_refresh_gives_the_same(world):
    """Spec changes 5.2: target and quarantine are built again from the log, which stays as it is."""
    assert world.rebuilt == world.replayed


def test_as_of(world):
    """Spec changes 5.2: `start <= t AND (t < end OR end IS NULL)` is one row of a key at most, that of the time."""
    rows = [row for row in world.rows["pinned"] if row[0] == "late Bob between Alices"]
    told = [[a for _, a, _, start, end in rows if start <= t and (end is None or t < end)] for t in (4, 5, 12, 19, 20)]
    assert told == [[], ["Alice"], ["Bob"], ["Alice"], ["Charlie"]]


@pytest.mark.parametrize("name", TABLES)
def test_what_holds_after_every_run(world, name):
    """Spec changes 5.2: periods do not overlap and are not empty, one is open, equal neighbours never touch."""
    columns = shown(name)
    check_invariants(TABLES[name][1], [dict(zip(columns, row, strict=True)) for row in world.rows[name]])


def test_type_1_is_what_is_open_in_type_2(world):
    """Spec changes 5.2: the open rows of type 2 without their periods are the rows of type 1."""
    for one, two in (("one", "all"), ("nulls_one", "nulls"), ("nulls_one", "nulls_pinned"), ("one", "nothing")):
        assert world.rows[one] == sorted([row[:3] for row in world.rows[two] if row[-1] is None], key=repr)


def test_a_sequence_of_several_columns(tmp_path, engine):
    """Spec changes 5.2, 5.5: compared field by field, NULL first; starts and ends are structs named as the columns."""
    it = lab(tmp_path, engine, history(sequence_by="struct(ts, b)", except_column_list=["id", "op", "ts", "b"]))
    it.batch(*of("k", up(1, "v", 10), up(2, "w", 1), up(1, "t", 2)))
    it.batch(*of("k", up(1, "u", 5), up(1, "s", None), rm(2, b=7)))
    at = [(1, None), (1, 2), (1, 5), (1, 10), (2, 1), (2, 7)]
    starts = [(("ts", ts), ("b", b)) for ts, b in at]
    want = [("k", a, starts[n], starts[n + 1]) for n, a in enumerate("stuvw")]
    assert it.found("silver.t", *PERIOD) == sorted(want, key=repr)
    assert {"_sequence_1", "_sequence_2"} <= set(it.columns_of("silver.t__changes"))


def test_a_sequence_of_several_columns_has_ties(tmp_path, engine):
    """Equal in all columns of the sequence, other columns different: ambiguous; equal in some: not."""
    columns = "id BIGINT, k STRING, ts BIGINT, n INT, op STRING, a STRING"
    it = lab(
        tmp_path,
        engine,
        history(sequence_by="struct(ts, n)", except_column_list=["id", "op", "ts", "n"]),
        columns=columns,
    )
    rows = [(1, 1, "x"), (1, 2, "y"), (1, None, "v"), (1, None, "w")]
    it.batch(*({"k": "k", "ts": ts, "n": n, "op": None, "a": a} for ts, n, a in rows))
    first, second = (("ts", 1), ("n", 1)), (("ts", 1), ("n", 2))
    assert it.found("silver.t", *PERIOD) == [("k", "x", first, second), ("k", "y", second, None)]
    assert it.found("silver.t_quarantine", "a", "_reasons") == [(a, ("ambiguous_sequence",)) for a in "vw"]


def test_an_expression_as_sequence(tmp_path, engine):
    """The sequence may be computed; starts and ends have its type."""
    it = lab(tmp_path, engine, history(sequence_by="date_add(DATE '2024-01-01', CAST(ts AS INT))"))
    it.batch(*of("k", up(3, "y")))
    it.batch(*of("k", up(0, "x")))
    first, second = (datetime(2024, 1, day).date() for day in (1, 4))
    assert it.found("silver.t", *PERIOD) == [("k", "x", first, second), ("k", "y", second, None)]


def test_NaN_is_the_last_sequence(tmp_path, engine):
    """Spec changes 5.5: NaN sorts above infinity, and is one moment; 0.0 and -0.0 are one, too."""
    it = lab(tmp_path, engine, columns="id BIGINT, k STRING, ts DOUBLE, op STRING, a STRING")
    at = [float("nan"), float("inf"), 0.0]
    it.batch(*({"k": "k", "ts": ts, "op": None, "a": a} for ts, a in zip(at, "zyx", strict=True)))
    it.batch(*({"k": "k", "ts": ts, "op": None, "a": a} for ts, a in zip([*at[:2], -0.0], "zyx", strict=True)))
    want = [("k", "x", 0.0, float("inf")), ("k", "y", float("inf"), "NaN"), ("k", "z", "NaN", None)]
    assert it.found("silver.t", *PERIOD) == want


def test_a_sequence_that_has_no_order_is_refused(tmp_path, engine):
    """Spec changes 5.2: a map orders nothing; nothing is written."""
    it = lab(tmp_path, engine, columns="id BIGINT, k STRING, ts MAP<STRING, INT>, op STRING, a STRING")
    it.feed("stream", [{"k": "k", "ts": {"x": 1}, "op": None, "a": "x"}])
    with pytest.raises(LakehouseError, match="(?i)order|compar|map"):
        it.run()
    assert it.versions(*ALL) == [-1, -1, -1]


def test_NULL_keys(tmp_path, engine):
    """Spec changes 5.2, Q13: a NULL in any part of the key goes to quarantine, once, and is never inserted."""
    it = lab(tmp_path, engine, history(keys=["k", "b"]))
    rows = [*of("k", up(5, "x", 1), up(6, "y", None)), *of(None, up(7, "z", 1), rm(None))]
    it.batch(*rows)
    it.batch(*of("k", up(9, "v", 1)))
    assert it.found("silver.t", *PERIOD, "b") == [("k", "v", 9, None, 1), ("k", "x", 5, 9, 1)]
    assert it.found("silver.t_quarantine", "a", "_reasons") == [
        ("y", ("null_key",)),
        ("z", ("null_key",)),
        (None, ("null_key", "null_sequence")),
    ]


@pytest.mark.parametrize(
    "rows",
    [of(None, up(5, "y")), of("k", up(None, "y")), of("k", up(5, "y"), up(5, "z"))],
    ids=["null key", "null sequence", "ambiguous"],
)
def test_what_is_invalid_can_stop_the_run(tmp_path, embedded, rows):
    """Spec changes 5.2: `invalid: fail` stops before anything is written; then the batch can be quarantined."""
    it = lab(tmp_path, embedded, history(lakehouse={"history": {"invalid": "fail"}}))
    it.batch(*of("k", up(1, "x")))
    before = it.versions(*ALL)
    it.feed("stream", rows)
    with pytest.raises(LakehouseError, match="null_key|null_sequence|ambiguous_sequence"):
        it.run()
    assert it.versions(*ALL) == before
    it.redeclare(history())
    it.run()
    assert it.found("silver.t", *PERIOD) == [("k", "x", 1, None)]
    assert len(it.found("silver.t_quarantine", "a")) == len(rows)


def test_ambiguity_with_what_is_there_can_stop_the_run(tmp_path, embedded):
    """`invalid: fail`: an event that contradicts one of an earlier batch stops the run, too."""
    it = lab(tmp_path, embedded, history(lakehouse={"history": {"invalid": "fail"}}))
    it.batch(*of("k", up(1, "x")))
    before = it.versions(*ALL)
    it.feed("stream", of("k", up(1, "y")))
    with pytest.raises(LakehouseError, match="ambiguous_sequence"):
        it.run()
    assert it.versions(*ALL) == before


def test_composite_keys(tmp_path, embedded):
    """D14: two parts of a key identify a row together; both versions of one batch count."""
    it = lab(tmp_path, embedded, history(keys=["k", "b"], column_list=["k", "b", "a"]))
    it.batch(*of("k", up(5, "x", 1), up(5, "y", 2), up(6, "z", 1)))
    it.batch(*of("k", up(7, "w", 2), rm(8, b=1)))
    assert it.columns_of("silver.t") == ["k", "a", "b", "__START_AT", "__END_AT"]
    want = [("k", "x", 5, 6, 1), ("k", "z", 6, 8, 1), ("k", "y", 5, 7, 2), ("k", "w", 7, None, 2)]
    assert it.found("silver.t", *PERIOD, "b") == sorted(want, key=repr)


TRUNCATES = {"apply_as_truncates": "op = 't'"}
EMPTIED = [*of("k", up(5, "x"), up(20, "y")), *of("l", up(9, "z")), *of("m", up(12, "same")), *of("n", rm(3))]
TRUNCATE = of(None, up(12, op="t"))
LATE = [*of("k", up(11, "late")), *of("o", up(2, "hidden")), *of("p", up(13, "later"))]
KINDS = {
    "one": ({"stored_as_scd_type": 1}, declared(scd=1)),
    "two": ({}, declared()),
    "soft": ({"lakehouse": {"history": {"soft_deletes": "gone"}}}, declared(soft="gone")),
    "soft_one": (
        {"stored_as_scd_type": 1, "lakehouse": {"history": {"soft_deletes": "gone"}}},
        declared(scd=1, soft="gone"),
    ),
}


def test_truncates(tmp_path, engine):
    """Spec changes 5.2: type 1 is empty but for what is newer; type 2 closes what is open; late events stay hidden."""
    it = lab(tmp_path, engine, *(history(name, **given, **TRUNCATES) for name, (given, _) in KINDS.items()))
    it.batch(*EMPTIED)
    it.batch(*TRUNCATE, *of("m", up(12, "other")))
    it.batch(*LATE)
    for name, (_, model) in KINDS.items():
        flag = ["gone"] if model.soft else []
        columns = [*PERIOD[:2], *flag, *(PERIOD[2:] if model.scd == 2 else ())]
        rows = answer(model, [*EMPTIED, *TRUNCATE, *of("m", up(12, "other")), *LATE]).rows
        assert it.found(f"silver.{name}", *columns) == expected(rows, *columns)
        assert it.found(f"silver.{name}_quarantine", "a") == []
    want = [("k", "late", 11, 12), ("k", "x", 5, 11), ("k", "y", 20, None), ("l", "z", 9, 12), ("o", "hidden", 2, 12)]
    assert it.found("silver.two", *PERIOD) == sorted([*want, ("p", "later", 13, None)], key=repr)
    assert it.found("silver.one", "k", "a") == [("k", "y"), ("p", "later")]


def test_a_truncate_before_everything(tmp_path, engine):
    """A truncate that arrives before any event still hides what is older."""
    it = lab(tmp_path, engine, history(**TRUNCATES), history("one", stored_as_scd_type=1, **TRUNCATES))
    it.batch(*TRUNCATE)
    it.batch(*of("k", up(5, "x")), *of("l", up(20, "y")))
    assert it.found("silver.t", *PERIOD) == [("k", "x", 5, 12), ("l", "y", 20, None)]
    assert it.found("silver.one", "k", "a") == [("l", "y")]


def test_truncates_can_be_refused(tmp_path, engine):
    """Spec changes 5.2: `truncates: refuse` stops the run before anything is written."""
    it = lab(tmp_path, engine, history(**TRUNCATES, lakehouse={"history": {"truncates": "refuse"}}))
    it.batch(*of("k", up(5, "x")))
    before = it.versions(*ALL)
    it.feed("stream", TRUNCATE)
    with pytest.raises(LakehouseError, match="truncate"):
        it.run()
    assert it.versions(*ALL) == before
