"""Tests of Azure storage as a root: its addresses, its options, what is refused, and the command on it."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import random
import signal
import time
from urllib.parse import urlencode

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import RootUnusable, SettingsError
from lakehouse_assets.lake.azure import Address, address
from lakehouse_assets.lake.storage import Storage, is_local, normalize
from lakehouse_assets.lake.values import TableSpec
from lakehouse_assets_tests.cli.lab import Machine, readings, write
from lakehouse_assets_tests.conftest import ACCOUNT, ACCOUNT_KEY, need
from lakehouse_assets_tests.engines.bench import KV, Bench

ROOT = "abfss://lake@account.dfs.core.windows.net"
RUN = ("bronze.readings", "silver.readings", "silver.readings_quarantine", "gold.thirds")


def test_a_tool_that_is_missing_is_named_and_fails_under_ci(monkeypatch):
    """On a laptop the tests that need it are left out with the remedy; `CI` has to have everything."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Azurite is not on this machine: `make setup-azurite`"):
        need(False, "Azurite", "`make setup-azurite`")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Azurite is needed here: `make setup-azurite`"):
        need(False, "Azurite", "`make setup-azurite`")
    need(True, "Azurite", "")


def test_an_address_has_three_parts():
    """Account, container and path; a slash at the end says nothing."""
    assert address(f"{ROOT}/a b/c") == Address("account", "lake", "a b/c")
    assert (address(ROOT).in_account, address(f"{ROOT}/").in_account) == ("lake", "lake")
    assert (normalize(f"{ROOT}/a/"), is_local(ROOT)) == (f"{ROOT}/a", False)


@pytest.mark.parametrize(
    "root",
    [
        "abfss://lake/path",
        "abfss://lake@account/path",
        "abfss://lake@account.blob.core.windows.net/path",
        "abfss://Lake@account.dfs.core.windows.net",
        "abfss://lake@account.dfs.core.windows.net:443/path",
    ],
)
def test_an_address_in_another_form_is_refused(root):
    """The message shows the form; account and container are never guessed."""
    with pytest.raises(RootUnusable, match=r"legal: abfss://container@account\.dfs\.core\.windows\.net/path"):
        normalize(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"AZURE_STORAGE_ACCOUNT_NAME": "other", "AZURE_STORAGE_ACCOUNT_KEY": "AAAA"}, "account 'other'.*'account'"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "no key!"}, "AZURE_STORAGE_ACCOUNT_KEY is no account key"),
        ({"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1/account"}, "AZURITE_BLOB_STORAGE_URL"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_asked(options, message):
    """Both libraries would misread them, each in its own way; one of them would end the process."""
    storage = Storage(options)
    for call in (storage.delta_options, storage.filesystem):
        with pytest.raises(SettingsError, match=f"(?s){message}") as caught:
            call(f"{ROOT}/t")
        assert "no key!" not in str(caught.value)


def test_a_store_is_given_its_own_options_only():
    """Secrets of one store do not reach another; options of the client reach both."""
    storage = Storage({"AWS_SECRET_ACCESS_KEY": "s", "AZURE_STORAGE_SAS_TOKEN": "t", "max_retries": "1"})
    assert storage.delta_options(ROOT) == {"AZURE_STORAGE_SAS_TOKEN": "t", "max_retries": "1"}
    assert storage.delta_options("s3://b") == {"AWS_SECRET_ACCESS_KEY": "s", "max_retries": "1"}


@pytest.mark.parametrize("wrong", ["account", "container", "key"])
def test_a_wrong_account_container_or_key_is_the_root_s_fault(azure, wrong):
    """Trying again cannot help; the message names the root and the next step, and no secret."""
    root, options = azure.root, dict(azure.options)
    if wrong == "account":
        root = root.replace(ACCOUNT, "nobodysaccount")
    elif wrong == "container":
        root = "abfss://nowhere-at-all@" + root.partition("@")[2]
    else:
        options["AZURE_STORAGE_ACCOUNT_KEY"] = base64.b64encode(b"another key").decode()
    engine = EmbeddedEngine(Storage(options))
    for call in (lambda: engine.find(f"{root}/t"), lambda: engine.create(f"{root}/t", TableSpec(KV))):
        with pytest.raises(RootUnusable) as caught:
            call()
        assert f"{root}/t" in str(caught.value)
        assert "next: " in str(caught.value)
        assert options["AZURE_STORAGE_ACCOUNT_KEY"] not in str(caught.value)
    engine.close()


def test_a_shared_access_signature_is_enough(azure):
    """A token in place of the account's key, with or without its question mark: written, read, merged."""
    options = {name: text for name, text in azure.options.items() if name != "AZURE_STORAGE_ACCOUNT_KEY"}
    for token in (signature(), "?" + signature()):
        engine = EmbeddedEngine(Storage(options | {"AZURE_STORAGE_SAS_TOKEN": token}))
        table = Bench(engine, f"{azure.root}/{len(token)}").table(KV, (1, "a"), feed=True)
        table.merge([(1, "b"), (2, "c")])
        assert table.rows() == [(1, "b"), (2, "c")]
        engine.close()


def signature() -> str:
    """An account's signature for everything, good for an hour."""
    end = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = [ACCOUNT, "rwdlacup", "b", "sco", "", end, "", "https,http", "2021-08-06", "", ""]
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), "\n".join(fields).encode(), hashlib.sha256).digest()
    parts = {"sv": "2021-08-06", "ss": "b", "srt": "sco", "sp": "rwdlacup", "se": end, "spr": "https,http"}
    return urlencode(parts | {"sig": base64.b64encode(digest).decode()})


@pytest.mark.slow
def test_runs_on_azure_are_killed_and_end_in_the_tables_of_clean_ones(tmp_path, azure):
    """§7.1: `lakehouse run` is killed with SIGKILL at random moments and run again: the tables of a lake on a disk."""
    machine = Machine(tmp_path, azure.options, root=f"{azure.root}/lake")
    machine.declare()
    for part in range(2):
        write(machine.database, readings(60, first=part * 60))
        child = machine.start("run", "*")
        time.sleep(random.uniform(1.0, 3.0))
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
    done = machine.process("run", "*")
    assert done.returncode == 0, done.stderr
    clean = Machine(tmp_path, root=str(tmp_path / "clean"))
    assert clean.lakehouse("run", "*").exit_code == 0
    for table in RUN:
        assert machine.rows(table, storage=azure.storage) == clean.rows(table), table
    assert "nothing new: no table was written" in machine.lakehouse("run", "*").stderr


def test_doctor_looks_into_a_lake_on_azure(tmp_path, azure):
    """The root is written to and found good; a container that is missing is named."""
    machine = Machine(tmp_path, azure.options, root=f"{azure.root}/lake")
    machine.declare()
    write(machine.database, readings(3))
    assert f"{azure.root}/lake writable" in machine.lakehouse("doctor", "--format", "json").stdout
    lost = machine.lakehouse("doctor", "--format", "json", "--root", azure.root.replace("container-", "nowhere-"))
    assert "there is no bucket for nowhere-" in lost.stdout
    assert "make the bucket or the container" in lost.stdout
