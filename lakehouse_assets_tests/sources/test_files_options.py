"""Every option of Spark's is honoured or refused by name; nothing is ignored in silence."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.model import Entity, LakehouseOptions
from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sources.base import Past, open_source
from lakehouse_assets.sources.files_options import file_options
from lakehouse_assets_tests.sources.files_making import discovered, entity


def test_the_defaults_are_spark_s() -> None:
    """No header, comma, double quote, backslash, UTF-8, empty text is NULL, rows that do not fit are kept."""
    o = file_options(entity("x"))
    assert (o.header, o.separator, o.quote, o.escape, o.encoding) == (False, ",", '"', "\\", "utf-8")
    assert (o.null_value, o.comment, o.infer_schema, o.multi_line, o.mode) == ("", "", False, False, "PERMISSIVE")
    assert (o.date_format, o.timestamp_format, o.recursive, o.zone, o.zone_is_default) == (
        None,
        None,
        None,
        "UTC",
        True,
    )


def test_names_are_compared_without_case() -> None:
    """`HEADER`, `delimiter` and `charset` are what Spark takes them for; values are read as Spark's."""
    o = file_options(
        entity("x", HEADER="True", delimiter="\\t", charset="ISO-8859-1", multiline="true", mode="failfast")
    )
    assert (o.header, o.separator, o.encoding, o.multi_line, o.mode) == (True, "\t", "iso8859-1", True, "FAILFAST")


def test_discovery_has_options_of_its_own() -> None:
    """`cloudFiles.format` chooses the format; a batch is bounded, by default as in Auto Loader."""
    o = file_options(discovered("x", "json", cloudFiles__maxFilesPerTrigger=5))
    assert (o.format, o.max_files) == ("json", 5)
    assert file_options(discovered("x", "JSON")).max_files == 1000
    assert file_options(discovered("x", cloudFiles__inferColumnTypes="true")).infer_schema


def test_the_zone_of_times_is_the_option_then_the_entity_s() -> None:
    """`timeZone` of the reader stands before `source_timezone` of the entity; UTC is only a default."""
    declared = entity("x")
    declared.lakehouse = LakehouseOptions(source_timezone="Europe/Vienna")
    assert (file_options(declared).zone, file_options(declared).zone_is_default) == ("Europe/Vienna", False)
    declared.read_options = {"timeZone": "Asia/Tokyo"}
    assert file_options(declared).zone == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (entity("x", heder="true"), r"csv has no option of this name \(got 'heder'\)[\s\S]*did you mean 'header'"),
        (entity("x", "parquet", header="true"), "parquet has no option of this name"),
        (entity("x", "json", sep=","), "json has no option of this name"),
        (entity("x", cloudFiles__maxFilesPerTrigger=3), "csv has no option of this name"),
        (entity("x", header="yes"), r"'header': is neither true nor false[\s\S]*legal: true, false"),
        (entity("x", sep=";;"), "'sep': must be one character"),
        (entity("x", encoding="utf-9"), "'encoding': unknown encoding"),
        (entity("x", timeZone="Mars/Base"), "'timeZone'"),
        (entity("x", mode="DROPMALFORMED"), "never dropped silently; PERMISSIVE keeps"),
        (entity("x", mode="SLOPPY"), "'mode': is not a mode"),
        (entity("x", ignoreLeadingWhiteSpace="true"), r"exists in Spark and is not honoured here[\s\S]*trim"),
        (entity("x", columnNameOfCorruptRecord="_bad"), r"not honoured here[\s\S]*quarantine"),
        (entity("x", "json", primitivesAsString="true"), r"not honoured here[\s\S]*STRING"),
        (entity("x", "parquet", mergeSchema="false"), r"not honoured here[\s\S]*united by column name"),
        (entity("x", "cloudFiles"), r"needs the option 'cloudFiles.format'[\s\S]*legal: csv, json, parquet"),
        (discovered("x", "xml"), "got 'xml'"),
        (discovered("x", cloudFiles__maxFilesPerTrigger=0), "not a number from 1 up"),
        (discovered("x", cloudFiles__allowOverwrites="true"), r"not honoured here[\s\S]*rebuild"),
        (discovered("x", cloudFiles__schemaHints="a int"), r"not honoured here[\s\S]*source_schema"),
    ],
    ids=lambda value: " ".join(value.read_options) if isinstance(value, Entity) else None,
)
def test_what_is_not_honoured_is_refused_by_name(declared: Entity, says: str) -> None:
    """The message names entity, option, value, and what to do instead; the source is not even opened."""
    with pytest.raises(SettingsError, match=says) as caught:
        open_source(declared)
    assert "entity 'f' (bronze.files)" in str(caught.value)


def test_an_option_with_spark_s_default_changes_nothing() -> None:
    """What Spark would do anyway may be said."""
    file_options(entity("x", ignoreLeadingWhiteSpace="false", maxColumns=20480, locale="en-US", nanValue="NaN"))
    file_options(entity("x", "parquet", mergeSchema="true"))


def test_two_spellings_of_one_option_are_refused() -> None:
    """Which of them holds could only be guessed."""
    with pytest.raises(SettingsError, match="upper and lower case only"):
        open_source(entity("x", header="true", Header="false"))


def test_an_idle_option_is_reported(tmp_path: object) -> None:
    """A schema location has nothing to keep here: it is accepted, and `audit` says that it may go."""
    with open_source(discovered(tmp_path, cloudFiles__schemaLocation="_schemas/x")) as source:
        (notice,) = source.audit(Past())
    assert notice.code == "option_unneeded"
    assert "cloudFiles.schemaLocation" in notice.message
