"""How tables hang together: ids, names, upstreams, feeds, order, selection."""

from __future__ import annotations

import pytest

from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import CONFORMED, LANDED, fault, faults, listed, parse

GRAPH = """\
delta_live_store:
  - {entity_id: a, source: /data/a, destination: bronze.a, group: one, tags: {pii: "yes", kind: raw}}
  - {entity_id: b, source: bronze.a, source_format: dlt, destination: silver.b, group: one, tags: {kind: fine}}
  - entity_id: c
    source: SELECT b.id, q.id AS q FROM silver.b LEFT JOIN silver.b_quarantine AS q ON b.id = q.id
    source_format: sql
    destination: gold.c
    group: two
  - {entity_id: d, source: /data/d, destination: bronze.d, is_enabled: false}
"""
FED = "source_format: sqlite, destination: bronze.t, primary_keys: [id]"


def test_an_id_given_twice_names_both_lines():
    """D14: one id, one entity; both places are told, in two files as well."""
    said = fault(listed(LANDED, "entity_id: a, source: /data/b, destination: bronze.b"))
    assert "c.yaml:3, entity 'a'" in said
    assert "first at c.yaml:2" in said
    with pytest.raises(CatalogError, match=r"b\.yaml:2.*first at a\.yaml:2"):
        parse_catalog({"a.yaml": listed(LANDED), "b.yaml": listed(LANDED.replace("bronze.a", "bronze.b"))}, {}, {})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("bronze.aa", "did you mean 'bronze.a'"),
        ("a", "no entity makes this table"),
        ("bronze.a__changes", "no entity makes this table"),
        ("control.batches", "not an upstream"),
        ("bronze.off", "is disabled"),
    ],
)
def test_upstreams_that_are_not_there(source, reason):
    """Issue: an unknown upstream is told with the nearest name, a disabled one as disabled."""
    off = "entity_id: off, source: /data/off, destination: bronze.off, is_enabled: false"
    assert reason in fault(listed(LANDED, off, CONFORMED.replace("source: bronze.a", f"source: {source}")))


def test_a_disabled_entity_needs_no_upstream():
    """What is disabled is checked by itself only."""
    catalog = parse(listed(CONFORMED + ", is_enabled: false"))
    assert [entity.is_enabled for entity in catalog.entities] == [False]
    assert catalog.destinations == {}


def test_a_faulty_upstream_is_told_once():
    """A table whose entity has a fault is not told as unknown downstream."""
    (found,) = faults(listed(f"{LANDED}, destination_type: tabel", CONFORMED))
    assert found.entity == "a"


@pytest.mark.parametrize(
    "source", ["dataset1_bronze", "bronze.dataset1_bronze", "main.bronze.dataset1_bronze", "BRONZE.Dataset1_Bronze"]
)
def test_a_table_has_several_names(source):
    """As the destination was written, or in full; upper and lower case alike."""
    made = "entity_id: a, source: /data/a, destination: dataset1_bronze"
    catalog = parse(listed(made, CONFORMED.replace("source: bronze.a", f"source: {source}")))
    assert catalog.upstreams(TableName("silver", "b")) == (TableName("bronze", "dataset1_bronze"),)


def test_a_name_that_may_mean_two_tables():
    """`x` is bronze.x and silver.x: the layer must be said."""
    text = listed(
        "entity_id: a, source: /data/a, destination: x",
        "entity_id: b, source: bronze.x, source_format: dlt, destination: x",
        "entity_id: c, source: x, source_format: dlt, destination: y",
    )
    assert "bronze.x, silver.x" in fault(text)


def test_quarantine_and_log_are_legal_upstreams():
    """Design §8: the tables beside a table can be read; a log only where there is one."""
    events = "entity_id: b, source: bronze.a, source_format: dlt, destination: silver.b, primary_keys: [id], apply_changes: {sequence_by: s}"
    reads = "entity_id: {0}, source: silver.b{1}, source_format: dlt, destination: gold.{0}"
    catalog = parse(listed(LANDED, events, reads.format("c", "__changes"), reads.format("d", "_quarantine")))
    assert catalog.upstreams(TableName("gold", "c")) == (TableName("silver", "b__changes"),)
    assert catalog.base(TableName("silver", "b__changes")) == TableName("silver", "b")
    assert catalog.order()[-1] == TableName("gold", "d")


def test_a_circle_is_told_as_a_path():
    """Issue: cycles are named as a path."""
    circle = [
        f"entity_id: {a}, source: {b}, source_format: dlt, destination: silver.{a}" for a, b in ("ab", "bc", "ca")
    ]
    circle = [fields.replace("source: ", "source: silver.", 1) for fields in circle]
    assert "silver.a -> silver.b -> silver.c -> silver.a" in fault(listed(*circle))
    assert "silver.a -> silver.a" in fault(
        listed("entity_id: a, source: silver.a, source_format: dlt, destination: silver.a")
    )


def test_a_reader_of_files_that_names_a_table():
    """D41: the seed took a source that is a destination for a table; here the format must say so."""
    said = fault(
        listed("entity_id: a, source: /d, destination: x_bronze", "entity_id: b, source: x_bronze, destination: y")
    )
    assert "source_format: dlt" in said


def test_two_feeds_share_a_table():
    """Issue: distinct feed names and equal keys."""
    catalog = parse(
        listed(*(f"entity_id: {n}, source: {n}.db, {FED}, lakehouse: {{feed: {n}}}" for n in ("north", "south")))
    )
    assert [entity.feed for entity in catalog.destinations[TableName("bronze", "t")]] == ["north", "south"]


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("", "", "feed name ''"),
        ("lakehouse: {feed: a}", "lakehouse: {feed: a}", "feed name 'a'"),
        ("lakehouse: {feed: a}", "lakehouse: {feed: b}, primary_keys: [x]", "primary_keys"),
        ("lakehouse: {feed: a}", "lakehouse: {feed: b}, partition_cols: [d]", "partition_cols"),
        ("lakehouse: {feed: a}", "lakehouse: {feed: b}, is_quarantined: true", "is_quarantined"),
        ("lakehouse: {feed: a}", 'lakehouse: {feed: b}, expectations: {expect_all: {r: "x > 0"}}', "expectations"),
        ("lakehouse: {feed: a}", "lakehouse: {feed: b}, destination: bronze.T", "upper and lower case"),
    ],
)
def test_feeds_that_do_not_fit_together(one, other, reason):
    """Issue: else it is a fault that names the other entity and its line."""
    base = "source: x.db, source_format: sqlite"
    rest = "destination: bronze.t, primary_keys: [id]"
    keys = {part.split(":")[0].strip() for part in other.split(", ")}
    rest = ", ".join(part for part in rest.split(", ") if part.split(":")[0] not in keys)
    first = f"entity_id: a, {base}, destination: bronze.t, primary_keys: [id]" + (f", {one}" if one else "")
    second = ", ".join(part for part in (f"entity_id: b, {base}", rest, other) if part)
    said = fault(listed(first, second))
    assert reason in said
    assert "'a' at c.yaml:2" in said


def test_two_queries_do_not_share_a_table():
    """Only tables that are fed may have several entities."""
    query = 'entity_id: {0}, source: "SELECT 1 AS a", source_format: sql, destination: gold.q, lakehouse: {{feed: {0}}}'
    assert "only landed, conformed and history" in fault(listed(query.format("a"), query.format("b")))


def test_order_puts_upstreams_first():
    """However the files are ordered."""
    text = listed(CONFORMED, LANDED)
    assert [str(table) for table in parse(text).order()] == ["bronze.a", "silver.b"]


@pytest.mark.parametrize(
    ("selection", "tables"),
    [
        ("*", "bronze.a silver.b gold.c"),
        ("silver.b", "silver.b"),
        ("gold.c, bronze.a", "bronze.a gold.c"),
        ("group:one", "bronze.a silver.b"),
        ("tag:kind", "bronze.a silver.b"),
        ("tag:kind=fine", "silver.b"),
        ("+gold.c", "bronze.a silver.b gold.c"),
        ("bronze.a+", "bronze.a silver.b gold.c"),
        ("+silver.b", "bronze.a silver.b"),
        ("+silver.b+", "bronze.a silver.b gold.c"),
        ("silver.b_quarantine", "silver.b"),
        ("*.b", "silver.b"),
        ("group:two tag:pii", "bronze.a gold.c"),
    ],
)
def test_selections(selection, tables):
    """Issue: names, groups, tags, patterns, and what is upstream or downstream of them."""
    assert " ".join(map(str, parse(GRAPH).select(selection))) == tables


@pytest.mark.parametrize(
    "selection", ["silver.bb", "group:three", "tag:nope", "tag:kind=nope", "plat*", "", "bronze.d"]
)
def test_selections_that_find_nothing(selection):
    """A term that selects nothing is an error, with the nearest name where there is one."""
    with pytest.raises(CatalogError):
        parse(GRAPH).select(selection)


def test_resolving_an_unknown_name():
    """The nearest name is pointed out."""
    with pytest.raises(CatalogError, match=r"did you mean 'silver\.b'"):
        parse(GRAPH).resolve("silver.bb")
