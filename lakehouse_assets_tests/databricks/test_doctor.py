"""`lakehouse doctor --target databricks` against a workspace: what each check finds, and what it says mends it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.requirements import Requirement

from lakehouse_assets.databricks import doctor, doctor_catalog, doctor_compute
from lakehouse_assets.databricks.config import DatabricksConfig
from lakehouse_assets.databricks.findings import Caller, Finding
from lakehouse_assets.databricks.runtimes import RUNTIMES
from lakehouse_assets.entities.catalog import Catalog, parse_catalog
from lakehouse_assets.settings import Settings
from lakehouse_assets.simulators.workspace.faults import Fault
from lakehouse_assets.simulators.workspace.runtimes import runtimes
from lakehouse_assets.simulators.workspace.server import Workspace

ME = "tester@example.com"
STAGING = "/Volumes/main/ops/staging"
LAKE = "/Volumes/main/lake/tables"
FITTING = next(r for r in RUNTIMES if r.python == sys.version_info[:2])
RUNTIME = f"{FITTING.key}scala{FITTING.scala}"
OTHER = next(r for r in RUNTIMES if r.python != sys.version_info[:2])
SERVERLESS = {"serverless": {"environment_version": FITTING.environment}}
CATALOG = """
delta_live_store:
  - entity_id: a
    source: somewhere
    source_format: kafka
    destination: bronze.a
    read_options: {kafka.bootstrap.servers: "b:9092", subscribe: a, kafka.sasl.jaas.config: "%s"}
"""


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests are found."""
    for name in ("HOST", "TOKEN", "CLIENT_ID", "CLIENT_SECRET", "CONFIG_PROFILE", "AUTH_TYPE"):
        monkeypatch.delenv(f"DATABRICKS_{name}", raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    monkeypatch.setenv("HOME", str(tmp_path))


def configured(compute: Mapping[str, Any] = SERVERLESS, **keys: Any) -> DatabricksConfig:
    """A configuration with a volume and a lake in another."""
    return DatabricksConfig.model_validate({"volume": STAGING, "root": LAKE, "compute": compute, **keys})


def environ(workspace: Workspace, **more: str) -> dict[str, str]:
    """What leads to a workspace."""
    return {"DATABRICKS_HOST": workspace.host, "DATABRICKS_TOKEN": workspace.token, **more}


def catalog_with(secret: str) -> Catalog:
    """A catalog that refers to a secret."""
    return parse_catalog({"a.yaml": CATALOG % secret}, {}, {})


@pytest.fixture
def caller(workspace: Workspace) -> Caller:
    """Somebody who is signed in."""
    return doctor.who(configured(), environ(workspace))


def only(findings: Iterator[Finding] | list[Finding], check: str) -> Finding:
    """The finding of a check."""
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, found
    return found[0]


def mended(finding: Finding) -> str:
    """How a finding that says that something is missing is mended."""
    assert finding.state == "missing", finding
    assert finding.mend
    return finding.mend


def written(tmp_path: Path, text: str) -> Settings:
    """Settings that name a configuration."""
    file = tmp_path / "databricks.yaml"
    file.write_text(text)
    return Settings(target="databricks", databricks=file)


def everything(workspace: Workspace, tmp_path: Path, text: str, **more: str) -> dict[str, Finding]:
    """Every finding, by check."""
    found = list(doctor.examine(written(tmp_path, text), catalog_with("${secret:JAAS}"), environ(workspace, **more)))
    assert len({one.check for one in found}) == len(found), "two findings of one name"
    return {one.check: one for one in found}


FULL = f"""
volume: {STAGING}
root: s3://bucket/lake
unity_catalog: main
wheel: /Volumes/main/ops/staging/lakehouse_assets-0.1.0-py3-none-any.whl
compute: {{serverless: {{environment_version: "{FITTING.environment}"}}}}
secrets: {{JAAS: {{scope: lake, key: jaas}}}}
"""


def test_a_workspace_that_lacks_nothing(workspace: Workspace, tmp_path: Path) -> None:
    """Every check is ok; nothing is left in the volumes; no value of a secret and no token is read or told."""
    workspace.put_secret("lake", "jaas", "nobody-may-see-this")
    workspace.path(f"{STAGING}/lakehouse_assets-0.1.0-py3-none-any.whl").write_bytes(b"wheel")
    found = everything(workspace, tmp_path, FULL)
    assert {one.state for one in found.values()} == {"ok"}, found
    assert list(found) == [
        "package dagster-databricks", "package databricks-sdk", "configuration", "root", "host", "token", "environment",
        "python there", "volume main.ops.staging", "wheel", "secret scope lake",
        "catalog main", "schema main.bronze", "schema main.control",
    ]  # fmt: skip
    assert found["token"].found == f"{ME} (pat)"
    assert [file.name for file in workspace.path(STAGING).iterdir()] == ["lakehouse_assets-0.1.0-py3-none-any.whl"]
    assert list(workspace.path(LAKE).iterdir()) == []
    assert not [request for request in workspace.requests if request.path.endswith("secrets/get")]
    assert not [one for one in found.values() if workspace.token in str(one) or "nobody-may" in str(one)]
    assert workspace.broken == []


def test_without_a_configuration(tmp_path: Path) -> None:
    """LAKEHOUSE_DATABRICKS is not set: the variable and the examples are named, the rest is not checked."""
    found = list(doctor.examine(Settings(target="databricks"), None, {}))
    mend = mended(only(found, "configuration"))
    assert mend.startswith("export LAKEHOUSE_DATABRICKS=")
    assert "infra/databricks/job_cluster.yaml" in mend
    assert only(found, "token") == Finding("token", "not checked", "not checked: there is no legal configuration")


def test_an_illegal_configuration(tmp_path: Path) -> None:
    """Its faults are told with file and line."""
    finding = only(doctor.examine(written(tmp_path, "volumes: x\n"), None, {}), "configuration")
    assert "databricks.yaml:1: unknown key 'volumes' (did you mean 'volume'?)" in finding.found
    assert mended(finding) == "mend the file"


def test_packages() -> None:
    """A package that is absent, or of a version that does not fit, is installed by a command."""
    assert {need.name for need in doctor.needed()} == {"dagster-databricks", "databricks-sdk"}
    for need in ("no-such-package", "packaging<1"):
        assert "pip install 'lakehouse-assets[databricks]'" in mended(doctor.check_package(Requirement(need)))


def test_a_root_on_this_machine() -> None:
    """A cluster cannot reach a directory: `root:` is to be said."""
    config = DatabricksConfig.model_validate({"volume": STAGING, "compute": SERVERLESS})
    assert "say `root:` in the configuration: s3://" in mended(doctor.check_root(config, "lake"))
    assert doctor.check_root(config, "abfss://c@a.dfs.core.windows.net/lake").state == "ok"


@pytest.mark.parametrize(("reference", "names"), [("${secret:JAAS}", ["secret JAAS"]), ("{{secrets/lake/jaas}}", [])])
def test_a_secret_without_a_place(reference: str, names: list[str]) -> None:
    """`${secret:NAME}` of the catalog has to stand in `secrets:`; `{{secrets/scope/key}}` says where it is itself."""
    found = list(doctor.check_places(configured(), catalog_with(reference)))
    assert [one.check for one in found] == names
    assert [mended(one) for one in found] == [
        f"add to the configuration: secrets: {{{name.split()[1]}: {{scope: <scope>, key: <key>}}}}" for name in names
    ]


def test_the_secrets_that_are_looked_for() -> None:
    """Those of the configuration, of the catalog and of the job cluster's own settings."""
    compute = {"job_cluster": {"spark_version": RUNTIME, "spark_env_vars": {"A": "{{secrets/cluster/a}}"}}}
    config = configured(compute, secrets={"B": {"scope": "lake", "key": "b"}})
    found = doctor.secret_scopes(config, catalog_with("{{secrets/lake/jaas}}"))
    assert found == {"lake": {"b", "jaas"}, "cluster": {"a"}}


def test_no_host() -> None:
    """Without a host the variable is named, and the token is not checked."""
    found, caller = doctor.sign_in(configured(), {})
    assert "DATABRICKS_HOST" in mended(only(found, "host"))
    assert only(found, "token").found == "not checked: see host"
    assert caller is None


def test_a_host_that_does_not_answer() -> None:
    """Nobody listens there: the command that shows it is named; what may be a password in the address is not told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finding = doctor.check_host(f"http://me:hidden@127.0.0.1:{port}")
    assert mended(finding).startswith(f"curl -I http://127.0.0.1:{port}; if it is not the workspace: export DATABRICKS")
    assert "does not answer: ConnectionError" in finding.found
    assert "hidden" not in str(finding)


class _Page(BaseHTTPRequestHandler):
    status = 404
    credentials: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.credentials.append(self.headers.get("Authorization"))
        self.send_error(self.status)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def page() -> Iterator[Callable[[int], str]]:
    """A server that answers everything with one status."""
    server = HTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def answering(status: int) -> str:
        _Page.status = status
        _Page.credentials.clear()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield answering
    server.shutdown()
    server.server_close()


def test_a_host_that_is_no_workspace(page: Callable[[int], str]) -> None:
    """Something else listens there; one that asks for credentials, without telling more, may be an old workspace."""
    finding = doctor.check_host(page(404))
    assert "answers, but not as a workspace (HTTP 404)" in finding.found
    assert "DATABRICKS_HOST" in mended(finding)
    assert doctor.check_host(page(401)).state == "ok"


def test_the_host_is_asked_without_credentials(page: Callable[[int], str], tmp_path: Path) -> None:
    """Not even those of ~/.netrc go to an address that is not known to be the workspace."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    assert doctor.check_host(page(401)).state == "ok"
    assert _Page.credentials == [None, None]


def test_a_token_that_the_workspace_refuses(workspace: Workspace) -> None:
    """Expired or wrong: the commands that make one; the token is not told."""
    wrong = {"DATABRICKS_HOST": workspace.host, "MINE": "dapi-wrong"}
    found, caller = doctor.sign_in(configured(token="${secret:MINE}"), wrong)
    finding = only(found, "token")
    assert "Invalid access token" in finding.found
    assert mended(finding) == (
        f"databricks auth login --host {workspace.host} && databricks tokens create --comment lakehouse "
        "--lifetime-seconds 7776000, and export MINE=<the token_value it prints>"
    )
    assert "dapi-wrong" not in str(found)
    assert caller is None


def test_no_credentials_at_all(workspace: Workspace) -> None:
    """Nothing is set and no file is there: the same commands."""
    found, _ = doctor.sign_in(configured(), {"DATABRICKS_HOST": workspace.host})
    assert "export DATABRICKS_TOKEN=" in mended(only(found, "token"))


def test_credentials_of_two_kinds(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK refuses when the environment has others besides: the variable that decides; no value is told."""
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "app-1")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "nobody-may-see-this")
    finding = only(doctor.sign_in(configured(), environ(workspace))[0], "token")
    assert finding.found.endswith("more than one authorization method configured: oauth and pat.")
    assert mended(finding) == "export DATABRICKS_AUTH_TYPE=pat, or unset the variables of the others"
    monkeypatch.setenv("DATABRICKS_AUTH_TYPE", "pat")
    assert doctor.sign_in(configured(), environ(workspace))[1]


@pytest.mark.parametrize(
    ("keys", "mend"),
    [
        ({"token": "${secret:T}"}, "set the environment variable T: databricks auth login"),
        (
            {"service_principal": {"client_id": "app-1", "client_secret": "${secret:T}"}},
            "set the environment variable T: make a new secret for the service principal app-1 (databricks account "
            "service-principal-secrets create <id>), and export T=",
        ),
        (
            {"azure_principal": {"client_id": "app-1", "client_secret": "${secret:T}", "tenant_id": "t"}},
            "set the environment variable T: az ad app credential reset --id app-1, and export T=",
        ),
    ],
)
def test_a_credential_that_is_not_set(workspace: Workspace, keys: dict[str, Any], mend: str) -> None:
    """The variable is named, and how its value is made for this kind of credentials."""
    found, _ = doctor.sign_in(configured(**keys), {"DATABRICKS_HOST": workspace.host})
    assert mended(only(found, "token")).startswith(mend)


def test_a_workspace_that_is_busy(workspace: Workspace, caller: Caller) -> None:
    """A 500 is not a fault of the configuration: to be looked at again."""
    workspace.fail(Fault(path="volumes", status=500, times=99))
    assert "once more in a minute" in mended(doctor.check_volume(caller, STAGING))


def test_what_cannot_be_checked_says_so(workspace: Workspace, tmp_path: Path) -> None:
    """Nobody is signed in: what needs nobody is checked, and the rest says why it is not."""
    found = everything(workspace, tmp_path, FULL, DATABRICKS_TOKEN="dapi-wrong")
    skipped = {name for name, one in found.items() if one.state == "not checked"}
    assert skipped == {"files", "secret scope lake", "Unity Catalog"}
    assert found["files"].found == "not checked: nobody is signed in, see token"
    assert (found["environment"].state, found["python there"].state) == ("ok", "ok")


def test_a_volume_that_is_not_there(caller: Caller) -> None:
    """It is made by SQL."""
    finding = doctor.check_volume(caller, "/Volumes/main/my-ops/none")
    assert mended(finding) == "CREATE SCHEMA IF NOT EXISTS main.`my-ops`; CREATE VOLUME main.`my-ops`.none"
    assert finding.check == "volume main.my-ops.none"


@pytest.mark.parametrize("fault", [Fault("GET", "unity-catalog/volumes", 403), Fault("PUT", "fs/files", 403)])
def test_a_volume_without_permission(workspace: Workspace, caller: Caller, fault: Fault) -> None:
    """Neither its entry nor its files may be used: the GRANT statements."""
    workspace.fail(fault)
    assert mended(doctor.check_volume(caller, STAGING)) == (
        f"GRANT USE CATALOG ON CATALOG main TO `{ME}`; GRANT USE SCHEMA ON SCHEMA main.ops TO `{ME}`; "
        f"GRANT READ VOLUME, WRITE VOLUME ON VOLUME main.ops.staging TO `{ME}`"
    )


def test_a_volume_that_gives_back_something_else(workspace: Workspace, caller: Caller) -> None:
    """A file that is not what was written is found out, and removed."""
    workspace.fail(Fault("GET", "fs/files", truncate=True))
    finding = doctor.check_volume(caller, STAGING)
    assert "gave back another file than was written" in finding.found
    assert mended(finding)
    assert list(workspace.path(STAGING).iterdir()) == []


def test_a_workspace_with_a_dbfs_root(workspace: Workspace, caller: Caller) -> None:
    """It is written and read; nothing stays there."""
    assert doctor.check_dbfs(caller, "/lakehouse_staging").state == "ok"
    assert list(workspace.path("dbfs:/").iterdir()) == []


def test_a_workspace_without_a_dbfs_root(serving: Callable[..., Workspace]) -> None:
    """Transport volumes is the remedy."""
    workspace = serving(dbfs=False)
    config = configured({"existing_cluster": "x"}, transport="dbfs")
    finding = only(doctor.check_files(config, LAKE, doctor.who(config, environ(workspace))), "DBFS root")
    assert "Public DBFS root is disabled" in finding.found
    assert "transport: volumes, and volume: /Volumes/" in mended(finding)


def test_a_wheel_that_is_not_there(caller: Caller) -> None:
    """It is built and copied by a command."""
    assert mended(doctor.check_wheel(caller, f"{STAGING}/a.whl")) == (
        f"make wheel && databricks fs cp dist/a.whl dbfs:{STAGING}/a.whl --overwrite"
    )


def test_a_secret_scope_that_is_not_there(caller: Caller) -> None:
    """The commands that make it and its keys."""
    assert mended(doctor.check_scope(caller, "lake", {"b", "a"})) == (
        "databricks secrets create-scope lake; databricks secrets put-secret lake a; "
        "databricks secrets put-secret lake b"
    )


def test_a_secret_that_is_not_there(workspace: Workspace, caller: Caller) -> None:
    """The command that puts it, and not those that are there."""
    workspace.put_secret("lake", "a", "x")
    assert mended(doctor.check_scope(caller, "lake", {"b", "a"})) == "databricks secrets put-secret lake b"


def test_a_secret_scope_without_permission(workspace: Workspace, caller: Caller) -> None:
    """The command that lets the principal read it."""
    workspace.fail(Fault(path="secrets/list", status=403))
    assert mended(doctor.check_scope(caller, "lake", {"a"})) == f"databricks secrets put-acl lake {ME} READ"


def unity(caller: Caller) -> dict[str, Finding]:
    """What is found of the catalog `main` and the schema `bronze`."""
    return {one.check: one for one in doctor_catalog.check_unity_catalog(caller, "main", ["bronze"])}


def test_a_catalog_without_grants(workspace: Workspace, caller: Caller) -> None:
    """The GRANT that is lacking; its schemas are not checked. CREATE SCHEMA is needed where a schema is to be made."""
    workspace.grants["catalog", "main"] = {"somebody@example.com": {"ALL_PRIVILEGES"}, ME: {"BROWSE"}}
    found = unity(caller)
    assert mended(found["catalog main"]) == f"GRANT USE CATALOG ON CATALOG main TO `{ME}`"
    assert found["schema main.bronze"].found == "not checked: see catalog main"
    workspace.fail(Fault(path="effective-permissions/SCHEMA", status=404))
    assert mended(unity(caller)["catalog main"]) == f"GRANT USE CATALOG, CREATE SCHEMA ON CATALOG main TO `{ME}`"


def test_a_schema_without_grants(workspace: Workspace, caller: Caller) -> None:
    """The GRANT that is lacking; what is granted to everybody counts."""
    workspace.grants["schema", "main.bronze"] = {"account users": {"USE_SCHEMA", "SELECT"}}
    mend = mended(unity(caller)["schema main.bronze"])
    assert mend == f"GRANT CREATE TABLE, MODIFY ON SCHEMA main.bronze TO `{ME}`"


def test_a_schema_that_is_made_later(workspace: Workspace, caller: Caller) -> None:
    """A schema that is not there is no fault, for who may make it."""
    workspace.grants["catalog", "main"] = {ME: {"USE_CATALOG", "CREATE_SCHEMA"}}
    workspace.fail(Fault(path="effective-permissions/SCHEMA", status=404))
    assert unity(caller)["schema main.bronze"] == Finding("schema main.bronze", "ok", "is made by the first step")


@pytest.mark.parametrize(
    ("status", "mend"),
    [(404, "CREATE CATALOG main, or mend `unity_catalog`"), (403, f"GRANT USE CATALOG ON CATALOG main TO `{ME}`")],
)
def test_a_catalog_that_cannot_be_seen(workspace: Workspace, caller: Caller, status: int, mend: str) -> None:
    """It is not there, or may not be looked at."""
    workspace.fail(Fault(path="effective-permissions/CATALOG", status=status))
    assert mended(unity(caller)["catalog main"]).startswith(mend)


def compute(given: Mapping[str, Any], caller: Caller | None, **keys: Any) -> dict[str, Finding]:
    """What is found of a compute."""
    found = doctor_compute.examine(configured(given, **keys), caller, "nobody is signed in")
    return {one.check: one for one in found}


def job(**keys: Any) -> dict[str, Any]:
    """A job cluster."""
    spec = {"spark_version": RUNTIME, "node_type_id": "n", "num_workers": 1, "data_security_mode": "SINGLE_USER"}
    return {"job_cluster": {name: value for name, value in {**spec, **keys}.items() if value is not None}}


def test_a_job_cluster_that_runs_steps(caller: Caller) -> None:
    """Known keys, a supported runtime with this Python, dedicated to who signs in."""
    found = compute(job(single_user_name=ME), caller)
    assert {one.state for one in found.values()} == {"ok"}
    assert list(found) == ["job cluster", "runtime", "python there", "access mode", "dedicated to"]


def test_a_key_that_no_cluster_has(caller: Caller) -> None:
    """It is named with those that there are."""
    finding = compute(job(workers=3), caller)["job cluster"]
    assert finding.found == "compute.job_cluster: unknown keys workers"
    assert "num_workers" in mended(finding)


@pytest.mark.parametrize("version", ["13.3.x-scala2.12", "19.x-scala2.13", "auto:latest-lts"])
def test_a_runtime_that_is_not_supported(version: str) -> None:
    """It is refused, those that are supported are named, and its Python is not checked."""
    found = compute(job(spark_version=version), None)
    assert found["runtime"].found == f"this Databricks Runtime is not supported (got {version!r})"
    assert RUNTIME in mended(found["runtime"])
    assert found["python there"].state == "not checked"


def test_an_environment_that_is_not_supported() -> None:
    """The same for serverless compute."""
    found = compute({"serverless": {"environment_version": "1"}}, None)
    assert "set environment_version to one of these (legal: 2 (Python 3.11)" in mended(found["environment"])
    assert found["python there"].state == "not checked"


@pytest.mark.parametrize(
    "given",
    [job(spark_version=f"{OTHER.key}scala{OTHER.scala}"), {"serverless": {"environment_version": OTHER.environment}}],
)
def test_another_python_there(given: Mapping[str, Any]) -> None:
    """A step's pickle could not be read there: a runtime with this Python is named."""
    found = compute(given, None)
    assert RUNTIME in mended(found["python there"])
    assert f"has Python {OTHER.python_name}" in found["python there"].found


@pytest.mark.parametrize(
    ("mode", "keys", "part"),
    [
        ("USER_ISOLATION", {"transport": "dbfs"}, "has no sc and no /dbfs"),
        ("DATA_SECURITY_MODE_STANDARD", {"transport": "dbfs"}, "has no sc and no /dbfs"),
        ("NONE", {}, "does not reach Unity Catalog, which volume, root needs"),
        (
            "LEGACY_TABLE_ACL",
            {"transport": "dbfs", "volume": None, "root": None},
            "none that steps are known to run in",
        ),
    ],
)
def test_an_access_mode_that_cannot_run_steps(mode: str, keys: dict[str, Any], part: str) -> None:
    """A cluster without what the transport needs is made dedicated."""
    finding = compute(job(data_security_mode=mode), None, **keys)["access mode"]
    assert part in finding.found
    assert "compute.job_cluster: data_security_mode: SINGLE_USER" in mended(finding)


@pytest.mark.parametrize(
    ("mode", "keys", "state"),
    [
        ("USER_ISOLATION", {}, "ok"),
        ("NONE", {"transport": "dbfs", "volume": None, "root": "s3://bucket/lake"}, "ok"),
        (None, {}, "optional"),
    ],
)
def test_an_access_mode_that_may_run_steps(mode: str | None, keys: dict[str, Any], state: str) -> None:
    """Standard mode runs steps whose files come through a volume; where nothing is said, that is told."""
    assert compute(job(data_security_mode=mode), None, **keys)["access mode"].state == state


def test_a_cluster_that_is_dedicated_to_somebody_else(caller: Caller) -> None:
    """Who signs in could not attach to it."""
    mend = mended(compute(job(single_user_name="somebody@example.com"), caller)["dedicated to"])
    assert mend == f"set single_user_name: {ME}, or sign in as somebody@example.com"


def test_a_policy_that_is_there(workspace: Workspace, caller: Caller) -> None:
    """Its name is told."""
    policy = workspace.add_policy("small clusters")
    found = compute(job(policy_id=policy), caller)[f"cluster policy {policy}"]
    assert (found.state, found.found) == ("ok", "small clusters admits the job cluster")


def test_a_policy_that_is_not_there(caller: Caller) -> None:
    """The command that lists them."""
    finding = compute(job(policy_id="ABC"), caller)["cluster policy ABC"]
    assert mended(finding) == "databricks cluster-policies list, and set compute.job_cluster.policy_id to one of these"


def test_a_policy_without_permission(workspace: Workspace, caller: Caller) -> None:
    """The command that allows its use."""
    workspace.fail(Fault(path="policies/clusters/get", status=403))
    mend = mended(compute(job(policy_id="ABC"), caller)["cluster policy ABC"])
    assert mend.startswith('databricks permissions update cluster-policies ABC --json \'{"access_control_list"')
    assert f'"user_name": "{ME}", "permission_level": "CAN_USE"' in mend


RULES = {
    "spark_version": {"type": "fixed", "value": "17.3.x-scala2.13"},
    "num_workers": {"type": "fixed", "value": 1},
    "autotermination_minutes": {"type": "fixed", "value": 20},
    "custom_tags.team": {"type": "fixed", "value": "data"},
    "spark_conf.spark.sql.ansi.enabled": {"type": "fixed", "value": "true"},
    "spark_env_vars.API_TOKEN": {"type": "fixed", "value": "theirs"},
    "instance_pool_id": {"type": "forbidden"},
    "node_type_id": {"type": "allowlist", "values": ["a", "b"]},
    "dbus_per_hour": {"type": "range", "maxValue": 10},
}


def test_a_policy_that_contradicts() -> None:
    """What the policy fixes, forbids or does not list is named; what is not given is the policy's; no secret is told."""
    spec = {
        "spark_version": RUNTIME, "num_workers": "1", "custom_tags": {"team": "lake"}, "instance_pool_id": "p",
        "spark_conf": {"spark.sql.ansi.enabled": "true"}, "node_type_id": "c", "spark_env_vars": {"API_TOKEN": "mine"},
    }  # fmt: skip
    finding = doctor_compute.judge("policy", "theirs only", RULES, spec)
    assert mended(finding) == (
        "in compute.job_cluster: spark_version: 17.3.x-scala2.13; custom_tags.team: data; spark_env_vars.API_TOKEN: as "
        "the policy has it; remove instance_pool_id; node_type_id: one of a, b"
    )
    assert "custom_tags.team is lake" in finding.found
    assert "mine" not in str(finding)


def test_an_existing_cluster(serving: Callable[..., Workspace]) -> None:
    """Its runtime, Python and access mode are looked at; it starts when the first step comes."""
    workspace = serving(runtimes={RUNTIME: replace(runtimes()["4.2"], name=RUNTIME)})
    name = workspace.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER", single_user_name=ME)
    found = compute({"existing_cluster": name}, doctor.who(configured(), environ(workspace)))
    assert {one.state for one in found.values()} == {"ok"}
    assert found[f"cluster {name}"].found == "TERMINATED: starts when the first step comes"
    assert found["runtime"].found.startswith(f"Databricks Runtime {FITTING.dbr}, Spark ")
    assert (found["access mode"].found, found["dedicated to"].found) == ("SINGLE_USER", ME)


def test_an_existing_cluster_with_another_runtime(workspace: Workspace, caller: Caller) -> None:
    """It is refused as one that would be made."""
    name = workspace.add_cluster(spark_version="4.2")
    assert RUNTIME in mended(compute({"existing_cluster": name}, caller)["runtime"])


def test_an_existing_cluster_in_standard_mode(workspace: Workspace, caller: Caller) -> None:
    """Transport dbfs does not run there: the cluster is to be edited."""
    name = workspace.add_cluster(spark_version="4.2", data_security_mode="USER_ISOLATION")
    finding = compute({"existing_cluster": name}, caller, transport="dbfs")["access mode"]
    assert mended(finding).startswith("set in the cluster (Edit, Access mode): data_security_mode: SINGLE_USER")


def test_a_cluster_that_is_not_there(caller: Caller) -> None:
    """The command that lists them; what is in it is not checked."""
    found = compute({"existing_cluster": "none"}, caller)
    assert mended(found["cluster none"]).startswith("databricks clusters list, and set compute.existing_cluster")
    assert [found[check].state for check in ("runtime", "python there", "access mode")] == ["not checked"] * 3


def test_a_cluster_without_permission(workspace: Workspace, caller: Caller) -> None:
    """The command that lets the principal start it."""
    workspace.fail(Fault(path="clusters/get", status=403))
    mend = mended(compute({"existing_cluster": "c-1"}, caller)["cluster c-1"])
    assert mend.startswith("databricks permissions update clusters c-1 --json ")
    assert '"permission_level": "CAN_RESTART"' in mend


def test_a_cluster_that_failed(workspace: Workspace, caller: Caller) -> None:
    """It is started by a command."""
    name = workspace.add_cluster(spark_version="4.2")
    workspace.clusters.get(name).state = "ERROR"
    assert mended(compute({"existing_cluster": name}, caller)[f"cluster {name}"]) == f"databricks clusters start {name}"


def test_a_cluster_that_nobody_can_ask_for() -> None:
    """Without somebody who is signed in an existing cluster and a policy are not checked."""
    assert compute({"existing_cluster": "c"}, None)["cluster c"].found == "not checked: nobody is signed in"
    assert compute(job(policy_id="p"), None)["cluster policy p"].state == "not checked"
