"""Every error that the project raises on purpose.

Each error names the thing, the value, the legal choices and the next step, and its class says whether trying
again can help. Errors of libraries are turned into these at one seam each (the module that imports the library).

    LakehouseError
    ├── TerminalError                 trying again cannot help
    │   ├── SettingsError             a setting, option or command argument is wrong
    │   │   └── SecretError           a secret stands in clear, or its reference cannot be resolved
    │   ├── CatalogError              the catalog has faults (all of them, with file and line)
    │   │   └── SqlError              a transform does not parse or leaves the portable dialect
    │   ├── NotRunnable               the entity needs something that this version or machine lacks
    │   ├── SourceError               the outside world is not as declared
    │   │   ├── SourceMissing         no file, table or column of that name (or several)
    │   │   ├── SourceUnreadable      no permission, not a database, a corrupt page, a broken file
    │   │   └── IncarnationChanged    the stream is not the one that earlier plans read
    │   ├── LakeError                 the lake is not as the protocol left it
    │   │   ├── RootUnusable          the root is missing, not writable or not a legal path
    │   │   ├── ForeignTable          the destination holds a table that somebody else made
    │   │   ├── ForeignCommit         somebody else changed a table of ours
    │   │   ├── FeedExpired           a range that is still to be read has left the log
    │   │   ├── TypeRefused           a type has no lossless place in Delta
    │   │   ├── SchemaDrift           a column, key or partitioning differs from the table's
    │   │   └── FeatureRefused        the table uses a Delta feature that this engine does not read or write
    │   ├── LaunchRefused             Databricks, or the step on its cluster, refused before any work was done
    │   └── ExpectationFailed         an `expect_all_or_fail` rule was broken: nothing was written
    └── TransientError                trying again can help
        ├── ConcurrentWriter          another process committed first
        ├── SourceBusy                the source is locked, or changed while it was read
        ├── SourceUnreachable         no server answers
        ├── LaunchLost                the cluster, or the way to it, was lost while a step ran there
        └── StoreFailed               the disk is full, or the object store failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class LakehouseError(Exception):
    """Base of all errors here: a sentence, and the facts it was made of.

    Args:
        problem: what is wrong, naming the thing ("table 'readings' is not in edge.db").
        value: the offending value, if there is one.
        choices: the legal values; the nearest to ``value`` is pointed out.
        fix: the next step, as an instruction.
        facts: anything else a caller may want to read back from ``error.facts``.
    """

    transient = False

    def __init__(
        self,
        problem: str,
        *,
        value: object = None,
        choices: Iterable[object] = (),
        fix: str | None = None,
        **facts: Any,
    ) -> None:
        self.problem = problem
        self.value = value
        self.choices = tuple(str(choice) for choice in choices)
        self.fix = fix
        self.facts = facts
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.problem if self.value is None else f"{self.problem} (got {self.value!r})"]
        if self.choices:
            lines.append(f"legal: {', '.join(self.choices)}{did_you_mean(self.value, self.choices)}")
        if self.fix:
            lines.append(f"next: {self.fix}")
        return "\n  ".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.problem, self.value, self.choices, self.fix, self.facts)


def _rebuild(
    cls: type[LakehouseError], problem: str, value: object, choices: tuple[str, ...], fix: str | None, facts: dict
) -> LakehouseError:
    return cls(problem, value=value, choices=choices, fix=fix, **facts)


def did_you_mean(value: object, choices: Iterable[object]) -> str:
    """The nearest of `choices` as " (did you mean 'x'?)", or an empty string when none is near."""
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != str(value) else ""


class TerminalError(LakehouseError):
    """Trying again cannot help: somebody has to change something first."""


class TransientError(LakehouseError):
    """Trying again can help: the same call may go through later."""

    transient = True


class SettingsError(TerminalError):
    """A setting, an option or a command argument is wrong."""


class SecretError(SettingsError):
    """A secret stands in clear where a reference is due, or its reference cannot be resolved."""


class CatalogError(TerminalError):
    """The catalog has faults: `facts["faults"]` holds all of them."""


class SqlError(CatalogError):
    """A transform does not parse, or uses what the two engines do not share."""


class NotRunnable(TerminalError):
    """The entity is valid, but this version or this machine lacks what running it needs."""


class SourceError(TerminalError):
    """The outside world is not as the entity declares it."""


class SourceMissing(SourceError):
    """No file, table or column of that name, or several where one is needed."""


class SourceUnreadable(SourceError):
    """No permission, not a database, a corrupt page, a broken file."""


class IncarnationChanged(SourceError):
    """The stream is not the one that earlier plans read: restored, truncated, recreated or renumbered."""


class LakeError(TerminalError):
    """The lake is not as the write protocol left it."""


class RootUnusable(LakeError):
    """The lake's root is missing, not writable or not a legal path."""


class ForeignTable(LakeError):
    """The destination holds a table that this project did not make."""


class ForeignCommit(LakeError):
    """Somebody else changed the data of a table of ours."""


class FeedExpired(LakeError):
    """A range of an upstream table that is still to be read can no longer be read."""


class TypeRefused(LakeError):
    """A type has no lossless place in Delta."""


class SchemaDrift(LakeError):
    """A column, a key or the partitioning differs from what the table was made with."""


class FeatureRefused(LakeError):
    """The table uses a Delta feature that this engine does not read or write."""


class ExpectationFailed(TerminalError):
    """Rows broke an `expect_all_or_fail` rule; nothing was written."""


class LaunchRefused(TerminalError):
    """Databricks, or the step's entry on the cluster, refused before any work was done; or a run was stopped."""


class LaunchLost(TransientError):
    """The cluster, or the way to it, was lost while a step ran there; what it committed counts once."""


class ConcurrentWriter(TransientError):
    """Another process committed first; nothing of ours was written."""


class SourceBusy(TransientError):
    """The source is locked by somebody else, or changed while it was read."""


class SourceUnreachable(TransientError):
    """No server answers where the source should be."""


class StoreFailed(TransientError):
    """The disk is full, or the object store failed; nothing was half-written."""
