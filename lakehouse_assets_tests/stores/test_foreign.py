"""Tests of rows that somebody else commits in the middle of a batch: named before or kept after, never lost or doubled."""

from __future__ import annotations

import random
from contextlib import suppress

import deltalake
import pyarrow as pa
import pytest

from lakehouse_assets.errors import ForeignCommit
from lakehouse_assets_tests.stores.graph import feed, graph


def intrude(lab, table: str) -> None:
    """A row by a hand that knows nothing of plans."""
    uri = f"{lab.lake.root}/{table.replace('.', '/')}"
    schema = pa.schema(deltalake.DeltaTable(uri, storage_options=lab.storage.delta_options(uri)).schema().to_arrow())
    row = {name: "theirs" if name == "k" else None for name in schema.names}
    deltalake.write_deltalake(
        uri, pa.Table.from_pylist([row], schema=schema), mode="append", storage_options=lab.storage.delta_options(uri)
    )


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_foreign_commit_while_a_batch_is_read(tmp_path, place, request):
    """It comes after the plan was recorded and before the rows are committed: both stand, and the next run names it."""
    if place == "disk":
        lab = graph(tmp_path / "lake")
    else:
        bucket = request.getfixturevalue("s3")
        lab = graph(f"{bucket.root}/lake", bucket.storage)
    chance = random.Random(3)
    feed(chance, lab)
    lab.run()
    before = lab.rows("bronze.t")
    feed(chance, lab)
    came: list[int] = []

    def interrupt(*_):
        if not came:
            came.append(1)
            intrude(lab, "bronze.t")

    with suppress(ForeignCommit):
        lab.run("bronze.t", progress=interrupt)
    feed(chance, lab)
    with pytest.raises(ForeignCommit, match=r"--accept-foreign bronze.t"):
        lab.run("bronze.t")
    lab.run("bronze.t", accept_foreign=True)
    rows = lab.rows("bronze.t")
    assert came
    assert len(rows) == len(before) + 1 + 4 + 4
    assert [row[0] for row in rows].count("theirs") == 1
    assert lab.run("bronze.t") == []
