"""Fixtures for tests of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets_tests.assets.house import House


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def house(tmp_path: Path, instance: dg.DagsterInstance) -> House:
    """The small project, with an empty source."""
    return House(tmp_path, instance)
