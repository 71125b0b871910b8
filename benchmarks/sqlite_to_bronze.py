"""SQLite -> bronze: a table of 26 columns landed as a Delta table, every cell's type verified.

Ours includes plan and number. The peers take what the driver gives them: only the one that says so looks at the type
of every cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import common, data
from benchmarks.common import Case, Report, Sample

MISFIT_EVERY = 2_500
LARGE = 5
"""How many times the rows the run has that shows the bound of the memory."""
DLT = "dlt sql_database → Delta"
ABOUT = (
    "A SQLite table of 26 columns (9 REAL, 3 INTEGER, 14 TEXT, mostly short texts) becomes a Delta table on the same "
    "disk. Ours is the whole command `lakehouse run`: it verifies the type of every cell, records a plan, commits its "
    "number with the rows, and adds `_ingested_at`, `_source` and `_position`. *Inside* is what the run reports for "
    "the table, without the start of the process."
)
NOTES = [
    "Ours reads ranges of the rowid with two connections at a time, so its wall clock needs two free cores; where the "
    "machine has other work to do, read the CPU seconds.",
    "pandas, ADBC and connectorx write no plan and verify no types: ADBC takes those of the first batch, pandas "
    "those of the values, connectorx ends at the first value that does not fit. dlt keeps a state of its own.",
]


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/sqlite_to_bronze.json`."""
    given = common.options(ABOUT, 2_000_000, 20_000, argv)
    report = Report("sqlite_to_bronze", "SQLite → bronze", ABOUT, given, notes=NOTES)
    with common.workplace() as place:
        database = data.sensor_database(place / "fits.db", given.rows)
        misfits = data.sensor_database(place / "misfits.db", given.rows, misfit_every=MISFIT_EVERY)
        cases = [
            _ours("ours, every row fits", place, database, given.rows),
            _ours("ours, 0.04 % of the rows do not fit", place, misfits, given.rows, given.rows // MISFIT_EVERY),
        ]
        if given.peers:
            cases += _peers(place, database, given.rows)
        rows = common.measured(cases, given.repeat)
        report.table(f"{given.rows:,} rows × 26 columns", rows, against=cases[0].name)
        misfits.unlink()
        database.unlink()
        large = _large(place, given.rows * LARGE)
    report.table(f"{given.rows * LARGE:,} rows × 26 columns", [large])
    _judge(report, rows, large)
    report.write()


def _ours(name: str, place: Path, database: Path, rows: int, unfit: int = 0, repeat: int = 1_000) -> Case:
    catalog = common.catalog_of(place / f"catalog-{database.stem}", data.sensor_catalog(database))
    lake = place / "lake"

    def command() -> list[str]:
        return common.run_command(catalog, common.fresh(lake))

    def check(sample: Sample) -> None:
        (found,) = sample.said
        assert (found["rows_in"], found["quarantined"], found["valid"]) == (rows, unfit, rows - unfit), found

    inside = common.seconds_of("bronze.sensor_readings")
    return Case(name, command, rows=rows, inside=inside, check=check, repeat=repeat)


def _peers(place: Path, database: Path, rows: int) -> list[Case]:
    target = place / "peer"

    def case(name: str, function: str, note: str = "", repeat: int = 1_000) -> Case:
        def command() -> list[str]:
            return common.peer(function, database, common.fresh(target))

        return Case(name, command, "peer", note, rows, repeat, common.peer_seconds)

    return [
        case("connectorx → write_deltalake", "sqlite_connectorx", "types not verified cell by cell"),
        case("ADBC stream → write_deltalake", "sqlite_adbc", "types of the first batch"),
        case("ADBC, typeof of every cell first", "sqlite_adbc_checked", "every cell verified; a misfit ends it"),
        case("pandas read_sql → write_deltalake", "sqlite_pandas", "types of the values found", 2),
        case(DLT, "sqlite_dlt", "types of the SQLite table"),
    ]


def _large(place: Path, rows: int) -> dict[str, Any]:
    database = data.sensor_database(place / "large.db", rows)
    (row,) = common.measured([_ours("ours, every row fits", place, database, rows, repeat=1)], 1)
    return row


def _judge(report: Report, rows: list[dict[str, Any]], large: dict[str, Any]) -> None:
    ours = rows[0]
    report.target("rows/s inside", "at least 350,000", 350_000, ours["inside_rows_per_second"], "rows/s", least=True)
    if any(row["name"] == DLT for row in rows):
        times = common.ratio(rows, DLT, ours["name"])
        report.target("the whole process, against dlt", "at least 4 times as fast", 4, times, "×", least=True)
        times = common.ratio(rows, DLT, ours["name"], "inside_seconds")
        report.target("inside, against dlt", "at least 4 times as fast", 4, times, "×", least=True)
    report.target(f"peak with {large['rows']:,} rows", "at most 700 MB", 700, large["peak_mb"]["median"], "MB")


if __name__ == "__main__":
    main()
