"""Corrections, retractions and rewinds of tables with history, on whole tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.tables import corrections
from lakehouse_assets_tests.tables.lab import Lab

T = TableName("silver", "t")
CATALOG = """
delta_live_store:
  - {entity_id: e, source: events, source_format: sqlite, destination: bronze.events, source_schema: "k BIGINT, n BIGINT, v STRING, w STRING"}
  - entity_id: t
    source: bronze.events
    source_format: dlt
    destination: silver.t
    select_expr: [k, n, CAST(v AS INT) AS v, CAST(w AS INT) AS w]
    primary_keys: [k]
    is_quarantined: true
    expectations: {expect_all: {positive: v > 0}}
    apply_changes: {sequence_by: n, stored_as_scd_type: 2, except_column_list: [n]}
"""


def row(k: int | None, n: int | None, v: str | None, w: str = "0") -> dict[str, object]:
    """An event."""
    return {"k": k, "n": n, "v": v, "w": w}


def lab(root: Path, *batches: Sequence[dict[str, object]]) -> Lab:
    """A lake to which these batches came."""
    it = Lab(root, CATALOG)
    for batch in batches:
        it.feed("events", batch)
        it.run()
    return it


def requeue(it: Lab, **asked: object) -> corrections.Requeued:
    """Requeue on the lab's table."""
    return corrections.requeue(it.work, T, **asked)  # type: ignore[arg-type]


def test_a_corrected_row_takes_the_place_of_its_own_sequence(tmp_path: Path) -> None:
    """F1: the table is the one that would be had the row been right the first time, and the quarantine is empty."""
    it = lab(tmp_path / "a", [row(1, 5, "1"), row(1, 10, "-2"), row(1, 20, "3")])
    assert it.rows("silver.t") == [(1, 1, 0, 5, 20), (1, 3, 0, 20, None)]
    done = requeue(it, rule="positive", patch=["v = abs(v)"])
    right = lab(tmp_path / "b", [row(1, 5, "1"), row(1, 10, "2"), row(1, 20, "3")])
    assert (done.asked, done.woven, list(done.still_broken)) == (1, 1, [])
    assert it.rows("silver.t") == right.rows("silver.t")
    assert it.rows("silver.t_quarantine") == []


def test_asked_twice_nothing_changes(tmp_path: Path) -> None:
    """F2: a correction that was made is not made again, by id neither."""
    it = lab(tmp_path, [row(1, 5, "-1"), row(2, 5, "1")])
    (event,) = (r["_event"] for r in it.engine.rows(corrections.quarantined(it.work, T)))
    requeue(it, ids=[event[:8]], patch=["v = 1"])
    stands, versions = it.rows("silver.t"), [it.version(t) for t in ("silver.t", "silver.t__changes")]
    done = requeue(it, ids=[event], patch=["v = 7"])
    assert (done.woven, done.unchanged) == (0, 1)
    assert (it.rows("silver.t"), [it.version(t) for t in ("silver.t", "silver.t__changes")]) == (stands, versions)


def test_what_still_breaks_a_rule_stays_and_is_named(tmp_path: Path) -> None:
    """F10: a correction is judged by the rules of today."""
    it = lab(tmp_path, [row(1, 5, "-1"), row(2, 5, "-30")])
    done = requeue(it, patch=["v = v + 10"])
    assert (done.asked, done.woven, [r["k"] for r in done.still_broken]) == (2, 1, [2])
    assert it.rows("silver.t") == [(1, 9, 0, 5, None)]
    assert it.rows("silver.t_quarantine", "k", "_reasons") == [(2, ["positive"])]


def test_a_value_that_failed_to_be_cast_has_to_be_given(tmp_path: Path) -> None:
    """A correction of one column does not let the other in as NULL."""
    it = lab(tmp_path, [row(1, 5, "x", "y")])
    (broken,) = requeue(it, patch=["v = 1"]).still_broken
    assert broken["_reasons"] == ["cast_failed:w"]
    assert it.rows("silver.t_quarantine", "k") == [(1,)]
    requeue(it, patch=["v = 1", "w = 2"])
    assert it.rows("silver.t") == [(1, 1, 2, 5, None)]


def test_of_a_text_that_is_no_json_every_column_has_to_be_given(tmp_path: Path) -> None:
    """What nobody says is not taken for NULL."""
    json = "from_json(v, 'v STRING, w STRING')"
    yaml = CATALOG.replace(
        "CAST(v AS INT) AS v, CAST(w AS INT) AS w", f'"CAST({json}.v AS INT) AS v", "CAST({json}.w AS INT) AS w"'
    )
    it = Lab(tmp_path, yaml)
    it.feed("events", [row(1, 5, "{")])
    it.run()
    assert it.rows("silver.t_quarantine", "_reasons") == [(["malformed_json:v"],)]
    (broken,) = requeue(it, patch=["v = 1"]).still_broken
    assert broken["_reasons"] == ["malformed_json:v"]
    requeue(it, patch=["v = 1", "w = 2"])
    assert it.rows("silver.t") == [(1, 1, 2, 5, None)]


def test_a_mended_rule_frees_rows_as_they_were_received(tmp_path: Path) -> None:
    """Without a correction rows are judged again, by the rules and the select list of today."""
    it = lab(tmp_path, [row(1, 5, "-1")])
    it.declare(CATALOG.replace("v > 0", "v > -5"))
    assert requeue(it, rule="positive").woven == 1
    assert it.rows("silver.t") == [(1, -1, 0, 5, None)]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_rows_are_corrected_from_a_file(tmp_path: Path, suffix: str) -> None:
    """A file names its events, and gives the columns that it has; the others stay."""
    it = lab(tmp_path / "lake", [row(None, 5, "4"), row(2, None, "4")])
    found = {r["n"]: r["_event"] for r in it.engine.rows(corrections.quarantined(it.work, T))}
    path = tmp_path / f"fixed{suffix}"
    csv, lines = f"_event,k\n{found[5]},9\n", f'{{"_event": "{found[5]}", "k": 9}}\n'
    path.write_text(csv if suffix == ".csv" else lines)
    assert requeue(it, file=path).woven == 1
    assert it.rows("silver.t") == [(9, 4, 0, 5, None)]
    assert it.rows("silver.t_quarantine", "k", "_reasons") == [(2, ["null_sequence"])]


def test_one_of_two_that_contradict_is_discarded(tmp_path: Path) -> None:
    """The other one counts then; the log still holds both."""
    it = lab(tmp_path, [row(1, 5, "1"), row(1, 5, "2")])
    assert it.rows("silver.t") == []
    (wrong,) = (r["_event"] for r in it.engine.rows(corrections.quarantined(it.work, T)) if r["v"] == 2)
    corrections.discard(it.work, T, [wrong])
    assert it.rows("silver.t") == [(1, 1, 0, 5, None)]
    assert it.rows("silver.t_quarantine") == []
    it.run("silver.t", rebuild=True)
    assert it.rows("silver.t") == [(1, 1, 0, 5, None)]


def test_a_rewind_and_its_undoing_touch_only_their_keys(tmp_path: Path) -> None:
    """F9: what came after a sequence, or after a position, counts no more until it is brought back."""
    it = lab(tmp_path, [row(1, 5, "1"), row(2, 5, "1")], [row(1, 10, "2"), row(1, 7, "3")])
    stands = it.rows("silver.t")
    gone = corrections.rewind(it.work, T, after=[6])
    assert (gone.events, gone.keys) == (2, 1)
    assert it.rows("silver.t") == [(1, 1, 0, 5, None), (2, 1, 0, 5, None)]
    assert corrections.rewind(it.work, T, after=[6]).events == 0
    corrections.rewind(it.work, T, after=[6], undo=True)
    assert it.rows("silver.t") == stands
    position = it.work.book.open(it.work.feed_name(it.catalog.destinations[T][0]))
    end = position.history(it.work.feed_name(it.catalog.destinations[T][0]))[0].end["version"]
    assert corrections.rewind(it.work, T, position=str(end)).events == 2
    it.run("silver.t", rebuild=True)
    assert it.rows("silver.t") == [(1, 1, 0, 5, None), (2, 1, 0, 5, None)]
    corrections.rewind(it.work, T, position=str(end), undo=True)
    assert it.rows("silver.t") == stands


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """Counts only."""
    it = lab(tmp_path, [row(1, 5, "-1"), row(2, 5, "1")])
    before = {name: it.version(f"silver.{name}") for name in ("t", "t__changes", "t_quarantine")}
    assert requeue(it, patch=["v = 1"], dry_run=True).woven == 1
    assert corrections.rewind(it.work, T, after=[1], dry_run=True).events == 2
    assert {name: it.version(f"silver.{name}") for name in before} == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ids": ["nope"]}, "no row in the quarantine"),
        ({"patch": ["x = 1"]}, "no column 'x'"),
        ({"patch": ["v"]}, "corrects nothing"),
    ],
)
def test_wrong_corrections_are_told(tmp_path: Path, asked: dict[str, object], message: str) -> None:
    """The error names what was meant, and what is there."""
    it = lab(tmp_path, [row(1, 5, "-1")])
    with pytest.raises(SettingsError, match=message):
        requeue(it, **asked)


def test_a_position_inside_a_batch_is_refused(tmp_path: Path) -> None:
    """A rewind goes by whole batches; the error names where these begin and end."""
    it = lab(tmp_path, [row(1, 5, "1")])
    with pytest.raises(SettingsError, match="no batch of silver.t began or ended"):
        corrections.rewind(it.work, T, position="999")
