"""Rows judged and written in one pass give the tables that two passes give: over random rows, rules and casts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - {entity_id: b, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, v STRING, n BIGINT"}
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    is_quarantined: QUARANTINED
    select_expr: [k, CAST(v AS INT) AS v, n, "n * 2 AS twice"]
    expectations:
      expect_all: {small: v < 50}
      expect_all_or_drop: {known: k IS NOT NULL, even: "n % 2 = 0"}
"""


class TwoPasses(EmbeddedEngine):
    """The embedded engine, which judges rows apart from writing them."""

    streams = False


def lab(directory: Path, quarantined: bool, engine: EmbeddedEngine) -> Lab:
    """A lake on that engine."""
    found = Lab(directory, YAML.replace("QUARANTINED", str(quarantined).lower()))
    found.work = found.work.__class__(**{**vars(found.work), "engine": engine})
    return found


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", None]),
            "v": st.sampled_from(["1", "49", "50", "x", "", None]),
            "n": st.sampled_from([0, 1, 2, None]),
        }
    ),
    max_size=8,
)


def told(outcomes: list[Any]) -> list[tuple[Any, ...]]:
    """What the batches say of their rows."""
    return [
        (o.rows_in, o.valid, o.quarantined, o.dropped, [(v.rule, v.broken, v.rows) for v in o.verdicts])
        for o in outcomes
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=3), st.booleans())
def test_one_pass_equals_two(tmp_path_factory: pytest.TempPathFactory, batches: list[Any], quarantined: bool) -> None:
    """Targets, quarantines, counts and verdicts are equal, batch for batch."""
    base, found = tmp_path_factory.mktemp("sieve"), []
    for name, engine in (("one", EmbeddedEngine(Storage())), ("two", TwoPasses(Storage()))):
        it, said = lab(base / name, quarantined, engine), []
        for rows in batches:
            it.feed("one", rows)
            said += told(it.run())
        tables = [it.rows(table) for table in ("silver.t", "silver.t_quarantine") if it.exists(table)]
        found.append((said, tables))
        engine.close()
    assert found[0] == found[1]


def test_nothing_is_left_of_a_batch_that_fails(tmp_path: Path) -> None:
    """A query that fails in the middle leaves no row in the target, none in the quarantine, and no staged file."""
    it = Lab(
        tmp_path, YAML.replace("QUARANTINED", "true").replace("n * 2 AS twice", "n * 9223372036854775807 AS twice")
    )
    it.feed("one", [{"k": "a", "v": "1", "n": 0}, {"k": "a", "v": "x", "n": 0}, {"k": "a", "v": "1", "n": 4}])
    with pytest.raises(Exception, match="query failed"):
        it.run()
    assert it.rows("silver.t") == []
    assert not it.exists("silver.t_quarantine") or it.rows("silver.t_quarantine") == []
    assert not list((tmp_path / "silver" / "t").rglob("*.parquet"))
