"""The catalog: files are read, every fault is told at once, and the tables hang together."""

from __future__ import annotations

import os
import time

import pytest

from lakehouse_assets.entities.catalog import from_snapshot, load_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import LANDED, fault, faults, listed, parse

SEED = """\
# yaml-language-server: $schema=../src/dbrx/dls/config_schema.json

delta_live_store:
  - entity_id: "1"                                # required
    source: /Volumes/main/elt/data/dataset1       # required
    destination: dataset1_bronze                  # required
    destination_type: table                       # optional, default=table, [table|view]
    source_format: cloudFiles                     # optional, default=cloudFiles, [cloudFiles|kafka|csv|json|parquet|avro|orc|delta|dlt]
    is_streaming: true                            # optional, default=true
    is_enabled: true                              # optional, default=true
    source_schema: ~                              # optional, default=None, ex: "id int, name string"
    primary_keys:                                 # optional, default=[]
      - id
    select_expr: []                               # optional, default=[]
    read_options:                                 # optional, default={}, NOTE: required for cloudFiles
      cloudFiles.format: csv
      header: "true"
    table_properties: {}                          # optional, default={}
    tags: {}                                      # optional, default={}
    spark_conf: {}                                # optional, default={}
    partition_cols: []                            # optional, default=[]
    group: main.etl                               # optional, default=None
    comment: This is a an elt table.              # optional, default=None
    expectations:                                 # optional, default={}
      expect_all: {}
      expect_all_or_drop: {}
      expect_all_or_fail: {}
    is_quarantined: false                        # optional, default=false
  - entity_id: "2"
    source: dataset1_bronze
    destination: dataset1_silver
    destination_type: table
    primary_keys:
      - id
    source_format: dlt
    is_streaming: true
    group: main.etl
    is_quarantined: True
    expectations:
      expect_all:
        temp_gt_50: "temp > 50"
    apply_changes:
      sequence_by: "my_seq_num"
      stored_as_scd_type: 2
"""


def test_the_example_of_the_seed_loads_as_it_stands():
    """Seed 003: the README's example, comments included."""
    catalog = parse(SEED)
    bronze, silver = catalog.order()
    assert [str(bronze), str(silver)] == ["bronze.dataset1_bronze", "silver.dataset1_silver"]
    assert catalog.upstreams(silver) == (bronze,)
    assert [entity.kind for entity in catalog.entities] == ["landed", "history"]
    assert catalog.entities[0].read_options == {"cloudFiles.format": "csv", "header": "true"}


def test_every_fault_is_told_at_once():
    """Issue: file, line, entity, field, value, legal choices and nearest name, for all faults together."""
    found = faults(
        """\
        delta_live_store:
          - entity_id: a
            source: /data/a
            destination: bronze.a
            source_format: cloudfiles
            colour: red
          - entity_id: b
            source: bronze.aa
            source_format: dlt
            destination: silver.b
            select_expr: ["now() AS at", "x +"]
            read_options: {sasl.password: clear, also: ~}
            lakehouse: {freshnes: {}}
          - entity_id: c
            source: SELECT lengthh(id) AS n FROM silver.b
            source_format: sql
            destination: gold.c
        extra: 1
        """
    )
    told = [(f.line, f.entity, ".".join(map(str, f.field)), f.nearest) for f in found]
    assert told == [
        (5, "a", "source_format", "cloudFiles"),
        (6, "a", "colour", None),
        (8, "b", "source", None),
        (11, "b", "select_expr.0", None),
        (11, "b", "select_expr.1", None),
        (12, "b", "read_options.also", None),
        (12, "b", "read_options.sasl.password", None),
        (13, "b", "lakehouse.freshnes", "freshness"),
        (15, "c", "source", None),
        (18, None, "", None),
    ]
    assert all(f.file == "c.yaml" for f in found)


def test_a_fault_reads_well():
    """A fault is one line: where, what, value, legal choices, nearest name, next step."""
    said = fault(listed(f"{LANDED}, destination_type: tabel"))
    assert said == (
        "c.yaml:2, entity 'a', field destination_type: is not legal (got 'tabel'); legal: table, view "
        "(did you mean 'table'?)"
    )


def test_many_choices_are_cut_short():
    """A catalog with hundreds of tables does not list them all."""
    many = [f"entity_id: e{i}, source: /data/{i}, destination: bronze.t{i}" for i in range(100)]
    said = fault(listed(*many, "entity_id: x, source: bronze.t1000, source_format: dlt, destination: silver.x"))
    assert "more)" in said
    assert "did you mean 'bronze.t10" in said
    assert len(said) < 1000


def test_a_secret_in_clear_is_not_shown():
    """Design §7.9: the value stands in no message."""
    assert "hunter2" not in fault(listed(f"{LANDED}, read_options: {{token: hunter2}}"))


@pytest.mark.parametrize("value", ["hunter2", "${secret:TOKEN}"])
def test_a_variable_is_not_expanded_into_a_secret(value):
    """Design §7.9: `${VAR}` in an option whose name says token is refused, whatever the variable holds."""
    said = fault(listed(f'{LANDED}, read_options: {{token: "${{TOKEN}}"}}'), TOKEN=value)
    assert "reference to a secret" in said
    assert "hunter2" not in said


def test_variables_are_expanded_after_yaml_was_read():
    """A value cannot add fields to an entity, or a fault that names another line."""
    catalog = parse(listed('entity_id: a, source: "${DIR}/a", destination: bronze.a'), DIR="/x, is_enabled: false #")
    assert catalog.entities[0].source == "/x, is_enabled: false #/a"
    assert catalog.entities[0].is_enabled


def test_a_variable_that_is_not_set_is_a_fault_with_its_line():
    """`${VAR}` without default needs a value."""
    assert fault(listed('entity_id: a, source: "${DIR}/a", destination: bronze.a')).startswith("c.yaml:2, entity 'a'")


def test_yaml_faults_have_lines():
    """Bad YAML and keys given twice are faults like others."""
    assert "c.yaml:3" in fault("delta_live_store:\n  - entity_id: a\n   source: [\n")
    assert "given twice (first in line 2)" in fault(f"delta_live_store:\n  - {{{LANDED},\n    source: /data/b}}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "delta_live_store is missing"),
        ("entities: []", "delta_live_store is missing"),
        ("[]", "delta_live_store is missing"),
        ("delta_live_store: {a: 1}", "not a list"),
        ("delta_live_store: [text]", "map of fields"),
    ],
)
def test_files_of_another_shape(text, reason):
    """The top of a file is one key with a list of maps."""
    assert reason in " ".join(map(str, faults(text)))


def test_an_empty_list_is_an_empty_catalog():
    """A file may hold no entity yet."""
    assert parse("delta_live_store:").order() == ()


def test_generated_fields_do_not_stand_in_files():
    """D5: what the store fills in is not written by hand."""
    assert "filled in by the store" in fault(listed(f"{LANDED}, hash: 7"))


def test_what_later_versions_run_is_checked_now():
    """Issue: apply_changes, kafka, kdb, kinesis and asof are parsed and validated, and have their kind."""
    catalog = parse(
        """\
        delta_live_store:
          - {entity_id: k, source: Stocks, source_format: kafka, destination: bronze.stocks}
          - {entity_id: n, source: orders, source_format: kinesis, destination: bronze.orders}
          - {entity_id: t, source: trade, source_format: kdb, destination: extract.trade, read_options: {kdb.partition: date}, lakehouse: {partitions: {cadence: daily, start: 2024-01-02}}}
          - {entity_id: q, source: quote, source_format: kdb, destination: bronze.quotes}
          - {entity_id: j, source: bronze.orders, source_format: asof, destination: silver.j, read_options: {asof.by: sym, asof.time: time, asof.columns: bid}, lakehouse: {tables: [bronze.orders, bronze.quotes], tolerance: 1 hour}}
        """
    )
    assert [entity.kind for entity in catalog.entities] == ["landed", "landed", "extract", "landed", "asof"]
    assert len(catalog.upstreams(TableName("silver", "j"))) == 2


def test_a_snapshot_makes_the_same_catalog_elsewhere():
    """A catalog can be shipped: files, queries and used variables, with a hash."""
    text = listed(
        'entity_id: a, source: "${DIR}/a", destination: bronze.a',
        "entity_id: c, source: c.sql, source_format: sql, destination: gold.c",
    )
    catalog = parse(text, {"c.sql": "SELECT id FROM bronze.a"}, DIR="/x", OTHER="not taken along")
    snapshot = catalog.snapshot()
    assert from_snapshot(snapshot).entities == catalog.entities
    assert "OTHER" not in snapshot["variables"]
    with pytest.raises(CatalogError, match="damaged"):
        from_snapshot({**snapshot, "files": {"c.yaml": text.replace("gold.c", "gold.d")}})


def test_a_directory_is_loaded(tmp_path):
    """Every *.yaml and *.yml in it, not below it; SQL files below it."""
    (tmp_path / "one.yaml").write_text(listed(LANDED))
    (tmp_path / "two.yml").write_text(
        listed("entity_id: c, source: sql/c.sql, source_format: sql, destination: gold.c")
    )
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "c.sql").write_text("SELECT id FROM bronze.a")
    (tmp_path / "sql" / "deep.yaml").write_text("not read")
    assert [str(table) for table in load_catalog(tmp_path, {}).order()] == ["bronze.a", "gold.c"]


def test_sql_files_outside_the_directory_are_not_read(tmp_path):
    """A path cannot leave the catalog's directory."""
    inside = tmp_path / "catalog"
    inside.mkdir()
    (tmp_path / "c.sql").write_text("SELECT 1 AS a")
    (inside / "c.yaml").write_text(listed("entity_id: c, source: ../c.sql, source_format: sql, destination: gold.c"))
    with pytest.raises(CatalogError, match="no such SQL file"):
        load_catalog(inside, {})


def test_directories_that_are_none(tmp_path):
    """A missing directory, a file, an empty directory and a file that is not UTF-8 are told apart."""
    file = tmp_path / "c.yaml"
    for path, reason in ((tmp_path / "nope", "no such"), (tmp_path, "no \\*.yaml")):
        with pytest.raises(CatalogError, match=reason):
            load_catalog(path, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match="UTF-8"):
        load_catalog(tmp_path, {})
    with pytest.raises(CatalogError, match="a file"):
        load_catalog(file, {})


def test_a_file_that_may_not_be_read(tmp_path):
    """A permission that is missing is told, as an unprivileged user sees it."""
    file = tmp_path / "c.yaml"
    file.write_text(listed(LANDED))
    file.chmod(0)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:-1]:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    pid = os.fork()
    if pid == 0:  # a child of its own, so that the tests keep their user
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            load_catalog(tmp_path, {})
        except CatalogError as error:
            os._exit(0 if "cannot be read" in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_thousand_entities_load_quickly():
    """Design §10: definitions are loaded often; a thousand entities with rules take about a second."""
    pairs = [
        f"entity_id: b{i}, source: /data/{i}, destination: bronze.t{i}, read_options: {{cloudFiles.format: csv}}"
        for i in range(500)
    ] + [
        f"entity_id: s{i}, source: bronze.t{i}, source_format: dlt, destination: silver.t{i}, primary_keys: [id], "
        f'select_expr: ["CAST(id AS BIGINT) AS id", "x{i} AS x"], expectations: {{expect_all: {{r: "x > {i}"}}}}'
        for i in range(500)
    ]
    text = listed(*pairs)
    parse(listed(LANDED))
    started = time.process_time()
    assert len(parse(text).order()) == 1000
    assert time.process_time() - started < 5
