"""What tests of the command share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse_assets.tables.upload_config import ENVIRONMENT, PROCESSING
from lakehouse_assets_tests.cli.lab import Machine, readings, write


@pytest.fixture(autouse=True)
def _no_uploader_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of an uploader on this machine reaches a test."""
    for name in [*(name for names in ENVIRONMENT.values() for name in names), *map(str.upper, PROCESSING)]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with nothing on it."""
    return Machine(tmp_path)


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A database with 200 readings, and the catalog."""
    write(machine.database, readings(200))
    machine.declare()
    return machine
