"""The answers that stand recorded for Spark are those of the Spark that this project runs."""

from __future__ import annotations

from lakehouse_assets_tests.sql.parity.answers import answers, asked, same


def test_spark_answers_what_is_recorded(spark):
    """Design §7.4: `test_parity.py` holds DuckDB to these answers, so both engines answer alike, case by case."""
    recorded = answers()
    wrong = []
    for case, now in asked(spark.spark):
        then = {name: value for name, value in recorded[case.text].items() if name != "case"}
        if now.keys() != then.keys() or not all(same(now[name], then[name], case.close) for name in now):
            wrong.append((case.text, now, then))
    assert not wrong, f"{len(wrong)} answers differ: (case, now, recorded) {wrong[:3]}"
