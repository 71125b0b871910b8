"""What a run of Databricks says of itself, and what the files of its events hold.

What belongs here: reading answers. What does not: asking for them (`step.py`), and why a run failed (`faults.py`).
"""

from __future__ import annotations

import gzip

from dagster._core.events.log import EventLogEntry
from dagster._serdes import deserialize_value
from databricks.sdk.service.jobs import Run

from lakehouse_assets.databricks.faults import LAUNCH_ENDS

WAITING = frozenset({"PENDING", "QUEUED", "BLOCKED", "WAITING_FOR_RETRY"})
"""States of a run in which the step has not begun."""


def entries(data: bytes) -> list[EventLogEntry]:
    """The events in a file.

    Raises:
        EOFError: it is not written, or not whole, yet.
    """
    if not data:
        raise EOFError("it is empty")
    return list(deserialize_value(gzip.decompress(data).decode(), list))


def cycle(run: Run) -> str:
    """Where a run is in its life: `RUNNING`, `TERMINATED`, …; "" if it does not say."""
    return run.state.life_cycle_state.value if run.state and run.state.life_cycle_state else ""


def has_ended(run: Run) -> bool:
    """Whether nothing more will happen to it."""
    return cycle(run) in LAUNCH_ENDS


def is_success(run: Run | None) -> bool:
    """Whether it has ended well."""
    return bool(run and run.state and run.state.result_state and run.state.result_state.value == "SUCCESS")
