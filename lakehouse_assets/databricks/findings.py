"""What a check found: one line of a report, with the command that mends it.

What belongs here: the line, how an error becomes one, and who asks. What does not: any check (`doctor.py`,
`doctor_catalog.py`, `doctor_compute.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_assets.databricks.faults import api_faults
from lakehouse_assets.errors import LakehouseError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

State = Literal["ok", "missing", "optional", "not checked"]
AGAIN = "lakehouse doctor --target databricks once more in a minute: this may pass"
ASK = "show this answer to an administrator of the workspace: it is none that is known here"


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        check: what was looked at.
        state: `missing` stops runs on the target, `optional` does not; `not checked`: an earlier check failed.
        mend: the next step where there is one to take.
    """

    check: str
    state: State
    found: str
    mend: str | None = None

    def row(self) -> dict[str, Any]:
        """This finding as a row."""
        return {"check": self.check, "state": self.state, "found": self.found, "mend": self.mend}


@dataclass(frozen=True)
class Caller:
    """Who asks the workspace.

    Attributes:
        name: the user, or the application id of the service principal.
        groups: the groups that they are in.
    """

    client: WorkspaceClient
    name: str
    groups: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Everybody whose grants are the caller's."""
        return frozenset((self.name, *self.groups, "account users"))


def failed(check: str, error: LakehouseError) -> Finding:
    """An error as a finding: what is wrong, and what mends it."""
    found = error.problem + (f" (got {error.value!r})" if error.value is not None else "")
    legal = f" (legal: {', '.join(error.choices)})" if error.choices else ""
    return Finding(check, "missing", found, AGAIN if error.transient else f"{error.fix or ASK}{legal}")


def not_checked(check: str, why: str) -> Finding:
    """A check that could not be made."""
    return Finding(check, "not checked", f"not checked: {why}")


def ask(check: str, doing: str, look: Callable[[], Finding], fixes: Mapping[str, str]) -> Finding:
    """What a look at the workspace finds; its refusal is a finding too.

    Args:
        doing: what is asked, for the message: "read the volume main.ops.lake".
        look: asks the workspace.
        fixes: name of an SDK error class -> what mends it.
    """
    try:
        with api_faults(doing, {"DatabricksError": ASK, **fixes}):
            return look()
    except LakehouseError as error:
        return failed(check, error)
