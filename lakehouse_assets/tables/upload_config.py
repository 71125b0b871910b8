"""The configuration of an edge uploader: a YAML file, the environment and the command line, checked together.

What belongs here: keys, their names in the environment, and what each may hold. What does not: uploading
(`upload.py`), files and arguments (`cli/upload.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lakehouse_assets.entities import yaml_lines
from lakehouse_assets.entities.options import Duration, FeedLabel, TimeZone
from lakehouse_assets.errors import NotRunnable, SettingsError, did_you_mean
from lakehouse_assets.secrets import is_reference, is_sensitive

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def _flag(value: object) -> object:
    text = str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else value


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text.strip()


Text = Annotated[str, AfterValidator(_not_blank)]


class UploadConfig(BaseModel):
    """What one uploader does."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    sqlite: Text
    """The path of the SQLite database."""
    table_path: Text
    """The URI of the Delta table that rows are appended to: a directory or `s3://…`."""
    table: Text | None = None
    """The table of the database; absent: the only one there is."""
    timestamp_col: Text | None = None
    """The column by which new rows are told; absent: the rowid, which misses nothing that is added."""
    lookback: Duration | None = None
    """How far behind the newest `timestamp_col` a row may come and still be taken."""
    source_timezone: TimeZone | None = None
    """The zone of a `timestamp_col` that names none."""
    node_id: FeedLabel | None = None
    """The name of this node where several nodes feed one table."""
    interval: Annotated[float, Field(gt=0, le=86_400 * 366, allow_inf_nan=False)] = 300.0
    """Seconds between two looks."""
    batch_rows: Annotated[int, Field(gt=0)] = 1_000_000
    """Rows after which a batch ends: a stop is heeded between batches."""
    once: Annotated[bool, BeforeValidator(_flag)] = False
    """Upload what is there, then end."""
    storage_options: dict[str, str] = Field(default_factory=dict, repr=False)
    """Options of the object store, over those of the environment (`AWS_*`)."""
    state_dir: str | None = None
    """Not needed: what was uploaded stands in the table itself."""


ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "sqlite": ("SQLITE_PATH",),
    "table_path": ("STORAGE_URI", "TABLE_PATH"),
    "table": ("SQLITE_TABLE_NAME", "TABLE_NAME"),
    "timestamp_col": ("TIMESTAMP_COL",),
    "node_id": ("NODE_ID",),
    "interval": ("UPLOAD_INTERVAL",),
    "once": ("ONCE",),
    "state_dir": ("STATE_DIR",),
}
"""Key -> the variables that set it; the first one that is set counts."""
ALIASES: Mapping[str, str] = {
    "storage_uri": "table_path",
    "max_batch_size": "batch_rows",
    "upload_interval": "interval",
}
"""Another name of a key in the file -> the key."""

_READS = "the table of the catalog that does it reads the uploaded one; the shipped catalog has an example: "
PROCESSING: Mapping[str, str] = {
    "processing_mode": "silver.sensor_readings_raw (raw), silver.sensor_readings (schematized, sanitized), "
    "gold.sensor_alerts (filtered), gold.sensor_hourly (aggregated)",
    "enable_sanitize": "silver.sensor_readings_secure",
    "sanitize_config": "silver.sensor_readings_secure",
    "gps_fuzzing_config": "silver.sensor_readings_secure",
    "enable_filter": "gold.sensor_alerts",
    "filter_config": "gold.sensor_alerts",
    "emergency_config": "gold.sensor_alerts",
    "enable_aggregate": "gold.sensor_hourly",
    "aggregate_config": "gold.sensor_hourly",
}
"""Keys of older uploaders that changed rows on the way -> the tables of the shipped catalog that do it now."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what, and what to do."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class _Value(NamedTuple):
    text: Any
    where: str


def read_config(
    given: Mapping[str, object], environ: Mapping[str, str], text: str = "", name: str = "the configuration"
) -> UploadConfig:
    """The configuration: command line before environment before file before default.

    Args:
        given: what the command line gave, by key; `None` counts as not given.
        environ: the environment; an empty variable counts as not given.
        text: the file; `${VAR}` and `${VAR:-default}` are replaced in its values.
        name: of the file, for messages.

    Raises:
        SettingsError: with every fault at once.
        NotRunnable: there is nothing to upload from or to.
    """
    faults: list[Fault] = []
    values = dict(_from_file(text, name, environ, faults))
    values |= dict(_from_environment(environ))
    values |= {key: _Value(value, f"--{key.replace('_', '-')}") for key, value in given.items() if value is not None}
    _check_processing(values, faults)
    kept = {key: value for key, value in values.items() if key not in PROCESSING}
    missing = [key for key in ("sqlite", "table_path") if key not in kept]
    config = None if missing else _validated(kept, faults)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise SettingsError(
            f"the uploader cannot run with this configuration:\n{listed}", fix="mend it and start again"
        )
    if config is None:
        raise NotRunnable(
            f"{name} does not say {' and '.join(_MISSING[key] for key in missing)}",
            fix="; ".join(f"add {key}: to the file, or set {ENVIRONMENT[key][0]}" for key in missing),
        )
    return config


_MISSING = {"sqlite": "which database to upload (sqlite)", "table_path": "which table to upload to (table_path)"}


def _from_file(text: str, name: str, environ: Mapping[str, str], faults: list[Fault]) -> Iterator[tuple[str, _Value]]:
    document = yaml_lines.read(text)
    faults.extend(Fault(f"{name}:{trouble.line}", trouble.problem) for trouble in document.troubles)
    if document.data is None:
        return
    if not isinstance(document.data, dict):
        faults.append(Fault(f"{name}:1", "must hold keys and values, such as `sqlite: /data/sensor.db`"))
        return
    expansion = yaml_lines.Expansion(environ)
    legal = [*UploadConfig.model_fields, *ALIASES]
    seen: dict[str, str] = {}
    for written, value in document.data.items():
        where = f"{name}:{document.line((written,))}"
        key = ALIASES.get(str(written), str(written))
        if key not in UploadConfig.model_fields and key not in PROCESSING:
            nearest = did_you_mean(written, legal)
            faults.append(Fault(where, f"unknown key {written!r}{nearest}; legal: {', '.join(legal)}"))
        elif key in seen:
            faults.append(Fault(where, f"{written} and {seen[key]} are two names of one key: keep one of them"))
        elif value is not None:
            seen[key] = str(written)
            yield key, _Value(_expanded(key, value, where, expansion, faults), f"{where}, {written}")


def _expanded(key: str, value: Any, where: str, expansion: yaml_lines.Expansion, faults: list[Fault]) -> Any:
    """`value` with its variables replaced; a secret must come from one, so that it never stands in the file."""
    if isinstance(value, dict):
        for option, text in value.items():
            if key == "storage_options" and is_sensitive(str(option)) and not _refers(str(text)):
                faults.append(
                    Fault(where, f"the option {option} holds a secret in clear; write ${{secret:NAME}} or ${{NAME}}")
                )
        return {option: _expanded(key, text, where, expansion, faults) for option, text in value.items()}
    if not isinstance(value, str):
        return value
    text, problems = expansion(value)
    faults.extend(Fault(where, problem) for problem in problems)
    return text


def _refers(text: str) -> bool:
    return is_reference(text) or re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", text) is not None


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Value]]:
    for key, names in ENVIRONMENT.items():
        name = next((name for name in names if environ.get(name)), None)
        if name is not None:
            yield key, _Value(environ[name], name)
    for key in PROCESSING:
        if environ.get(key.upper()):
            yield key, _Value(environ[key.upper()], key.upper())


def _check_processing(values: Mapping[str, _Value], faults: list[Fault]) -> None:
    """Refuse what would change rows on the way, unless it is switched off."""
    for key, example in PROCESSING.items():
        value = values.get(key)
        switch = values.get(f"enable_{key.removesuffix('_config')}")
        off = value is None or _flag(value.text) is False or (switch is not None and _flag(switch.text) is False)
        if value is not None and not off:
            problem = f"an uploader appends rows as they are, so {key} is not done here; {_READS}{example}"
            faults.append(Fault(value.where, problem))


def _validated(values: Mapping[str, _Value], faults: list[Fault]) -> UploadConfig | None:
    try:
        return UploadConfig.model_validate({key: value.text for key, value in values.items()})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            cause = detail.get("ctx", {}).get("error")
            got = "" if key == "storage_options" else f" (got {values[key].text!r})"
            faults.append(Fault(values[key].where, f"{cause or detail['msg']}{got}"))
        return None
