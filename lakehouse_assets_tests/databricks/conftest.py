"""What tests of Databricks share: the packages they need, and a workspace that runs what it is sent."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.simulators.workspace.server import Options, Workspace, serve
from lakehouse_assets_tests.conftest import need


@pytest.fixture(scope="session")
def sdk() -> None:
    """The packages that reach a workspace."""
    there = importlib.util.find_spec("dagster_databricks") is not None
    need(there, "the package dagster-databricks", "`make setup-jvm`")


@pytest.fixture
def serving(sdk: None, tmp_path: Path) -> Iterator[Callable[..., Workspace]]:
    """Starts a workspace with the given options; it ends with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> Workspace:
            given = {"directory": tmp_path / "workspace", "token": "dapi-test"} | options
            return stack.enter_context(serve(Options(**given)))

        yield start


@pytest.fixture
def workspace(serving: Callable[..., Workspace]) -> Workspace:
    """A workspace with a volume for staging and one for the lake."""
    found = serving()
    found.make_volume("main.ops.staging")
    found.make_volume("main.lake.tables")
    return found
