"""Many small commits stay cheap: what a landing asks of the store does not grow with the commits before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow.fs import copy_files

from lakehouse_assets.lake.delta import CHECKPOINT_INTERVAL
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.simulators.faulty_store import FaultyProxy
from lakehouse_assets_tests.conftest import Bucket
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - {entity_id: b, source: stream, source_format: sqlite, destination: bronze.t, source_schema: "id BIGINT, v STRING"}
"""


def land(lab: Lab, n: int) -> None:
    """One row, one batch."""
    lab.feed("stream", [{"id": n, "v": "x"}])
    (outcome,) = lab.run("bronze.t")
    assert outcome.valid == 1


def test_a_log_is_read_from_few_files(tmp_path: Path) -> None:
    """After any number of landings few entries of a log follow its checkpoint, in the table and in the plans."""
    lab = Lab(tmp_path / "lake", YAML)
    for n in range(CHECKPOINT_INTERVAL + 5):
        land(lab, n)
    for table in ("bronze/t", "control/batches"):
        handle = lab.engine.find(f"{lab.lake.root}/{table}")
        for path in Path(handle.uri, "_delta_log").glob("*.json"):
            if int(path.stem) < handle.version - CHECKPOINT_INTERVAL:
                path.unlink()
        assert lab.engine.find(handle.uri).version == handle.version
    assert len(lab.rows("bronze.t")) == CHECKPOINT_INTERVAL + 5
    lab.engine.close()


@pytest.mark.slow
def test_a_landing_asks_no_more_of_the_store_after_many(tmp_path: Path, s3: Bucket) -> None:
    """On an object store every file is a request: a landing makes as many after a hundred others as after ten."""
    asked: dict[int, int] = {}
    with FaultyProxy(s3.options["AWS_ENDPOINT_URL"]) as proxy:
        storage = Storage({**s3.options, "AWS_ENDPOINT_URL": proxy.url})
        for before in (10, 10 + 5 * CHECKPOINT_INTERVAL):
            here = Lab(tmp_path / str(before), YAML)
            for n in range(before):
                land(here, n)
            here.engine.close()
            there = Lab(f"{s3.root}/{before}", YAML, storage=storage)
            fs, root = storage.filesystem(there.lake.root)
            copy_files(here.lake.root, root, destination_filesystem=fs)
            there.streams = here.streams
            seen = len(proxy.requests)
            land(there, before)
            asked[before] = len(proxy.requests) - seen
            there.engine.close()
    few, many = asked.values()
    assert many <= 1.5 * few, asked
