"""Where the rows of a merge lie, as a condition that delta-rs takes: it then opens no other files.

What does not belong here: the same for Spark (`engines/spark_sql.py`).
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from lakehouse_assets.lake.values import Within


def lying(within: Within) -> str:
    """The condition of a merge that says where the touched rows of the table lie."""
    column = 't."' + within.column.replace('"', '""') + '"'
    if within.least is None:
        return f"({column} IS NULL)"
    return f"(({column} IS NULL) OR ({column} >= {_literal(within.least)}))"


def _literal(value: int | str | date | datetime) -> str:
    """A value as DataFusion reads it; of a moment the second before, as bounds of files may be cut."""
    if isinstance(value, datetime):
        zone = 'Some("UTC")' if value.tzinfo else "None"
        text = (value - timedelta(seconds=1)).replace(tzinfo=None).isoformat()
        return f"arrow_cast('{text}', 'Timestamp(Microsecond, {zone})')"
    if isinstance(value, date):
        return f"CAST('{value.isoformat()}' AS DATE)"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
