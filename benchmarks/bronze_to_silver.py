"""Bronze -> silver: rows of a landed table selected, judged by five rules, and split into a target and a quarantine."""

from __future__ import annotations

from pathlib import Path

from benchmarks import common, data
from benchmarks.common import Case, Report, Sample

ABOUT = (
    "A landed table of 10 columns (and the three that landing adds) is selected and judged by five rules; one row in a "
    "hundred breaks one of them and goes to the quarantine with the names of its broken rules and itself as received. "
    "Ours is `lakehouse run silver.readings`, plan, numbers, counts and examples included; *inside* is what the run "
    "reports for the table. In the second table the times are made out of ISO 8601 text first, as Spark casts it, and "
    "a text that is no time would go to quarantine."
)
NOTES = [
    "Tried: keeping all judged rows in DuckDB, with the rows as received, until they are split. It took four times the "
    "CPU time and three times the memory, because it spilled. Now only rows that a rule or a cast speaks against are "
    "kept, and the valid ones are read from the files a second time.",
    "Times out of text are slow because Spark's shapes of a time are told by regular expressions: DuckDB's threads "
    "wait for each other in them, and each text is judged three times (twice for its flag, once for its value). "
    "Tried outside of the project: telling the usual ISO 8601 shapes by GLOB first, which gave the same times and made "
    "the first pass two to four times as cheap.",
    "The peers keep no plan and no number and count nothing; pandas also keeps no names of broken rules, and neither "
    "keeps the row as received.",
]
TITLES = {"plain": "five rules", "typed": "five rules, and times made out of text"}


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/bronze_to_silver.json`."""
    given = common.options(ABOUT, 3_000_000, 20_000, argv)
    report = Report("bronze_to_silver", "Bronze → silver", ABOUT, given, notes=NOTES)
    with common.workplace() as place:
        files = place / "files"
        common.sample(common.ours("data", "reading_files", files, given.rows))
        landed = place / "landed"
        catalog = common.catalog_of(place / "catalog", data.reading_catalog(files))
        common.sample(common.run_command(catalog, landed))
        for kind, title in TITLES.items():
            cases = [_ours(place, landed, files, given.rows, kind)]
            if given.peers:
                cases += _peers(place, landed, given.rows, kind)
            rows = common.measured(cases, given.repeat)
            report.table(f"{given.rows:,} rows, {title}", rows, against=cases[0].name)
            rate = rows[0]["inside_rows_per_second"]
            bound = "at least 1,000,000" if kind == "plain" else "at least 1,000,000, casts beside the rules"
            report.target(f"rows/s inside, {title}", bound, 1_000_000, rate, "rows/s", least=True)
    report.write()


def _ours(place: Path, landed: Path, files: Path, rows: int, kind: str) -> Case:
    entity = data.silver_entity(typed=kind == "typed")
    catalog = common.catalog_of(place / f"catalog-{kind}", data.reading_catalog(files, silver=entity))
    unfit = data.broken(rows)

    def command() -> list[str]:
        return common.run_command(catalog, common.copied(landed, place / "lake"), "silver.readings")

    def check(sample: Sample) -> None:
        (found,) = sample.said
        assert (found["rows_in"], found["quarantined"], found["valid"]) == (rows, unfit, rows - unfit), found

    return Case("ours", command, rows=rows, inside=common.seconds_of("silver.readings"), check=check)


def _peers(place: Path, landed: Path, rows: int, kind: str) -> list[Case]:
    def case(name: str, function: str, note: str) -> Case:
        def command() -> list[str]:
            return common.peer(function, landed / "bronze" / "readings", common.fresh(place / "peer"), kind)

        return Case(name, command, "peer", note, rows, inside=common.peer_seconds)

    return [
        case("polars → write_deltalake", "silver_polars", "one collect in memory"),
        case("pandas → write_deltalake", "silver_pandas", "everything in memory"),
    ]


if __name__ == "__main__":
    main()
