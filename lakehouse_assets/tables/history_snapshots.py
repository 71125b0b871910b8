"""Full extracts as change data: each sequence value is one, and a key that is absent from it was deleted.

What belongs here: checking extracts, and the deletes that follow from them. What does not: facts
(`history_log.py`), which makes them of the rows as of any others.
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.engines.base import Relation
from lakehouse_assets.errors import SourceError
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.scd import listed, not_before
from lakehouse_assets.sql.types import spark_type
from lakehouse_assets.tables.base import Feed, Work


class Absent:
    """The deletes that follow from extracts."""

    def __init__(self, work: Work, feed: Feed) -> None:
        self.work, self.feed = work, feed
        self.table = feed.entity.table

    def deletes(self, facts: Relation, keys: list[str], sequence: list[str]) -> Relation:
        """Facts that delete the keys which an extract among `facts` lacks.

        Raises:
            SourceError: an extract has a key twice, or is not newer than those that were read; nothing was written.
        """
        self._check_unique(facts, keys, sequence)
        self._check_newer(facts, sequence)
        engine = self.work.engine
        k, s = listed(keys), listed(sequence)
        known = " AND ".join(f"{quoted(key)} IS NOT NULL" for key in keys)
        timed = " AND ".join(f"{quoted(part)} IS NOT NULL" for part in sequence)
        relations = {"facts": facts}
        seen = f"SELECT DISTINCT {k}, {s} FROM facts WHERE {known} AND {timed} AND _operation <> 'truncate'"
        kinds = {part: spark_type(self._kind(facts, part)) for part in sequence}
        nothing = ", ".join(f"CAST(NULL AS {kind}) AS {quoted(part)}" for part, kind in kinds.items())
        stored = self._stored(keys)
        if stored is not None:
            relations["stored"] = stored
        before = f"SELECT {k}, {nothing}, true AS __there FROM stored UNION ALL " if stored is not None else ""
        everyone = f"SELECT {k} FROM seen" + (f" UNION SELECT {k} FROM stored" if stored is not None else "")
        same_key = " AND ".join(f"a.{quoted(key)} = f.{quoted(key)}" for key in keys)
        same_time = " AND ".join(f"a.{quoted(part)} <=> f.{quoted(part)}" for part in sequence)
        grid = (
            f"{before}SELECT {listed((*keys, *sequence), 'a.')}, f.{quoted(keys[0])} IS NOT NULL AS __there "
            f"FROM (SELECT {listed(keys, 'k.')}, {listed(sequence, 's.')} FROM (SELECT DISTINCT {k} FROM ({everyone}) "
            f"AS everyone) AS k CROSS JOIN (SELECT DISTINCT {s} FROM facts WHERE {timed}) AS s) AS a "
            f"LEFT JOIN seen AS f ON {same_key} AND {same_time}"
        )
        was = f"lag(__there) OVER (PARTITION BY {k} ORDER BY {s}) AS __was"
        gone = f"SELECT {k}, {s} FROM (SELECT *, {was} FROM ({grid}) AS grid) AS marked WHERE NOT __there AND __was"
        names = engine.schema(facts).names
        given = {
            **{key: f"a.{quoted(key)}" for key in keys},
            **{part: f"a.{quoted(part)}" for part in sequence},
            "_fact": "'event'",
            "_event": f"substring(md5(concat_ws('|', {self._text(keys, sequence)})), 1, 16)",
            "_operation": "'delete'",
            "_filtered": "false",
            "_reasons": "filter(array('none'), reason -> reason <> 'none')",
            "_feed": "x._feed",
            "_batch": "x._batch",
            "_logged": "x._logged",
            "_origin": "concat('absent from the extract of ', x._origin)",
        }
        items = ", ".join(f"{given.get(name, f'n.{quoted(name)}')} AS {quoted(name)}" for name in names)
        sql = (
            f"WITH seen AS ({seen}) SELECT {items} FROM ({gone}) AS a CROSS JOIN (SELECT min(_feed) AS _feed, "
            "min(_batch) AS _batch, min(_logged) AS _logged, min(_origin) AS _origin FROM facts) AS x "
            "LEFT JOIN (SELECT * FROM facts WHERE false) AS n ON false"
        )
        return engine.query(sql, relations)

    def _kind(self, facts: Relation, column: str) -> pa.DataType:
        return self.work.engine.schema(facts).field(column).type

    def _text(self, keys: list[str], sequence: list[str]) -> str:
        parts = [f"CAST(a.{quoted(name)} AS STRING)" for name in (*keys, *sequence)]
        return ", ".join(["'absent'", *parts, "CAST(x._batch AS STRING)"])

    def _stored(self, keys: list[str]) -> Relation | None:
        """The keys that the target shows now."""
        entity = self.feed.entity
        handle = self.work.engine.find(self.work.uri(self.table))
        if handle is None:
            return None
        history, changes = entity.lakehouse.history, entity.apply_changes
        conditions = [f"{quoted(history.end_at)} IS NULL"] if changes and changes.stored_as_scd_type == 2 else []
        conditions += [f"NOT {quoted(history.soft_deletes)}"] if history.soft_deletes else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self.work.engine.read(handle)
        return self.work.engine.query(f"SELECT {listed(keys)} FROM stored{where}", {"stored": rows})

    def _check_unique(self, facts: Relation, keys: list[str], sequence: list[str]) -> None:
        by = listed((*keys, *sequence))
        sql = f"SELECT {by}, count(*) AS rows FROM facts WHERE NOT _filtered GROUP BY {by} HAVING count(*) > 1"
        double = self.work.engine.rows(self.work.engine.query(sql, {"facts": facts}), 1)
        if double:
            raise SourceError(
                f"{self.table}: an extract has one key several times, e.g. {double[0]}",
                fix="mend the extract: each key once (primary_keys says what a key is); nothing was written",
            )

    def _check_newer(self, facts: Relation, sequence: list[str]) -> None:
        log = self.feed.target
        if log is None:
            return
        engine = self.work.engine
        condition = not_before(
            [f"f.{quoted(p)}" for p in sequence], [f"l.{quoted(p)}" for p in sequence], strictly=True
        )
        order = ", ".join(f"{quoted(part)} DESC" for part in sequence)
        first = ", ".join(map(quoted, sequence))
        newest = f"SELECT {first} FROM log WHERE {quoted(sequence[0])} IS NOT NULL ORDER BY {order} LIMIT 1"
        sql = f"SELECT {listed(sequence, 'f.')} FROM facts AS f CROSS JOIN ({newest}) AS l WHERE NOT ({condition})"
        old = engine.rows(engine.query(sql, {"facts": facts, "log": engine.read(log)}), 1)
        if old:
            raise SourceError(
                f"{self.table}: the extract of {', '.join(map(str, old[0].values()))} is not newer than one that was "
                "read before; extracts are taken in order",
                value=next(iter(old[0].values())),
                fix="leave it out, or give the extract its right sequence; nothing was written",
            )
