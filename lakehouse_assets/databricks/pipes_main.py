"""Does a step's work on a cluster for Dagster Pipes, and reports it.

It has two doors: this file itself, executed by Databricks beside `step_main.py` where the package is sent along; and
`lakehouse run` of an installed wheel, when it is given the parameters of Pipes. What is reported is what Pipes has
messages for, in Dagster's own format; observations and the class of a failure go as custom messages. What belongs here:
the cluster's side. What does not: the orchestrator's (`pipes_client.py`); anything of a table.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PipesCliArgsParamsLoader,
    PipesContext,
    PipesMappingParamsLoader,
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    PipesParams,
    PipesParamsLoader,
    PipesUnityCatalogVolumesContextLoader,
    open_dagster_pipes,
)

SENT = "lakehouse"
"""Under this name the extras hold what the launcher sent; absent: another Pipes client asks an installed package."""
OBSERVED, DAY, FAILED = "lakehouse/observation", "lakehouse/day", "lakehouse/failure"
"""The keys of the custom messages."""
END = b"\n{}"
"""What a whole file of messages ends with: a line that other readers of Pipes pass over."""
Maker = Callable[[Any, Mapping[str, Any]], Iterable[Any]]
"""The context and the configuration of a step -> what it yields."""


def params_of(context: str, messages: str) -> PipesParamsLoader:
    """The parameters of Pipes from two texts, as its clients encode them."""
    return PipesMappingParamsLoader({DAGSTER_PIPES_CONTEXT_ENV_VAR: context, DAGSTER_PIPES_MESSAGES_ENV_VAR: messages})


def main(params: PipesParamsLoader, scope: Mapping[str, Any], **settings: Any) -> None:
    """Do the work that the parameters lead to.

    Args:
        scope: the globals of Databricks (`dbutils`).
        settings: what the command line says of the settings, over those of the environment.

    Raises:
        Exception: it failed; it is reported by then, and Databricks is to show the run as failed.
    """
    loader, writer = PipesUnityCatalogVolumesContextLoader(), MessageFiles()
    with open_dagster_pipes(params_loader=params, context_loader=loader, message_writer=writer) as pipes:
        try:
            prepare(pipes.extras.get(SENT), scope)
            work(pipes, settings)
        except Exception as error:
            pipes.report_custom_message({FAILED: told(error)})
            raise


def prepare(sent: Mapping[str, Any] | None, scope: Mapping[str, Any]) -> None:
    """Check what was sent, and make the package, the catalog and the environment from it.

    Raises:
        Refused: it is not what was sent, or does not go with what is here.
    """
    if sent is None:
        return
    place = Path(sent["place"])
    checks = _checks(place)
    here = "{}.{}".format(*sys.version_info[:2])  # no pickle travels: another minor version of Python will do
    checks.check_versions({**sent, "python": here})
    checks.prepare(sent, place, scope)


def _checks(place: Path) -> Any:
    """The entry of launched steps: of the installed package, or staged beside this file."""
    if __name__ != "__main__":
        return importlib.import_module("lakehouse_assets.databricks.step_main")
    sys.dont_write_bytecode = True  # not into the staging directory
    sys.path.insert(0, str(place))
    try:
        return importlib.import_module("step_main")
    finally:
        sys.path.remove(str(place))
        sys.dont_write_bytecode = False


class Reporting:
    """What a step is given as its context here: what it logs and observes is sent."""

    def __init__(self, pipes: PipesContext, instance: Any) -> None:
        self._pipes = pipes
        self.log, self.instance = pipes.log, instance
        self._span = (pipes.extras.get(SENT) or {}).get("days") or ()
        if not self._span and pipes.is_partition_step:  # another Pipes client asks
            self._span = (pipes.partition_key_range["start"], pipes.partition_key_range["end"])

    @property
    def has_partition_key(self) -> bool:
        """Whether the run is about some days."""
        return bool(self._span)

    has_partition_key_range = has_partition_key

    @property
    def partition_keys(self) -> list[str]:
        """The days that the run is about."""
        from lakehouse_assets.assets.partitions import days_between

        return days_between(*self._span)

    def log_event(self, event: Any) -> None:
        """Send an observation, or what is to be told of a day."""
        from dagster import AssetMaterialization
        from dagster._serdes import serialize_value

        kind = DAY if isinstance(event, AssetMaterialization) else OBSERVED
        self._pipes.report_custom_message({kind: serialize_value(event)})


def work(pipes: PipesContext, settings: Mapping[str, Any]) -> None:
    """Make the asked assets, and report each as soon as it is there.

    Raises:
        dagster.Failure: one was not made.
    """
    import dagster as dg

    from lakehouse_assets.assets.step import failures

    sent = pipes.extras.get(SENT) or {}
    with failures():
        make = maker(pipes.asset_keys, settings)
    with dg.DagsterInstance.ephemeral() as instance:
        remember(instance, sent.get("history"))
        for event in make(Reporting(pipes, instance), sent.get("config") or {}):
            report(pipes, event)


def maker(keys: Sequence[str], given: Mapping[str, Any]) -> Maker:
    """What makes these assets when it is given a context and the configuration of the step.

    Raises:
        LakehouseError: the settings or the catalog are not legal, or the assets are not those of one table.
    """
    import dagster as dg

    from lakehouse_assets.assets import maintenance
    from lakehouse_assets.assets.factory import written
    from lakehouse_assets.assets.naming import asset_key
    from lakehouse_assets.assets.resources import LakehouseResource, Project, RefreshConfig
    from lakehouse_assets.assets.step import materialize
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.errors import SettingsError
    from lakehouse_assets.settings import load_settings

    settings = load_settings(**given)
    project = Project(settings, load_catalog(settings.catalog, os.environ), os.environ)
    lakehouse = LakehouseResource.of(settings)
    wanted = {dg.AssetKey.from_escaped_user_string(key) for key in keys}
    if wanted == {maintenance.KEY}:
        asked = maintenance.MaintenanceConfig
        return lambda context, config: [maintenance._maintain(project, context, asked(**config), lakehouse)]
    tables = written(project.catalog)
    for made in tables.values():
        if wanted == {asset_key(name) for name in made.outputs}:
            return lambda context, config: materialize(project, made, context, RefreshConfig(**config), lakehouse)
    raise SettingsError(
        "the catalog has no table that is made of these assets",
        value=", ".join(keys),
        choices=[" + ".join(map(str, made.outputs)) for made in tables.values()],
        fix="reload the code location that launched it, or deploy the catalog that it was made from",
    )


def remember(instance: Any, history: str | None) -> None:
    """Tell the instance of this process what the launching one knows of earlier runs."""
    from dagster._serdes import deserialize_value

    for entry in deserialize_value(history, list) if history else ():
        instance.event_log_storage.store_event(entry)


def report(pipes: PipesContext, event: Any) -> None:
    """Report a materialization with its checks, or a check."""
    import dagster as dg

    if isinstance(event, dg.AssetCheckResult):
        pipes.report_asset_check(
            asset_key=event.asset_key.to_escaped_user_string() if event.asset_key else None,
            check_name=str(event.check_name),
            passed=event.passed,
            severity=event.severity.value,
            metadata=external(event.metadata),
        )
        return
    pipes.report_asset_materialization(
        asset_key=event.asset_key.to_escaped_user_string() if event.asset_key else None,
        metadata=external(event.metadata or {}),
        data_version=event.data_version.value if event.data_version else None,
    )
    for check in event.check_results or ():
        report(pipes, check)


def external(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in the format of Pipes: each value with its type."""
    import dagster as dg

    values = dg.AssetMaterialization("any", metadata=metadata).metadata
    return {name: {"type": _kind(value), "raw_value": _raw(value)} for name, value in values.items()}


_KINDS = {
    "TextMetadataValue": "text", "UrlMetadataValue": "url", "PathMetadataValue": "path", "JsonMetadataValue": "json",
    "MarkdownMetadataValue": "md", "FloatMetadataValue": "float", "IntMetadataValue": "int",
    "BoolMetadataValue": "bool", "NullMetadataValue": "null", "TimestampMetadataValue": "timestamp",
    "TableSchemaMetadataValue": "table_schema", "TableColumnLineageMetadataValue": "table_column_lineage",
}  # fmt: skip


def _kind(value: Any) -> str:
    return _KINDS.get(type(value).__name__, "text")


def _raw(value: Any) -> Any:
    kind = _kind(value)
    if kind == "table_schema":
        return {"columns": [_column(column) for column in value.schema.columns]}
    if kind == "table_column_lineage":
        deps = value.column_lineage.deps_by_column.items()
        return {
            "deps_by_column": {
                column: [{"asset_key": list(dep.asset_key.path), "column_name": dep.column_name} for dep in found]
                for column, found in deps
            }
        }
    return value.value if type(value).__name__ in _KINDS else str(value.value)


def _column(column: Any) -> dict[str, Any]:
    rules = column.constraints
    return {
        "name": column.name,
        "type": column.type,
        "description": column.description,
        "tags": dict(column.tags or {}),
        "constraints": {"nullable": rules.nullable, "unique": rules.unique, "other": list(rules.other)},
    }


def told(error: Any) -> dict[str, Any]:
    """A failure and its causes; one that is not Dagster's own says nothing of trying again, so that cannot help."""
    causes, cause = [], error.__cause__
    while cause is not None:
        causes.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    if getattr(error, "allow_retries", None) is None:
        text = f"{type(error).__name__}: {error}"
        return {"text": text, "causes": causes, "allow_retries": False, "metadata": {}}
    metadata = external(error.metadata)
    return {"text": str(error), "causes": causes, "allow_retries": error.allow_retries, "metadata": metadata}


class MessageFiles(PipesMessageWriter["Channel"]):
    """Writes messages as the files 1.json, 2.json, … of a directory: Pipes' own order and format."""

    @contextlib.contextmanager
    def open(self, params: PipesParams) -> Iterator[Channel]:
        """A channel for as long as the block lasts; what waits at its end is written."""
        channel = Channel(Path(params["path"]))
        try:
            yield channel
        finally:
            channel.close()


class Channel(PipesMessageWriterChannel):
    """Puts messages into the files of a directory, as a launched step does its events."""

    def __init__(self, place: Path) -> None:
        self._outbox = _checks(place).Outbox(lambda number: place / f"{number + 1}.json", _packed)

    def write_message(self, message: PipesMessage) -> None:
        """Take a message."""
        self._outbox.put(message)

    def close(self) -> None:
        """Write what waits; raises OSError if the directory could not be written for long."""
        self._outbox.close()


def _packed(messages: list[PipesMessage]) -> bytes:
    return "\n".join(json.dumps(message) for message in messages).encode() + END


if __name__ == "__main__":
    main(PipesCliArgsParamsLoader(), globals())
