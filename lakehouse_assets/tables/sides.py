"""The quarantine beside a table and what goes there, and whether what reads a table needs both images of a change.

What belongs here: whether these are needed, and filling them. What does not: columns (`quarantine.py`).
"""

from __future__ import annotations

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Handle, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.tables import quarantine
from lakehouse_assets.tables.base import Work, ensure, feeding, is_read
from lakehouse_assets.tables.rows import together


def quarantine_of(work: Work, entity: Entity, target: pa.Schema, received: pa.Schema, *, needed: bool) -> Handle | None:
    """The quarantine table: made when a row needs it, when the entity asks for one, or when somebody reads it."""
    name = entity.table.quarantine
    if not (needed or entity.is_quarantined or is_read(work, name)) and work.engine.find(work.uri(name)) is None:
        return None
    columns = quarantine.schema(target, received)
    return ensure(work, entity, name, columns, change_feed=keeps_change_feed(work, entity))


def with_misfits(engine: Engine, broken: Relation, misfits: quarantine.Spool | None, plan: Plan) -> Relation:
    """Rows for a quarantine, and with them those that did not fit their columns."""
    if misfits is None or not misfits.count:
        return broken
    return together(engine, broken, engine.from_arrow(misfits.reader(engine.schema(broken), plan)))


def keeps_change_feed(work: Work, entity: Entity) -> bool:
    """Whether the target is ever changed other than by appending, so that readers need both images."""
    if entity.kind == "landed":
        return not entity.is_streaming
    if entity.kind == "conformed":
        return not entity.reads_outside and _moves(work, work.catalog.resolve(entity.source))
    return True


def _moves(work: Work, source: TableName) -> bool:
    return any(keeps_change_feed(work, entity) for entity in feeding(work, source))
