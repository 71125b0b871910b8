"""Scratch lakes: a copy is one, whatever happens to the other, and nothing is left in the end."""

from __future__ import annotations

from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number, TableSpec
from lakehouse_assets.prove.scratch import Scratch
from lakehouse_assets_tests.conftest import Bucket

ROWS = pa.table({"k": pa.array([1, 2], pa.int64())})


@pytest.fixture(params=["disk", "s3"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    """A place on a disk, and one in an object store."""
    if request.param == "disk":
        return Scratch(str(tmp_path / "lakes"), Storage())
    bucket: Bucket = request.getfixturevalue("s3")
    return Scratch(f"{bucket.root}/lakes", bucket.storage)


def count(scratch: Scratch, lake: str) -> int | None:
    """The rows of the table in a lake; `None` if it is not there."""
    engine = EmbeddedEngine(scratch._storage)
    handle = engine.find(f"{scratch.lake(lake)}/bronze/t")
    return None if handle is None else len(engine.rows(engine.read(handle)))


def append(scratch: Scratch, lake: str, number: int) -> None:
    """Append rows to the table in a lake."""
    engine = EmbeddedEngine(scratch._storage)
    handle = engine.create(f"{scratch.lake(lake)}/bronze/t", TableSpec(ROWS.schema))
    engine.append(handle, engine.from_arrow(ROWS), Number("app", number))


def test_a_copy_goes_its_own_way(scratch: Scratch) -> None:
    """What is written to a copy is not in the original, nor the other way round."""
    append(scratch, "one", 1)
    scratch.copy("one", "two")
    append(scratch, "two", 2)
    assert (count(scratch, "one"), count(scratch, "two")) == (2, 4)
    scratch.remove("two")
    assert (count(scratch, "one"), count(scratch, "two")) == (2, None)
    scratch.remove()
    assert count(scratch, "one") is None


def test_a_lake_that_is_not_there_is_copied_as_such(scratch: Scratch) -> None:
    """Before the first round there is nothing."""
    scratch.copy("nothing", "trial")
    assert count(scratch, "trial") is None
    scratch.remove("trial")


def test_only_files_that_nobody_rewrites_are_shared(tmp_path: Path) -> None:
    """Parquet files are linked; the log, whose last checkpoint is a file that is rewritten, is copied."""
    scratch = Scratch(str(tmp_path), Storage())
    deltalake.write_deltalake(f"{scratch.lake('one')}/t", ROWS)
    deltalake.DeltaTable(f"{scratch.lake('one')}/t").create_checkpoint()
    scratch.copy("one", "two")
    files = {path.name: path.stat().st_nlink for path in (tmp_path / "two").rglob("*") if path.is_file()}
    assert all((links == 2) == name.endswith(".parquet") for name, links in files.items())
    assert "_last_checkpoint" in files
