"""Change data into an SCD2 table: in order and late, with a short and a long history, and made again from its log."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Case, Report, Sample

ABOUT = (
    "A table of type 2 with a million keys and 3 or 10 versions of each gets batches that change 20,000 keys chosen at "
    "random: in order (newer than all that is known), or late (each falls into the last closed version of its key). "
    "Ours is what `lakehouse run` does: plan, log, late keys, quarantine, target with its change data feed, counts; "
    "the changed rows come from a Delta table. The peers get the changed rows in memory and run the MERGE with two "
    "branches that is taught for SCD2, on a table of the same size; they keep no log, notice no late event, no tie and "
    "no replay, and write no change data feed. All are warm: libraries are loaded, and Spark has run the MERGE once."
)
NOTES = [
    "About half of our time is delta-rs's MERGE with the change data feed; the peer's is without it. The rest reads "
    "and judges the rows, appends the log, asks it for late keys, and compares. 1.3 times a MERGE that does nothing "
    "else is missed.",
    "Made again from a log of ten million events DuckDB takes what `LAKEHOUSE_MEMORY_LIMIT` (2 GB) allows.",
    "The open rows of our table stand in files of their own, so a merge opens no other however long the history is; "
    "the peers' table is one of appended versions, as their MERGE leaves it.",
    "dlt's scd2 strategy is missing: it needs a SQL destination (its Delta tables on a file system have upsert only), "
    "takes whole extracts, and orders by load time.",
]
TABLE = "silver.customers"
CHANGED = 20_000
STEP = 10_000_000
"""The distance between two versions of a key in the sequence."""
VERSIONS = (3, 10)


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/history.json`."""
    given = common.options(ABOUT, 1_000_000, 20_000, argv)
    report = Report("history", "Change data → SCD2", ABOUT, given, notes=NOTES)
    changed = min(CHANGED, given.rows // 10)
    medians: dict[tuple[str, int], float] = {}
    with common.workplace() as place:
        for versions in VERSIONS:
            lab = _Lab(place / str(versions), given.rows, versions, changed)
            cases = [lab.case("ours, in order", late=False), lab.case("ours, late", late=True)]
            if given.peers:
                cases += lab.peers()
            rows = common.measured(cases, given.repeat)
            report.table(f"{given.rows:,} keys, {versions} versions each, {changed:,} changed", rows,
                         against="ours, in order")  # fmt: skip
            medians |= {(row["name"], versions): row["inside_seconds"]["median"] for row in rows}
            again = common.measured([lab.again(), lab.idle()], given.repeat)
            report.table(f"{given.rows * versions:,} events made into the table again, and nothing new", again)
            medians |= {(row["name"], versions): row["inside_seconds"]["median"] for row in again}
            _targets(report, medians, versions, given.rows, again)
        _growth(report, medians)
    report.write()


def _targets(
    report: Report, medians: dict[tuple[str, int], float], versions: int, rows: int, again: list[dict[str, Any]]
) -> None:
    in_order, late = medians["ours, in order", versions], medians["ours, late", versions]
    report.target(f"in order, {versions} versions", "at most 1.1 s", 1.1, in_order, "s")
    report.target(f"late / in order, {versions} versions", "at most 3", 3, late / in_order, "x")
    if ("deltalake MERGE", versions) in medians:
        plain, spark = medians["deltalake MERGE", versions], medians["Spark MERGE, warm", versions]
        report.target(f"in order / deltalake MERGE, {versions} versions", "at most 1.3", 1.3, in_order / plain, "x")
        report.target(
            f"Spark MERGE / in order, {versions} versions", "at least 5", 5, spark / in_order, "x", least=True
        )
    rate = rows * versions / medians["ours, from the log", versions]
    report.target(f"from the log, {versions} versions", "at least 600,000", 600_000, rate, "events/s", least=True)
    peak = max(row["peak_mb"]["median"] for row in again)
    report.target(f"peak from the log, {versions} versions", "at most 1,000", 1_000, peak, "MB")
    report.target(
        f"nothing new, {versions} versions", "at most 0.1 s", 0.1, medians["ours, nothing new", versions], "s"
    )


def _growth(report: Report, medians: dict[tuple[str, int], float]) -> None:
    for name, limit in (("ours, in order", 1.2), ("ours, late", 1.3)):
        found = medians[name, VERSIONS[1]] / medians[name, VERSIONS[0]]
        report.target(f"{name}: growth from 3 to 10 versions", f"at most {limit}", limit, found, "x")


class _Lab:
    """A lake with a history of so many versions, and the batches that come to it."""

    def __init__(self, place: Path, keys: int, versions: int, changed: int) -> None:
        self.place, self.keys, self.versions, self.changed = place, keys, versions, changed
        self.events, self.root = place / "events", place / "lake"
        self.batches = itertools.count(1)
        self.catalog = common.catalog_of(place / "catalog", catalog(self.events))
        common.sample(common.ours("history", "write_versions", self.events, keys, versions))
        common.sample(common.run_command(self.catalog, self.root))

    def case(self, name: str, *, late: bool) -> Case:
        """A batch that is added to the upstream table before the measured run."""

        def command() -> list[str]:
            args = (self.events, self.keys, self.versions, self.changed, next(self.batches), int(late))
            return common.ours("history", "one_batch", self.catalog, self.root, *args)

        def check(sample: Sample) -> None:
            assert sample.said["rows_in"] > self.changed * 0.9, sample.said

        return Case(name, command, rows=self.changed, inside=_inside, check=check)

    def again(self) -> Case:
        """The whole table from its log."""
        command = common.ours("history", "from_the_log", self.catalog, self.root)
        return Case("ours, from the log", lambda: command, rows=self.keys * self.versions, inside=_inside)

    def idle(self) -> Case:
        """A run that finds nothing new, in a process that has its imports."""
        command = common.ours("history", "nothing_new", self.catalog, self.root)
        return Case("ours, nothing new", lambda: command, inside=_inside)

    def peers(self) -> list[Case]:
        """The MERGE with two branches, by delta-rs and by Spark."""
        found = []
        for name, function in (("deltalake MERGE", "merge_deltalake"), ("Spark MERGE, warm", "merge_spark")):
            target = self.place / function
            common.sample(common.ours("history", "write_history", target, self.keys, self.versions))

            def command(function: str = function, target: Path = target) -> list[str]:
                batch = next(self.batches)
                return common.ours("history", function, target, self.keys, self.versions, self.changed, batch)

            found.append(Case(name, command, "peer", "changed rows in memory", self.changed, inside=_inside))
        return found


def _inside(said: Any) -> float:
    return float(said["inside"])


def catalog(events: Path) -> str:
    """The table, fed by a Delta table of events."""
    return (
        "delta_live_store:\n"
        f"  - {{entity_id: c, source: {events}, source_format: delta, destination: {TABLE}, primary_keys: [k], "
        "apply_changes: {sequence_by: ts, stored_as_scd_type: 2, apply_as_deletes: op = 'D', "
        "except_column_list: [op, ts]}}\n"
    )


# what runs in processes of its own


def _version(keys: str, version: int) -> str:
    """The event that made a version of each key, as a select list."""
    return (
        f"k, {version} * {STEP} + k AS ts, 'name' || (k * 7 % 1000) AS name, "
        f"'city' || ((k + {version}) % 100) AS city, (k * 0.5 + {version})::DOUBLE AS v, "
        f"CAST(NULL AS VARCHAR) AS op FROM {keys}"
    )


def _range(keys: int) -> str:
    return f"(SELECT range AS k FROM range({keys}))"


def _chosen(keys: int, changed: int, batch: int) -> str:
    """Distinct keys, chosen at random."""
    return f"(SELECT DISTINCT (hash(range, {batch}) % {keys})::BIGINT AS k FROM range({changed}))"


def write_versions(events: str, keys: str, versions: str) -> None:
    """All events of the history, a commit for each version."""
    import deltalake
    import duckdb

    for version in range(int(versions)):
        rows = duckdb.sql(f"SELECT {_version(_range(int(keys)), version)}").to_arrow_table()
        deltalake.write_deltalake(events, rows, mode="append")


def write_batch(events: str, keys: str, versions: str, changed: str, batch: str, late: str) -> None:
    """Changes of some keys: newer than all, or half a version before the last one."""
    import deltalake
    import duckdb

    at = f"{(int(versions) - 1) * STEP - STEP // 2} + k + {batch}"
    if not int(late):
        at = f"{int(versions) * STEP + int(batch) * STEP * 10} + k"
    rows = f"SELECT * REPLACE ({at} AS ts, 'b{batch}-' || k AS name) FROM (SELECT {_version('chosen', 0)})"
    sql = f"WITH chosen AS {_chosen(int(keys), int(changed), int(batch))} {rows}"
    deltalake.write_deltalake(events, duckdb.sql(sql).to_arrow_table(), mode="append")


def _opened(catalog: str, root: str) -> Iterator[Any]:
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.settings import Settings
    from lakehouse_assets.tables.base import open_work

    settings = Settings(root=root, catalog=catalog)
    work = open_work(settings, load_catalog(catalog, {}), {})
    yield work
    work.engine.close()


def one_batch(catalog: str, root: str, *batch: str) -> dict[str, float]:
    """A batch that comes after a refresh which found nothing, so that everything is loaded."""
    from lakehouse_assets.tables.refresh import refresh

    for work in _opened(catalog, root):
        (table,) = work.catalog.order()
        list(refresh(work, table))
        write_batch(*batch)
        began = time.perf_counter()
        (outcome,) = refresh(work, table)
        seconds = time.perf_counter() - began
    return {"inside": seconds, "rows_in": outcome.rows_in}


def from_the_log(catalog: str, root: str) -> dict[str, float]:
    """The table and its quarantine, made again."""
    from lakehouse_assets.tables.history_derive import derive

    for work in _opened(catalog, root):
        began = time.perf_counter()
        derive(work, work.catalog.entities[0], again=True)
    return {"inside": time.perf_counter() - began}


def nothing_new(catalog: str, root: str) -> dict[str, float]:
    """A refresh that finds nothing, after one that loaded what it needs."""
    from lakehouse_assets.tables.refresh import refresh

    for work in _opened(catalog, root):
        (table,) = work.catalog.order()
        list(refresh(work, table))
        before = work.engine.find(work.uri(table)).version
        began = time.perf_counter()
        assert list(refresh(work, table)) == []
        seconds = time.perf_counter() - began
        assert work.engine.find(work.uri(table)).version == before
    return {"inside": seconds}


def write_history(target: str, keys: str, versions: str) -> None:
    """The table that the peers keep: all versions, appended one after the other."""
    import deltalake
    import duckdb

    last = int(versions) - 1
    for version in range(int(versions)):
        end = "CAST(NULL AS BIGINT)" if version == last else f"{version + 1} * {STEP} + k"
        columns = f"* EXCLUDE (ts, op), ts AS start_at, {end} AS end_at"
        sql = f"SELECT {columns} FROM (SELECT {_version(_range(int(keys)), version)})"
        deltalake.write_deltalake(target, duckdb.sql(sql).to_arrow_table(), mode="append")


def _staged(keys: str, versions: str, changed: str, batch: str) -> Any:
    """The rows of a batch twice, as the MERGE with two branches wants them: to close, and to insert."""
    import duckdb

    at = int(versions) * STEP + int(batch) * STEP * 10
    columns = f"* EXCLUDE (op) REPLACE ({at} + k AS ts, 'b{batch}-' || k AS name)"
    one = f"SELECT {columns} FROM (SELECT {_version('chosen', 0)})"
    sql = f"WITH chosen AS {_chosen(int(keys), int(changed), int(batch))}, one AS ({one}) "
    return duckdb.sql(sql + "SELECT k AS mk, * FROM one UNION ALL SELECT NULL, * FROM one").to_arrow_table()


def merge_deltalake(target: str, keys: str, versions: str, changed: str, batch: str) -> dict[str, float]:
    """With delta-rs."""
    import deltalake

    rows = _staged(keys, versions, changed, batch)
    began = time.perf_counter()
    merger = deltalake.DeltaTable(target).merge(rows, "t.k = s.mk AND t.end_at IS NULL", "s", "t")
    inserted = {"k": "s.k", "name": "s.name", "city": "s.city", "v": "s.v", "start_at": "s.ts"}
    merger.when_matched_update({"end_at": "s.ts"}).when_not_matched_insert(inserted).execute()
    return {"inside": time.perf_counter() - began}


def merge_spark(target: str, keys: str, versions: str, changed: str, batch: str) -> dict[str, float]:
    """With Spark and Delta on two cores: the second MERGE of a session is measured."""
    import pyarrow.parquet as pq

    from lakehouse_assets.engines.spark_session import REPOSITORY_JARS, Local, open_session

    spark = open_session(Local("4g", 2, REPOSITORY_JARS, None, {}))
    spark.conf.set("spark.sql.shuffle.partitions", "4")
    seconds = 0.0
    for turn in (0, 1):
        path = f"{target}-batch-{batch}-{turn}.parquet"
        pq.write_table(_staged(keys, versions, changed, str(int(batch) * 2 + turn)), path)
        spark.read.parquet(path).createOrReplaceTempView("batch")
        began = time.perf_counter()
        spark.sql(
            f"MERGE INTO delta.`{target}` AS t USING batch AS s ON t.k = s.mk AND t.end_at IS NULL "
            "WHEN MATCHED THEN UPDATE SET t.end_at = s.ts WHEN NOT MATCHED THEN INSERT (k, name, city, v, start_at) "
            "VALUES (s.k, s.name, s.city, s.v, s.ts)"
        )
        seconds = time.perf_counter() - began
    spark.stop()
    return {"inside": seconds}


if __name__ == "__main__":
    main()
