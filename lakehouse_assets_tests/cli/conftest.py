"""What tests of the command share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_assets.tables.upload_config import ENVIRONMENT, PROCESSING
from lakehouse_assets_tests.cli.lab import Machine


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine reaches a test."""
    names = {name for variables in ENVIRONMENT.values() for name in variables} | {key.upper() for key in PROCESSING}
    for name in list(os.environ):
        if name in names or name.startswith(("LAKEHOUSE_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with nothing on it."""
    return Machine(tmp_path)


@pytest.fixture
def open_machine() -> Iterator[Machine]:
    """A machine that every user can reach: pytest closes the directories above `tmp_path` whenever it starts."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-test-") as directory:
        Path(directory).chmod(0o755)
        yield Machine(Path(directory))
