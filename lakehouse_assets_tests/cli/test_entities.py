"""`lakehouse entities`."""

from __future__ import annotations

import json

import pytest
import yaml

from lakehouse_assets_tests.cli.lab import Machine

FAULTY = """
    delta_live_store:
      - entity_id: a
        source: x.db
        source_format: sqlit
        destination: bronze.a
        coment: typo
      - entity_id: b
        source: bronze.nothing
        source_format: dlt
        destination: silver.b
"""


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A machine with a catalog."""
    machine.declare()
    return machine


def test_list_names_every_entity_upstream_first(lab: Machine) -> None:
    """Ids, tables, kinds and upstreams."""
    rows = json.loads(lab.lakehouse("entities", "list", "--format", "json").stdout)
    assert [(row["entity_id"], row["table"], row["kind"], row["upstreams"]) for row in rows] == [
        ("b", "bronze.readings", "landed", None),
        ("s", "silver.readings", "conformed", "bronze.readings"),
        ("g", "gold.thirds", "query", "silver.readings"),
    ]
    assert "bronze.readings" in lab.lakehouse("entities", "list").stdout
    assert lab.lakehouse("entities", "list", "--format", "csv").stdout.startswith("entity_id,table,")


def test_list_shows_disabled_entities(lab: Machine) -> None:
    """They are part of the catalog, not of the graph."""
    lab.declare(
        "delta_live_store: [{{entity_id: z, source: z, source_format: sqlite, destination: b.z, is_enabled: false}}]",
        "z.yaml",
    )
    rows = json.loads(lab.lakehouse("entities", "list", "--format", "json").stdout)
    assert [row["enabled"] for row in rows if row["entity_id"] == "z"] == [False]


def test_the_shipped_catalog_is_the_default(machine: Machine) -> None:
    """Without --catalog the shipped entities are listed, and they are without fault."""
    del machine.environ["LAKEHOUSE_CATALOG"]
    assert "bronze.sensor_readings" in machine.lakehouse("entities", "list").stdout
    assert machine.lakehouse("entities", "validate").exit_code == 0


def test_validate_says_that_all_is_well(lab: Machine) -> None:
    """Exit code 0, and how much was checked; an empty array in JSON."""
    done = lab.lakehouse("entities", "validate", "--format", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == []
    assert "3 entities make 3 tables; no faults" in done.stderr


def test_validate_notes_what_this_version_does_not_run(lab: Machine) -> None:
    """A kind of a later version is valid, and told of."""
    lab.declare(
        "delta_live_store: [{{entity_id: k, source: trades, source_format: kinesis, destination: bronze.trade, "
        "source_schema: price DOUBLE}}]",
        "k.yaml",
    )
    done = lab.lakehouse("entities", "validate")
    assert done.exit_code == 0
    assert "bronze.trade has source_format 'kinesis'" in done.stderr


def test_validate_shows_every_fault(machine: Machine) -> None:
    """All faults at once, with file and line and the nearest name; exit code 2."""
    machine.declare(FAULTY)
    done = machine.lakehouse("entities", "validate")
    assert done.exit_code == 2
    assert "lab.yaml:5" in done.stderr
    assert "did you mean 'sqlite'?" in done.stderr
    assert "lab.yaml:7" in done.stderr
    assert "lab.yaml:9" in done.stderr


def test_validate_gives_faults_as_rows(machine: Machine) -> None:
    """JSON: a row a fault."""
    machine.declare(FAULTY)
    done = machine.lakehouse("entities", "validate", "--format", "json")
    assert done.exit_code == 2
    rows = {row["field"]: row for row in json.loads(done.stdout)}
    assert (rows["source_format"]["line"], rows["source_format"]["value"]) == (5, "sqlit")
    assert "sqlite" in rows["source_format"]["choices"]
    assert rows["coment"]["entity"] == "a"


@pytest.mark.parametrize("name", ["s", "silver.readings", "silver.readings_quarantine"])
def test_show_by_id_or_table(lab: Machine, name: str) -> None:
    """What was given, as YAML; a quarantine shows the table that it belongs to."""
    shown = yaml.safe_load(lab.lakehouse("entities", "show", name).stdout)
    assert shown["entity_id"] == "s"
    assert shown["table"] == "silver.readings"
    assert shown["expectations"] == {"expect_all": {"small": "v < 90"}}
    assert "lakehouse" not in shown
    assert "FROM bronze.readings" in shown["sql"]


def test_show_all_fields_as_json(lab: Machine) -> None:
    """JSON has every field."""
    (row,) = json.loads(lab.lakehouse("entities", "show", "b", "--format", "json").stdout)
    assert row["is_streaming"] is True
    assert row["partition_cols"] == []


def test_show_of_something_unknown_names_the_nearest(lab: Machine) -> None:
    """Exit code 2, and what there is."""
    done = lab.lakehouse("entities", "show", "gold.third")
    assert done.exit_code == 2
    assert "did you mean 'gold.thirds'?" in done.stderr


def test_validate_judges_the_options_of_a_topic(lab: Machine) -> None:
    """Names, start, loss and security, each with its line; no broker is asked."""
    yaml_text = """
        delta_live_store:
          - entity_id: k
            source: t
            source_format: kafka
            destination: bronze.k
            read_options:
              kafka.bootstrap.servers: nobody.invalid:1
              startingOffset: latest
              startingOffsets: '{{"t": 5}}'
              kafka.security.protocol: TLS
        """
    lab.declare(yaml_text, "k.yaml")
    done = lab.lakehouse("entities", "validate", "--format", "json")
    assert done.exit_code == 2
    found = [(row["file"], row["line"], row["entity"], row["value"]) for row in json.loads(done.stdout)]
    assert found == [("k.yaml", 7, "k", value) for value in ("startingOffset", '{"t": 5}', "TLS")]
    assert "startingOffsets" in done.stderr
    lab.declare(
        yaml_text.replace("source_format: kafka", "source_format: kafka\n            is_enabled: false"), "k.yaml"
    )
    assert lab.lakehouse("entities", "validate").exit_code == 0
