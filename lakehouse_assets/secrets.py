"""References to secrets, and the one function that resolves one.

A secret is written as a reference (`${secret:NAME}`, or Databricks' `{{secrets/scope/key}}`) wherever a catalog or
a setting needs one, and stays a reference until a source or store opens. Nothing here logs a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lakehouse_assets.errors import SecretError

_REFERENCE = re.compile(
    r"\$\{secret:(?P<name>[A-Za-z0-9_.-]+)\}"
    r"|\{\{\s*secrets/(?P<scope>[A-Za-z0-9_.-]+)/(?P<key>[A-Za-z0-9_.-]+)\s*\}\}"
)
_SENSITIVE = re.compile(r"passw|token|secret|jaas|credential|(access|api|private).?key", re.IGNORECASE)


def is_reference(text: str) -> bool:
    """Whether `text` holds a reference to a secret."""
    return bool(_REFERENCE.search(text))


@dataclass(frozen=True)
class Reference:
    """One reference as it is written, and the environment variable that holds its value."""

    text: str
    variable: str
    scope: str | None = None
    key: str | None = None


def references(text: str) -> Iterator[Reference]:
    """Every reference in a text."""
    for match in _REFERENCE.finditer(text):
        yield _reference(match)


def _reference(match: re.Match[str]) -> Reference:
    name = match["name"] or re.sub(r"[^A-Za-z0-9]", "_", f"{match['scope']}_{match['key']}").upper()
    return Reference(match[0], name, match["scope"], match["key"])


def is_sensitive(option: str) -> bool:
    """Whether an option of this name must hold a reference, not a value."""
    return bool(_SENSITIVE.search(option))


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its references replaced: `${secret:NAME}` by NAME's value, `{{secrets/a/b}}` by `A_B`'s.

    Args:
        text: an option's value; without references it comes back as it is.
        environ: where the values stand; the environment of the process that opens the source.

    Raises:
        SecretError: a reference has no value here. The message names the variable, never a value.
    """

    def value(match: re.Match[str]) -> str:
        found = _reference(match)
        if found.variable not in environ:
            raise SecretError(
                f"the secret {found.text} has no value", fix=f"set the environment variable {found.variable}"
            )
        return environ[found.variable]

    return _REFERENCE.sub(value, text)
