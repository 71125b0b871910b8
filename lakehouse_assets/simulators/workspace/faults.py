"""What can go wrong on purpose: with a request (`Fault`), and with a run (`BEFALLS`).

What belongs here: which misfortunes there are, and which request one of them strikes. What does not: HTTP, runs.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, fields
from typing import Any

from lakehouse_assets.errors import SettingsError

CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status -> the error code that comes with it."""
KILLING = {
    "dead_cluster": (
        "DRIVER_UNREACHABLE",
        "Cluster '{cluster}' was terminated. Reason: DRIVER_UNREACHABLE (CLOUD_FAILURE).",
    ),
    "evicted": (
        "SPOT_INSTANCE_TERMINATION",
        "Cluster '{cluster}' was terminated. Reason: SPOT_INSTANCE_TERMINATION (CLOUD_FAILURE).",
    ),
}
"""What ends a cluster while it works, and what the run then says."""
AT_ONCE = {
    "skipped": ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED", "The run was skipped: its job was already running."),
    "blocked": ("BLOCKED", None, "The run is blocked on an upstream dependency."),
    "timedout": ("TERMINATED", "TIMEDOUT", "Run timed out."),
    "library_failed": (
        "INTERNAL_ERROR",
        "FAILED",
        "Library installation failed for library due to user error. Error messages:\nERROR: no matching distribution",
    ),
    "internal_error": ("INTERNAL_ERROR", "FAILED", "Unexpected internal error: the run could not be started."),
}
"""What befalls a run before it starts: life cycle state, result state, message."""
BEFALLS = (*KILLING, *AT_ONCE)


@dataclass(frozen=True)
class Fault:
    """What happens to requests of one kind.

    Attributes:
        method: only requests of this method; "": of every one.
        path: a pattern that is looked for in the path.
        status: the HTTP status that is answered instead of what was asked for; 0: what was asked for is done.
        times: how many requests it strikes; those that follow are answered as ever.
        retry_after: seconds, as the header of that answer.
        delay: seconds for which the request is held first.
        truncate: half of a file that is uploaded or downloaded is lost, and nobody says so (needs status 0).
        drop: the connection is closed without an answer; nothing is done.
    """

    method: str = ""
    path: str = ""
    status: int = 0
    times: int = 1
    retry_after: int | None = None
    delay: float = 0.0
    truncate: bool = False
    drop: bool = False

    def __post_init__(self) -> None:
        if self.status and self.truncate:
            raise SettingsError("a fault that answers an error truncates no file", fix="leave out status or truncate")
        if not 0 <= self.status <= 599 or 0 < self.status < 400:
            raise SettingsError("a fault answers an error", value=self.status, choices=CODES, fix="give its status")
        try:
            re.compile(self.path)
        except re.error as error:
            raise SettingsError("a fault's path is no pattern", value=self.path, fix=str(error)) from error

    @classmethod
    def of(cls, given: dict[str, Any]) -> Fault:
        """A fault from JSON.

        Raises:
            SettingsError: it has a field that no fault has.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise SettingsError("a fault has no such field", value=name, choices=known)
        return cls(**given)


class Faults:
    """The faults that wait for a request."""

    def __init__(self) -> None:
        self._waiting: list[list[Any]] = []  # [fault, how often still]
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Let a fault strike from now on."""
        with self._lock:
            self._waiting.append([fault, fault.times])

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, if one does; it has then struck once more."""
        with self._lock:
            for entry in self._waiting:
                fault: Fault = entry[0]
                if fault.method in ("", method) and re.search(fault.path, path):
                    entry[1] -= 1
                    if entry[1] <= 0:
                        self._waiting.remove(entry)
                    return fault
        return None


def check_befall(kind: str) -> str:
    """The kind, if a run can suffer it.

    Raises:
        SettingsError: it cannot.
    """
    if kind not in BEFALLS:
        raise SettingsError("this cannot befall a run", value=kind, choices=BEFALLS)
    return kind
