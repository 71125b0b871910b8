"""References to secrets, and the one function that resolves one.

A secret is written as a reference (`${secret:NAME}`, or Databricks' `{{secrets/scope/key}}`) wherever a catalog or
a setting needs one, and stays a reference until a source or store opens. Nothing here logs a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lakehouse_assets.errors import SecretError

_REFERENCE = re.compile(
    r"\$\{secret:(?P<name>[A-Za-z0-9_.-]+)\}"
    r"|\{\{\s*secrets/(?P<scope>[A-Za-z0-9_.-]+)/(?P<key>[A-Za-z0-9_.-]+)\s*\}\}"
)
_SENSITIVE = re.compile(r"passw|token|secret|jaas|credential|access.?key", re.IGNORECASE)


def is_reference(text: str) -> bool:
    """Whether `text` holds a reference to a secret."""
    return bool(_REFERENCE.search(text))


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
        name = match["name"] or re.sub(r"[^A-Za-z0-9]", "_", f"{match['scope']}_{match['key']}").upper()
        if name not in environ:
            raise SecretError(f"the secret {match[0]} has no value", fix=f"set the environment variable {name}")
        return environ[name]

    return _REFERENCE.sub(value, text)
