"""The producer as a job: prices from a CSV file into the topic that the catalog lands.

It runs `lakehouse simulate kafka` in a process of its own, with the broker and the topic of the entity, and adds
nothing that the topic holds. What does not belong here: producing (`simulators`).

No `from __future__ import annotations` here: Dagster reads the annotations of an op as they are.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date

import dagster as dg

from lakehouse_assets.assets.resources import Project
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.kafka_options import topic_of

NAME = "produce_prices"
_OF_BROKER = ("kafka.security.", "kafka.sasl.", "kafka.ssl.", "kafka.api.")


class ProduceConfig(dg.Config):
    """What is produced; by default every row of the packaged prices that the topic lacks."""

    csv: str = ""
    first_date: str = ""
    last_date: str = ""
    faults: int = 0


def build_producers(project: Project) -> list[dg.JobDefinition]:
    """The job for the first topic that the catalog lands; none where it lands none."""
    topics = [entity for feeds in project.catalog.destinations.values() for entity in feeds
              if entity.source_format == "kafka"]  # fmt: skip
    return [_job(topics[0])] if topics else []


def _job(entity: Entity) -> dg.JobDefinition:
    @dg.op(name="produce", description="Send the rows of a CSV file that the topic lacks")
    def produce(context: dg.OpExecutionContext, config: ProduceConfig) -> None:
        _check(config)
        command = [sys.executable, "-m", "lakehouse_assets.cli.main", "simulate", "kafka", *arguments(entity, config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stderr or done.stdout).strip()
        if done.returncode:
            raise dg.Failure(f"the producer failed: {said[-2000:]}", allow_retries=False)
        context.log.info(said)

    said = (
        f"Send prices from a CSV file to the topic of {entity.table}; twice adds nothing. Nobody else may send rows "
        "there meanwhile; made-up days (`lakehouse simulate kafka --live`, as in `make dev`) may go on"
    )

    @dg.job(name=NAME, description=said)
    def job() -> None:
        produce()

    return job


def _check(config: ProduceConfig) -> None:
    """Fail where a date is none, by the name that it has here."""
    for name in ("first_date", "last_date"):
        given = getattr(config, name)
        try:
            if given:
                date.fromisoformat(given)
        except ValueError:
            raise dg.Failure(f"{name} is not a date such as 2018-12-31 (got {given!r})", allow_retries=False) from None


def arguments(entity: Entity, config: ProduceConfig) -> Sequence[str]:
    """The arguments of `lakehouse simulate kafka`; secrets stay references, which the process resolves."""
    return list(_arguments(entity, config))


def _arguments(entity: Entity, config: ProduceConfig) -> Iterator[str]:
    options = entity.read_options
    yield from ("--bootstrap-servers", options.get("kafka.bootstrap.servers", ""))
    yield from ("--topic", topic_of(entity))
    for name, value in options.items():
        if name.startswith(_OF_BROKER):
            yield from ("--option", f"{name}={value}")
    for flag, given in (("--csv", config.csv), ("--from", config.first_date), ("--to", config.last_date)):
        if given:
            yield from (flag, given)
    if config.faults:
        yield from ("--faults", str(config.faults))
