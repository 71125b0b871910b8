"""What an older Spark is asked in the place of what it lacks; `engines/oldest.py` asks it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse_assets.databricks.runtimes import OLDEST, RUNTIMES
from lakehouse_assets.errors import NotRunnable
from lakehouse_assets.sql import spark_versions
from lakehouse_assets.sql.dialect import to_spark
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.sql.spark_versions import DELTA, FUNCTIONS, as_of, spell, table
from lakehouse_assets_tests.conftest import ROOT

T = {"t": pa.schema([("s", pa.string()), ("b", pa.binary())])}


@pytest.mark.parametrize(("said", "version"), [("3.5.0", (3, 5)), ("4.0.0.dev2", (4, 0)), ("4.10.1-amzn", (4, 10))])
def test_the_version_of_a_session(said: str, version: tuple[int, int]) -> None:
    """Major and minor version decide, and are numbers."""
    assert as_of(said) == version


def test_a_new_spark_is_asked_what_was_written() -> None:
    """Nothing is written otherwise for the Spark that has it."""
    sql = "SELECT try_to_date(s) AS d FROM t"
    assert to_spark(sql, T, version=(4, 0)) == to_spark(sql, T)
    assert "try_to_date" in to_spark(sql, T).lower()


@pytest.mark.parametrize(
    ("written", "older"),
    [
        ("try_to_date(s)", "TRY_CAST(s AS DATE)"),
        ("try_to_date(s, 'yyyy')", "CAST(TRY_TO_TIMESTAMP(s, 'yyyy') AS DATE)"),
        (
            "upper(coalesce(Try_To_Date(s), try_to_date(s)))",
            "UPPER(COALESCE(TRY_CAST(s AS DATE), TRY_CAST(s AS DATE)))",
        ),
        ("try_to_date(cast(try_to_date(s) AS STRING))", "TRY_CAST(CAST(TRY_CAST(s AS DATE) AS STRING) AS DATE)"),
    ],
)
def test_an_older_spark_is_asked_the_same_in_other_words(written: str, older: str) -> None:
    """What an older Spark lacks is spelled out, wherever it stands."""
    found = render(spell(parse_expression(f"({written})", "x"), (3, 5)))
    assert found.upper() == f"({older})".upper()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("lower", "lcase")])
def test_nothing_that_it_lacks_is_left(name: str) -> None:
    """For each function that it lacks: the words in its place are words that the older Spark has."""
    for count in FUNCTIONS[name].older:
        call = f"({name}({', '.join(['s'] * count)}))"
        found = spell(parse_expression(call, "x"), (3, 5))
        assert not [other for other in FUNCTIONS if f"{other}(" in render(found).lower()]


def test_the_end_of_a_greek_word_on_an_older_spark() -> None:
    """`Σ` is made small before Java would, which judges the end of a word otherwise."""
    found = render(spell(parse_expression("(lower(lcase(s)))", "x"), (3, 5)))
    assert found.count("Σ(?!") == found.upper().count("REPLACE(REGEXP_REPLACE(") == found.upper().count("LOWER(") == 2


def test_what_cannot_be_said_otherwise_is_refused() -> None:
    """The error names the function, both versions of Spark, and the runtime that has it."""
    call = parse_expression("(try_to_date(s, s, s))", "x")
    with pytest.raises(
        NotRunnable, match=r"(?s)try_to_date\(\) needs Spark 4\.0, and this is Spark 3\.5.*17\.3 LTS or newer"
    ):
        spell(call, (3, 5))


def test_text_of_bytes_on_an_older_spark() -> None:
    """A cast of BINARY to STRING is checked, as it is on the newest Spark."""
    found = to_spark("SELECT CAST(b AS STRING) AS s, TRY_CAST(b AS STRING) AS r FROM t", T, version=(3, 5))
    assert "validate_utf8" not in found.lower()
    assert found.lower().count("encode(decode(") == 2


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("SELECT * EXCEPT (B) FROM t", "SELECT `s` FROM t"),
        ("SELECT 1 AS a, x.* EXCEPT (s), 2 AS c FROM t AS x", "SELECT 1 AS a, x.`b`, 2 AS c FROM t AS x"),
        ("SELECT * EXCEPT (b) FROM t JOIN t AS u USING (s, b)", "SELECT `s` FROM t JOIN t AS u USING (s, b)"),
        ("SELECT * FROM (SELECT * EXCEPT (s) FROM t)", "SELECT * FROM (SELECT `b` FROM t)"),
    ],
)
def test_a_star_with_exceptions_is_written_out(written: str, asked: str) -> None:
    """`* EXCEPT (…)` came with Spark 4.0; any Spark is asked for the columns that are left."""
    assert to_spark(written, T) == asked


def test_the_runtimes_are_those_of_the_table() -> None:
    """The first runtime with a version of Spark is the one that `databricks/runtimes.py` has."""
    for version, dbr in spark_versions.RUNTIMES.items():
        assert next(runtime for runtime in RUNTIMES if runtime.spark[:2] >= version).dbr == dbr
    assert {since.version for since in FUNCTIONS.values()} <= spark_versions.RUNTIMES.keys()
    assert all(since.version > OLDEST.spark[:2] for since in FUNCTIONS.values())
    assert all(since.version > OLDEST.delta[:2] for since in DELTA.values())


def test_the_page_shows_what_an_older_spark_lacks() -> None:
    """`docs/databricks_runtimes.md` is what the code goes by."""
    assert table() in (ROOT / "docs" / "databricks_runtimes.md").read_text("utf-8")
