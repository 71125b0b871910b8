"""A process that lands a directory and dies between quarantine and target: `python -m … ROOT judged|streamed MODE`.

It ends with SIGKILL after the quarantine was committed and before the target is.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from lakehouse_assets.engines.base import Appender
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets_tests.tables.lab import Lab

YAML = """
delta_live_store:
  - entity_id: c
    source: {root}/drop
    destination: bronze.c
    source_schema: id BIGINT, v BIGINT
    read_options: {{cloudFiles.format: csv, header: "true"}}
    {fields}
"""
RULES = "is_quarantined: true\n    expectations: {expect_all: {some: v > 0}}\n    "


class LastBreath(Appender):
    """An appender whose process ends before it commits."""

    def __init__(self, inner: Appender) -> None:
        self.inner = inner

    def write(self, batch):
        """Pass on."""
        self.inner.write(batch)

    def discard(self):
        """Pass on."""
        self.inner.discard()

    def commit(self, number):
        """The end."""
        os.kill(os.getpid(), signal.SIGKILL)


class MortalEngine(EmbeddedEngine):
    """The embedded engine; it dies where it would commit rows of a target."""

    def appender(self, handle):
        """The quarantine's commits, the target's does not."""
        inner = super().appender(handle)
        return inner if handle.uri.endswith("_quarantine") else LastBreath(inner)


def lake(root: Path, judged: bool, mode: str = "rescue") -> Lab:
    """A lake at `root` that lands `root`/drop."""
    fields = f"{RULES if judged else ''}lakehouse: {{evolution: {mode}}}"
    return Lab(root / "lake", YAML.format(root=root, fields=fields))


def main(root: Path, judged: bool, mode: str) -> None:
    """Land what is new, and die."""
    it = lake(root, judged, mode)
    it.work = replace(it.work, engine=MortalEngine(it.storage))
    it.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "judged", sys.argv[3])
