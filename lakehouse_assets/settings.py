"""Typed settings of a process: read once when asked, never at import.

What belongs here: what differs between machines (where the lake is, which engine, how much memory).
What does not: anything about a table; that is the catalog's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSetting

from lakehouse_assets.errors import SettingsError

PACKAGED_CATALOG = Path(__file__).parent / "catalog"


class Settings(BaseSettings):
    """Settings with their environment names (`LAKEHOUSE_ROOT`, `LAKEHOUSE_ENGINE`, …)."""

    model_config = SettingsConfigDict(env_prefix="LAKEHOUSE_", extra="ignore", frozen=True)

    root: str = "lake"
    """Where the Delta tables stand: a directory, `s3://bucket/prefix` or `abfss://container@account.dfs.core…/path`."""
    catalog: Path = PACKAGED_CATALOG
    """The directory with the YAML files that declare the tables."""
    engine: Literal["embedded", "spark"] = "embedded"
    """What computes, unless a run asks for another."""
    target: Literal["local", "databricks"] = "local"
    """Where the steps of a run are done that has no tag `lakehouse/target`."""
    databricks: Path | None = None
    """The YAML file that says how steps run on Databricks; needed for the target `databricks` only."""
    unity_catalog: str | None = None
    """The catalog in which the Spark engine names every table, `<catalog>.<layer>.<table>`; absent or empty: tables go
    by their paths."""
    storage_options: dict[str, SecretStr] = Field(default_factory=dict)
    """Options of the object store (JSON), over those of the environment: `{"AWS_REGION": "eu-west-1"}`."""
    memory_limit: str = Field(default="2GB", pattern=r"^\d+(\.\d+)? ?([KMGT]i?)?B?$")
    """How much memory the engine may use before it spills to `temp_directory`; for Spark, the JVM's heap."""
    temp_directory: Path | None = None
    """Where the engine spills and stages rows; absent: the system's directory for temporary files."""
    threads: int = Field(default=0, ge=0)
    """How many threads the engine may use; 0: one per core."""
    spark_jars: Path | None = None
    """The directory with the jars of the Spark engine, where a session is started here; absent: the repository's own,
    which `make setup-jvm` fills."""
    spark_conf: dict[str, str] = Field(default_factory=dict)
    """Further settings of a Spark session that is started here (JSON): `{"spark.sql.shuffle.partitions": "8"}`."""
    automation: Literal["stopped", "running"] = "stopped"
    """Whether sensors and schedules start switched on; each can be switched in the Dagster UI afterwards."""
    alert_webhook: SecretStr | None = None
    """Where the failure of a run is posted as JSON with the key `text`; absent: it is logged only."""
    alert_sns_topic: str | None = None
    """The ARN of the SNS topic to which the failure of a run is published; absent: it is logged only."""


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; an override of `None` counts as not given.

    Raises:
        SettingsError: a value is not legal; the message names its environment variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(f"{_named(fault)}: {fault['msg']}{_shown(fault)}" for fault in error.errors())
    except UnreadableSetting as error:  # its cause quotes the text, which may hold a secret
        field = str(error).split('"')[1]
        faults = f"LAKEHOUSE_{field.upper()}: it is not JSON"
    raise SettingsError(f"settings are not legal: {faults}", fix="set or unset these variables")


def _named(fault: ErrorDetails) -> str:
    """The variable of a fault, and where in it."""
    field, *inside = map(str, fault["loc"])
    return ".".join([f"LAKEHOUSE_{field.upper()}", *inside])


def _shown(fault: ErrorDetails) -> str:
    """The offending value, unless the setting holds secrets."""
    field = Settings.model_fields.get(str(fault["loc"][0]))
    return "" if field is None or "SecretStr" in str(field.annotation) else f" (got {fault['input']!r})"


def checked_directory(given: Path | None) -> str | None:
    """The directory for temporary files, if one is set and can be written.

    Raises:
        SettingsError: it cannot.
    """
    if given is None:
        return None
    try:
        given.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=given).close()
    except OSError as error:
        raise SettingsError(
            f"LAKEHOUSE_TEMP_DIRECTORY: {str(given)!r} cannot be used: {error.strerror}",
            fix="set another directory, or make it writable",
        ) from error
    return str(given)
