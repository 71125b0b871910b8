"""Random streams of events, in any order, batching and repetition: every table with history ends as the model says.

Each key of a lake has a random stream of its own, so one run of a few batches tries hundreds of streams, under every
declaration at once. A failure names the keys that differ, and shows the shortest of their streams, batch by batch.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets_tests.prove.conftest import seed as seed  # a fixture
from lakehouse_assets_tests.tables.history_cases import TABLES, entities, shown
from lakehouse_assets_tests.tables.history_lab import (
    STREAM,
    HistoryLab,
    check_invariants,
    declared,
    expected,
    history,
    landed,
    of,
    random_events,
    up,
)
from lakehouse_assets_tests.tables.history_model import FILTERED, QUARANTINED, Declaration, answer

SOME = ("all", "nulls_pinned", "one", "soft")
SOFT = {"lakehouse": {"history": {"soft_deletes": "gone"}}}
TRUNCATES = {"apply_as_truncates": "op = 't'"}
TRUNCATED = {
    "all": (TRUNCATES, declared()),
    "one": (TRUNCATES | {"stored_as_scd_type": 1}, declared(scd=1)),
    "soft": (TRUNCATES | SOFT, declared(soft="gone")),
    "nulls": (TRUNCATES | {"ignore_null_updates": True}, declared(inherits=frozenset("ab"))),
}
ORDERED = {"sequence_by": "struct(ts, n)", "except_column_list": ["id", "op", "ts", "n"]}


def _order(row):
    both = {"ts": row["ts"], "n": row["n"]}
    return both if any(value is not None for value in both.values()) else None


STRUCTS = {
    "all": (ORDERED, declared(sequence=_order)),
    "one": (ORDERED | {"stored_as_scd_type": 1}, declared(sequence=_order, scd=1)),
    "soft": (ORDERED | SOFT, declared(sequence=_order, soft="gone")),
}


def streams(examples):
    """Give a test seeds; what fails is repeated by its seed, not made smaller: the failure itself shows what is small."""
    how = {"deadline": None, "database": None, "phases": [Phase.explicit, Phase.generate]}
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

    def decorate(test):
        return settings(max_examples=examples, suppress_health_check=checks, **how)(
            given(seed=st.integers(0, 2**32 - 1))(test)
        )

    return decorate


def arrivals(chance, keys, count, make=random_events):
    """Batches in which the streams of many keys arrive: in any order, cut anywhere, some events again."""
    found = [[] for _ in range(count)]
    rows = [row for n in range(keys) for row in make(chance, f"k{n}")]
    for number, row in enumerate(rows):
        first = chance.randrange(count)
        found[first].append({"id": number, **row})
        if chance.random() < 0.1:
            found[chance.randrange(first, count)].append({"id": number, **row})
    for batch in found:
        chance.shuffle(batch)
    return found


def lake(directory, engine, *tables, columns=STREAM):
    """A lake of its own for an example, also where one is tried again."""
    return HistoryLab(tempfile.mkdtemp(dir=directory), *tables, engine=engine, columns=columns)


def columns_of(model: Declaration):
    """The columns of a table with this declaration."""
    flag = (model.soft,) if model.soft else ()
    return (*model.columns, *flag, *((model.start, model.end) if model.scd == 2 else ()))


def check(it, name, model, fed):
    """Target, quarantine and log of a table hold what the model says; every event has one fate."""
    events = [row for batch in fed for row in batch]
    told = answer(model, events)
    columns = columns_of(model)
    rows = it.found(f"silver.{name}", *columns)
    same(name, model, fed, rows, expected(told.rows, *columns))
    check_invariants(model, [dict(zip(columns, row, strict=True)) for row in rows])
    ids = [row["id"] for row in events]
    broken = Counter(it.found(f"silver.{name}_quarantine", "id", "_reasons"))
    wanted = Counter((ids[n], why) for n, why in told.reasons.items())
    assert broken == wanted, (
        name,
        shortest(fed, keys_of(events, {i for i, _ in (broken - wanted) + (wanted - broken)})),
    )
    log = it.found(f"silver.{name}__changes", "id", "_filtered")
    assert Counter(log) == Counter((ids[n], fate == FILTERED) for n, fate in told.fates.items())
    fates = Counter(told.fates.values())
    assert fates[QUARANTINED] == broken.total()
    assert fates.total() == len(log) == len(events)


def same(name, model, fed, rows, wanted):
    """Raise AssertionError with the shortest stream of a key whose rows differ."""
    if rows == wanted:
        return
    at = columns_of(model).index("k")
    found, meant = by_key(rows, at), by_key(wanted, at)
    wrong = {key for key in found.keys() | meant.keys() if found.get(key, []) != meant.get(key, [])}
    key, stream = shortest(fed, wrong)
    raise AssertionError(
        f"{len(wrong)} keys of {name} differ; {key} got {found.get(key, [])}, not {meant.get(key, [])}, from {stream}"
    )


def by_key(rows, at):
    """Rows by the column that stands there."""
    found = defaultdict(list)
    for row in rows:
        found[row[at]].append(row)
    return found


def keys_of(events, ids):
    """The keys of events."""
    return {row["k"] for row in events if row["id"] in ids}


def shortest(fed, keys):
    """The key with the shortest stream, and that stream batch by batch."""
    streams_of = {
        key: [
            [
                {name: value for name, value in row.items() if name not in ("k", "id")}
                for row in batch
                if row["k"] == key
            ]
            for batch in fed
        ]
        for key in keys
    }
    return min(streams_of.items(), key=lambda item: sum(map(len, item[1])), default=(None, []))


def run(it, fed):
    """Feed and refresh batch by batch."""
    for rows in fed:
        it.batch(*rows)


def every_way(directory, engine, seed, names, keys, count):
    """Random streams under some of `TABLES`: run, rebuilt, and told apart from each other."""
    chance = random.Random(seed)
    it = lake(directory, engine, *entities(*names))
    fed = arrivals(chance, keys, chance.randint(2, count))
    run(it, fed)
    for name in names:
        check(it, name, TABLES[name][1], fed)
    assert it.found("silver.one", *shown("one")) == sorted(
        [row[:3] for row in it.found("silver.all", *shown("all")) if row[-1] is None], key=repr
    )
    for name in names:
        it.run(f"silver.{name}", rebuild=True)
        check(it, name, TABLES[name][1], fed)


@pytest.fixture(scope="module")
def embedded():
    """The engine in this process."""
    return EmbeddedEngine(Storage())


def test_some_streams(tmp_path, embedded, seed):
    """Spec changes 5.2: any order, batching and replay gives the model's target; a rebuild gives it again."""
    every_way(tmp_path, embedded, seed, SOME, 150, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@streams(6)
def test_thousands_of_streams(tmp_path, embedded, seed):
    """Spec changes 5.2: the same of many streams under every declaration; type 1 equals what is open in type 2."""
    every_way(tmp_path, embedded, seed, tuple(TABLES), 400, 5)


@pytest.mark.timeout(1200)
def test_streams_on_spark(tmp_path, spark, seed):
    """Spec changes 5.2: hundreds of streams on the other engine."""
    every_way(tmp_path, spark, seed, ("all", "nulls_pinned", "one", "nulls_one", "soft"), 300, 3)


@pytest.mark.timeout(1200)
def test_engines_in_turn(tmp_path, spark, embedded, seed):
    """Embedded equals Spark: one goes on where the other stopped."""
    chance = random.Random(seed)
    it = lake(tmp_path, spark, *entities(*SOME))
    fed = arrivals(chance, 300, 4)
    for n, rows in enumerate(fed):
        it.makes = (spark, embedded)[n % 2]
        it.batch(*rows)
    for name in SOME:
        check(it, name, TABLES[name][1], fed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@streams(8)
def test_batches_do_not_matter(tmp_path, embedded, seed):
    """Q11: one batch of all events, and each event in one of many batches: the same rows."""
    chance = random.Random(seed)
    fed = arrivals(chance, 60, 8)
    whole = [[row for batch in fed for row in batch]]
    many, one = (lake(tmp_path, embedded, *entities(*SOME)) for _ in range(2))
    run(many, fed)
    run(one, whole)
    for name in SOME:
        assert many.found(f"silver.{name}") == one.found(f"silver.{name}")
        columns = ("id", "_reasons")
        assert many.found(f"silver.{name}_quarantine", *columns) == one.found(f"silver.{name}_quarantine", *columns)


@pytest.mark.slow
def test_truncates_in_some_streams(tmp_path, embedded, seed):
    """Truncates among the events of many keys, at any moment, in any batch."""
    truncated(tmp_path, seed, embedded, 100)


@pytest.mark.slow
@pytest.mark.timeout(600)
@streams(8)
def test_truncates_in_many_streams(tmp_path, embedded, seed):
    """The same more often."""
    truncated(tmp_path, seed, embedded, 200)


def truncated(directory, seed, engine, keys):
    """Random streams with truncates, under every type of table."""
    chance = random.Random(seed)
    it = lake(directory, engine, *(history(name, **fields) for name, (fields, _) in TRUNCATED.items()))
    fed = arrivals(chance, keys, chance.randint(1, 4))
    for n in range(chance.randint(1, 3)):
        ts = None if n == 2 else chance.randrange(8)
        rows = of(None if chance.random() < 0.7 else "k0", up(ts, chance.choice("xy"), op="t"))
        chance.choice(fed).append({"id": 10**6 + n, **rows[0]})
    run(it, fed)
    for _ in range(2):
        for name, (_, model) in TRUNCATED.items():
            check(it, name, model, fed)
        for name in TRUNCATED:
            it.run(f"silver.{name}", rebuild=True)


def numbered(chance, key):
    """Events with a sequence of two columns, either of which may be NULL."""
    rows = random_events(chance, key)
    return [row | {"ts": chance.choice((0, 1, 2, None)), "n": chance.choice((0, 1, 2, None))} for row in rows]


@pytest.mark.slow
def test_sequences_of_two_columns(tmp_path, embedded, seed):
    """Spec changes 5.2, 5.5: `struct(ts, n)`, NULL first in each."""
    structs(tmp_path, seed, embedded, 150)


@pytest.mark.timeout(1200)
def test_sequences_of_two_columns_on_spark(tmp_path, spark, seed):
    """The same on the other engine."""
    structs(tmp_path, seed, spark, 200)


def structs(directory, seed, engine, keys):
    """Random streams in the order of two columns."""
    chance = random.Random(seed)
    columns = "id BIGINT, k STRING, ts BIGINT, n INT, op STRING, a STRING, b BIGINT"
    tables = (history(name, **fields) for name, (fields, _) in STRUCTS.items())
    it = lake(directory, engine, *tables, columns=columns)
    fed = arrivals(chance, keys, chance.randint(1, 3), numbered)
    run(it, fed)
    for name, (_, model) in STRUCTS.items():
        check(it, name, model, fed)


@pytest.mark.slow
def test_two_feeds(tmp_path, embedded, seed):
    """Events that come through two feeds, some through both: one history."""
    chance = random.Random(seed)
    first = landed("one", "bronze.one"), landed("two", "bronze.two")
    flows = [
        history(name, **TABLES[name][0], feed=feed, source=f"bronze.{feed}") | {"entity_id": f"{name}-{feed}"}
        for name in ("all", "one")
        for feed in ("one", "two")
    ]
    it = lake(tmp_path, embedded, *first, *flows)
    fed = arrivals(chance, 100, 3)
    seen = []
    for rows in fed:
        cut = [chance.choice((1, 2, 3)) for _ in rows]
        for bit, source in ((1, "one"), (2, "two")):
            part = [row for row, where in zip(rows, cut, strict=True) if where & bit]
            it.feed(source, part)
            seen.append(part)
        it.run()
    for name in ("all", "one"):
        check(it, name, TABLES[name][1], seen)
        it.run(f"silver.{name}", rebuild=True)
        check(it, name, TABLES[name][1], seen)
