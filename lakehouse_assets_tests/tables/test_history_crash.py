"""Kills of a run with tables with history: SIGKILL before and after every write, and inside some; then whole tables.

The processes and their points of death are those of the proof (`lakehouse_assets.prove`). What it does not compare,
the log, is compared here: after a kill and another run, every table is that of a run that was never killed.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Number
from lakehouse_assets.prove.nursery import Nursery
from lakehouse_assets.prove.proof import ROUNDS, Point, Proof, Prover, how, sample
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.prove import broken
from lakehouse_assets_tests.prove import lab as house
from lakehouse_assets_tests.prove.conftest import seed as seed  # a fixture
from lakehouse_assets_tests.tables.history_lab import history, landed
from lakehouse_assets_tests.tables.history_model import Declaration, answer, plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LANDED = landed("DIR/events.db", columns="id BIGINT, k STRING, ts BIGINT, op STRING, a STRING, b BIGINT")
RULES = {"expect_all": {"small": "b < 90"}}
CATALOG = json.dumps(
    {
        "delta_live_store": [
            LANDED,
            history("t", rules=RULES, quarantined=True, track_history_column_list=["a"]),
            history("one", stored_as_scd_type=1, ignore_null_updates=True),
        ]
    }
)
MODELS = {
    "t": Declaration(
        ("k", "a", "b"),
        tracked=("a",),
        operation=lambda row: "delete" if row["op"] == "d" else "upsert",
        broken=lambda row: () if row["b"] is not None and row["b"] < 90 else ("small",),
    ),
    "one": Declaration(
        ("k", "a", "b"),
        scd=1,
        inherits=frozenset("ab"),
        operation=lambda row: "delete" if row["op"] == "d" else "upsert",
    ),
}
UPKEEP = ("compact", "vacuum", "checkpoint")
"""Writes of maintenance, which change no row and which the proof tries by itself."""
TABLES = [f"silver.{name}{side}" for name in MODELS for side in ("", "_quarantine", "__changes")]


def events(count=45):
    """Events of four keys, late and early, with ties, deletes, NULLs and broken ones."""
    chance = random.Random(7)
    return [
        {
            "k": None if n % 17 == 5 else "abcd"[n % 4],
            "ts": chance.randrange(12),
            "op": "d" if n % 9 == 8 else None,
            "a": chance.choice(("x", "y", None)),
            "b": chance.choice((1, 2, 95 if n % 3 else 3)),
        }
        for n in range(count)
    ]


def furnish(directory):
    """The database that is read."""
    with closing(sqlite3.connect(directory / "events.db")) as connection, connection:
        columns = "id INTEGER PRIMARY KEY AUTOINCREMENT, k TEXT, ts INTEGER, op TEXT, a TEXT, b INTEGER"
        connection.execute(f"CREATE TABLE events ({columns})")
        rows = [tuple(row.values()) for row in events()]
        connection.executemany("INSERT INTO events (k, ts, op, a, b) VALUES (?, ?, ?, ?, ?)", rows)


class House:
    """A proof over a catalog with history, and the lakes that it leaves."""

    def __init__(self, directory, prover, nursery):
        self.prover, self.nursery, self.lakes = prover, nursery, directory / "lakes"
        self.desk, self.engine = prover.proof.desk, EmbeddedEngine(Storage())
        self.known = prover.points()
        self.clean = {round_.name: self.rows(f"clean-{round_.name}", round_) for round_ in prover.proof.rounds}

    def points(self, round_):
        """Before every plan and every write of a table with history in a clean round, and after the last one."""
        lines = [json.loads(line) for line in (self.desk / f"clean-{round_.name}.trail").read_text().splitlines()]
        writes = [line for line in lines if "step" in line and (line["step"] == "plan" or line["table"] in TABLES)]
        writes = [line for line in writes if line["step"] not in UPKEEP]
        took = {line["write"]: line["seconds"] for line in lines if "seconds" in line}
        found = [Point(round_, w["table"], w["step"], w["write"], "before") for w in writes]
        return [*found, replace(found[-1], moment="after")], took

    def killed(self, point, lake="own"):
        """Run a round until it is killed at a point; whether it was."""
        kill = {"write": point.write, "moment": point.moment, "delay": point.delay}
        return self.nursery.run(self.prover.job(lake, "killed", **how(point.round), kill=kill)).killed

    def again(self, round_, lake="own"):
        """Run a round to its end; a second run, which it makes, finds nothing new."""
        self.nursery.run(self.prover.job(lake, "again", **how(replace(round_, rebuild=False))))
        told = self.prover.answer("again")
        assert told is not None, "the process ended without an answer"
        assert "error" not in told, told["error"]
        assert told["moved"] == []

    def fresh(self, round_, lake="own"):
        """The lake as it was before a round."""
        shutil.rmtree(self.lakes / lake, ignore_errors=True)
        index = ROUNDS.index(round_)
        if index:
            shutil.copytree(self.lakes / f"clean-{ROUNDS[index - 1].name}", self.lakes / lake)

    def rows(self, lake, round_):
        """Every table of a lake, whole, as a multiset; numbers of batches apart.

        A rebuild of the upstream that a kill prevented is not made up for: then its events are not logged once more,
        so after a rebuild the log and the quarantine are compared as sets of events.
        """
        found = {}
        for table in TABLES:
            handle = self.engine.find(str(self.lakes / lake / table.replace(".", "/")))
            if handle is None:
                continue
            again = round_.rebuild and table not in ("silver.t", "silver.one")
            ignored = ("_batch", "_event", "_origin") if again else ("_batch",)
            rows = [
                repr({c: v for c, v in row.items() if c not in ignored})
                for row in self.engine.rows(self.engine.read(handle))
            ]
            found[table] = Counter(set(rows) if again else rows)
        return found

    def differ(self, round_, lake="own"):
        """Which tables are not those of the clean lake after a round, and in what."""
        found, clean = self.rows(lake, round_), self.clean[round_.name]
        return {
            table: (list((clean[table] - found[table]).elements())[:2], list((found[table] - clean[table]).elements())[:2])
            if table in clean and table in found
            else "there" if table in found else "missing"
            for table in clean.keys() | found.keys()
            if clean.get(table) != found.get(table)
        }  # fmt: skip


@contextmanager
def proving(directory, **more):
    """A house with a nursery; each round has run in it without a kill."""
    furnish(directory)
    parsed, desk = house.catalog_of(directory, CATALOG), directory / "desk"
    desk.mkdir()
    place = str(directory / "lakes")
    with Nursery(house.ENGINE, {}) as nursery:
        proof = Proof(Settings(root=place), parsed, {}, tuple(parsed.order()), place, desk, 1, **more)
        yield House(directory, Prover(proof, nursery), nursery)


@pytest.fixture(scope="module")
def it(tmp_path_factory):
    """One house for all kills."""
    with proving(tmp_path_factory.mktemp("house")) as found:
        yield found


class Torn(EmbeddedEngine):
    """Appends to a log in two commits, the rows first and their number later: a kill between doubles the rows."""

    def append(self, handle, relation, number):
        """The rows under a number that nobody looks for, then none under the right one."""
        if not handle.uri.endswith("__changes"):
            return super().append(handle, relation, number)
        super().append(handle, relation, Number("nobody", handle.number("nobody") + 1))
        time.sleep(broken.SECONDS)
        none = self.query("SELECT * FROM rows LIMIT 0", {"rows": relation})
        return super().append(self.find(handle.uri), none, number)


def test_an_engine_that_doubles_facts_is_found(tmp_path):
    """What compares the tables does find a difference where there is one."""
    with proving(tmp_path, engine_class=f"{__name__}:Torn", rounds=ROUNDS[:1]) as it:
        points, took = it.points(ROUNDS[0])
        torn = next(point for point in points if (point.table, point.step) == ("silver.t__changes", "append"))
        it.fresh(ROUNDS[0])
        assert it.killed(replace(torn, moment="inside", delay=took[torn.write] - broken.SECONDS / 2))
        it.again(ROUNDS[0])
        assert "silver.t__changes" in it.differ(ROUNDS[0])


def test_the_clean_run_is_what_the_model_says(it):
    """What kills are compared with is right itself, after each round."""
    batch = len(events()) // 3
    for shown, name in ((1, "first"), (2, "more"), (3, "maintain"), (3, "rebuild")):
        for table, model in MODELS.items():
            told = answer(model, events()[: shown * batch])
            rows = it.engine.rows(it.engine.read(it.engine.find(str(it.lakes / f"clean-{name}/silver/{table}"))))
            assert Counter(map(plain, rows)) == Counter(map(plain, told.rows))
            if name != "rebuild":
                assert it.clean[name][f"silver.{table}_quarantine"].total() == len(told.reasons)


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: round_.name)
def test_a_kill_between_any_two_writes(it, round_):
    """§7.1: killed between any two of plan, log, quarantine and target: another run, with nothing new, mends it."""
    points, _ = it.points(round_)
    wanted = {f"silver.{name}{side}" for name in MODELS for side in ("", "_quarantine", "__changes")}
    written = {point.table for point in points} | ({*wanted} if round_.rebuild else set())
    assert written >= wanted, "a table was not written: the round proves nothing"
    for point in points:
        it.fresh(round_)
        assert it.killed(point), point
        it.again(round_)
        assert it.differ(round_) == {}, point


def test_a_kill_inside_a_write(it, seed):
    """§7.1: killed while something is written."""
    chance = random.Random(seed)
    for round_ in ROUNDS:
        points, took = it.points(round_)
        for point in sample(points[:-1], 4, seed):
            it.fresh(round_)
            inside = replace(point, moment="inside", delay=took[point.write] * chance.uniform(0.02, 0.98))
            assert it.killed(inside), inside
            it.again(round_)
            assert it.differ(round_) == {}, inside


def test_killed_again_and_again(it, seed):
    """Killed, and the run that mends it killed as well, round after round: every round ends as if nothing had happened."""
    chance = random.Random(seed)
    it.fresh(ROUNDS[0])
    for round_ in ROUNDS:
        points, _ = it.points(round_)
        it.killed(chance.choice(points))
        for _ in range(2):
            it.killed(replace(chance.choice(points), round=replace(round_, rebuild=False)))
        it.again(round_)
        assert it.differ(round_) == {}, round_.name


def test_the_proof_knows_tables_with_history(it, seed):
    """F17: `lakehouse prove` finds the writes of the log, too, and a trial of each ends equal."""
    tables = {point.table for point in it.known}
    assert tables >= {table for table in TABLES if not table.endswith("one_quarantine")}
    trials = [it.prover.trial(point) for point in sample(it.known, 12, seed)]
    assert not house.wrong(trials)
