"""The simulated workspace as one object: `serve` starts it, tests arrange and inspect it.

What belongs here: what a workspace holds, and its beginning and end. What does not: HTTP (`http.py`), runs (`runs.py`),
clusters (`clusters.py`).
"""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.simulators.workspace.api import Request, missing
from lakehouse_assets.simulators.workspace.clusters import Clusters, resolve
from lakehouse_assets.simulators.workspace.environments import Environments
from lakehouse_assets.simulators.workspace.faults import Fault, Faults, check_befall
from lakehouse_assets.simulators.workspace.http import Server
from lakehouse_assets.simulators.workspace.processes import TOPS, Processes
from lakehouse_assets.simulators.workspace.records import Run
from lakehouse_assets.simulators.workspace.runs import Runs
from lakehouse_assets.simulators.workspace.runtimes import REPOSITORY, Runtime, runtimes

REMEMBERED = 20_000
"""How many requests `Workspace.requests` holds."""


@dataclass(frozen=True)
class Options:
    """What a workspace is like.

    Attributes:
        directory: where everything is kept: `dbfs`, `Volumes`, `Workspace`, `runs`, `clusters`, `envs`.
        port: 0: a free one.
        token: the personal access token of `user`; "" makes one.
        dbfs: whether the workspace still has DBFS root.
        slots: how many runs are executed at the same time.
        python: the minor version that tasks are told they run on ("3.12"), a stand-in; `None`: the runtime's.
        runtimes: what a cluster can be, by `spark_version`.
        hide: directories that tasks do not see.
        environments: where the environments of tasks are kept; several workspaces may share them.
    """

    directory: Path
    port: int = 0
    token: str = ""
    dbfs: bool = True
    slots: int = 2
    python: str | None = None
    runtimes: Mapping[str, Runtime] = field(default_factory=runtimes)
    hide: tuple[Path, ...] = (REPOSITORY,)
    user: str = "tester@example.com"
    environments: Path | None = None

    def __post_init__(self) -> None:
        if self.python is not None and not re.fullmatch(r"3\.\d+", self.python):
            raise SettingsError("the Python of tasks is no minor version", value=self.python, fix="give it as 3.12")
        if self.slots < 1:
            raise SettingsError("a workspace needs a slot for a run", value=self.slots, fix="give at least 1")


class Workspace:
    """A workspace that runs: what it holds, and how tests arrange it.

    Attributes:
        host: its address.
        token: the personal access token that it admits.
        grants: (catalog, schema or volume, full name) -> who -> what they may do; absent: the user may do everything.
        owners: (catalog or schema, full name) -> who owns it; absent: somebody else.
        broken: what failed in the simulator itself; a test of anything else expects nothing here.
    """

    def __init__(self, options: Options, host: str) -> None:
        self.options, self.host = options, host
        self.directory = options.directory.resolve()
        for name in (*TOPS, "runs", "clusters"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.token = options.token or f"dapi{secrets.token_hex(16)}"
        self._tokens: dict[str, tuple[str, bool]] = {self.token: (options.user, False)}
        self._lock = threading.Lock()
        self._ids = itertools.count(int(time.time() * 100) % 10**11)  # not those of an earlier start
        self._requests: deque[Request] = deque(maxlen=REMEMBERED)
        self._befalls: deque[tuple[str, float]] = deque()
        self._permissions: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.broken: list[str] = []
        self.faults = Faults()
        self.handles: dict[int, Path] = {}
        self.secrets: dict[str, dict[str, bytes]] = {}
        self.policies: dict[str, dict[str, str]] = {}
        self.grants: dict[tuple[str, str], dict[str, set[str]]] = {}
        self.owners: dict[tuple[str, str], str] = {}
        environments = (options.environments or self.directory / "envs").resolve()
        environments.mkdir(parents=True, exist_ok=True)
        self.environments = Environments(environments)
        self.processes = Processes(self.directory, options.hide, (environments,))
        self.clusters = Clusters(self)
        self.jobs = Runs(self)

    def path(self, name: str) -> Path:
        """Where a file of the workspace is on this disk.

        Args:
            name: `/Volumes/..`, `/Workspace/..`, `dbfs:/..` or `/dbfs/..`.
        """
        plain = posixpath.normpath("/" + re.sub(r"^(dbfs:|file:)", "", name).lstrip("/"))
        for top in ("/Volumes", "/Workspace"):
            if plain == top or plain.startswith(top + "/"):
                return self.directory / plain.lstrip("/")
        if plain == "/dbfs" or plain.startswith("/dbfs/"):
            plain = plain.removeprefix("/dbfs")
        return self.directory / "dbfs" / plain.lstrip("/")

    def make_volume(self, name: str) -> Path:
        """Make a volume, by its three-part name; where it is on this disk."""
        parts = name.split(".")
        if len(parts) != 3 or not all(re.fullmatch(r"[\w-]+", part) for part in parts):
            raise SettingsError("a volume has a three-part name", value=name, fix="give <catalog>.<schema>.<volume>")
        place = self.directory.joinpath("Volumes", *parts)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def volumes(self) -> list[str]:
        """The names of the volumes."""
        top = self.directory / "Volumes"
        return sorted(".".join(place.relative_to(top).parts) for place in top.glob("*/*/*") if place.is_dir())

    def put_secret(self, scope: str, key: str, value: str) -> None:
        """Write a secret; its scope is made where there is none."""
        self.secrets.setdefault(scope, {})[key] = value.encode()

    def secret(self, scope: str, key: str) -> bytes:
        """The value of a secret.

        Raises:
            ApiError: there is none of that name.
        """
        if key not in self.secrets.get(scope, {}):
            raise missing(f"Secret does not exist with scope: {scope} and key: {key}")
        return self.secrets[scope][key]

    def resolved(self, values: Mapping[str, str]) -> dict[str, str]:
        """Settings with `{{secrets/scope/key}}` replaced."""
        return {name: resolve(value, self.secret) for name, value in values.items()}

    def add_cluster(self, **spec: Any) -> str:
        """Make an all-purpose cluster and give its id; its Spark starts with its first task.

        Args:
            spec: `spark_version` and whatever else `clusters/create` takes.
        """
        size = {"node_type_id": "local", "num_workers": 0}
        return self.clusters.create({**size, **spec}, "UI").cluster_id

    def add_policy(self, name: str, definition: str = "{}") -> str:
        """Make a cluster policy and give its id; its rules are shown, not enforced."""
        policy = f"{self.next_id():016X}"
        self.policies[policy] = {"policy_id": policy, "name": name, "definition": definition}
        return policy

    def fail(self, fault: Fault) -> None:
        """Let a fault strike the requests that it is about, from now on."""
        self.faults.add(fault)

    def befall(self, kind: str, *, after: float = 0.0) -> None:
        """Let something befall the next run that is submitted.

        Args:
            kind: dead_cluster, evicted, skipped, blocked, timedout, library_failed or internal_error.
            after: seconds for which the task has run when its cluster ends (dead_cluster, evicted).
        """
        self._befalls.append((check_befall(kind), after))

    def next_befall(self) -> tuple[str, float] | None:
        """What befalls the run that is being submitted."""
        return self._befalls.popleft() if self._befalls else None

    @property
    def requests(self) -> list[Request]:
        """The requests that were answered so far, in the order of their answers."""
        return list(self._requests)

    def remember(self, request: Request) -> None:
        """Keep a request for `requests`."""
        self._requests.append(request)

    @property
    def runs(self) -> list[Run]:
        """The runs that were submitted so far: their `state`, `tasks` (`stdout`, `stderr`, ...), `permissions`."""
        return self.jobs.all()

    def permissions_of(self, kind: str, name: object) -> list[dict[str, Any]]:
        """Who may do what with a job or a cluster; the list itself, to be changed."""
        return self._permissions.setdefault((kind, str(name)), [])

    def next_id(self) -> int:
        """A number that nothing else here has."""
        with self._lock:
            return next(self._ids)

    def who(self, token: str) -> tuple[str, bool] | None:
        """Whose token this is, and whether it is one of a task; `None`: nobody's."""
        return self._tokens.get(token)

    def issue_token(self, user: str) -> str:
        """A token for a task, which may read secrets."""
        token = f"dkea{secrets.token_hex(16)}"
        self._tokens[token] = (user, True)
        return token

    def revoke_token(self, token: str) -> None:
        """Admit a token no more."""
        self._tokens.pop(token, None)

    def close(self) -> None:
        """End every run, task and cluster."""
        try:
            self.jobs.close()
            self.clusters.close()
        finally:
            self.processes.close()


@contextmanager
def serve(options: Options) -> Iterator[Workspace]:
    """A workspace that listens on this machine for as long as the `with` block lasts.

    Raises:
        NotRunnable: this machine has no user namespaces: nothing could be executed.
        SettingsError: the port is taken.
    """
    try:
        server = Server(options.port)
    except OSError as error:
        message = f"the simulated workspace cannot listen: {os.strerror(error.errno or 0)}"
        raise SettingsError(message, value=options.port, fix="choose another port, or 0 for a free one") from error
    try:
        workspace = Workspace(options, f"http://127.0.0.1:{server.server_address[1]}")
        server.workspace = workspace
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="workspace")
        thread.start()
        try:
            yield workspace
        finally:
            workspace.close()
            server.shutdown()
            thread.join()
    finally:
        server.server_close()
