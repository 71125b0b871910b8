"""A look at a sample of events: what is counted of a sequence, and how it is worded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import LakehouseError, SchemaDrift, SqlError
from lakehouse_assets.serve import lint as room
from lakehouse_assets.serve.lint import Lint, lint
from lakehouse_assets.tables.refresh import preview
from lakehouse_assets_tests.tables.history_lab import HistoryLab, engine_of, history, lab, landed, of, rm, up
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture
from lakehouse_assets_tests.tables.lab import NOW

T = TableName("silver", "t")
ENGINES = ("embedded", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow]))
TIMES = "id BIGINT, k STRING, at TIMESTAMP, op STRING, a STRING, b BIGINT"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    return engine_of(request)


def looked(it: HistoryLab, sequence_by: str | None = None, *, rebuild: bool = False) -> Lint | None:
    """What is said of the events that `silver.t` would read next."""
    work = replace(it.work, engine=it.makes)
    ((feed, following),) = preview(work, T, rebuild=rebuild)
    return lint(work, feed, following, sequence_by)


def sampled(it: HistoryLab, *rows: Mapping[str, Any], sequence_by: str | None = None) -> Lint:
    """What is said of rows that were landed and not read yet."""
    it.feed("stream", rows)
    it.run("bronze.events")
    found = looked(it, sequence_by)
    assert found is not None
    return found


def timed(it_path: Path, engine: Engine, **given: Any) -> HistoryLab:
    """A lake whose events are ordered by a time."""
    return lab(
        it_path, engine, history(sequence_by="at", except_column_list=["id", "op", "at"], **given), columns=TIMES
    )


def at(k: str, *moments: datetime) -> Iterator[dict[str, Any]]:
    """Upserts of a key."""
    for n, moment in enumerate(moments):
        yield {"k": k, "at": moment, "op": "u", "a": f"a{n}", "b": n}


def ago(**span: float) -> datetime:
    """A time before the lab's clock."""
    return NOW - timedelta(**span)


def test_everything_is_counted_on_both_engines(engine: Engine, tmp_path: Path) -> None:
    """F18: NULL keys, NULL sequences, ties, late events, and the type; what `where` leaves out is not looked at."""
    it = lab(tmp_path, engine, history(where="coalesce(b, 0) < 100"))
    found = sampled(
        it, *of("p", up(5, "x"), up(9, "y"), up(7, "z")), *of("q", up(3, "v"), up(3, "w"), up(4, "n"), up(4, "n")),
        *of(None, up(1, "k")), *of("r", up(None, "s"), up(None, "s", 100), up(2, "t", 100)),
    )  # fmt: skip
    assert (found.sequence_by, found.type, found.events) == ("ts", "BIGINT", 9)
    assert (found.null_keys, found.null_sequences, found.ties, found.late) == (1, 1, 2, 1)
    assert found.lateness == 6  # 3 came when 9 was there
    assert found.examples == ({"k": "q", "ts": 3},)
    assert (found.future, found.ahead, found.bounded, found.compared) == (0, None, False, False)


def test_a_sequence_that_nothing_speaks_against_is_one_line(embedded: Engine, tmp_path: Path) -> None:
    """It says what was looked at."""
    found = sampled(lab(tmp_path, embedded), *of("p", up(5, "x"), up(9, "y")), *of("q", up(9, "y")))
    assert found.notes() == ("sequence ts (BIGINT), 3 events looked at: no NULLs, no ties, in order",)


def test_a_delete_of_the_same_sequence_settles_a_tie(embedded: Engine, tmp_path: Path) -> None:
    """As it does when the events are applied: then nothing is ambiguous; and deletes are equal whatever they carry."""
    it = lab(tmp_path, embedded)
    found = sampled(it, *of("p", up(5, "x"), up(5, "y"), rm(5)), *of("q", rm(5, "x"), rm(5, "y")))
    assert found.ties == 0


def test_a_tie_in_a_column_that_is_left_out_is_none(embedded: Engine, tmp_path: Path) -> None:
    """What the table does not hold does not tell events apart: `id` is left out."""
    found = sampled(lab(tmp_path, embedded), *of("p", up(5, "x"), up(5, "x")))
    assert (found.ties, found.events) == (0, 2)


def test_times_in_the_future_are_counted(embedded: Engine, tmp_path: Path) -> None:
    """Clock skew: how many, and how far the farthest one is ahead of the clock."""
    found = sampled(
        timed(tmp_path, embedded), *at("p", ago(hours=1), NOW + timedelta(minutes=5), NOW + timedelta(hours=2))
    )
    assert (found.future, found.ahead) == (2, timedelta(hours=2))
    assert "2 (67 %) lie in the future of this clock, by up to 2 h" in found.notes()


def test_dates_in_the_future_are_counted(embedded: Engine, tmp_path: Path) -> None:
    """Today is not the future; tomorrow is."""
    moments = at("p", ago(days=1), NOW, NOW + timedelta(days=1))
    found = sampled(timed(tmp_path, embedded), *moments, sequence_by="CAST(at AS DATE)")
    assert (found.type, found.future, found.ahead) == ("DATE", 1, timedelta(days=1))


def test_lateness_is_measured_against_all_that_came_before(embedded: Engine, tmp_path: Path) -> None:
    """A horizon counts from the newest event of any key, so it has to be longer than that, even if no key is late."""
    found = sampled(timed(tmp_path, embedded), *at("p", ago(hours=1)), *at("q", ago(days=2, hours=1)))
    assert (found.late, found.lateness) == (0, timedelta(days=2))
    assert found.notes()[1] == "the latest comer is 2 d behind the newest event before it: a horizon must be longer"


@pytest.mark.parametrize(
    ("horizon", "said"), [("1 day", "longer than the horizon of 1 d"), ("3 days", "within the horizon")]
)
def test_lateness_is_compared_with_the_horizon(embedded: Engine, tmp_path: Path, horizon: str, said: str) -> None:
    """The declared one is named beside what came, whether it is long enough or not."""
    it = timed(tmp_path, embedded, lakehouse={"horizon": horizon})
    found = sampled(it, *at("p", ago(hours=1)), *at("q", ago(days=2, hours=1)))
    assert said in found.notes()[1]


def test_new_events_are_compared_with_the_log(engine: Engine, tmp_path: Path) -> None:
    """An event is late if the log has a later one of its key; equal ones are copies."""
    it = lab(tmp_path, engine)
    it.batch(*of("p", up(5, "x"), up(20, "y")), *of("q", up(3, "v")))
    found = sampled(it, *of("p", up(12, "z"), up(20, "y")), *of("q", up(8, "w")))
    assert (found.events, found.late, found.lateness, found.compared) == (3, 1, 12, True)
    assert "1 (33 %) come late: the log or the sample has a later one of the same key" in found.notes()


def test_a_rebuild_is_not_compared_with_what_it_reads_again(embedded: Engine, tmp_path: Path) -> None:
    """The log holds the very events that are read from the start once more."""
    it = lab(tmp_path, embedded)
    it.batch(*of("p", up(5, "x"), up(20, "y")))
    found = looked(it, rebuild=True)
    assert found is not None
    assert (found.events, found.late, found.compared) == (2, 0, False)


def test_arrival_is_when_rows_were_landed(embedded: Engine, tmp_path: Path) -> None:
    """Batches come in the order of `_ingested_at`, whatever the order of their files."""
    it = lab(tmp_path, embedded)
    for hour in (2, 1, 3):  # neither this order nor its reverse is that of the clock
        it.feed("stream", of("p", up(hour, "x")))
        it.run("bronze.events", clock=lambda hour=hour: NOW - timedelta(hours=3 - hour))
    found = looked(it)
    assert found is not None
    assert found.late == 0


def test_nothing_new_is_not_looked_at(embedded: Engine, tmp_path: Path) -> None:
    """Unless another sequence is asked about: that is tried on all rows that are there."""
    it = lab(tmp_path, embedded)
    it.batch(*of("p", up(5, "x"), up(9, "y")))
    assert looked(it) is None
    found = looked(it, "length(a)")
    assert found is not None
    assert (found.sequence_by, found.type, found.events, found.ties) == ("length(a)", "INT", 2, 2)


def test_another_sequence_of_several_columns(embedded: Engine, tmp_path: Path) -> None:
    """A struct that tells events apart has no ties where its first part alone has them."""
    it = lab(tmp_path, embedded)
    it.feed("stream", of("p", up(5, "x"), up(5, "y"), up(4, "z")))
    it.run("bronze.events")
    alone, both = looked(it), looked(it, "struct(ts, id)")
    assert alone is not None
    assert both is not None
    assert (alone.ties, both.ties, both.type, both.late, both.lateness) == (2, 0, "BIGINT, BIGINT", 1, 1)


@pytest.mark.parametrize(
    ("sequence_by", "error"), [("ts >", SqlError), ("nothing", LakehouseError), ("a = 'x'", SchemaDrift)]
)
def test_what_cannot_order_events_is_refused(
    embedded: Engine, tmp_path: Path, sequence_by: str, error: type[Exception]
) -> None:
    """No expression, an unknown column, a type without an order."""
    it = lab(tmp_path, embedded)
    it.feed("stream", of("p", up(5, "x")))
    it.run("bronze.events")
    with pytest.raises(error):
        looked(it, sequence_by)


def test_events_from_outside_the_lake_are_looked_at(embedded: Engine, tmp_path: Path) -> None:
    """A table with history that reads a source by itself; its source is read no further than the sample."""
    it = HistoryLab(
        tmp_path / "lake",
        landed(destination="bronze.other", source="other"),
        history(source="stream", source_format="sqlite") | {"source_schema": "id BIGINT, k STRING, ts BIGINT, op STRING, a STRING, b BIGINT"},
        engine=embedded,
    )  # fmt: skip
    it.feed("stream", of("p", up(5, "x"), up(5, "y")))
    found = looked(it)
    assert found is not None
    assert (found.events, found.ties) == (2, 2)
    assert not it.exists("silver.t__changes")


def test_rows_that_break_a_rule_do_not_speak_about_the_sequence(embedded: Engine, tmp_path: Path) -> None:
    """They would be quarantined before they are ordered; they are counted as events."""
    it = lab(tmp_path, embedded, history(rules={"expect_all": {"positive": "b > 0"}}, quarantined=True))
    found = sampled(it, *of("p", up(5, "x", 1), up(5, "y", -1)))
    assert (found.events, found.ties) == (2, 0)


def test_a_select_list_makes_the_events(embedded: Engine, tmp_path: Path) -> None:
    """Keys and sequence are those that it makes; a failed cast is a NULL that does not count."""
    it = lab(
        tmp_path, embedded, history(select=["k", "CAST(a AS BIGINT) AS n", "b"], sequence_by="n", apply_as_deletes=None)
    )
    found = sampled(it, *of("p", up(1, "5", 1), up(2, "5", 2), up(3, "x", 3)))
    assert (found.events, found.ties, found.type) == (3, 2, "BIGINT")


@pytest.mark.slow
def test_a_sample_is_bounded(embedded: Engine, tmp_path: Path) -> None:
    """Of more rows than that the first ones are looked at, and it says so."""
    assert room.SAMPLE == 100_000
    many = (row for n in range(room.SAMPLE // 1000 + 1) for row in of(f"k{n}", *(up(ts, "x") for ts in range(1000))))
    found = sampled(lab(tmp_path, embedded), *many)
    assert (found.events, found.bounded) == (100_000, True)
    assert "the first 100,000 events" in found.notes()[0]


def test_json_has_every_count() -> None:
    """Durations are seconds there."""
    row = Lint("at", "TIMESTAMP", 10, future=1, ahead=timedelta(minutes=1), lateness=timedelta(hours=1)).row()
    assert (row["ahead"], row["lateness"], row["horizon"], row["examples"]) == (60.0, 3600.0, None, [])
    assert row["events"] == 10


def test_shares_are_worded_with_as_many_digits_as_they_need() -> None:
    """A rare fault is not rounded away."""
    notes = Lint("ts", "BIGINT", 100_000, null_keys=1, null_sequences=250, ties=20_000).notes()
    assert [note.split(" have")[0].split(" share")[0] for note in notes[1:]] == [
        "1 (0.001 %)",
        "250 (0.2 %)",
        "20,000 (20 %)",
    ]


def test_no_events_are_said_to_be_none(embedded: Engine, tmp_path: Path) -> None:
    """All rows are left out by `where`."""
    found = sampled(lab(tmp_path, embedded, history(where="b > 5")), *of("p", up(1, "x", 1)))
    assert found.notes() == ("sequence ts (BIGINT): there are no events to look at",)


def test_a_moment_without_a_zone_is_one_of_the_clock() -> None:
    """Its zone is that of the clock, so that it can be compared."""
    assert room._ahead(datetime(2026, 3, 1, 13, 0), NOW) == timedelta(hours=1)
    assert room._ahead(datetime(2026, 3, 1, 11, 0, tzinfo=UTC), NOW) is None
