"""What comes back from a run. Whole steps are launched in `test_launched.py`."""

from __future__ import annotations

import gzip

import pytest
from dagster._serdes import serialize_value

pytestmark = pytest.mark.usefixtures("sdk")


def test_a_file_that_is_not_written_yet_is_read_again() -> None:
    """A file shows up before its bytes do: that is no broken file, and no reason to end the step."""
    from lakehouse_assets.databricks.runs import entries

    with pytest.raises(EOFError):
        entries(b"")
    with pytest.raises(EOFError):
        entries(gzip.compress(serialize_value(["x"]).encode())[:12])
    assert entries(gzip.compress(serialize_value(["x"]).encode())) == ["x"]
