"""The catalog: every entity of a directory of YAML files, checked together.

What belongs here: reading the files, collecting every fault, and questions about the whole (upstreams, order,
selection). What does not: rules of one entity (`checks.py`, `transforms.py`), running anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lakehouse_assets.entities import graph, yaml_lines
from lakehouse_assets.entities.checks import Misfit
from lakehouse_assets.entities.faults import Fault, Place, from_validation, refuse
from lakehouse_assets.entities.model import GENERATED, PROVIDED, Entity, TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets.secrets import is_sensitive

TOP_KEY = "delta_live_store"
"""The one key at the top of a catalog file: a list of entities."""
_SUFFIXES = (".yaml", ".yml")
_IDENTITY = frozenset({"entity_id", "source", "destination", "source_format", "destination_type", "is_enabled"})
"""Fields without which it is not known which table was meant."""


@dataclass(frozen=True)
class Catalog:
    """The checked entities of a directory.

    Attributes:
        entities: all of them, in the order of the files; disabled ones are kept with `is_enabled` False.
        files: the YAML files as they were read: name to text.
        queries: the SQL files that entities use: path relative to the YAML files to text.
        variables: the environment variables that were used, with their values.
    """

    entities: tuple[Entity, ...]
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    queries: Mapping[str, str] = field(default_factory=dict, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    _graph: graph.Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_graph", graph.Graph(self.entities, self.queries))

    @property
    def destinations(self) -> Mapping[TableName, tuple[Entity, ...]]:
        """The tables that enabled entities make; several entities are feeds of one table."""
        return self._graph.destinations

    def upstreams(self, table: TableName) -> tuple[TableName, ...]:
        """The tables that `table` reads directly; quarantine and change tables stand for themselves."""
        return self._graph.upstreams.get(self.base(table), ())

    def base(self, table: TableName) -> TableName:
        """The destination that writes `table`: itself, or the one whose quarantine or log it is."""
        return self._graph.base(table)

    def sql(self, entity: Entity) -> str:
        """The Spark SQL of an entity: the text of its query, or its select over its source.

        Raises:
            CatalogError: the entity reads the outside world.
        """
        return self._graph.sql(entity)

    def relations(self, entity: Entity) -> dict[str, TableName]:
        """The tables in `sql(entity)`: the name as it is written there, and the table it means."""
        return {name: self._graph.resolve(name) for name in self._graph.reads(entity)}

    def order(self) -> tuple[TableName, ...]:
        """Every destination, upstream tables first; otherwise in the order of the files."""
        return self._graph.order

    def resolve(self, name: str) -> TableName:
        """The table of that name: `layer.table`, a destination as it was written, or one of its side tables.

        Raises:
            CatalogError: there is none; the nearest name is pointed out.
        """
        return self._graph.resolve(name)

    def select(self, selection: str) -> tuple[TableName, ...]:
        """The destinations that a selection names, upstream tables first.

        Args:
            selection: terms with commas or blanks between: `*`, a name, a pattern (`silver.*`), `group:NAME`,
                `tag:KEY`, `tag:KEY=VALUE`; `+term` adds everything upstream, `term+` everything downstream.

        Raises:
            CatalogError: a term selects nothing.
        """
        return self._graph.select(selection)

    def refresh_key(self, entity: Entity) -> tuple[str, ...]:
        """The refresh key of a query entity, if it is proven that a refresh by it equals a full one; else nothing."""
        key = tuple(entity.lakehouse.refresh_key)
        return key if key and self.refresh_fault(entity) is None else ()

    def refresh_fault(self, entity: Entity) -> str | None:
        """Why the refresh key of a query entity does not prove that a refresh by it equals a full one."""
        from lakehouse_assets.sql.refresh import refresh_fault

        return refresh_fault(self.sql(entity), entity.lakehouse.refresh_key)

    def snapshot(self) -> dict[str, Any]:
        """All that the catalog was made from, as JSON-ready data with its SHA-256: `from_snapshot` remakes it."""
        content = {"files": dict(self.files), "queries": dict(self.queries), "variables": dict(self.variables)}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def from_snapshot(snapshot: Mapping[str, Any]) -> Catalog:
    """The catalog that `snapshot` was taken of, whatever stands on this machine.

    Raises:
        CatalogError: the snapshot is damaged.
    """
    catalog = parse_catalog(snapshot["files"], snapshot["queries"], snapshot["variables"])
    if catalog.snapshot()["sha256"] != snapshot["sha256"]:
        raise CatalogError("the snapshot of the catalog is damaged", value=snapshot["sha256"], fix="take it again")
    return catalog


def load_catalog(directory: Path, environ: Mapping[str, str]) -> Catalog:
    """The catalog of every `*.yaml` and `*.yml` in `directory` (not below it).

    Args:
        directory: where the files stand; a `source` that ends in `.sql` is a path relative to it.
        environ: the values of `${VAR}`.

    Raises:
        CatalogError: with every fault at once: `facts["faults"]` holds a `Fault` each.
    """
    return parse_catalog(_read_files(Path(directory)), _SqlFiles(Path(directory)), environ)


def parse_catalog(texts: Mapping[str, str], sql: Mapping[str, str], environ: Mapping[str, str]) -> Catalog:
    """The catalog of the given texts; `load_catalog` without a file system.

    Args:
        texts: YAML files: name to text.
        sql: SQL files: path relative to the YAML files to text.
        environ: the values of `${VAR}`.

    Raises:
        CatalogError: with every fault at once: `facts["faults"]` holds a `Fault` each.
    """
    expansion = yaml_lines.Expansion(environ)
    faults: list[Fault] = []
    placed: list[tuple[Place, Entity]] = []
    broken: set[str] = set()
    for name, text in sorted(texts.items()):
        placed.extend(_entities(name, text, expansion, faults, broken))
    checked = graph.check(placed, sql, broken)
    faults.extend(checked.faults)
    if faults:
        raise refuse(faults)
    return Catalog(tuple(entity for _, entity in placed), dict(texts), checked.queries, dict(expansion.used))


def _read_files(directory: Path) -> dict[str, str]:
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    except FileNotFoundError:
        raise CatalogError(
            "there is no such catalog directory", value=str(directory), fix="give --catalog DIR"
        ) from None
    except NotADirectoryError:
        raise CatalogError(
            "the catalog is a directory of YAML files, and this is a file",
            value=str(directory),
            fix="give its directory",
        ) from None
    except OSError as error:
        raise CatalogError(
            f"the catalog cannot be read: {error.strerror}",
            value=str(error.filename or directory),
            fix="mend its permissions",
        ) from None
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"a catalog file is not UTF-8: {error}", value=str(directory), fix="save it as UTF-8"
        ) from None
    if not texts:
        raise CatalogError(
            "the directory holds no *.yaml or *.yml file", value=str(directory), fix=f"add one with the key {TOP_KEY}"
        )
    return texts


class _SqlFiles(Mapping[str, str]):
    """The `.sql` files below a directory, each read when it is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __getitem__(self, name: str) -> str:
        path = self.directory / name
        if path.suffix != ".sql" or not path.resolve().is_relative_to(self.directory.resolve()):
            raise KeyError(name)
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise KeyError(name) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CatalogError(f"{name} cannot be read: {error}", fix="save it as UTF-8, readable") from None

    def __iter__(self) -> Iterator[str]:
        for pattern in ("*.sql", "*/*.sql"):
            yield from (path.relative_to(self.directory).as_posix() for path in sorted(self.directory.glob(pattern)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _entities(
    name: str, text: str, expansion: yaml_lines.Expansion, faults: list[Fault], broken: set[str]
) -> Iterator[tuple[Place, Entity]]:
    document = yaml_lines.read(text)
    faults.extend(
        Fault(name, t.line, _id_at(document, t.path), t.path[2:], t.problem, fix=t.fix) for t in document.troubles
    )
    if document.data is None and document.troubles:
        return
    for problem, path, value, choices in _shape(document.data):
        faults.append(Fault(name, document.line(path), None, (), problem, value, choices))
    records = document.data.get(TOP_KEY) if isinstance(document.data, dict) else None
    for position, record in enumerate(records if isinstance(records, list) else ()):
        if isinstance(record, dict):
            place = Place(name, document, position)
            entity = _entity(place, record, expansion, faults)
            if entity is not None:
                yield place, entity
            else:
                broken.add(str(record.get("destination")).split(".")[-1].lower())


def _id_at(document: yaml_lines.Document, path: yaml_lines.Path) -> str | None:
    try:
        return str(document.data[path[0]][path[1]]["entity_id"])
    except (TypeError, KeyError, IndexError):
        return None


def _shape(data: Any) -> Iterator[tuple[str, yaml_lines.Path, object, tuple[str, ...]]]:
    """What is wrong with the top of a file: problem, where, value, legal choices."""
    if not isinstance(data, dict) or TOP_KEY not in data:
        yield f"the key {TOP_KEY} is missing at the top of the file", (), None, ()
    if not isinstance(data, dict):
        return
    for key in data:
        if key != TOP_KEY:
            yield "unknown key at the top of the file", (key,), key, (TOP_KEY,)
    records = data.get(TOP_KEY)
    if records is not None and not isinstance(records, list):
        yield f"{TOP_KEY} is not a list of entities", (TOP_KEY,), None, ()
    for position, record in enumerate(records if isinstance(records, list) else ()):
        if not isinstance(record, dict):
            yield "an entity is a map of fields", (TOP_KEY, position), record, ()


def _entity(
    place: Place, record: dict[str, Any], expansion: yaml_lines.Expansion, faults: list[Fault]
) -> Entity | None:
    """The entity of a record, without its wrong parts; what is wrong is added to `faults`.

    None where what is left would be another table than the one that was meant.
    """
    rest = {key: _expand(value, (key,), expansion, place, record, faults) for key, value in record.items()}
    for key in [key for key in rest if key in GENERATED]:
        misfit = Misfit((key,), "is filled in by the store, never by a file", fix="remove it")
        faults.append(place.fault(record, misfit))
        del rest[key]
    told: list[Misfit] = []
    follows = False
    while True:
        try:
            return Entity.model_validate(rest)
        except ValidationError as error:
            found = [misfit for misfit in from_validation(error, PROVIDED) if misfit not in told]
        if not follows:
            faults.extend(place.fault(record, misfit) for misfit in found)
        told += found
        wrong = {str(misfit.where[0]) for misfit in found}
        if not found or wrong & _IDENTITY:
            return None
        follows = follows or any(len(m.where) == 1 and m.where[0] in Entity.model_fields for m in found)
        rest = _without(rest, [misfit.where for misfit in found])


def _without(record: dict[str, Any], paths: list[tuple[str | int, ...]]) -> dict[str, Any]:
    """The record without what stands at the paths: the key of an inner map where there is one, else the whole field."""
    rest = dict(record)
    for first, *inner in paths:
        value = rest.get(str(first))
        if len(inner) == 1 and isinstance(value, dict) and inner[0] in value:
            rest[str(first)] = {key: item for key, item in value.items() if key != inner[0]}
        else:
            rest.pop(str(first), None)
    return rest


def _expand(
    value: Any,
    path: tuple[str | int, ...],
    expansion: yaml_lines.Expansion,
    place: Place,
    record: dict,
    faults: list[Fault],
) -> Any:
    if isinstance(value, dict):
        return {
            key: text
            if isinstance(text, str)
            and is_sensitive(str(key))
            and path[0] in ("read_options", "table_properties", "spark_conf")
            else _expand(text, (*path, key), expansion, place, record, faults)
            for key, text in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, (*path, index), expansion, place, record, faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    text, problems = expansion(value)
    fix = "set the variable, or write ${NAME:-default}"
    faults.extend(place.fault(record, Misfit(path, problem, fix=fix)) for problem in problems)
    return text
