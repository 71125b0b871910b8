"""JSON -> silver: the messages of the shipped `bronze.stocks` parsed, typed, judged and split, a few malformed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import common, data
from benchmarks.common import Case, Report, Sample
from benchmarks.kafka_to_bronze import TOPIC, beside, broker, closed_spark, opened_spark

TABLE = "silver.stocks"
WARM = "Spark from_json, warm"
ABOUT = (
    "JSON messages of about 174 bytes in the shipped `bronze.stocks`, eight fields each; one in a thousand is "
    "malformed: three of four are cut off, the fourth has a text where its close belongs. `lakehouse run "
    "silver.stocks` parses them, makes decimals, a date and a number of the texts, judges the rows by three rules, and "
    "puts what does not fit into the quarantine with its reasons and as received; plan, numbers, counts and examples "
    "included. *Inside* is what the run reports for the table; for the others it is the work without the start of the "
    "process or the session."
)
NOTES = [
    "Spark parses with `from_json` in the mode PERMISSIVE, casts with `try_cast`, and writes two tables with a read of "
    "the messages for each; it keeps no names of broken rules and no plan.",
    "polars takes each field by a JSONPath, as its other readers of JSON end at a malformed row; everything is in "
    "memory.",
]


def main(argv: list[str] | None = None) -> None:
    """Measure, and write `results/json_to_silver.json`."""
    given = common.options(ABOUT, 1_000_000, 5_000, argv)
    report = Report("json_to_silver", "JSON → silver", ABOUT, given, notes=[*NOTES, beside(peers=given.peers)])
    with common.workplace() as place:
        landed = _landed(place, given.rows, quick=given.quick)
        cases = [_ours(place, landed, given.rows)]
        if given.peers:
            cases += _peers(place, landed, given.rows)
        rows = common.measured(cases, given.repeat)
    report.table(f"{given.rows:,} messages", rows, against="ours")
    rate = rows[0]["inside_rows_per_second"]
    report.target("rows/s inside", "at least 1,200,000", 1_200_000, rate, "rows/s", least=True)
    if given.peers:
        times = common.ratio(rows, WARM, "ours", "inside_seconds")
        report.target("inside, against warm Spark", "at least twice as fast", 2, times, "×", least=True)
    report.write()


def _landed(place: Path, rows: int, *, quick: bool) -> Path:
    """A lake with the messages in bronze."""
    lake = place / "landed"
    with broker(quick=quick) as kafka:
        common.sample(common.ours("data", "produce_prices", kafka.bootstrap, TOPIC, 0, rows))
        environ = {"LAKEHOUSE_KAFKA": kafka.bootstrap}
        common.sample(common.run_command(None, lake, "bronze.stocks"), environ=environ)
    return lake


def _ours(place: Path, landed: Path, rows: int) -> Case:
    unfit = data.unfit_messages(rows)

    def command() -> list[str]:
        return common.run_command(None, common.copied(landed, place / "lake"), TABLE)

    def check(sample: Sample) -> None:
        (found,) = sample.said
        assert (found["rows_in"], found["quarantined"], found["valid"]) == (rows, unfit, rows - unfit), found

    return Case("ours", command, rows=rows, inside=common.seconds_of(TABLE), check=check)


def _peers(place: Path, landed: Path, rows: int) -> list[Case]:
    bronze, target = landed / "bronze" / "stocks", place / "peer"
    unfit = data.unfit_messages(rows)

    def check(sample: Sample) -> None:
        assert sample.said["answer"] == [rows - unfit, unfit], sample.said

    def spark(name: str, times: int, note: str) -> Case:
        def command() -> list[str]:
            return common.ours("json_to_silver", "parse_spark", bronze, common.fresh(target), times)

        return Case(name, command, "peer", note, rows, inside=common.peer_seconds, check=check)

    def polars() -> list[str]:
        peers = str(common.HERE / "peers_kafka.py")
        return [str(common.PEER_PYTHON), peers, "polars_json", str(bronze), str(common.fresh(target))]

    return [
        spark(WARM, 2, "the second time in a session"),
        spark("Spark from_json, cold", 1, "the first time in a session"),
        Case("polars → write_deltalake", polars, "peer", "", rows, inside=common.peer_seconds, check=check),
    ]


TYPES = {
    "Index": "STRING", "Date": "DATE", "Open": "DECIMAL(18, 6)", "High": "DECIMAL(18, 6)", "Low": "DECIMAL(18, 6)",
    "Close": "DECIMAL(18, 6)", "Adj Close": "DECIMAL(18, 6)", "Volume": "BIGINT",
}  # fmt: skip


def parse_spark(bronze: str, target: str, times: str) -> dict[str, Any]:
    """Spark parses the messages into two tables, again and again, on two cores; the last time is measured."""
    spark, session = opened_spark()
    schema = ", ".join(f"`{name}` STRING" for name in TYPES)
    parsed = f"from_json(CAST(value AS STRING), '{schema}, _bad STRING', {{options}}) AS m"
    parsed = parsed.format(options="map('mode', 'PERMISSIVE', 'columnNameOfCorruptRecord', '_bad')")
    typed = [f"try_cast(m.`{name}` AS {kind}) AS {name.replace(' ', '_')}" for name, kind in TYPES.items()]
    misfit = [f"(m.`{name}` IS NOT NULL AND {name.replace(' ', '_')} IS NULL)" for name in TYPES]
    broken = " OR ".join(["m._bad IS NOT NULL", *misfit, "Index IS NULL", "Date IS NULL", "Close IS NULL"])
    seconds, answer = 0.0, [0, 0]
    for turn in range(int(times)):
        began = time.perf_counter()
        rows = spark.read.format("delta").load(bronze).selectExpr("*", parsed).selectExpr("*", *typed)
        judged = rows.selectExpr("*", f"coalesce({broken}, false) AS broken")
        received = judged.where("broken").selectExpr("key", "value", "topic", "partition", "offset", "timestamp")
        received.write.format("delta").save(f"{target}/quarantine-{turn}")
        fits = judged.where("NOT broken").selectExpr(*[name.replace(" ", "_") for name in TYPES], "_position")
        fits.write.format("delta").save(f"{target}/silver-{turn}")
        seconds = time.perf_counter() - began
        tables = (f"{target}/{name}-{turn}" for name in ("silver", "quarantine"))
        answer = [spark.read.format("delta").load(table).count() for table in tables]
    closed_spark(spark)
    return {"inside": seconds, "session": session, "answer": answer}


if __name__ == "__main__":
    main()
