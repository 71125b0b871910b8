"""The configuration of an edge uploader."""

from __future__ import annotations

import pytest

from lakehouse_assets.errors import LakehouseError, NotRunnable, SettingsError
from lakehouse_assets.tables.upload_config import ENVIRONMENT, PROCESSING, UploadConfig, read_config

SEED = 'sqlite: "/root/sensor.db"\ntable_path: "s3://bucket/delta/sensor_readings"\nstate_dir: "/root"\ninterval: 300\n'


def read(text: str = SEED, environ: dict[str, str] | None = None, **given: object) -> UploadConfig:
    """A configuration."""
    return read_config(given, environ or {}, text, "uploader.yaml")


def fault(error: type[LakehouseError], text: str = SEED, environ: dict[str, str] | None = None, **given: object) -> str:
    """The message of a configuration that is refused."""
    with pytest.raises(error) as caught:
        read(text, environ, **given)
    return str(caught.value)


def test_keys_of_the_first_uploader() -> None:
    """U1: `sqlite`, `table_path`, `state_dir`, `interval` work as they always did."""
    config = read()
    assert (config.sqlite, config.table_path) == ("/root/sensor.db", "s3://bucket/delta/sensor_readings")
    assert (config.state_dir, config.interval) == ("/root", 300)


def test_defaults() -> None:
    """U1: the interval is 300 s; everything else is optional."""
    config = read("sqlite: a.db\ntable_path: lake/t\n")
    assert (config.interval, config.once, config.table, config.timestamp_col, config.node_id) == (
        300,
        False,
        None,
        None,
        None,
    )


def test_variables_in_the_file() -> None:
    """U1: `${VAR}` and `${VAR:-default}` are replaced in the file."""
    text = "sqlite: ${DIR}/sensor.db\ntable_path: s3://${S3_BUCKET_NAME:-spare}/t\n"
    assert read(text, {"DIR": "/data"}).sqlite == "/data/sensor.db"
    assert read(text, {"DIR": "/data"}).table_path == "s3://spare/t"
    assert read(text, {"DIR": "/data", "S3_BUCKET_NAME": "mine"}).table_path == "s3://mine/t"


def test_a_variable_without_value_is_named() -> None:
    """U1: a variable that is not set and has no default is a fault, with its line."""
    assert "uploader.yaml:1: the variable DIR is not set" in fault(
        SettingsError, "sqlite: ${DIR}/s.db\ntable_path: t/t\n"
    )


@pytest.mark.parametrize(
    ("variable", "key", "value"),
    [
        ("SQLITE_PATH", "sqlite", "/env.db"),
        ("TABLE_PATH", "table_path", "env/t"),
        ("STORAGE_URI", "table_path", "env/t"),
        ("STATE_DIR", "state_dir", "/env"),
        ("UPLOAD_INTERVAL", "interval", "7"),
        ("SQLITE_TABLE_NAME", "table", "t"),
        ("TABLE_NAME", "table", "t"),
        ("TIMESTAMP_COL", "timestamp_col", "at"),
        ("NODE_ID", "node_id", "n1"),
        ("ONCE", "once", "true"),
    ],
)
def test_the_environment_goes_before_the_file(variable: str, key: str, value: str) -> None:
    """U1, U20: each variable overrides its key of the file; an empty one does not."""
    text = SEED + "table: file\ntimestamp_col: file\nnode_id: file\nonce: false\n"
    config = read(text, {variable: value})
    assert str(getattr(config, key)).lower() in (value, f"{value}.0")
    assert read(text, {variable: ""}) == read(text)


def test_the_command_line_goes_before_the_environment() -> None:
    """U20: command line before environment before file before default."""
    config = read(environ={"UPLOAD_INTERVAL": "7", "NODE_ID": "env"}, interval=5.0, node_id=None)
    assert (config.interval, config.node_id, config.state_dir) == (5, "env", "/root")


def test_the_newer_name_of_a_variable_counts() -> None:
    """U20: STORAGE_URI goes before the older TABLE_PATH, SQLITE_TABLE_NAME before TABLE_NAME."""
    environ = {"TABLE_PATH": "old/t", "STORAGE_URI": "new/t", "TABLE_NAME": "old", "SQLITE_TABLE_NAME": "new"}
    assert (read(environ=environ).table_path, read(environ=environ).table) == ("new/t", "new")


def test_other_names_in_the_file() -> None:
    """U20, U23: `storage_uri`, `upload_interval` and `max_batch_size` are other names of keys; not both at once."""
    config = read("sqlite: a.db\nstorage_uri: lake/t\nupload_interval: 15\nmax_batch_size: 500\n")
    assert (config.table_path, config.interval, config.batch_rows) == ("lake/t", 15, 500)
    told = fault(SettingsError, SEED + "storage_uri: lake/t\n")
    assert "storage_uri and table_path are two names of one key" in told


def test_everything_may_come_from_the_environment() -> None:
    """No file is needed."""
    assert read("", {"SQLITE_PATH": "a.db", "TABLE_PATH": "lake/t"}).sqlite == "a.db"


@pytest.mark.parametrize(
    ("text", "missing", "mend"),
    [
        ("table_path: lake/t\n", "which database", "SQLITE_PATH"),
        ("sqlite: a.db\n", "which table", "STORAGE_URI"),
        ("", "which database to upload (sqlite) and which table", "SQLITE_PATH"),
    ],
)
def test_nothing_to_upload_from_or_to(text: str, missing: str, mend: str) -> None:
    """U2: a missing database path or table path ends it, and says what to set."""
    told = fault(NotRunnable, text)
    assert missing in told
    assert mend in told


def test_an_unknown_key_names_the_nearest() -> None:
    """A key that is not known is refused with its line and the nearest one."""
    told = fault(SettingsError, SEED + "intervall: 5\n")
    assert "uploader.yaml:5: unknown key 'intervall' (did you mean 'interval'?)" in told


def test_every_fault_is_told_at_once() -> None:
    """All faults of the file and the environment come together."""
    told = fault(SettingsError, SEED.replace("300", "soon") + "nod_id: a\n", {"NODE_ID": "a b"})
    assert "interval" in told
    assert "'soon'" in told
    assert "nod_id" in told
    assert "NODE_ID: 'a b' is not a feed name" in told


@pytest.mark.parametrize(
    ("key", "value"), [("interval", "0"), ("interval", "nan"), ("batch_rows", "0"), ("once", "maybe"), ("sqlite", " ")]
)
def test_values_that_cannot_be(key: str, value: str) -> None:
    """Each is named with its line."""
    lines = [line for line in SEED.splitlines() if not line.startswith(key)]
    told = fault(SettingsError, "\n".join([*lines, f'{key}: "{value}"']))
    assert f"uploader.yaml:{len(lines) + 1}, {key}: " in told
    assert f"(got {value!r})" in told


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "just text\n", "sqlite: [\n", "sqlite: a\nsqlite: b\ntable_path: t/t\n"]
)
def test_what_is_no_map_of_keys_is_refused(text: str) -> None:
    """Bad YAML, a list, a key given twice: refused with the line."""
    assert "uploader.yaml:" in fault(SettingsError, text)


@pytest.mark.parametrize("key", PROCESSING)
def test_options_that_change_rows_point_to_the_catalog(key: str) -> None:
    """U21, U22: an uploader appends rows as they are; the error names the tables of the catalog that do the rest."""
    told = fault(SettingsError, SEED + f"{key}: aggregated\n")
    assert f"{key} is not done here" in told
    assert PROCESSING[key] in told
    assert PROCESSING[key] in fault(SettingsError, SEED, {key.upper(): "aggregated"})


def test_options_that_are_switched_off_do_not_matter() -> None:
    """U21: an old configuration that switches everything off still works."""
    text = SEED + 'enable_sanitize: false\nsanitize_config: {a: b}\nenable_filter: "no"\nfilter_config: {}\n'
    assert read(text, {"ENABLE_AGGREGATE": "false", "AGGREGATE_CONFIG": "{}"}).interval == 300


@pytest.mark.parametrize("value", ["${secret:KEY}", "${KEY}", "{{secrets/scope/key}}"])
def test_a_secret_is_a_reference(value: str) -> None:
    """A secret in `storage_options` comes from the environment."""
    text = SEED + f'storage_options: {{AWS_SECRET_ACCESS_KEY: "{value}", AWS_REGION: eu-west-1}}\n'
    config = read(text, {"KEY": "hunter2"})
    assert config.storage_options["AWS_REGION"] == "eu-west-1"
    assert "hunter2" not in repr(config)


def test_a_secret_in_clear_is_refused() -> None:
    """§7.9: a secret never stands in the file, and never in the message."""
    told = fault(SettingsError, SEED + "storage_options: {AWS_SECRET_ACCESS_KEY: hunter2}\n")
    assert "AWS_SECRET_ACCESS_KEY holds a secret in clear" in told
    assert "hunter2" not in told


def test_every_variable_sets_a_key() -> None:
    """The table of variables names keys that there are."""
    assert set(ENVIRONMENT) <= set(UploadConfig.model_fields)
