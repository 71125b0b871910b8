"""The Spark engine keeps the contract, and what only it promises."""

from __future__ import annotations

import pytest

from lakehouse_assets_tests.engines.contract import EngineContract


class TestSpark(EngineContract):
    """The contract, run by Spark."""

    @pytest.fixture
    def engine(self, spark):
        """The engine."""
        return spark
