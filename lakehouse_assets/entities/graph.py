"""How the tables of a catalog hang together: names, upstreams, order, selection, and their faults.

What belongs here: everything that needs several entities. What does not: files and lines (`catalog.py`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_assets.entities import partitions, transforms
from lakehouse_assets.entities.checks import RESERVED_LAYER, Misfit
from lakehouse_assets.entities.faults import Fault, Place
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import CatalogError, LakehouseError

_SAME_FOR_FEEDS = ("kind", "primary_keys", "destination_type", "partition_cols", "expectations", "is_quarantined")
_SAME_FOR_EVENTS = (
    "stored_as_scd_type", "column_list", "except_column_list", "track_history_column_list",
    "track_history_except_column_list", "ignore_null_updates", "ignore_null_updates_column_list",
    "ignore_null_updates_except_column_list",
)  # fmt: skip
"""What `apply_changes` says about the table, not about single events."""
_FED = ("landed", "conformed", "history")


class Graph:
    """The tables of some entities and the edges between them; wrong names raise when they are asked for."""

    def __init__(self, entities: Iterable[Entity], queries: Mapping[str, str]) -> None:
        self.entities = tuple(entities)
        self.queries = queries

    @cached_property
    def destinations(self) -> dict[TableName, tuple[Entity, ...]]:
        """The tables that enabled entities make."""
        found: dict[TableName, list[Entity]] = {}
        for entity in self.entities:
            if entity.is_enabled:
                found.setdefault(entity.table, []).append(entity)
        return {table: tuple(feeds) for table, feeds in found.items()}

    @cached_property
    def names(self) -> dict[str, set[TableName]]:
        """Every way to name a table, in lower case, and the tables that it may mean."""
        found: dict[str, set[TableName]] = {}
        for table, feeds in self.destinations.items():
            sides = [("", table)]
            if feeds[0].kind != "view":
                sides.append(("_quarantine", table.quarantine))
            if feeds[0].kind == "history":
                sides.append(("__changes", table.changes))
            for suffix, side in sides:
                found.setdefault(str(side).lower(), set()).add(side)
                for feed in feeds:
                    found.setdefault(f"{feed.destination}{suffix}".lower(), set()).add(side)
        return found

    def resolve(self, name: str) -> TableName:
        """The table of that name; see `Catalog.resolve`."""
        parts = name.lower().split(".")
        found = self.names.get(name.lower()) or self.names.get(".".join(parts[-2:]) if len(parts) == 3 else "") or set()
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise CatalogError(
                "the name may mean several tables", value=name, choices=map(str, sorted(found)), fix="write layer.table"
            )
        raise CatalogError("no entity makes this table", value=name, choices=self._choices(name))

    def _choices(self, name: str) -> list[str]:
        full = sorted(map(str, self.destinations))
        written = sorted({feed.destination for feeds in self.destinations.values() for feed in feeds})
        return full if "." in name else sorted(set(full + written))

    def base(self, table: TableName) -> TableName:
        """The destination that writes `table`."""
        if table in self.destinations:
            return table
        for suffix in ("_quarantine", "__changes", "__corrections"):
            owner = TableName(table.layer, table.name.removesuffix(suffix) or table.name)
            if table.name.endswith(suffix) and owner in self.destinations:
                return owner
        raise CatalogError("no entity makes this table", value=str(table), choices=self._choices(str(table)))

    def sql(self, entity: Entity) -> str:
        """The Spark SQL of an entity; see `Catalog.sql`."""
        if entity.source_format == "sql":
            return query_text(entity, self.queries)
        if entity.reads_outside or entity.source_format == "asof":
            raise CatalogError(f"{entity.destination} has no SQL: it reads {entity.source_format}")
        from lakehouse_assets.sql.parse import select

        return select(entity.select_expr, entity.source)

    def reads(self, entity: Entity) -> tuple[str, ...]:
        """The names of the tables that an entity reads, as they are written."""
        if entity.reads_outside:
            return ()
        if entity.source_format == "asof":
            return tuple(entity.lakehouse.tables)
        if entity.source_format != "sql":
            return (entity.source,)
        from lakehouse_assets.sql.parse import parse_query, tables

        return tables(parse_query(query_text(entity, self.queries), entity.destination))

    @cached_property
    def upstreams(self) -> dict[TableName, tuple[TableName, ...]]:
        """Destination to the tables that it reads; names that mean nothing are left out."""
        return {
            table: tuple(dict.fromkeys(up for feed in feeds for up in self._resolved(feed)))
            for table, feeds in self.destinations.items()
        }

    def _resolved(self, entity: Entity) -> Iterator[TableName]:
        try:
            names = self.reads(entity)
        except LakehouseError:
            return  # a query that does not parse is reported by `check`
        for name in names:
            try:
                yield self.resolve(name)
            except CatalogError:
                continue  # reported by `check`

    @cached_property
    def cycle(self) -> tuple[TableName, ...]:
        """A path of tables that leads back to its start, or nothing."""
        return self._walk[1]

    @cached_property
    def order(self) -> tuple[TableName, ...]:
        """Every destination, upstream tables first."""
        return self._walk[0]

    @cached_property
    def _walk(self) -> tuple[tuple[TableName, ...], tuple[TableName, ...]]:
        """Depth first without recursion: (order, the first cycle found)."""
        done: dict[TableName, None] = {}
        for start in self.destinations:
            path: dict[TableName, Iterator[TableName]] = {}
            node: TableName | None = None if start in done else start
            while node is not None:
                if node not in path:
                    path[node] = map(self.base, self.upstreams[node])
                following = next((up for up in path[node] if up not in done), None)
                if following in path:
                    trail = list(path)
                    return tuple(done), (*trail[trail.index(following) :], following)
                if following is None:
                    path.pop(node)
                    done[node] = None
                    following = next(reversed(path), None)
                node = following
        return tuple(done), ()

    @cached_property
    def downstreams(self) -> dict[TableName, tuple[TableName, ...]]:
        """Destination to the destinations that read it or one of its side tables."""
        found: dict[TableName, list[TableName]] = {table: [] for table in self.destinations}
        for table, ups in self.upstreams.items():
            for up in dict.fromkeys(map(self.base, ups)):
                found[up].append(table)
        return {table: tuple(downs) for table, downs in found.items()}

    def select(self, selection: str) -> tuple[TableName, ...]:
        """The destinations that a selection names; see `Catalog.select`."""
        chosen: set[TableName] = set()
        for term in selection.replace(",", " ").split():
            core = term.removeprefix("+").removesuffix("+")
            found = self._term(core)
            chosen |= found
            if term.startswith("+"):
                chosen |= self._reach(found, {t: tuple(map(self.base, ups)) for t, ups in self.upstreams.items()})
            if term.endswith("+"):
                chosen |= self._reach(found, self.downstreams)
        if not chosen:
            raise CatalogError("the selection is empty", value=selection, fix="name tables, or '*' for all")
        return tuple(table for table in self.order if table in chosen)

    def _reach(self, start: set[TableName], edges: Mapping[TableName, tuple[TableName, ...]]) -> set[TableName]:
        reached: set[TableName] = set()
        waiting = list(start)
        while waiting:
            for following in edges.get(waiting.pop(), ()):
                if following not in reached:
                    reached.add(following)
                    waiting.append(following)
        return reached

    def _term(self, term: str) -> set[TableName]:
        kind, _, rest = term.partition(":")
        if kind == "group":
            groups = {feed.group for feeds in self.destinations.values() for feed in feeds if feed.group}
            return self._some(term, rest, groups, lambda feed: feed.group == rest)
        if kind == "tag":
            key, equals, value = rest.partition("=")
            tags = {tag for feeds in self.destinations.values() for feed in feeds for tag in feed.tags}
            return self._some(
                term, key, tags, lambda feed: key in feed.tags and (not equals or feed.tags[key] == value)
            )
        if "*" in term or "?" in term:
            found = {table for table in self.destinations if fnmatch.fnmatchcase(str(table).lower(), term.lower())}
            if not found and term != "*":
                raise CatalogError("no table matches", value=term, choices=self._choices(term))
            return found
        return {self.base(self.resolve(term))}

    def _some(self, term: str, value: str, choices: set[str], matches: object) -> set[TableName]:
        found = {table for table, feeds in self.destinations.items() if any(matches(feed) for feed in feeds)}  # type: ignore[operator]
        if not found:
            raise CatalogError(
                f"{term!r} selects no table", value=value, choices=sorted(choices), fix="name one of them"
            )
        return found


def query_text(entity: Entity, queries: Mapping[str, str]) -> str:
    """The text of a query entity: its source, or the file that its source names.

    Raises:
        CatalogError: there is no such file.
    """
    if not entity.source.strip().endswith(".sql"):
        return entity.source
    path = entity.source.strip().removeprefix("./")
    if path not in queries:
        raise CatalogError("there is no such SQL file in the catalog's directory", value=entity.source, choices=queries)
    return queries[path]


@dataclass
class Checked:
    """What a check of placed entities found: faults, and the SQL files that are used."""

    faults: list[Fault] = field(default_factory=list)
    queries: dict[str, str] = field(default_factory=dict)


def check(placed: Sequence[tuple[Place, Entity]], sql: Mapping[str, str], broken: Set[str] = frozenset()) -> Checked:
    """Everything that is wrong with entities together, and with the SQL in each.

    Args:
        placed: the entities, each with its place.
        sql: the SQL files: path to text.
        broken: tables (the last part, in lower case) of records that are no entities: not reported as unknown again.
    """
    checked = Checked()
    graph = Graph((entity for _, entity in placed), checked.queries)
    for place, entity in placed:
        text = None
        if entity.source_format == "sql":
            try:
                text = query_text(entity, sql)
                if entity.source.strip().endswith(".sql"):
                    checked.queries[entity.source.strip().removeprefix("./")] = text
            except CatalogError as error:
                misfit = Misfit(("source",), error.problem, error.value, error.choices, error.fix)
                checked.faults.append(place.fault(entity, misfit))
        checked.faults.extend(place.fault(entity, misfit) for misfit in transforms.misfits(entity, text))
    checked.faults.extend(_duplicates(placed))
    checked.faults.extend(_shared(placed))
    for place, entity in placed:
        if entity.is_enabled:
            checked.faults.extend(place.fault(entity, misfit) for misfit in _upstream_misfits(graph, entity, broken))
    if graph.cycle:
        checked.faults.append(_cycle_fault(placed, graph.cycle))
    return checked


def _duplicates(placed: Sequence[tuple[Place, Entity]]) -> Iterator[Fault]:
    first: dict[str, Place] = {}
    for place, entity in placed:
        known = first.setdefault(entity.entity_id, place)
        if known is not place:
            at = f"{known.file}:{known.line('entity_id')}"
            misfit = Misfit(
                ("entity_id",), f"is given twice (first at {at})", entity.entity_id, fix="give each its own id"
            )
            yield place.fault(entity, misfit)


def _shared(placed: Sequence[tuple[Place, Entity]]) -> Iterator[Fault]:
    """Entities that make one table: legal as named feeds of equal shape."""
    makers: dict[str, list[tuple[Place, Entity]]] = {}
    for place, entity in placed:
        if entity.is_enabled:
            makers.setdefault(str(entity.table).lower(), []).append((place, entity))
    for several in makers.values():
        head_place, head = several[0]
        feeds = {head.feed: head_place}
        for place, entity in several[1:]:
            at = f"{head_place.file}:{head_place.line('destination')}"
            problem = _clash(head, entity, feeds)
            if problem:
                misfit = Misfit(
                    ("destination",), f"{problem} (the other is {head.entity_id!r} at {at})", entity.destination
                )
                yield place.fault(entity, misfit)
            feeds.setdefault(entity.feed, place)


def _clash(head: Entity, entity: Entity, feeds: Mapping[str, Place]) -> str | None:
    if entity.table != head.table:
        return f"differs from {head.table} in upper and lower case only"
    if entity.kind not in _FED or head.kind not in _FED:
        return "two entities make this table, and only landed, conformed and history tables may have several feeds"
    if entity.feed in feeds:
        return (
            f"two entities make this table with the feed name {entity.feed!r}: give each a name of its own "
            "(lakehouse: {feed: NAME}, or apply_changes.flow_name)"
        )
    differing = [name for name in _SAME_FOR_FEEDS if getattr(entity, name) != getattr(head, name)]
    differing += [
        f"apply_changes.{name}" for name in _SAME_FOR_EVENTS if _changes(entity, name) != _changes(head, name)
    ]
    differing += ["lakehouse.history"] if entity.lakehouse.history != head.lakehouse.history else []
    if differing:
        return (
            f"two entities make this table and differ in {', '.join(differing)}: feeds of one table must be equal there"
        )
    return None


def _changes(entity: Entity, name: str) -> object:
    return getattr(entity.apply_changes, name, None)


def _upstream_misfits(graph: Graph, entity: Entity, broken: Set[str]) -> Iterator[Misfit]:
    where = ("lakehouse", "tables") if entity.source_format == "asof" else ("source",)
    if entity.reads_outside and entity.source.lower() in graph.names and not entity.lakehouse.landed_by:
        fix = "write source_format: dlt to read that table, or ./NAME for a path"
        yield Misfit(
            where, f"names a table of the catalog, and {entity.source_format} reads outside", entity.source, fix=fix
        )
    try:
        names = graph.reads(entity)
    except LakehouseError:
        return  # a missing file or bad SQL is reported already
    for name in names:
        try:
            upstream = graph.resolve(name)
        except CatalogError as error:
            if name.split(".")[-1].lower() not in broken:
                yield _unknown(graph, where, name, error)
            continue
        feeds = len(graph.destinations.get(entity.table, ()))
        yield from partitions.misfits(entity, where, name, graph.destinations.get(upstream, ()), feeds)


def _unknown(graph: Graph, where: tuple[str | int, ...], name: str, error: CatalogError) -> Misfit:
    disabled = Graph((e.model_copy(update={"is_enabled": True}) for e in graph.entities if not e.is_enabled), {})
    if name.lower() in disabled.names:
        return Misfit(
            where, f"the upstream table {name!r} is disabled", fix="enable it (is_enabled: true), or disable this one"
        )
    if name.lower().startswith(f"{RESERVED_LAYER}."):
        return Misfit(where, f"{name!r} is the project's own table, not an upstream", fix="read it with: lakehouse sql")
    return Misfit(where, f"upstream table {name!r}: {error.problem}", name, error.choices, error.fix)


def _cycle_fault(placed: Sequence[tuple[Place, Entity]], cycle: tuple[TableName, ...]) -> Fault:
    place, entity = next((place, entity) for place, entity in placed if entity.is_enabled and entity.table == cycle[0])
    path = " -> ".join(map(str, cycle))
    misfit = Misfit(("source",), f"the tables read each other in a circle: {path}", fix="break the circle")
    return place.fault(entity, misfit)
