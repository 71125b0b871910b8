"""What every engine must do, written once: an engine's test module subclasses `EngineContract` and gives `engine`.

What belongs here: behaviour that a kind of table relies on, through the contract of an engine only. What does not:
anything about one engine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets_tests.engines.bench import Bench
from lakehouse_assets_tests.engines.contract_feeds import FeedContract
from lakehouse_assets_tests.engines.contract_history import HistoryContract
from lakehouse_assets_tests.engines.contract_queries import QueryContract
from lakehouse_assets_tests.engines.contract_races import RaceContract
from lakehouse_assets_tests.engines.contract_types import TypeContract
from lakehouse_assets_tests.engines.contract_upkeep import UpkeepContract
from lakehouse_assets_tests.engines.contract_writes import WriteContract


class EngineContract(
    WriteContract, TypeContract, RaceContract, FeedContract, QueryContract, UpkeepContract, HistoryContract
):
    """The whole contract; a subclass gives the fixture `engine`."""

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine."""
        raise LookupError(f"{type(self).__name__} must override the fixture 'engine'")

    @pytest.fixture
    def bench(self, engine: Engine, tmp_path: Path) -> Bench:
        """Fresh tables of the engine."""
        return Bench(engine, str(tmp_path))
