"""Counting writes: none is missed, whatever the engine, and what is not a write is passed through."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.prove.points import WRITES, Points, WatchedEngine, watched
from lakehouse_assets_tests.tables.lab import Lab

PASSED = {
    "of", "find", "read", "changes", "from_arrow", "query", "schema", "held", "batches", "rows", "close",
    "refuse_writer", "refuse_writers", "appender", "name", "reads_features", "publishes", "asof",
    "load", "loads", "streams",
}  # fmt: skip
"""What of an engine is no write, or is watched in another way: an appender's commit."""
YAML = """
delta_live_store:
  - {entity_id: b, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING"}
  - {entity_id: s, source: bronze.t, source_format: dlt, destination: silver.t, is_quarantined: true, expectations: {expect_all: {a: k = 'a'}}}
"""


def test_every_method_of_an_engine_is_known() -> None:
    """A method that is added to the contract has to be called a write, or not."""
    public = {name for name in vars(Engine) if not name.startswith("_")}
    assert public - PASSED - set(WRITES) == set()


@pytest.fixture
def trail() -> io.StringIO:
    """Where writes are told."""
    return io.StringIO()


def told(trail: io.StringIO) -> list[tuple[str, str]]:
    """(table, step) of each write."""
    lines = [json.loads(line) for line in trail.getvalue().splitlines()]
    assert sorted(line["write"] for line in lines if "seconds" in line) == list(range(1, len(lines) // 2 + 1))
    return [(line["table"], line["step"]) for line in lines if "step" in line]


def test_every_write_of_a_run_is_counted(tmp_path: Path, trail: io.StringIO) -> None:
    """Plans, their table, tables and appends, in the order of the protocol: quarantine first, target last."""
    it = Lab(tmp_path / "lake", YAML)
    it.work = watched(it.work, Points(it.lake.root, trail))
    it.feed("one", [{"k": "a"}, {"k": "b"}])
    it.run()
    assert told(trail) == [
        ("bronze.t", "plan"),
        ("control.batches", "create"),
        ("bronze.t", "create"),
        ("bronze.t", "append"),
        ("silver.t", "plan"),
        ("silver.t", "create"),
        ("silver.t_quarantine", "create"),
        ("silver.t_quarantine", "append"),
        ("silver.t", "append"),
    ]
    assert it.rows("silver.t", "k") == [("a",)]


def test_the_engine_stays_the_engine(tmp_path: Path, trail: io.StringIO) -> None:
    """Capabilities and reads are the engine's own."""
    inner = EmbeddedEngine(Storage())
    engine = WatchedEngine(inner, Points(str(tmp_path), trail))
    assert engine.name == "embedded"
    assert engine.find(f"{tmp_path}/t") is None
    with pytest.raises(AttributeError):
        engine.no_such_thing  # noqa: B018
    assert told(trail) == []
