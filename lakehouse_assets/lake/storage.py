"""Where a lake can stand: local directories and object stores, as file systems and as options for delta-rs.

What belongs here: paths, file systems, what makes a root legal. What does not: Delta.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lakehouse_assets.errors import LakeError, LakehouseError, NotRunnable, RootUnusable, StoreFailed
from lakehouse_assets.lake import azure

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from lakehouse_assets.settings import Settings

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ILLEGAL = re.compile(r"[\[\]*?%#^|\\\x00-\x1f\x7f]")
SCHEMES = ("a local path", "file://", "s3://", azure.FORM)
_OPTIONS = {"s3": ("AWS_",), "abfss": ("AZURE_", "AZURITE_")}
_OF_ANY_STORE = ("max_retries", "retry_timeout", "timeout", "connect_timeout", "allow_http", "backoff_config.")
"""Options of the client, which delta-rs knows in small letters: how long to try, and how."""


@dataclass(frozen=True)
class Storage:
    """How to reach table URIs: options in delta-rs's names, and pyarrow file systems made of them."""

    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    _opened: dict[str, FileSystem] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, settings: Settings, environ: Mapping[str, str]) -> Storage:
        """The storage of a process: `AWS_*`, `AZURE_*` and `AZURITE_*`, overridden by `settings.storage_options`."""
        named = {name: value for name, value in environ.items() if name.startswith(_PREFIXES)}
        given = {_option(name): value.get_secret_value() for name, value in settings.storage_options.items()}
        return cls(named | given)

    def delta_options(self, uri: str) -> dict[str, str]:
        """Options for delta-rs: those of the store, so that no secret goes where it is not needed.

        Raises:
            SettingsError: they cannot be used there.
        """
        if is_local(uri):
            return {}
        if azure.is_azure(uri):
            azure.check_options(self.options, azure.address(uri).account)
        own = _OPTIONS["abfss" if azure.is_azure(uri) else "s3"]
        return {n: text for n, text in self.options.items() if n.startswith(own) or not n.startswith(_PREFIXES)}

    def filesystem(self, uri: str) -> tuple[FileSystem, str]:
        """The file system of `uri`, and the path of `uri` in it.

        Raises:
            NotRunnable: the scheme has no file system here.
            SettingsError: the options cannot be used there.
        """
        if is_local(uri):
            from pyarrow.fs import LocalFileSystem

            return self._opened.setdefault("file", LocalFileSystem()), local_path(uri)
        if uri.startswith(("s3://", "s3a://")):
            return self._s3(), uri.split("://", 1)[1].rstrip("/")
        if azure.is_azure(uri):
            account, place = azure.address(uri).account, azure.address(uri).in_account
            if account not in self._opened:
                self._opened[account] = azure.open_account(self.options, account)
            return self._opened[account], place
        raise NotRunnable(f"no file system for {uri!r}", value=uri.split("://")[0], choices=SCHEMES)

    def ahead(self, uri: str) -> timedelta:
        """How far this process's clock is ahead of the one that dates the files below `uri`, a directory that is there.

        A file is written there to see, and deleted again.
        """
        fs, root = self.filesystem(uri)
        path = f"{root}/clock-{uuid.uuid4().hex}"
        with store_faults(uri, LakeError):
            with fs.open_output_stream(path) as probe:
                probe.write(b"?")
            dated = fs.get_file_info(path).mtime
            fs.delete_file(path)
        return datetime.now(UTC) - cast(datetime, dated)

    def _s3(self) -> FileSystem:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        if "s3" not in self._opened:
            get = self.options.get
            retries = get("max_retries")
            self._opened["s3"] = S3FileSystem(
                access_key=get("AWS_ACCESS_KEY_ID"),
                secret_key=get("AWS_SECRET_ACCESS_KEY"),
                session_token=get("AWS_SESSION_TOKEN"),
                region=get("AWS_REGION") or get("AWS_DEFAULT_REGION"),
                endpoint_override=get("AWS_ENDPOINT_URL") or get("AWS_ENDPOINT_URL_S3"),
                background_writes=False,
                retry_strategy=AwsStandardS3RetryStrategy(**({"max_attempts": 1 + int(retries)} if retries else {})),
            )
        return self._opened["s3"]


_PREFIXES = tuple(prefix for prefixes in _OPTIONS.values() for prefix in prefixes)


def _option(name: str) -> str:
    """The name of an option as the environment has it: `region` and `aws_region` are `AWS_REGION`."""
    if name.lower().startswith(_OF_ANY_STORE):
        return name.lower()
    upper = name.upper()
    return upper if upper.startswith(_PREFIXES) else f"AWS_{upper}"


def is_local(uri: str) -> bool:
    """Whether `uri` is a directory of this machine."""
    return _SCHEME.match(uri) is None or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The absolute path of a local `uri`."""
    return os.path.abspath(uri.removeprefix("file://"))


def normalize(uri: str) -> str:
    """A root or table URI in one spelling: absolute where it is local, no slash at the end.

    Raises:
        RootUnusable: it holds a character that Delta writers misread, or its scheme is unknown.
    """
    uri = str(uri)
    if found := _ILLEGAL.search(uri):
        raise RootUnusable(
            f"the path {uri!r} holds the character {found[0]!r}, which Delta writers misread",
            fix="choose a path without [ ] * ? % # ^ | \\ and control characters",
        )
    if is_local(uri):
        return local_path(uri)
    if azure.is_azure(uri):
        azure.address(uri)
    elif not uri.startswith(("s3://", "s3a://")):
        raise RootUnusable(f"no store for the root {uri!r}", value=uri.split("://")[0] + "://", choices=SCHEMES)
    return uri.rstrip("/")


def check_writable(uri: str) -> None:
    """Make sure that a local root exists and can be written; object stores say so at the first write.

    Raises:
        RootUnusable: it cannot be made, is no directory or is not writable.
    """
    if not is_local(uri):
        return
    path = Path(local_path(uri))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RootUnusable(
            f"the lake's root {str(path)!r} cannot be made: {error.strerror}",
            fix="give another --root, or make the directory with write permission for this user",
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RootUnusable(
            f"the lake's root {str(path)!r} is not writable for user {os.getuid()}",
            fix=f"chmod u+w {path}, or give another --root",
        )


def store_fault(uri: str, error: BaseException, otherwise: type[LakehouseError]) -> LakehouseError:
    """The error of ours that a failure of a disk or an object store amounts to; `otherwise` where it is none."""
    text, code = str(error), getattr(error, "errno", None)
    if "already exists" in text and "table" in text.lower():
        return StoreFailed(f"another process created {uri} first", fix="run again", raced=True)
    if code == errno.ENOSPC or any(word in text for word in _FULL):
        return StoreFailed(f"the disk that holds {uri} is full; nothing was half-written", fix="free space, run again")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or any(word in text for word in _FORBIDDEN):
        return RootUnusable(
            f"no permission to read or write {uri} ({first_line(error)})", fix="check owner, mode and credentials"
        )
    if any(word in text for word in _NO_BUCKET):
        return RootUnusable(
            f"there is no bucket for {uri} ({first_line(error)})",
            fix="make the bucket or the container, or give another --root",
        )
    if any(word in text for word in _STORE_WORDS):
        return StoreFailed(f"the object store failed for {uri}: {first_line(error)}", fix="run again")
    return otherwise(f"{type(error).__name__} on {uri}: {first_line(error)}", fix="see the cause above")


_FULL = ("os error 28", "No space left", "Disk quota exceeded", "os error 122")
_FORBIDDEN = (
    "os error 13", "os error 1)", "os error 30", "ermission denied", "Read-only file system", "ACCESS_DENIED",
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403 Forbidden", "AuthorizationFailure",
    "AuthenticationFailed", "AuthorizationPermissionMismatch", "Invalid Access Key",
)  # fmt: skip
_NO_BUCKET = ("NoSuchBucket", "NO_SUCH_BUCKET", "ContainerNotFound", "ResourceNotFound")
_STORE_WORDS = (
    "Generic S3 error", "Generic MicrosoftAzure error", "Azure Error", "error sending request", "timed out",
    "AWS Error", "SLOW_DOWN", "503", "os error 5)", "Input/output error",
)  # fmt: skip


@contextmanager
def store_faults(uri: str, otherwise: type[LakehouseError]) -> Iterator[None]:
    """Turn failures of a disk or an object store into ours."""
    try:
        yield
    except OSError as error:
        raise store_fault(uri, error, otherwise) from error


def first_line(error: BaseException) -> str:
    """What an error says in one line, for a message of ours."""
    lines = [_NOISE.sub("", line).strip() for line in str(error).splitlines()]
    return ": ".join(line for line in lines[:4] if line)[:300] or type(error).__name__


_NOISE = re.compile(r"\x1b\[[0-9;]*m|↳")
