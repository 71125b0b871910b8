"""The simulated workspace as an HTTP server on the loopback address: tokens, faults, answers in Databricks' shape.

What belongs here: sockets, who may ask, what an error looks like on the wire. What does not: what an endpoint does.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.simulators.workspace import api_dbfs, api_files, api_jobs, api_misc
from lakehouse_assets.simulators.workspace.api import Answer, ApiError, Call, Request, Routes, dispatch
from lakehouse_assets.simulators.workspace.faults import CODES, Fault

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

ROUTES: Routes = (*api_dbfs.ROUTES, *api_files.ROUTES, *api_jobs.ROUTES, *api_misc.ROUTES)
FREE = "/.well-known/"
"""What is answered without a token."""


class Server(ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1; `workspace` is set before the first request."""

    daemon_threads = True
    request_queue_size = 128
    workspace: Workspace

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out apart: 40 ms each otherwise
    server: Server

    def log_message(self, *_: Any) -> None:
        """Nothing is printed: `Workspace.requests` has it all."""

    def answer(self) -> None:
        """Read a request, remember it, answer it."""
        workspace = self.server.workspace
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        call = Call(self.command, urllib.parse.unquote(parts.path), query, self.headers, self._read())  # type: ignore[arg-type]
        fault = None if call.path.startswith("/simulator/") else workspace.faults.strike(call.method, call.path)
        if fault and fault.delay:
            time.sleep(fault.delay)
        dropped = bool(fault and fault.drop)
        answer = None if dropped else self._answer(workspace, call, fault)
        status = 0 if dropped else call.status
        workspace.remember(Request(call.method, call.path, status, call.query, _kept(call)))
        if dropped:
            self.close_connection = True
        else:
            self._send(call, answer, fault)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer  # noqa: N815 - the library's names

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, workspace: Workspace, call: Call, fault: Fault | None) -> Answer:
        try:
            self._admit(workspace, call)
            if fault and fault.status:
                raise ApiError(
                    fault.status, CODES.get(fault.status, "UNKNOWN"), "The simulator was told to answer this."
                )
            call.truncated = bool(fault and fault.truncate)
            answer = dispatch(ROUTES, workspace, call)
        except ApiError as error:
            call.status = error.status
            return {"error_code": error.code, "message": error.message}
        except LakehouseError as error:
            call.status = 400
            return {"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}
        except Exception as error:  # an error of the simulator's own is an answer too, and is seen
            call.status = 500
            workspace.broken.append(traceback.format_exc())
            return {"error_code": "INTERNAL_ERROR", "message": f"the simulator failed: {error!r}"}
        call.status = 204 if answer is None else 206 if "Range" in self.headers and isinstance(answer, bytes) else 200
        return answer

    def _admit(self, workspace: Workspace, call: Call) -> None:
        if call.path.startswith(FREE):
            return
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            raise ApiError(
                401, "UNAUTHENTICATED", "Credential was not sent or was of an unsupported type for this API."
            )
        if (who := workspace.who(token)) is None:
            raise ApiError(403, "PERMISSION_DENIED", "Invalid access token.")
        call.user, call.from_cluster = who

    def _send(self, call: Call, answer: Answer, fault: Fault | None) -> None:
        content = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        with contextlib.suppress(ConnectionError):
            self.send_response(call.status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if fault and fault.retry_after is not None:
                self.send_header("Retry-After", str(fault.retry_after))
            self.end_headers()
            if call.method != "HEAD":
                self.wfile.write(content)


def _kept(call: Call) -> Any:
    if call.raw[:1] == b"{" and not call.path.startswith("/api/2.0/fs/"):
        with contextlib.suppress(ApiError):
            return call.body
    return call.raw[:4096]
