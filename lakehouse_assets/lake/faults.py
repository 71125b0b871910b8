"""What the errors of delta-rs amount to, by their class names and texts.

delta-rs has few classes, so a conflict, a full disk and an unknown feature have to be told apart by what they say.
What belongs here: reading these texts. What does not: failures of any store (`storage.py`), importing delta-rs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from lakehouse_assets.errors import ConcurrentWriter, FeatureRefused, LakeError, LakehouseError, SchemaDrift
from lakehouse_assets.lake.storage import first_line, store_fault
from lakehouse_assets.lake.streams import Watched

KNOWN = ("DeltaError", "TableNotFoundError", "DeltaProtocolError", "CommitFailedError", "SchemaMismatchError")
"""The classes of delta-rs that `delta_fault` was written for."""


@contextmanager
def translated(
    uri: str,
    rows: Watched | None = None,
    *,
    otherwise: type[LakehouseError] = LakeError,
    passing: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn errors of delta-rs into ours; this is the one seam where they are known.

    Args:
        rows: the stream that delta-rs reads; if it is what failed, its own error is raised.
        otherwise: the class for errors that are nothing in particular.
        passing: classes that the caller handles.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (LakehouseError, *passing)):
            raise
        if rows is not None and rows.error is not None:
            raise rows.error from None
        if not _is_foreign(error):
            raise
        raise delta_fault(uri, error, otherwise) from error


def _is_foreign(error: Exception) -> bool:
    """Whether delta-rs may have raised it; anything else is a mistake of this code."""
    foreign = isinstance(error, OSError | ValueError | RuntimeError | pa.ArrowException)
    return foreign or type(error) is Exception or any(c.__name__ == "DeltaError" for c in type(error).__mro__)


def delta_fault(uri: str, error: Exception, otherwise: type[LakehouseError]) -> LakehouseError:
    """The error of ours that one of delta-rs amounts to."""
    name, text = type(error).__name__, str(error)
    if any(word in text for word in _UNSUPPORTED):
        return FeatureRefused(
            f"the table at {uri} asks for what the embedded engine lacks: {first_line(error)}",
            fix="use --engine spark, or rewrite the table without these features",
        )
    if name == "CommitFailedError" or _RACED.search(text):
        return ConcurrentWriter(
            f"another process committed to {uri} first; nothing of this write was kept ({first_line(error)})",
            fix="run again: the same batch is taken up from its plan",
        )
    if name == "SchemaMismatchError":
        return SchemaDrift(f"the rows for {uri} do not fit it: {first_line(error)}", fix="cast or alias the columns")
    return store_fault(uri, error, otherwise)


_RACED = re.compile(r"Delta transaction failed, version \d+ already exists")
_UNSUPPORTED = (
    "Unsupported table features",
    "Table features must be specified",
    "does not support writer version",
    "does not support reader version",
    "append-only",
    "Unsupported: ",
    "nsupported reader feature",
    "nsupported writer feature",
    "Column mapping is not supported",
)
