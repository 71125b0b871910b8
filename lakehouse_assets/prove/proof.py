"""A proof: what a run writes round by round, killed at every point or a sample of them, run again, and compared.

The rounds of a clean run come first; they say which writes there are, and leave a lake each. A trial takes a copy of
the lake before a round, runs the round until it is killed, runs it again, and compares whole tables with those of the
clean lake after the round. What was not killed by SIGKILL counts as not reached.
What belongs here: rounds, points, trials. What does not: processes, sources, rows.
"""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import LakeError, SettingsError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.prove.child import revealed
from lakehouse_assets.prove.compare import difference
from lakehouse_assets.prove.nursery import Nursery, kill_group
from lakehouse_assets.prove.points import Kill, owner
from lakehouse_assets.prove.scratch import Scratch
from lakehouse_assets.settings import Settings

MOST = 1_000
"""Rows or files of one batch of a source, unless another number is asked for."""
State = Literal["equal", "different", "not reached"]
Loss = Literal["request lost", "request cut", "answer lost"]
LOSSES: tuple[Loss, ...] = ("request lost", "request cut", "answer lost")


@dataclass(frozen=True)
class Round:
    """One run of all tables.

    Attributes:
        shown: how many batches of each source are shown.
        rebuild: all tables start over.
        maintain: all tables, and the plans, are compacted, vacuumed and checkpointed first.
    """

    name: str
    shown: int
    rebuild: bool = False
    maintain: bool = False


ROUNDS = (
    Round("first", 1),
    Round("more", 2),
    Round("maintain", 3, maintain=True),
    Round("rebuild", 3, rebuild=True),
)
"""Tables are made, go on, are maintained and go on, and start over with all batches."""


class Wire(Protocol):
    """The way to an object store, if it can be watched and cut."""

    url: str

    def writes(self) -> list[tuple[str, str]]:
        """Method and path of the requests so far that change what is stored."""

    def cut(self, method: str, number: int, loss: Loss, then: Callable[[], object]) -> None:
        """Lose the n-th request of a method from now on (1: the next), or its answer, and call `then`."""

    def mend(self) -> None:
        """Lose nothing any more."""


@dataclass(frozen=True)
class Point:
    """A place at which a run is killed: a moment of a write, or a request to the object store."""

    round: Round
    table: str
    step: str
    write: int
    moment: str
    delay: float = 0.0

    @property
    def is_request(self) -> bool:
        """Whether it is a request."""
        return self.moment in LOSSES


@dataclass(frozen=True)
class Trial:
    """What came of a kill."""

    point: Point
    engine: str
    killed: bool
    state: State
    difference: str | None
    seconds: float

    def row(self) -> dict[str, Any]:
        """This trial as a row."""
        point = self.point
        return {
            "round": point.round.name,
            "table": point.table,
            "step": point.step,
            "write": point.write,
            "killed": point.moment if self.killed else None,
            "engine": self.engine,
            "state": self.state,
            "seconds": round(self.seconds, 2),
            "difference": self.difference,
        }


@dataclass(frozen=True)
class Proof:
    """What is to be proved, and where.

    Attributes:
        settings: engine, memory, storage options; its root is not touched.
        tables: those whose points are tried; what they are made from is run as well.
        root: where scratch lakes stand; a place that is this proof's alone.
        desk: a local directory for what children report.
        most: rows or files of one batch of a source.
        wire: the way to the object store, for kills at requests.
        engine_class: `module:class` of an engine in the place of the one that the settings name.
        open_source: `module:function` that opens a source.
    """

    settings: Settings
    catalog: Catalog
    environ: Mapping[str, str]
    tables: Sequence[TableName]
    root: str
    desk: Path
    seed: int
    most: int = MOST
    wire: Wire | None = None
    engine_class: str | None = None
    open_source: str = "lakehouse_assets.sources.base:open_source"
    rounds: Sequence[Round] = ROUNDS
    clock: datetime = datetime(2025, 1, 1, tzinfo=UTC)

    @property
    def all_tables(self) -> list[TableName]:
        """The tables and all that they are made from, upstream tables first."""
        needed = {name for table in self.tables for name in self.catalog.select(f"+{table}")}
        return [table for table in self.catalog.order() if table in needed]


class Prover:
    """Does a proof, with a nursery for its children."""

    def __init__(self, proof: Proof, nursery: Nursery) -> None:
        self.proof = proof
        self._nursery = nursery
        self._scratch = Scratch(proof.root, Storage.of(proof.settings, proof.environ))
        self._answers: dict[str, dict[str, Any]] = {}
        self._before: dict[str, str] = {}
        self._batch: dict[str, int] = {}

    def points(self, started: Callable[[Round], None] = lambda _: None) -> list[Point]:
        """Run every round without a kill, and list the points that it has.

        Raises:
            LakeError: such a run failed.
        """
        sources = self._do("measure", "sources", does="measure", rounds=max(r.shown for r in self.proof.rounds))
        self._batch = sources["batch"]
        chance, found, last = random.Random(self.proof.seed), list[Point](), "nothing"
        for round_ in self.proof.rounds:
            started(round_)
            name = f"clean-{round_.name}"
            self._before[round_.name] = last
            self._scratch.copy(last, name)
            asked = len(self.proof.wire.writes()) if self.proof.wire else 0
            self._answers[round_.name] = self._do(name, name, **how(round_))
            found += self._writes(round_, name, chance)
            found += self._requests(round_, asked, name)
            last = name
        return found

    def trial(self, point: Point) -> Trial:
        """Kill a run at a point, run again, and compare."""
        self._scratch.copy(self._before[point.round.name], "trial")
        try:
            return self._tried(point)
        finally:
            self._scratch.remove("trial")

    def close(self) -> None:
        """Remove the scratch lakes."""
        self._scratch.remove()

    def _tried(self, point: Point) -> Trial:
        wire, engine = self.proof.wire, self.proof.settings.engine
        kill = None if point.is_request else asdict(Kill(point.write, point.moment, point.delay))  # type: ignore[arg-type]
        job = self.job("trial", "killed", **how(point.round), kill=kill)

        def arm(pid: int) -> None:
            if wire is not None and point.is_request:
                wire.cut(point.step.split()[0], point.write, point.moment, lambda: kill_group(pid))  # type: ignore[arg-type]

        end = self._nursery.run(job, arm)
        if wire is not None:
            wire.mend()
        if not end.killed:
            return Trial(point, engine, False, "not reached", self._why(end.code), end.seconds)
        again = self.job("trial", "again", **how(replace(point.round, rebuild=False)))
        after = self._nursery.run(again)
        found = self.answer("again") or {"error": f"the process ended with code {after.code}"}
        differs = difference(self._answers[point.round.name], found)
        seconds = end.seconds + after.seconds
        return Trial(point, engine, True, "different" if differs else "equal", differs, seconds)

    def _why(self, code: int) -> str:
        return str((self.answer("killed") or {}).get("error", f"the process ended by itself with code {code}"))

    def _writes(self, round_: Round, name: str, chance: random.Random) -> Iterator[Point]:
        """The moments of every write of a clean round, one inside it by chance."""
        tables = {str(table): table for table in self.proof.tables}
        lines = [json.loads(line) for line in self._trail(name).read_text().splitlines()]
        seconds = {line["write"]: line["seconds"] for line in lines if "seconds" in line}
        for line in (line for line in lines if "step" in line):
            fraction = chance.uniform(0.02, 0.98)  # drawn for all, so that a selection moves no other point
            if owner(line["table"], tables) is None and line["table"] != "control.batches":
                continue
            point = Point(round_, line["table"], line["step"], line["write"], "before")
            yield point
            yield replace(point, moment="inside", delay=round(fraction * seconds[line["write"]], 6))
            yield replace(point, moment="after")

    def _requests(self, round_: Round, asked: int, name: str) -> Iterator[Point]:
        """Every request of a clean round that changed the object store, lost in each way."""
        if self.proof.wire is None:
            return
        tables = {str(table): table for table in self.proof.tables}
        count: Counter[str] = Counter()
        for method, path in self.proof.wire.writes()[asked:]:
            count[method] += 1
            parts = path.partition(f"/{name}/")[2].split("/")
            table = ".".join(parts[:2])
            if owner(table, tables) is not None or table == "control.batches":
                what = f"{method} {'log' if '_delta_log' in parts else 'data'}"
                for loss in LOSSES:
                    yield Point(round_, table, what, count[method], loss)

    def _do(self, lake: str, report: str, **given: Any) -> dict[str, Any]:
        """A job that nobody kills."""
        end = self._nursery.run(self.job(lake, report, **given))
        answer = self.answer(report)
        if answer is None or "error" in answer:
            why = answer["error"] if answer else f"the process ended with signal {end.signal}, code {end.code}"
            raise LakeError(
                f"the run that nobody kills failed ({lake}): {why}",
                fix="mend that, or prove the other tables: lakehouse prove SELECTION",
            )
        return answer

    def job(self, lake: str, report: str, **given: Any) -> dict[str, Any]:
        """What a child is told: the proof, the lake it works on, and under which name it reports."""
        proof = self.proof
        settings = revealed(proof.settings) | {"root": self._scratch.lake(lake)}
        settings |= {"temp_directory": str(proof.desk / "spill")}
        if proof.wire is not None:
            settings["storage_options"] |= {"AWS_ENDPOINT_URL": proof.wire.url, "AWS_ALLOW_HTTP": "true"}
        self._path(report).unlink(missing_ok=True)
        return {
            "does": "run",
            "settings": settings,
            "environ": dict(proof.environ),
            "catalog": proof.catalog.snapshot(),
            "tables": [str(table) for table in proof.all_tables],
            "engine_class": proof.engine_class,
            "open_source": proof.open_source,
            "clock": proof.clock.isoformat(),
            "most": proof.most,
            "batch": self._batch,
            "kill": None,
            "trail": str(self._trail(report)),
            "answer": str(self._path(report)),
            **given,
        }

    def _trail(self, report: str) -> Path:
        return self.proof.desk / f"{report}.trail"

    def _path(self, report: str) -> Path:
        return self.proof.desk / f"{report}.answer"

    def answer(self, report: str) -> dict[str, Any] | None:
        """What a child reported; `None` if it was killed before."""
        path = self._path(report)
        found: dict[str, Any] | None = pickle.loads(path.read_bytes()) if path.exists() else None
        return found


def how(round_: Round) -> dict[str, Any]:
    """A round as a job tells it."""
    return {"shown": round_.shown, "rebuild": round_.rebuild, "maintain": round_.maintain}


def sample(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """So many of the points by chance, in their order: the same seed gives the same ones.

    Raises:
        SettingsError: there is nothing to sample.
    """
    if count < 1:
        raise SettingsError("a sample has at least one point", value=count, fix="give --samples N, or --all")
    chosen = set(random.Random(seed).sample(range(len(points)), min(count, len(points))))
    return [point for index, point in enumerate(points) if index in chosen]
