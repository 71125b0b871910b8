"""Processes whose clock jumps: `python -m … ROOT CLOCK SEED` keeps a lake while the clock that it sees goes astray.

libfaketime stands before the C library, so Python, delta-rs and DuckDB see the same wrong time; the disk does not.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import random
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.tables.maintenance import compact, vacuum
from lakehouse_assets_tests.stores.graph import YAML, feed
from lakehouse_assets_tests.tables.lab import Lab

DAYS = (0, -400, 400, 3, -30, 800, 0, 1)
"""Where the clock goes, in days from the truth: back and forward, over every retention there is."""


def library() -> Path | None:
    """Libfaketime's shared object, if its package is installed."""
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


def faked(clock: Path) -> dict[str, str]:
    """The environment of a process that takes its time from the file `clock`; durations stay true."""
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def turn(clock: Path, days: int) -> None:
    """Let the clock jump to so many days from the truth."""
    fresh = clock.with_suffix(".new")
    fresh.write_text(f"{days:+d}d")
    fresh.replace(clock)


class Wanderer(Lab):
    """A lake whose plans are made by the clock of the process, which jumps while rows are read."""

    def __init__(self, root: str, clock: Path) -> None:
        super().__init__(root, YAML)
        self.jumps = itertools.cycle(DAYS)
        self.clock = clock

    def run(self, *tables, **how):
        """Refresh, with a jump before each batch of rows that is landed."""
        how |= {
            "clock": lambda: datetime.now(UTC),
            "progress": lambda table, _: self.jump() if table == "bronze.t" else None,
        }
        return super().run(*tables, **how)

    def jump(self) -> None:
        """On to the next wrong time."""
        turn(self.clock, next(self.jumps))

    def tidy(self) -> int:
        """Compact and vacuum every table, with a jump before each; how many files went."""
        gone = 0
        for table in self.catalog.order():
            self.jump()
            compact(self.work, TableName(table.layer, table.name))
            self.jump()
            gone += sum(len(done.deleted) for done in vacuum(self.work, table))
        return gone


def main(root: str, clock: Path, seed: int) -> None:
    """Rows come, are landed, tidied up before their readers come, read, and tidied up again."""
    lab, chance, gone = Wanderer(root, clock), random.Random(seed), 0
    for _ in DAYS:
        feed(chance, lab)
        lab.run("bronze.t")
        gone += lab.tidy()
        lab.jump()
        lab.run()
        gone += lab.tidy()
    print(gone)


def vacuum_all(root: str) -> None:
    """Vacuum the table that everything is landed in."""
    vacuum(replace(Lab(root, YAML).work), TableName("bronze", "t"))


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    if len(sys.argv) > 3:
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        vacuum_all(sys.argv[1])
