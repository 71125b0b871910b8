"""The catalog, rule by rule: its text, its variables and secrets, its directory, and how it is shipped."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from lakehouse_assets.entities.catalog import Catalog, from_snapshot, load_catalog, parse_catalog
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import CONFORMED, LANDED, listed
from lakehouse_assets_tests.entities.rules import QUERY, faults_of, names, only_fault, parse


@pytest.mark.parametrize("text", ["no", "on", "yes", "off", "012", "1e3", "0x1f", "2024-01-31", "12:30", "1.10"])
@pytest.mark.parametrize("field", ["comment", "group"])
def test_text_fields_keep_what_was_written(field, text):
    """YAML's guesses are off: a word, number or date stays the text that was written."""
    assert getattr(parse(f"{LANDED}, {field}: {text}").entities[0], field) == text


def test_an_id_keeps_its_leading_zero():
    """D33's kind: an id is text, so 012 is not 10."""
    assert parse(LANDED.replace("entity_id: a", "entity_id: 012")).entities[0].entity_id == "012"


def test_option_values_keep_what_was_written():
    """YAML's guesses are off in options, too; true becomes Spark's text."""
    options = (
        parse(f"{LANDED}, read_options: {{a: no, b: on, c: 012, d: 2024-01-31, e: true}}").entities[0].read_options
    )
    assert options == {"a": "no", "b": "on", "c": "012", "d": "2024-01-31", "e": "true"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\tdelta_live_store: []\n", 1),
        ("delta_live_store:\n\t- entity_id: a\n", 2),
        ("delta_live_store:\n  - entity_id: a\n    source: [\n", 4),
        ("delta_live_store:\n  - entity_id: 'a\n", 3),
        ("delta_live_store:\n  - *nothing\n", 2),
        ("delta_live_store: []\n---\ndelta_live_store: []\n", 2),
    ],
    ids=["tab first", "tab in the indent", "open list", "open quote", "unknown alias", "two documents"],
)
def test_text_that_is_no_yaml_is_one_fault_with_its_line(text, line):
    """Bad input: bad YAML (tabs among it) names the file, the line and that it is not YAML."""
    (found,) = faults_of({"c.yaml": text})
    assert (found.file, found.line) == ("c.yaml", line)
    assert found.problem.startswith("not YAML")


def test_a_bad_file_does_not_hide_the_faults_of_another():
    """All faults of all files stand in one error, by file and line."""
    found = faults_of(
        {"b.yaml": "delta_live_store: [", "a.yaml": listed(f"{LANDED}, colour: red", CONFORMED + ", x: y")}
    )
    assert [(f.file, f.line) for f in found] == [("a.yaml", 2), ("a.yaml", 3), ("b.yaml", found[2].line)]


def test_a_key_given_twice_names_entity_and_field():
    """Bad input: YAML would keep the last value in silence."""
    found = only_fault(f"{LANDED}, destination: bronze.z")
    assert (found.entity, found.field) == ("a", ("destination",))


def test_a_rule_given_twice_is_a_fault():
    """Bad input: a key given twice deep inside an entity is found as well."""
    found = only_fault(f'{LANDED}, expectations: {{expect_all: {{r: "x > 0", r: "y > 0"}}}}')
    assert found.field == ("expectations", "expect_all", "r")


def test_an_empty_file_names_the_missing_key():
    """Bad input: an empty file is told with the key that it needs."""
    (found,) = faults_of({"c.yaml": "# nothing yet\n"})
    assert "delta_live_store is missing" in str(found)


def test_an_unknown_key_at_the_top_gets_the_nearest():
    """Bad input: the one legal key is pointed out."""
    found = faults_of({"c.yaml": "delta_live_stor: []\n"})
    assert "delta_live_store" in [f.nearest for f in found]


@pytest.mark.parametrize("record", ["[a, b]", "text", "~", "7"])
def test_a_record_that_is_no_map(record):
    """Bad input: an entity is a map of fields; a list in its place is told like anything else."""
    (found,) = faults_of({"c.yaml": f"delta_live_store:\n  - {record}\n"})
    assert (found.line, found.problem) == (2, "an entity is a map of fields")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${A}", "one"),
        ("${A:-z}", "one"),
        ("${B:-z}", "z"),
        ("${B:-}x", "x"),
        ("${EMPTY:-z}", "z"),
        ("$${A}", "${A}"),
        ("${A}/${B:-two}", "one/two"),
        ("${NESTED}", "${A}"),
        ("${secret:A}", "${secret:A}"),
    ],
)
def test_variables_in_a_field(written, value):
    """`${VAR}` expands once, with defaults and escapes; a secret stays a reference."""
    catalog = parse(f'{LANDED}, comment: "{written}"', A="one", EMPTY="", NESTED="${A}")
    assert catalog.entities[0].comment == value


def test_variables_expand_wherever_there_is_text():
    """In names of tables, in lists and in maps of maps."""
    catalog = parse(
        'entity_id: a, source: "${ROOT}/a", destination: "${LAYER:-bronze}.a", primary_keys: ["${KEY}"], '
        'expectations: {expect_all: {r: "${KEY} > 0"}}, lakehouse: {owners: ["team:${TEAM:-edge}"]}',
        ROOT="s3://b",
        KEY="id",
    )
    entity = catalog.entities[0]
    assert (entity.source, names(catalog.order()), entity.primary_keys) == ("s3://b/a", "bronze.a", ["id"])
    assert (entity.expectations.expect_all, entity.lakehouse.owners) == ({"r": "id > 0"}, ["team:edge"])


def test_a_switch_may_come_from_the_environment():
    """`is_enabled: ${ON:-true}` is a boolean after it is expanded."""
    flags = [
        parse(f'{LANDED}, is_enabled: "${{ON:-true}}"', **given).entities[0].is_enabled
        for given in ({}, {"ON": "false"})
    ]
    assert flags == [True, False]


def test_every_variable_that_is_not_set_is_told():
    """All of them at once, each with its field and the way out."""
    found = faults_of(
        {"c.yaml": listed('entity_id: a, source: "${DIR}/${SUB}", destination: bronze.a, comment: "${C}"')}
    )
    assert [f.field for f in found] == [("source",), ("source",), ("comment",)]
    assert [word in str(found) for word in ("DIR", "SUB", "${NAME:-default}")] == [True, True, True]


@pytest.mark.parametrize(
    "option", ["kafka.sasl.password", "auth_token", "clientSecret", "kafka.sasl.jaas.config", "aws.access.key"]
)
@pytest.mark.parametrize("field", ["read_options", "table_properties", "spark_conf"])
def test_a_secret_in_clear_is_refused_and_hidden(field, option):
    """Design §7.9: options with such names hold references; the value is in no message."""
    found = only_fault(f"{LANDED}, {field}: {{{option}: hunter2}}")
    assert found.field == (field, option)
    assert found.choices == ("${secret:NAME}", "{{secrets/scope/key}}")
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("reference", ["${secret:KAFKA_PASSWORD}", "{{secrets/kafka/password}}"])
def test_a_reference_is_not_resolved_by_loading(reference):
    """Design §7.9: it stays a reference, though a variable of that name is set."""
    catalog = parse(f'{LANDED}, read_options: {{kafka.sasl.password: "{reference}"}}', KAFKA_PASSWORD="hunter2")
    assert catalog.entities[0].read_options == {"kafka.sasl.password": reference}
    assert "hunter2" not in json.dumps(catalog.snapshot())


def test_a_variable_never_fills_a_secret():
    """Design §7.9: `${VAR}` in such an option is refused, even where its value would be a reference."""
    said = str(only_fault(f'{LANDED}, read_options: {{token: "${{VAR}}"}}', VAR="${secret:TOKEN}"))
    assert "not ${VAR}" in said
    assert "TOKEN" not in said


def shipped() -> Catalog:
    """A catalog with a variable, a default and a SQL file."""
    return parse(
        'entity_id: a, source: "${DIR}/a", destination: "${LAYER:-bronze}.a"',
        QUERY.format("q.sql"),
        sql={"q.sql": "SELECT id FROM bronze.a -- ü\n"},
        DIR="/x",
    )


def test_a_catalog_from_its_snapshot_is_equal():
    """All of it: entities, files, queries, variables and order."""
    catalog = shipped()
    again = from_snapshot(catalog.snapshot())
    assert again == catalog
    assert (again.order(), again.snapshot()) == (catalog.order(), catalog.snapshot())


def test_a_snapshot_is_json():
    """It can be written down and read elsewhere."""
    catalog = shipped()
    assert from_snapshot(json.loads(json.dumps(catalog.snapshot()))) == catalog


@pytest.mark.parametrize("part", ["files", "queries", "variables"])
def test_a_snapshot_whose_part_changed_is_refused(part):
    """The hash covers files, queries and variables."""
    snapshot = shipped().snapshot()
    name, text = next(iter(snapshot[part].items()))
    with pytest.raises(CatalogError, match="damaged"):
        from_snapshot({**snapshot, part: {**snapshot[part], name: text + " "}})


def test_equal_catalogs_have_equal_hashes():
    """The order in which the files were given does not matter, another text does."""
    one, two = listed(LANDED), listed(CONFORMED)
    forth = parse_catalog({"a.yaml": one, "b.yaml": two}, {}, {}).snapshot()["sha256"]
    back = parse_catalog({"b.yaml": two, "a.yaml": one}, {}, {}).snapshot()["sha256"]
    other = parse_catalog({"a.yaml": one, "b.yaml": two + "# more\n"}, {}, {}).snapshot()["sha256"]
    assert forth == back != other


def test_the_error_travels_between_processes():
    """Its faults survive pickling, as a multiprocess executor needs."""
    with pytest.raises(CatalogError) as error:
        parse(f"{LANDED}, lakehouse: {{refresh_key: [a]}}", CONFORMED + ", colour: red")
    again = pickle.loads(pickle.dumps(error.value))
    assert again.facts["faults"] == error.value.facts["faults"]
    assert str(again) == str(error.value)


def why_not(directory: str) -> str:
    """What loading a directory says; run by a user without rights."""
    try:
        load_catalog(Path(directory), {})
    except CatalogError as error:
        return str(error)
    return "loaded"


def test_a_directory_that_may_not_be_listed(tmp_path, as_nobody):
    """Bad input: the directory and the missing permission are named."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "c.yaml").write_text(listed(LANDED))
    (tmp_path / "closed").chmod(0)
    said = as_nobody.call(why_not, tmp_path / "closed")
    assert "Permission denied" in said
    assert str(tmp_path / "closed") in said


def test_a_sql_file_that_may_not_be_read(tmp_path, as_nobody):
    """Bad input: it is a fault of the entity that uses it, with file and line."""
    (tmp_path / "c.yaml").write_text(listed(LANDED, QUERY.format("q.sql")))
    (tmp_path / "q.sql").write_text("SELECT id FROM bronze.a")
    (tmp_path / "q.sql").chmod(0)
    said = as_nobody.call(why_not, tmp_path)
    assert "c.yaml:3, entity 'q', field source: q.sql cannot be read" in said


def test_a_readable_directory_loads_without_rights(tmp_path, as_nobody):
    """Reading a catalog needs no more than reading."""
    (tmp_path / "c.yaml").write_text(listed(LANDED))
    assert as_nobody.call(why_not, tmp_path) == "loaded"


def test_a_sql_file_that_is_not_utf8(tmp_path):
    """Bad input: it is a fault of the entity that uses it."""
    (tmp_path / "c.yaml").write_text(listed(LANDED, QUERY.format("q.sql")))
    (tmp_path / "q.sql").write_bytes(b"SELECT '\xff' AS x")
    with pytest.raises(CatalogError, match="save it as UTF-8") as error:
        load_catalog(tmp_path, {})
    assert [f.entity for f in error.value.facts["faults"]] == ["q"]


def test_a_directory_named_like_a_file_is_passed_over(tmp_path):
    """Only files are read."""
    (tmp_path / "old.yaml").mkdir()
    (tmp_path / "c.yaml").write_text(listed(LANDED))
    assert names(load_catalog(tmp_path, {}).order()) == "bronze.a"


def test_a_byte_order_mark_is_no_fault(tmp_path):
    """Some editors write one."""
    (tmp_path / "c.yaml").write_text(listed(LANDED), encoding="utf-8-sig")
    assert names(load_catalog(tmp_path, {}).order()) == "bronze.a"


def test_tables_of_several_files_read_each_other(tmp_path):
    """A catalog is the directory, not one file."""
    (tmp_path / "a.yaml").write_text(listed(CONFORMED))
    (tmp_path / "b.yml").write_text(listed(LANDED))
    assert names(load_catalog(tmp_path, {}).order()) == "bronze.a silver.b"
