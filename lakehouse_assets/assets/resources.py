"""What a step is given: the project (catalog, settings, environment) and the resource that opens the lake for it.

What belongs here: turning configuration into a `Work`. What does not: anything that is done with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.settings import Settings, load_settings

if TYPE_CHECKING:
    from lakehouse_assets.tables.base import Work


@dataclass(frozen=True)
class Project:
    """What the graph was built from: every step and sensor works with it."""

    settings: Settings
    catalog: Catalog
    environ: Mapping[str, str] = field(repr=False)


class LakehouseResource(dg.ConfigurableResource):
    """Where the lake is and what computes; opens nothing before a step asks for it."""

    root: str = Field(description="Where the Delta tables stand: a directory or a URI")
    engine: str = Field("embedded", description="What computes: embedded or spark")

    @classmethod
    def of(cls, settings: Settings) -> LakehouseResource:
        """The resource that the settings describe."""
        return cls(root=settings.root, engine=settings.engine)

    @contextmanager
    def open(self, project: Project, **more: Any) -> Iterator[Work]:
        """The lake and its engine for one step or one tick; `more` sets fields of `Work`.

        Raises:
            LakehouseError: the root or the engine is not usable.
        """
        from lakehouse_assets.tables.base import open_work

        settings = load_settings(**(dict(project.settings) | {"root": self.root, "engine": self.engine}))
        work = open_work(settings, project.catalog, project.environ, **more)
        try:
            yield work
        finally:
            work.engine.close()


class RefreshConfig(dg.Config):
    """How a run may depart from a plain refresh; each is off unless the launcher of the run says so."""

    full_refresh: bool = Field(False, description="Start the table over from its sources")
    accept_loss: bool = Field(False, description="A full refresh may lose rows that the source no longer holds")
    accept_foreign: bool = Field(False, description="Keep what others wrote into the table, and go on")
