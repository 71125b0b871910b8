"""What every endpoint of the simulated workspace shares: a call, an error in Databricks' shape, a table of routes.

What belongs here: what a request is once it has arrived. What does not: sockets (`http.py`), any one endpoint
(`api_dbfs.py`, `api_files.py`, `api_jobs.py`, `api_misc.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

MIB = 1 << 20
Answer = dict[str, Any] | bytes | None
"""JSON, a file, or nothing at all (204)."""
Endpoint = Callable[..., Answer]
Routes = tuple[tuple[str, str, Endpoint], ...]
"""Method, path as a pattern, and what answers: it is given the workspace, the call and the groups of the pattern."""


class ApiError(Exception):
    """An answer that is an error: an HTTP status, and a code and a message as Databricks words them."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def missing(message: str) -> ApiError:
    """Something that was named is not there."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


def not_found(message: str) -> ApiError:
    """A file is not there, in the words of the Files API."""
    return ApiError(404, "NOT_FOUND", message)


def bad(message: str) -> ApiError:
    """A request that asks for something impossible."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def denied(message: str) -> ApiError:
    """A request that its sender may not make."""
    return ApiError(403, "PERMISSION_DENIED", message)


@dataclass(frozen=True)
class Request:
    """A request that was answered, as tests look at it.

    Attributes:
        status: the HTTP status of the answer; 0: the connection was closed without one.
        body: what was sent: an object where it was JSON, else bytes (the first 4 KiB).
    """

    method: str
    path: str
    status: int
    query: Mapping[str, str]
    body: Any


@dataclass
class Call:
    """A request that is being answered.

    Attributes:
        raw: the body.
        user: who sent it, by its token.
        from_cluster: whether the token is one of a running task.
        truncated: whether half of the file that it carries is to be lost on the way.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes
    user: str = ""
    from_cluster: bool = False
    truncated: bool = False
    status: int = field(default=200, init=False)

    @cached_property
    def body(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            body = json.loads(self.raw or b"{}")
        except ValueError:
            raise ApiError(400, "MALFORMED_REQUEST", "Could not parse request object: it is not JSON") from None
        if not isinstance(body, dict):
            raise ApiError(400, "MALFORMED_REQUEST", "Could not parse request object: it is not an object")
        return body

    def need(self, name: str) -> Any:
        """A field of the body, or of the query where there is no body, that has to be there."""
        value = self.body.get(name) if self.method not in ("GET", "HEAD", "DELETE") else self.query.get(name)
        if value is None:
            raise bad(f"Missing required field: {name}")
        return value

    def number(self, name: str) -> int:
        """A field that is a whole number."""
        value = self.need(name)
        try:
            return int(value)
        except (TypeError, ValueError):
            raise bad(f"{name} is not a whole number: {value!r}") from None

    def flag(self, name: str) -> bool:
        """A switch: true in the body or "true" in the query."""
        return self.query.get(name) == "true" or (bool(self.raw) and self.body.get(name) is True)

    def cut(self, content: bytes) -> bytes:
        """What arrives of a file's content."""
        return content[: len(content) // 2] if self.truncated else content


def dispatch(routes: Routes, workspace: Workspace, call: Call) -> Answer:
    """Find the endpoint of a call and ask it."""
    for method, pattern, endpoint in routes:
        if method == call.method and (match := re.fullmatch(pattern, call.path)):
            return endpoint(workspace, call, *match.groups())
    raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{call.method} {call.path}'")
