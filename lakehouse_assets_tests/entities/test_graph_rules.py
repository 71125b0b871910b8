"""Several entities, rule by rule: upstreams, circles, ids, shared tables, order, selection, names."""

from __future__ import annotations

import dataclasses

import pytest

from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets_tests.entities.lab import CONFORMED, LANDED, listed
from lakehouse_assets_tests.entities.rules import QUERY, faults_of, names, only_fault, parse


def test_an_unknown_upstream_names_value_and_nearest():
    """The fault holds the name as it was written, and the nearest table."""
    found = only_fault(LANDED, CONFORMED.replace("source: bronze.a", "source: bronz.a"))
    assert (found.field, found.value, found.nearest) == (("source",), "bronz.a", "bronze.a")


def test_an_unknown_upstream_of_an_asof_join():
    """The two tables of an as-of join are upstreams like others."""
    found = only_fault(
        LANDED,
        "entity_id: j, source: bronze.a, source_format: asof, destination: silver.j, read_options: {asof.by: sym, asof.time: time, asof.columns: bid}, lakehouse: {tables: [bronze.a, bronze.q]}",
    )
    assert (found.field, found.value) == (("lakehouse", "tables"), "bronze.q")


@pytest.mark.parametrize("reader", [CONFORMED, QUERY.format("SELECT id FROM bronze.a")], ids=["dlt", "sql"])
def test_a_disabled_upstream_is_told_as_disabled(reader):
    """Not as unknown: the way out is another one."""
    found = only_fault(f"{LANDED}, is_enabled: false", reader)
    assert found.problem == "the upstream table 'bronze.a' is disabled"
    assert "is_enabled: true" in (found.fix or "")


def test_the_quarantine_of_a_disabled_table_is_disabled():
    """What stands beside a disabled table is not there either."""
    found = only_fault(
        f"{LANDED}, is_enabled: false", CONFORMED.replace("source: bronze.a", "source: bronze.a_quarantine")
    )
    assert "is disabled" in found.problem


def test_a_circle_through_a_quarantine_is_a_circle():
    """A table cannot read what its own reader refused: the path names the destinations."""
    found = only_fault(
        "entity_id: x, source: silver.y_quarantine, source_format: dlt, destination: silver.x",
        "entity_id: y, source: silver.x, source_format: dlt, destination: silver.y",
    )
    assert found.problem.endswith(": silver.x -> silver.y -> silver.x")


def test_a_circle_behind_other_tables_names_its_own_tables_only():
    """The path begins and ends at the same table, without the way that led there."""
    query = 'entity_id: {0}, source: "SELECT id FROM {1}", source_format: sql, destination: gold.{0}'
    found = only_fault(query.format("a", "gold.b"), query.format("b", "gold.c"), query.format("c", "gold.b"))
    assert found.problem.endswith(": gold.b -> gold.c -> gold.b")


def test_a_circle_that_is_switched_off_is_none():
    """A disabled entity closes no circle."""
    catalog = parse(
        "entity_id: x, source: silver.y, source_format: dlt, destination: silver.x, is_enabled: false",
        "entity_id: y, source: /d, destination: silver.y",
    )
    assert names(catalog.order()) == "silver.y"


@pytest.mark.parametrize(
    ("one", "other"),
    [("", ", is_enabled: false"), (", group: x", ", group: y"), ("", "")],
    ids=["disabled", "groups", "plain"],
)
def test_an_id_is_unique_in_the_whole_catalog(one, other):
    """D14: the same id twice is refused with both lines, in another group and when one is disabled, too."""
    found = only_fault(LANDED + one, LANDED.replace("bronze.a", "bronze.z") + other)
    assert (found.line, found.field) == (3, ("entity_id",))
    assert "first at c.yaml:2" in found.problem


def test_an_id_given_three_times_is_two_faults():
    """D14: every repetition is told."""
    entities = (LANDED.replace("bronze.a", f"bronze.{name}") for name in "xyz")
    assert [f.line for f in faults_of({"c.yaml": listed(*entities)})] == [3, 4]


def test_a_destination_is_the_same_however_it_is_written():
    """Design §3: `x_bronze`, `bronze.x_bronze` and a name with a catalog are one table, so they need feed names."""
    for name in ("bronze.x_bronze", "main.bronze.x_bronze"):
        found = only_fault(
            "entity_id: a, source: /data/a, destination: x_bronze",
            f"entity_id: b, source: /data/b, destination: {name}",
        )
        assert "feed name ''" in found.problem


def test_a_disabled_entity_shares_nothing():
    """A destination may be moved to another entity while the old one is kept, disabled."""
    assert (
        names(parse(LANDED, LANDED.replace("entity_id: a", "entity_id: z") + ", is_enabled: false").order())
        == "bronze.a"
    )


def test_feeds_of_a_history_are_named_by_flow_name():
    """Issue: distinct feed names; apply_changes.flow_name is one."""
    fields = "primary_keys: [id], apply_changes: {{sequence_by: s, flow_name: {0}}}"
    made = "entity_id: {0}, source: /data/{0}, destination: bronze.h, " + fields
    assert [e.feed for e in parse(made.format("n"), made.format("s")).entities] == ["n", "s"]


def test_one_feed_without_a_name_is_enough():
    """The empty name is a name: only one entity may have it."""
    catalog = parse(LANDED, LANDED.replace("entity_id: a", "entity_id: z") + ", lakehouse: {feed: z}")
    assert [entity.feed for entity in catalog.destinations[TableName("bronze", "a")]] == ["", "z"]


DIAMOND = (
    "entity_id: g, source: SELECT l.id FROM silver.l JOIN silver.r ON l.id = r.id, source_format: sql, destination: gold.g, group: top, tags: {dom: x}",
    "entity_id: r, source: bronze.a, source_format: dlt, destination: silver.r, group: mid",
    "entity_id: l, source: bronze.a, source_format: dlt, destination: silver.l, group: mid, tags: {dom: y}",
    "entity_id: o, source: /data/o, destination: bronze.o",
    LANDED,
)


def test_order_holds_every_table_once_and_upstreams_first():
    """A diamond is walked once."""
    order = parse(*DIAMOND).order()
    place = {str(table): position for position, table in enumerate(order)}
    assert len(order) == len(place) == 5
    assert place["bronze.a"] < min(place["silver.l"], place["silver.r"])
    assert max(place["silver.l"], place["silver.r"]) < place["gold.g"]


def test_order_is_the_same_each_time():
    """Two readings of one text agree."""
    assert parse(*DIAMOND).order() == parse(*DIAMOND).order()


def test_a_long_chain_has_an_order():
    """A thousand tables that read each other in a row need no deep stack."""
    chain = [
        f"entity_id: e{i}, source: silver.t{i + 1}, source_format: dlt, destination: silver.t{i}" for i in range(1000)
    ]
    order = parse(*chain, "entity_id: last, source: /d, destination: silver.t1000").order()
    assert [str(order[0]), str(order[-1])] == ["silver.t1000", "silver.t0"]


def test_upstreams_are_direct_ones():
    """A query has the tables of its FROM, no more."""
    assert set(parse(*DIAMOND).upstreams(TableName("gold", "g"))) == {
        TableName("silver", "l"),
        TableName("silver", "r"),
    }


@pytest.mark.parametrize(
    ("selection", "tables"),
    [
        ("+silver.l", "bronze.a silver.l"),
        ("silver.l+", "silver.l gold.g"),
        ("+silver.l+", "bronze.a silver.l gold.g"),
        ("+gold.g", "bronze.a silver.l silver.r gold.g"),
        ("bronze.o+", "bronze.o"),
        ("+group:top", "bronze.a silver.l silver.r gold.g"),
        ("tag:dom=y+", "silver.l gold.g"),
        ("tag:dom", "silver.l gold.g"),
        ("group:mid", "silver.l silver.r"),
        ("silver.*", "silver.l silver.r"),
        ("BRONZE.A", "bronze.a"),
        ("main.bronze.a", "bronze.a"),
        ("bronze.a_quarantine", "bronze.a"),
        ("bronze.o,bronze.a", "bronze.a bronze.o"),
        ("bronze.o bronze.o", "bronze.o"),
        ("bronze.?", "bronze.a bronze.o"),
    ],
)
def test_the_grammar_of_a_selection(selection, tables):
    """Names, patterns, groups and tags, with `+` on either side; a table is selected once."""
    assert sorted(map(str, parse(*DIAMOND).select(selection))) == sorted(tables.split())


def test_a_selection_comes_in_order():
    """Upstream tables first, however they were named."""
    catalog = parse(*DIAMOND)
    assert catalog.select("gold.g bronze.a") == (TableName("bronze", "a"), TableName("gold", "g"))


@pytest.mark.parametrize(
    ("selection", "nearest"),
    [("group:mit", "mid"), ("tag:don", "dom"), ("silver.ll", "silver.l"), ("gold.gg+", "gold.g")],
)
def test_a_selection_that_finds_nothing_gets_the_nearest(selection, nearest):
    """The error names what was given and what is near."""
    with pytest.raises(CatalogError, match=f"did you mean '{nearest}'"):
        parse(*DIAMOND).select(selection)


def test_one_wrong_term_refuses_the_whole_selection():
    """A misspelt table is not left out in silence."""
    with pytest.raises(CatalogError, match=r"silver\.x"):
        parse(*DIAMOND).select("bronze.a silver.x")


@pytest.mark.parametrize(
    "name", ["dataset_bronze", "bronze.dataset_bronze", "main.bronze.dataset_bronze", "Dataset_Bronze"]
)
def test_a_table_is_found_by_each_of_its_names(name):
    """As it was written, in full, with a catalog, and whatever the case."""
    catalog = parse("entity_id: a, source: /d, destination: dataset_bronze")
    assert catalog.resolve(name) == TableName("bronze", "dataset_bronze")


def test_a_name_of_two_tables_lists_both():
    """An ambiguous name is an error that tells the choices."""
    catalog = parse(
        "entity_id: a, source: /d, destination: x", "entity_id: b, source: bronze.x, source_format: dlt, destination: x"
    )
    with pytest.raises(CatalogError) as error:
        catalog.resolve("x")
    assert error.value.choices == ("bronze.x", "silver.x")


def test_an_unknown_table_gets_the_nearest():
    """`resolve` points out the nearest name, with and without a layer."""
    catalog = parse("entity_id: a, source: /d, destination: readings_bronze")
    for wrong, nearest in (("reading_bronze", "readings_bronze"), ("bronze.reading_bronze", "bronze.readings_bronze")):
        with pytest.raises(CatalogError, match=f"did you mean '{nearest}'"):
            catalog.resolve(wrong)


def test_disabled_entities_are_kept_but_make_no_table():
    """They are seen (to be enabled), and nothing runs them."""
    catalog = parse(LANDED, f"{CONFORMED}, is_enabled: false")
    assert [entity.entity_id for entity in catalog.entities] == ["a", "b"]
    assert list(catalog.destinations) == [TableName("bronze", "a")]


def test_a_catalog_cannot_be_changed():
    """It is what its files say."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse(LANDED).entities = ()  # type: ignore[misc]
