"""Over Spark Connect every write honours its number, as on classic Spark (which the contract shows)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lakehouse_assets_tests.conftest import ROOT, need_spark, served
from lakehouse_assets_tests.engines.connect import NAMES

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a process found that reaches Spark through Spark Connect."""
    need_spark()
    module = [sys.executable, "-m", "lakehouse_assets_tests.engines.connect"]
    with served(*module, "serve") as address:
        environ = os.environ | {"SPARK_REMOTE": address.replace("http://", "sc://")}
        command = [*module, str(tmp_path_factory.mktemp("lake"))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_session_is_remote(found: dict) -> None:
    """What follows is shown on Spark Connect, not on classic Spark."""
    assert found["session"].startswith("pyspark.sql.connect")


@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", NAMES)
def test_a_write_carries_its_number(found: dict, name: str) -> None:
    """The commit of a write is one version, bears the project's mark and moves the number."""
    assert found[name]["made"] == [1, 1, 1]
    assert found[name]["foreign"] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_is_a_no_op(found: dict, name: str) -> None:
    """The same number again makes no version and changes no row."""
    assert found[name]["replayed"] == [True, 0, True]


@pytest.mark.parametrize("name", NAMES)
def test_a_stale_handle_is_refused(found: dict, name: str) -> None:
    """Whoever opened the table before the number was committed cannot commit it again."""
    assert found[name]["raced"] == "refused"


def test_the_rows_are_there(found: dict) -> None:
    """Rows and changes are those of classic Spark."""
    rows = {name: [tuple(row) for row in found[name]["rows"]] for name in NAMES}
    assert rows["append"] == [(1, "a"), (2, "b"), (50, "x")]
    assert rows["merge"] == [(1, "x")]
    assert rows["replace"] == [(60, "x")]
    assert rows["rebuild"] == [(70, "x")]
    assert [found[name]["moved"] for name in ("append", "empty", "merge", "replace")] == [
        "append",
        "none",
        "images",
        "images",
    ]


def test_a_merge_that_changes_nothing_carries_the_number(found: dict) -> None:
    """Spark commits an empty merge, too."""
    assert found["empty merge"] == [2, [[1, "a"]]]


def test_relations_are_read(found: dict) -> None:
    """A query is held, and read as rows and as a stream."""
    assert found["held"] == [[{"k": 1}], [{"k": 1}]]
