"""A process that refreshes a small lake and is killed at a chosen write: `python -m … LAKE ROWS STEP`.

STEP k > 0 ends the process with SIGKILL around its k-th write (odd: before it, even: after it); 0 lets it live. The
number of writes is printed by a process that lived.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from lakehouse_assets.engines.base import Appender
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.plans import Ledger, PlanBook
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.tables.base import Work
from lakehouse_assets_tests.tables.lab import NOW, Lab

YAML = """
delta_live_store:
  - {entity_id: a, source: one, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, v STRING", lakehouse: {feed: one}}
  - {entity_id: b, source: two, source_format: sqlite, destination: bronze.t, source_schema: "k STRING, v STRING", lakehouse: {feed: two}}
  - entity_id: s
    source: bronze.t
    source_format: dlt
    destination: silver.t
    select_expr: [k, CAST(v AS INT) AS v]
    is_quarantined: true
    expectations: {expect_all: {positive: v > 0}}
  - {entity_id: q, source: "SELECT k, count(*) AS n, sum(v) AS s FROM silver.t GROUP BY k", source_format: sql, destination: gold.q, primary_keys: [k], lakehouse: {refresh_key: [k]}}
  - {entity_id: f, source: "SELECT max(n) AS most FROM gold.q", source_format: sql, destination: gold.f}
"""
TABLES = ("bronze.t", "silver.t", "silver.t_quarantine", "gold.q", "gold.f")


class Steps:
    """Counts writes and ends the process at the chosen one."""

    def __init__(self, fatal: int) -> None:
        self.fatal, self.count = fatal, 0

    def around(self, call, *args):
        """Call with a step before and a step after."""
        self.step()
        result = call(*args)
        self.step()
        return result

    def step(self) -> None:
        """One step on."""
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class StepAppender(Appender):
    """An appender whose commit is a write."""

    def __init__(self, inner: Appender, steps: Steps) -> None:
        self.inner, self.steps = inner, steps

    def write(self, batch):
        """Pass on."""
        self.inner.write(batch)

    def discard(self):
        """Pass on."""
        self.inner.discard()

    def commit(self, number):
        """Commit, with a step before and after."""
        return self.steps.around(self.inner.commit, number)


class StepEngine(EmbeddedEngine):
    """The embedded engine, counting its writes."""

    steps: Steps

    def create(self, uri, spec):
        """A write."""
        return self.steps.around(super().create, uri, spec)

    def appender(self, handle):
        """Its commit is a write."""
        return StepAppender(super().appender(handle), self.steps)

    def _replace(self, *args):
        return self.steps.around(super()._replace, *args)

    def _merge(self, *args):
        return self.steps.around(super()._merge, *args)

    def _rebuild(self, *args):
        return self.steps.around(super()._rebuild, *args)


class StepBook(PlanBook):
    """Plans whose recording is a write."""

    def __init__(self, inner: PlanBook, storage: Storage, steps: Steps) -> None:
        super().__init__(inner.uri, storage)
        self.steps = steps

    def open(self, *feeds):
        """A ledger that counts."""
        ledger = super().open(*feeds)
        counted = StepLedger.__new__(StepLedger)
        counted.__dict__ |= ledger.__dict__ | {"steps": self.steps}
        return counted


class StepLedger(Ledger):
    """Recording is a write."""

    steps: Steps

    def record(self, *plans):
        """Record, with a step before and after."""
        return self.steps.around(super().record, *plans)


class StepWork(Work):
    """Work whose plans are counted too."""

    @property
    def book(self):
        """The counting plans."""
        return StepBook(super().book, self.lake.storage, self.engine.steps)


def main(lake: str, rows: Path, fatal: int, rebuild: bool) -> None:
    """Refresh everything once over the rows in the file."""
    steps = Steps(fatal)
    it = Lab(lake, YAML)
    it.engine = StepEngine(it.storage)
    it.engine.steps = steps
    it.work = StepWork(it.catalog, it.lake, it.engine, open_source=it.open, clock=lambda: NOW)
    for source, found in json.loads(rows.read_text()).items():
        it.feed(source, found)
    if rebuild:
        it.run("bronze.t", rebuild=True)
    it.run()
    print(steps.count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), len(sys.argv) > 4)
