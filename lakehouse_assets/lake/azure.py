"""Azure storage as a root: its addresses, its options, and the pyarrow file system made of them.

delta-rs takes the same options under the names that they have in the environment. What does not belong here: what a
failure amounts to (`storage.py`), Delta.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from lakehouse_assets.errors import RootUnusable, SettingsError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

FORM = "abfss://container@account.dfs.core.windows.net"
_ADDRESS = re.compile(r"abfss://([a-z0-9][a-z0-9-]{2,62})@([a-z0-9]{3,24})\.dfs\.core\.windows\.net(?:/(.*))?")
_TRUE = ("true", "1", "yes", "on")
_EMULATOR = "http://127.0.0.1:10000"
_REFUSED = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


class Address(NamedTuple):
    """A place in Azure storage."""

    account: str
    container: str
    path: str

    @property
    def in_account(self) -> str:
        """The place as file systems of the account name it."""
        return f"{self.container}/{self.path}" if self.path else self.container


def is_azure(uri: str) -> bool:
    """Whether `uri` names a place in Azure storage."""
    return uri.startswith("abfss://")


def address(uri: str) -> Address:
    """The parts of `uri`.

    Raises:
        RootUnusable: it does not name a container of an account.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise RootUnusable(f"{uri!r} names no container of an account", choices=(f"{FORM}/path",), fix="write it so")
    return Address(found[2], found[1], (found[3] or "").rstrip("/"))


def check_options(options: Mapping[str, str], account: str) -> None:
    """Make sure that the options are for `account`, and that both libraries understand them alike.

    Raises:
        SettingsError: they are not.
    """
    named, key = options.get("AZURE_STORAGE_ACCOUNT_NAME", account), options.get("AZURE_STORAGE_ACCOUNT_KEY")
    if key is not None and named != account:
        raise SettingsError(
            f"AZURE_STORAGE_ACCOUNT_KEY is the key of the account {named!r} (AZURE_STORAGE_ACCOUNT_NAME), "
            f"and the lake stands in {account!r}",
            fix=f"set both for {account!r}, or give another --root",
        )
    if key is not None and not _is_key(key):
        raise SettingsError("AZURE_STORAGE_ACCOUNT_KEY is no account key: it is not base64", fix="copy the key whole")
    if given := [name for name in _REFUSED if name in options]:
        raise SettingsError(
            f"{given[0]} is not supported: the account's address is made from the root",
            fix=f"unset it; for the emulator set AZURE_STORAGE_USE_EMULATOR=true and AZURITE_BLOB_STORAGE_URL in the "
            f"environment (default {_EMULATOR})",
        )


def open_account(options: Mapping[str, str], account: str) -> FileSystem:
    """The file system of an account; without a credential in `options` the usual chain of Azure is asked for one."""
    from pyarrow.fs import AzureFileSystem

    check_options(options, account)
    get = options.get
    how: dict[str, str | None] = {"account_key": get("AZURE_STORAGE_ACCOUNT_KEY")}
    if how["account_key"] is None and (sas := get("AZURE_STORAGE_SAS_TOKEN")):
        how = {"sas_token": "?" + sas.removeprefix("?")}
    elif how["account_key"] is None:
        names = ("tenant_id", "client_id", "client_secret")
        how = {n: get(f"AZURE_{n.upper()}") or get(f"AZURE_STORAGE_{n.upper()}") for n in names}
    if get("AZURE_STORAGE_USE_EMULATOR", "").lower() in _TRUE:
        emulator = urlsplit(get("AZURITE_BLOB_STORAGE_URL") or _EMULATOR)
        how |= {f"{kind}_storage_{part}": text for kind in ("blob", "dfs") for part, text in
                (("authority", emulator.netloc), ("scheme", emulator.scheme))}  # fmt: skip
    return AzureFileSystem(account, **{name: text for name, text in how.items() if text is not None})


def _is_key(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False
