"""Options that several commands share, and what they open: settings, a catalog, the work of a run.

What belongs here: one definition of each shared option. What does not: options of one command.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lakehouse_assets.entities.catalog import Catalog
    from lakehouse_assets.entities.model import TableName
    from lakehouse_assets.settings import Settings
    from lakehouse_assets.tables.base import Work

F = TypeVar("F", bound=Callable[..., Any])


def catalog_option(command: F) -> F:
    """`--catalog DIR`."""
    return click.option(
        "--catalog",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Directory of the YAML files that declare the tables (LAKEHOUSE_CATALOG; default: the shipped one).",
    )(command)


def root_option(command: F) -> F:
    """`--root URI`."""
    return click.option(
        "--root",
        metavar="URI",
        help="Where the lake stands: a directory, s3://… or abfss://… (LAKEHOUSE_ROOT; default: lake).",
    )(command)


def engine_option(command: F) -> F:
    """`--engine embedded|spark`."""
    return click.option(
        "--engine",
        type=click.Choice(["embedded", "spark"]),
        help="What computes (LAKEHOUSE_ENGINE; default: embedded).",
    )(command)


def format_option(*formats: str) -> Callable[[F], F]:
    """`--format`, of which the first one is the default."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How rows are printed.",
    )


def open_settings(**given: object) -> Settings:
    """The settings of this process, with what the command line gave on top."""
    from lakehouse_assets.settings import load_settings

    return load_settings(**given)


def open_catalog(settings: Settings) -> Catalog:
    """The catalog that the settings name."""
    from lakehouse_assets.entities.catalog import load_catalog

    return load_catalog(settings.catalog, os.environ)


def of_lake(command: F) -> F:
    """The options that say which catalog, which lake, which engine."""
    return catalog_option(root_option(engine_option(command)))


def open_lake(catalog: Path | None, root: str | None, engine: str | None) -> Work:
    """The work over a lake that these options name."""
    from lakehouse_assets.tables.base import open_work

    settings = open_settings(catalog=catalog, root=root, engine=engine)
    return open_work(settings, open_catalog(settings), os.environ)


def table_of(work: Work, name: str) -> TableName:
    """The table of that name; the name of its log or quarantine means the table, too."""
    return work.catalog.base(work.catalog.resolve(name))
