"""`lakehouse upload`: the edge uploader as a process: its arguments and its log.

What belongs here: reading the file, saying what happens. What does not: uploading (`tables/upload.py`).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import format_option, open_settings
from lakehouse_assets.cli.output import say
from lakehouse_assets.cli.signals import stopped_by_signals
from lakehouse_assets.errors import SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.tables.upload_config import UploadConfig


@click.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="YAML file with the keys below.")
@click.option("--once/--no-once", default=None, help="Upload what is there, then end.")
@click.option("--interval", type=float, metavar="SECONDS", help="Seconds between two looks (default: 300).")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded, and write nothing.")
@click.option("--sqlite", metavar="PATH", help="The SQLite database.")
@click.option("--table-path", "--storage-uri", metavar="URI", help="The Delta table: a directory, s3://… or abfss://….")
@click.option("--table", metavar="NAME", help="The table of the database, where it holds several.")
@click.option("--timestamp-col", metavar="NAME", help="Tell new rows by this column instead of the rowid.")
@click.option("--node-id", metavar="NAME", help="The name of this node, where several nodes feed one table.")
@click.option("--batch-rows", type=int, metavar="N", help="Rows after which a batch ends (default: 1,000,000).")
@click.option("--state-dir", metavar="DIR", help="Not needed any more: accepted, and ignored.")
@click.option("--full-refresh", is_flag=True, help="Start the table over from the database.")
@click.option("--accept-loss", is_flag=True, help="Start over even if the database no longer holds all rows.")
@click.option("--accept-foreign", is_flag=True, help="Keep what somebody else changed in the table.")
@format_option("table", "json")
def upload(
    config: Path | None,
    dry_run: bool,
    full_refresh: bool,
    accept_loss: bool,
    accept_foreign: bool,
    form: str,
    **given: Any,
) -> None:
    """Append new SQLite rows to a Delta table, exactly once each, until stopped (SIGTERM, Ctrl-C).

    \b
    Keys of FILE, and the variables that set them (command line before environment before file):
      sqlite           SQLITE_PATH               the database
      table_path       STORAGE_URI, TABLE_PATH   the Delta table: a directory, s3://… or abfss://…
      table            SQLITE_TABLE_NAME, TABLE_NAME
      timestamp_col    TIMESTAMP_COL             with lookback, source_timezone
      node_id          NODE_ID                   where several nodes feed one table
      interval         UPLOAD_INTERVAL           seconds between two looks
      once             ONCE
      batch_rows, storage_options                secrets as ${secret:NAME} or ${NAME}

    What was uploaded stands in the table itself, and its plans in <table_path>__batches: no state file is needed.
    """  # noqa: D301
    from lakehouse_assets.tables.upload import Uploader, open_upload, what_next

    configuration = read_file(config, given)
    accepted = {"accept_loss": accept_loss, "accept_foreign": accept_foreign}
    work = open_upload(configuration, open_settings(engine="embedded"), os.environ, **accepted)
    if dry_run:
        from lakehouse_assets.cli.run import print_plan

        print_plan(what_next(work, rebuild=full_refresh), work.table_path, form)
        return
    _greet(configuration, work.table_path)
    with stopped_by_signals("stopping after the batch at hand") as stop:
        uploader = Uploader(configuration, work, stop, log)
        (uploader.once if configuration.once else uploader.run)(rebuild=full_refresh)
        log("stopped" if stop.is_set() else "done")


def read_file(path: Path | None, given: dict[str, Any]) -> UploadConfig:
    """The configuration in `path`, under the environment and what the command line gave.

    Raises:
        SettingsError: the file is not there, cannot be read or holds something illegal.
    """
    from lakehouse_assets.tables.upload_config import read_config

    if path is None:
        return read_config(given, os.environ)
    try:
        return read_config(given, os.environ, path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise SettingsError("there is no such configuration file", value=str(path), fix="give --config FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(
            f"the configuration file cannot be read: {why}", value=str(path), fix="mend its permissions or its encoding"
        ) from None


def _greet(config: UploadConfig, table_path: str) -> None:
    how = "once" if config.once else f"every {config.interval:g} s"
    node = f" as node {config.node_id}" if config.node_id else ""
    log(f"uploading {config.sqlite} to {table_path}{node}, {how}")
    if config.state_dir is not None:
        log(
            f"state_dir ({config.state_dir}) is not needed any more: what was uploaded stands in the table itself, and "
            f"its plans in {table_path}__batches"
        )
    if config.timestamp_col is not None:
        log(
            f"new rows are told by {config.timestamp_col}: rows that come more than `lookback` "
            f"({config.lookback or '0 s'}) behind the newest are counted, not uploaded; without timestamp_col the "
            "rowid tells, and misses none"
        )


def log(line: str) -> None:
    """A line of the log, with its time, on stderr."""
    say(f"{datetime.now(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')} {line}")
