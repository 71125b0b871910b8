"""What happened to a key of a table in the lake, and the table as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.serve.explain import as_of, explain, history_of
from lakehouse_assets.tables.base import Work
from lakehouse_assets_tests.tables.history_cases import batches, entities
from lakehouse_assets_tests.tables.history_lab import ENGINES, HistoryLab, engine_of, history, of, rm, up
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture
from lakehouse_assets_tests.tables.history_lab import lab as lab_of

KEYS = ("late Bob between Alices", "late delete inside a run", "same sequence, two upserts", "delete of an unknown key")
PINNED = TableName("silver", "pinned")


@pytest.fixture(scope="module", params=ENGINES)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HistoryLab:
    """A lake with a few cases of change data, made by one engine and asked by it; Spark makes one table only."""
    engine = engine_of(request)
    tables = entities("pinned", "one", "soft") if engine.name == "embedded" else entities("pinned")
    made = HistoryLab(tmp_path_factory.mktemp("lake"), *tables, engine=engine)
    for rows in batches():
        if chosen := [row for row in rows if row["k"] in KEYS]:
            made.batch(*chosen)
    return made


def work_of(lab: HistoryLab) -> Work:
    """The work over that lake."""
    return Work(lab.catalog, lab.lake, lab.makes)


@pytest.mark.parametrize("key", KEYS)
def test_every_event_is_explained_once_and_every_row_is_drawn(lab: HistoryLab, key: str) -> None:
    """F8: of every table each event of the log has one line, and the intervals are the table's rows."""
    for table in lab.catalog.destinations:
        if table.layer != "silver":
            continue
        logged = [row[1] for row in lab.found(f"{table}__changes", "k", "_event") if row[0] == key]
        assert sorted(line.event for line in explain(work_of(lab), table, {"k": key})) == sorted(logged)
        period = [name for name in ("__START_AT", "__END_AT") if name in lab.columns_of(str(table))]
        shown = [row[1:] for row in lab.found(str(table), "k", *period) if row[0] == key]
        drawn = history_of(work_of(lab), table, key).intervals
        assert sorted(((one.start, one.end)[: len(period)] for one in drawn), key=repr) == sorted(shown, key=repr)


def test_the_words_fit_the_rows(lab: HistoryLab) -> None:
    """5.2: Alice's run is split by a late Bob; a contradiction and a delete of nothing are told."""
    assert [(line.sequence, line.effect) for line in explain(work_of(lab), PINNED, KEYS[0])] == [
        (5, "opened [5, 12)"),
        (10, "extended [5, 12), its values show"),
        (12, "split a row: [5, 12) ends here, opened [12, 15)"),
        (15, "opened [15, 20), closed [12, 15)"),
        (20, "opened [20, …), closed [15, 20)"),
    ]
    said = {line.effect for line in explain(work_of(lab), PINNED, "same sequence, two upserts") if line.sequence == 10}
    assert said == {"not visible: ambiguous_sequence"}
    (unknown,) = explain(work_of(lab), PINNED, "delete of an unknown key")
    assert (unknown.fate, unknown.effect) == ("applied", "no effect: there was no row to close")


def test_as_of_is_what_the_rows_say(lab: HistoryLab) -> None:
    """5.2: START <= t AND (t < END OR END IS NULL), for every key; in their order."""
    rows, work = lab.found(str(PINNED), "k", "__START_AT", "__END_AT"), work_of(lab)
    for moment in (4, 5, 12, 20):
        found = [
            (row["k"], row["__START_AT"], row["__END_AT"]) for row in work.engine.rows(as_of(work, PINNED, str(moment)))
        ]
        wanted = [row for row in rows if row[1] <= moment and (row[2] is None or moment < row[2])]
        assert found == sorted(wanted, key=lambda row: row[0])


def test_as_of_is_ordered_by_key(tmp_path: Path, embedded: Engine) -> None:
    """Whatever came first."""
    made = lab_of(tmp_path, embedded)
    made.batch(*(row for key in "cadbe" for row in of(key, up(5, key))))
    found = work_of(made).engine.rows(as_of(work_of(made), TableName("silver", "t"), "5"))
    assert "".join(row["k"] for row in found) == "abcde"


def test_an_unknown_key_names_some_that_are_there(lab: HistoryLab) -> None:
    """Up to five, in order."""
    with pytest.raises(
        SettingsError, match=r"no event of silver.pinned has the key k=nobody\n(.|\n)*such as k=\"?delete of"
    ):
        history_of(work_of(lab), PINNED, "nobody")


@pytest.mark.parametrize(
    ("scd", "said"),
    [(2, ["opened [5, 9)", "closed [5, 9)"]), (1, ["not visible: a truncate came after it", "deleted the row"])],
)
def test_a_truncate_is_told(tmp_path: Path, embedded: Engine, scd: int, said: list[str]) -> None:
    """It has no key, and is told of the keys that it touched; of the others it is not."""
    made = lab_of(tmp_path, embedded, history(stored_as_scd_type=scd, apply_as_truncates="op = 't'"))
    made.batch(*of("k", up(5, "x")), *of("j", up(12, "y")), *of(None, up(9, op="t")))
    told = {key: explain(work_of(made), TableName("silver", "t"), key) for key in "kj"}
    assert [line.effect for line in told["k"]] == said
    assert [line.effect for line in told["j"]] == ["opened [12, …)"]


def test_a_deleted_row_that_stays_is_told(tmp_path: Path, embedded: Engine) -> None:
    """With soft deletes a delete closes a row and opens one."""
    made = lab_of(tmp_path, embedded, history(lakehouse={"history": {"soft_deletes": "gone"}}))
    made.batch(*of("k", up(5, "x"), rm(9)))
    said = [line.effect for line in explain(work_of(made), TableName("silver", "t"), "k")]
    assert said == ["opened [5, 9)", "opened [9, …) as deleted, closed [5, 9)"]
