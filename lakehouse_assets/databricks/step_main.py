"""Runs one step on a cluster: the file that Databricks executes, with the staging directory as its one argument.

It is sent as it is, so it needs nothing but Python until it has checked what it was sent: the versions, the hash of
the package. Only then is the package imported and the step run. Events go back as numbered files, each written once.
What belongs here: what happens before and around the step on the cluster. What does not: anything of the project.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

JOB, CODE, STEP, HISTORY = "job.json", "code.zip", "step.pkl", "history.json.gz"
PACKAGE, CATALOG = "lakehouse_assets", "lakehouse_catalog"
FLUSH_SECONDS, LAST_SECONDS = 1.0, 60.0
"""How often events are sent, and for how long the last ones are tried."""
LEFT_OUT = ("__pycache__", ".pyc")


class Refused(Exception):
    """The step was not begun; the text says why and what to do."""


def events_file(attempt: int, number: int) -> str:
    """The name of the nth file of events of an attempt, from 0."""
    return f"events-{attempt}-{number:06d}.json.gz"


def tree_hash(root: Path) -> str:
    """A hash over the files of a package: their paths and their bytes."""
    found = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not any(part in str(p) for part in LEFT_OUT)):
        found.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def main(staging: str, scope: Mapping[str, Any]) -> None:
    """Run the step whose files stand in `staging`; `scope`: the globals of Databricks (`dbutils`).

    Raises:
        Refused: it was not begun.
        StepFailed: it failed, or asks to be tried again.
    """
    place = Path(staging)
    job = json.loads((place / JOB).read_text())
    check_versions(job)
    prepare(job, place, scope)
    run(place, job)


def prepare(job: Mapping[str, Any], place: Path, scope: Mapping[str, Any]) -> None:
    """Make the package, the catalog and the environment from what was sent.

    Raises:
        Refused: it is not what was sent, or a secret is missing.
    """
    code = unpacked(job, (place / CODE).read_bytes())
    os.environ.update(job["env"])
    os.environ["LAKEHOUSE_CATALOG"] = str(code / CATALOG)
    take_secrets(job["secrets"], scope)
    sys.path.insert(1, str(code))  # Dagster replaces the first entry while it loads definitions
    check_package(job)


def check_versions(job: Mapping[str, Any]) -> None:
    """Refuse what could not be unpickled: another minor version of Python, another Dagster."""
    python = "{}.{}".format(*sys.version_info[:2])
    if python != job["python"]:
        raise Refused(
            f"the step was packed by Python {job['python']}, and this cluster runs Python {python}\n"
            f"  next: use a runtime with Python {job['python']} (docs/databricks_runtimes.md), "
            f"or run Dagster on Python {python}"
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("dagster")
    except PackageNotFoundError:
        raise Refused(f"dagster is not installed here\n  next: install dagster=={job['dagster']}") from None
    if found != job["dagster"]:
        raise Refused(
            f"the step was packed by dagster {job['dagster']}, and this cluster has {found}\n"
            f"  next: remove dagster from the cluster's own libraries, or pin it to {job['dagster']}"
        )


def unpacked(job: Mapping[str, Any], code: bytes) -> Path:
    """The package and the catalog in a directory of their own; refused unless they are what was sent."""
    found = hashlib.sha256(code).hexdigest()
    if found != job["code_sha256"]:
        raise Refused(
            f"the code in the staging directory is not what was sent (sha256 {found[:12]}, wanted "
            f"{job['code_sha256'][:12]})\n  next: run again; if it stays so, somebody else writes into that directory"
        )
    target = Path(tempfile.mkdtemp(prefix="lakehouse-step-"))
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        archive.extractall(target)
    return target


def take_secrets(secrets: Mapping[str, Mapping[str, str]], scope: Mapping[str, Any]) -> None:
    """Set environment variables from the workspace's secret scopes; no value is printed."""
    if not secrets:
        return
    utils = scope.get("dbutils") or _dbutils()
    for name, where in secrets.items():
        try:
            os.environ[name] = utils.secrets.get(scope=where["scope"], key=where["key"])
        except Exception as error:
            raise Refused(
                f"the secret {where['scope']}/{where['key']} for {name} cannot be read: {str(error).splitlines()[0]}\n"
                f"  next: databricks secrets put-secret {where['scope']} {where['key']}, or grant READ on the scope: "
                f"databricks secrets put-acl {where['scope']} <principal> READ"
            ) from None


def _dbutils() -> Any:
    """Where it is no global, the SDK has it."""
    from databricks.sdk.runtime import dbutils

    return dbutils


def check_package(job: Mapping[str, Any]) -> None:
    """Refuse a package that is not the one of the process that launched the step."""
    import importlib.util

    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise Refused(f"the package {PACKAGE} is not installed here\n  next: check `wheel` in the configuration")
    have = tree_hash(Path(found.origin).parent)
    if have != job["package_sha256"]:
        raise Refused(
            f"the package at {found.origin} is not the one that launched the step (sha256 {have[:12]}, wanted "
            f"{job['package_sha256'][:12]})\n  next: build and upload the wheel again (make wheel), or remove `wheel`"
        )


class StepFailed(Exception):
    """The step's own failure: Databricks shows the run as failed, with this text."""


class Outbox:
    """Sends things back as they come: one numbered file a second at most, each with what is new, each written once.

    Args:
        name: the number of a file, from 0 -> where it stands.
        pack: what is new -> the bytes of its file.
    """

    def __init__(self, name: Callable[[int], Path], pack: Callable[[list[Any]], bytes]) -> None:
        self._name, self._pack = name, pack
        self._waiting: list[Any] = []
        self._files = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def put(self, thing: Any) -> None:
        """Take a thing."""
        with self._lock:
            self._waiting.append(thing)

    def close(self) -> None:
        """Send what waits.

        Raises:
            OSError: the staging directory could not be written for long; what waits is lost, and so is the step.
        """
        self._over.set()
        self._thread.join()
        until = time.monotonic() + LAST_SECONDS
        while True:
            try:
                return self._flush()
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(FLUSH_SECONDS)

    def _loop(self) -> None:
        while not self._over.wait(FLUSH_SECONDS):
            with contextlib.suppress(OSError):  # it waits for the next turn
                self._flush()

    def _flush(self) -> None:
        with self._lock:
            things = list(self._waiting)
        if not things:
            return
        self._name(self._files).write_bytes(self._pack(things))
        with self._lock:
            del self._waiting[: len(things)]
        self._files += 1


class Events(Outbox):
    """Sends the events of an attempt."""

    def __init__(self, place: Path, attempt: int) -> None:
        super().__init__(lambda number: place / events_file(attempt, number), self._packed)

    @staticmethod
    def _packed(events: list[Any]) -> bytes:
        from dagster._serdes import serialize_value

        return gzip.compress(serialize_value(events).encode())


def run(place: Path, job: Mapping[str, Any]) -> None:
    """Run the step in an instance that knows what the launching one told of earlier runs."""
    from dagster._core.execution.plan.external_step import external_instance_from_step_run_ref, run_step_from_ref
    from dagster._serdes import deserialize_value

    reference = pickle.loads((place / STEP).read_bytes())
    sent = Events(place, job["attempt"])
    try:
        instance = external_instance_from_step_run_ref(reference, event_listener_fn=sent.put)
        for entry in deserialize_value(gzip.decompress((place / HISTORY).read_bytes()).decode(), list):
            instance.event_log_storage.store_event(entry)
        events = run_step_from_ref(reference, instance)
        failures = [told(event) for event in events if event.is_step_failure or event.is_step_up_for_retry]
    finally:
        sent.close()
    if failures:
        raise StepFailed(f"{reference.step_key}: {failures[-1]}")


def told(event: Any) -> str:
    """What an event of a failure says: its error, and what caused that."""
    error, lines = getattr(event.event_specific_data, "error", None), []
    while error is not None:
        lines.append(error.message.strip())
        error = error.cause
    return "\n  caused by: ".join(lines) or event.message


if __name__ == "__main__":
    main(sys.argv[1], globals())
