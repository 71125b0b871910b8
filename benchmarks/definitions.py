"""Definitions: how long a fresh process needs until Dagster has every asset, check, job and sensor of a catalog."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import common, data
from benchmarks.common import Case, Report

SIZES = {100: 3.0, 1_000: 6.0}
"""Entities of a catalog, and the seconds that their definitions may take."""
ABOUT = (
    "A fresh process reads a catalog (half of its entities land a SQLite table, half select, cast and judge the rows "
    "of one), checks it, and builds the definitions and Dagster's repository of them. *Inside* leaves out the start of "
    "Python and the import of Dagster. As a yardstick: the same number of assets that do nothing, in plain Dagster."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/definitions.json`."""
    given = common.options(ABOUT, max(SIZES), 10, argv)
    report = Report("definitions", "Definitions", ABOUT, given)
    sizes = SIZES if given.rows == max(SIZES) else {given.rows: SIZES[100]}
    with common.workplace() as place:
        cases = [case for size in sizes for case in _cases(place, size)]
        rows = common.measured(cases, given.repeat)
    report.table("From the start of the process", rows)
    by_name = {row["name"]: row for row in rows}
    for size, limit in sizes.items():
        found = by_name[_name(size)]["seconds"]["median"]
        report.target(f"{size:,} entities, the whole process", f"under {limit:g} s", limit, found, "s")
    report.write()


def _name(size: int) -> str:
    return f"ours, {size:,} entities"


def _cases(place: Path, size: int) -> list[Case]:
    catalog = common.catalog_of(place / f"catalog-{size}", data.many_catalog("nowhere.db", size))
    bare = f"plain Dagster, {size:,} empty assets"
    return [
        Case(_name(size), lambda: common.ours("definitions", "load", catalog), inside=float),
        Case(bare, lambda: common.ours("definitions", "load_bare", size), "limit", inside=float),
    ]


# what runs in processes of its own


def load(catalog: str) -> float:
    """Seconds to build the definitions of a catalog and the repository of them."""
    import dagster  # noqa: F401  its import is not what is measured inside

    began = time.perf_counter()
    from lakehouse_assets.build import build_defs
    from lakehouse_assets.settings import load_settings

    repository = build_defs(load_settings(catalog=catalog)).get_repository_def()
    assert len(list(repository.asset_graph.get_all_asset_keys())) > 1
    return time.perf_counter() - began


def load_bare(size: str) -> float:
    """Seconds to build as many assets that do nothing."""
    import dagster as dg

    began = time.perf_counter()

    def asset(index: int) -> Any:
        deps = [f"t_{index - 1}"] if index % 2 else []

        @dg.asset(name=f"t_{index}", deps=deps, group_name=f"g{index // 2}")
        def nothing() -> None: ...

        return nothing

    repository = dg.Definitions(assets=[asset(index) for index in range(int(size))]).get_repository_def()
    assert len(list(repository.asset_graph.get_all_asset_keys())) == int(size)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
