"""The embedded engine keeps the contract, and what only it promises."""

from __future__ import annotations

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.engines.contract import EngineContract


@pytest.fixture(scope="module")
def shared():
    """One engine for all tests, closed at the end."""
    engine = EmbeddedEngine(Storage())
    yield engine
    engine.close()


class TestEmbedded(EngineContract):
    """The contract, run by DuckDB and delta-rs."""

    @pytest.fixture
    def engine(self, shared):
        """The engine."""
        return shared
