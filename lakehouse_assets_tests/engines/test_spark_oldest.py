"""The engine contract and the dialect hold on the Spark of the oldest supported Databricks Runtime, too."""

from __future__ import annotations

import re
import subprocess

import pytest

from lakehouse_assets_tests.conftest import ROOT, need

RUNTIME = ROOT / "infra" / "local" / "runtime-15.4"
TESTS = ROOT / "lakehouse_assets_tests" / "engines" / "oldest.py"
CHOSEN = (
    "answers_what_is_recorded",
    "bytes_that_are_no_text",
    "does_not_know_is_refused",
    "append_adds_rows",
    "an_empty_append",
    "a_replay_is_a_no_op",
    "replace_by_partition_leaves",
    "merge_updates_inserts",
    "rebuild_gives_the_table",
    "(one_number_is_committed_once and merge)",
    "merges_and_replaces_give_both_images",
    "all_types_together",
)
"""One of each kind of write, its number and its feed, every type, and the whole dialect; `make test-runtime` runs all."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_contract_holds_on_the_oldest_spark() -> None:
    """The tests of `oldest.py` that matter most pass in the environment of that runtime."""
    python = RUNTIME / ".venv" / "bin" / "python"
    there = python.exists() and any((RUNTIME / "jars").glob("delta-spark_*.jar"))
    need(there, "the Spark of the oldest supported Databricks Runtime", "`make setup-runtime`")
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", " or ".join(CHOSEN), TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= len(CHOSEN)
    assert "skipped" not in done.stdout
