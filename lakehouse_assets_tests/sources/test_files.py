"""Files keep the contract of a source: every format, read as a whole and discovered one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.base import Source, open_source
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.files_making import FORMATS, discovered, entity, write


class FilesCase(Case):
    """A directory; each step adds one file."""

    def __init__(self, directory: Path, declaration: Entity, kind: str) -> None:
        self.directory = directory
        self.entity = declaration
        self.kind = kind
        self.written = 0
        directory.mkdir()

    def add(self, ids: Sequence[int]) -> None:
        """Write one more file, if there is a row to write."""
        if ids:
            write(self.directory / f"part-{self.written:03}.{self.kind}", self.kind, [_row(value) for value in ids])
            self.written += 1

    def open(self) -> Source:
        """A fresh source."""
        return open_source(self.entity)

    def swap(self) -> None:
        """Other files under the names of the old ones."""
        count, self.written = self.written, 0
        for step in range(count):
            self.add(range(100 * step, 100 * step + 50))


def _row(value: int) -> dict[str, object]:
    return {"id": value, "name": f"n{value}"}


class TestDiscovered(SourceContract):
    """The contract, file by file."""

    @pytest.fixture(params=FORMATS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> FilesCase:
        """An empty directory in which files of one format are discovered."""
        options = {"header": True} if request.param == "csv" else {}
        declared = discovered(tmp_path / "in", request.param, schema="id bigint, name string", **options)
        return FilesCase(tmp_path / "in", declared, request.param)


class TestWhole(SourceContract):
    """The contract, all files at once."""

    @pytest.fixture(params=["csv", "parquet"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> FilesCase:
        """An empty directory of files of one format."""
        options = {"header": True} if request.param == "csv" else {}
        declared = entity(tmp_path / "in", request.param, schema="id bigint, name string", **options)
        return FilesCase(tmp_path / "in", declared, request.param)


class TestLearned(SourceContract):
    """The contract where the columns are learned from the files."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> FilesCase:
        """A directory without declared columns."""
        return FilesCase(tmp_path / "in", discovered(tmp_path / "in", "json"), "json")
