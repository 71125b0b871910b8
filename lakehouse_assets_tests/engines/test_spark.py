"""The Spark engine keeps the contract, and what only it promises."""

from __future__ import annotations

import pytest

from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_session import Local
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.engines.contract import EngineContract


@pytest.fixture(scope="session")
def spark():
    """One engine for all tests: a session takes ten seconds to start."""
    engine = SparkEngine(Storage(), Local(memory="1g", threads=2))
    yield engine
    engine.close()


class TestSpark(EngineContract):
    """The contract, run by Spark."""

    @pytest.fixture
    def engine(self, spark):
        """The engine."""
        return spark
