"""The jobs of the Databricks Asset Bundle: against the catalog, the command line, and the choices of who deploys.

The `databricks` command is not asked for: it reads databricks.yml, resolves references and calls
`databricks.bundles.build`. `bundle_lab` does the first two as it does; the third is the real thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from databricks.bundles.jobs import PauseStatus

from lakehouse_assets.cli.run import run
from lakehouse_assets.entities.catalog import Catalog, load_catalog, parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError, SettingsError
from lakehouse_assets.settings import PACKAGED_CATALOG
from lakehouse_assets_tests.infra.bundle_lab import CONFIG, GIVEN, deploy, jobs

MADE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


@pytest.fixture(name="catalog", scope="module")
def _catalog() -> Catalog:
    return load_catalog(PACKAGED_CATALOG, {})


def made_of(text: str, **given: Any) -> dict[str, Any]:
    """The jobs of a catalog in a text."""
    return jobs.jobs_of(parse_catalog({"catalog.yaml": text}, {}, {}), deploy(**given).bundle)


def edges(job: Mapping[str, Any]) -> dict[str, set[str]]:
    """The tasks of a job by their table, and the tables that they wait for."""
    tables = {task["task_key"]: task["python_wheel_task"]["parameters"][-1] for task in job["tasks"]}
    return {
        tables[task["task_key"]]: {tables[need["task_key"]] for need in task.get("depends_on", [])}
        for task in job["tasks"]
    }


# The jobs and the catalog


def test_every_table_is_a_task(catalog: Catalog) -> None:
    """Every table that a run writes is one task of the job of its group, and there is no other task."""
    tasks = {(name, table) for name, job in deploy().jobs().items() for table in edges(job)}
    wanted = {
        (feeds[0].group, str(table))
        for table, feeds in catalog.destinations.items()
        if feeds[0].kind != "view" and not feeds[0].lakehouse.landed_by
    }

    assert tasks == wanted, f"missing: {wanted - tasks}; too many: {tasks - wanted}: mend infra/bundle/jobs.py"
    assert sum(len(job["tasks"]) for job in deploy().jobs().values()) == len(wanted)


def test_tasks_wait_for_their_upstreams(catalog: Catalog) -> None:
    """A task waits for the tables that its table reads; who reads a quarantine waits for its owner."""
    for job in deploy().jobs().values():
        found = edges(job)
        for table, needs in found.items():
            ups = {str(catalog.base(up)) for up in catalog.upstreams(catalog.resolve(table))}
            assert needs == ups & found.keys(), table


def test_tasks_come_in_order() -> None:
    """Upstream tasks stand before those that wait for them, as a reader expects."""
    for job in deploy().jobs().values():
        done: set[str] = set()
        for table, needs in edges(job).items():
            assert needs <= done
            done.add(table)


def test_the_command_takes_the_parameters(catalog: Catalog) -> None:
    """`lakehouse run` takes what a task gives it, and selects exactly the task's table."""
    for job in deploy().jobs().values():
        for task in job["tasks"]:
            name, *arguments = task["python_wheel_task"]["parameters"]
            given = run.make_context(name, list(arguments)).params
            assert (name, given["engine"], given["root"]) == ("run", "spark", GIVEN["root"])
            assert [jobs.task_key(table) for table in catalog.select(given["selection"])] == [task["task_key"]]


MIXED = """
delta_live_store:
  - {entity_id: a, source: /in/a, source_format: csv, destination: bronze.a, group: one, read_options: {header: "true"},
     source_schema: "id BIGINT", lakehouse: {schedule: {cron: "5 * * * *"}}}
  - {entity_id: v, source: bronze.a, source_format: dlt, destination: silver.v, group: one, destination_type: view}
  - {entity_id: b, source: silver.v, source_format: dlt, destination: gold.b, group: one}
  - {entity_id: u, source: sensors, source_format: sqlite, destination: bronze.u, group: one,
     source_schema: "id BIGINT", lakehouse: {landed_by: upload}}
  - {entity_id: c, source: bronze.u, source_format: dlt, destination: silver.c, group: two}
  - {entity_id: d, source: gold.b, source_format: dlt, destination: gold.d, group: two}
"""


def test_views_are_seen_through() -> None:
    """A view is no task; who reads it waits for what the view reads."""
    assert edges(made_of(MIXED)["one"]) == {"bronze.a": set(), "gold.b": {"bronze.a"}}


def test_uploaded_tables_are_left_to_the_uploader() -> None:
    """A table that an uploader writes is no task, and nothing waits for it."""
    assert edges(made_of(MIXED)["two"])["silver.c"] == set()


def test_groups_do_not_wait_for_each_other() -> None:
    """A job waits for its own tables only: what another group makes is read as it stands."""
    assert edges(made_of(MIXED)["two"]) == {"silver.c": set(), "gold.d": set()}


def test_a_group_without_schedule() -> None:
    """A job whose tables ask for no schedule has none."""
    made = made_of(MIXED)
    assert "schedule" in made["one"]
    assert "schedule" not in made["two"]


def test_two_schedules_in_a_group() -> None:
    """A group whose tables ask for different schedules is refused, with both of them."""
    text = MIXED.replace(
        "destination: gold.b, group: one", 'destination: gold.b, group: one, lakehouse: {schedule: {cron: "0 1 * * *"}}'
    )
    with pytest.raises(CatalogError, match=r"group one ask for several") as caught:
        made_of(text)
    assert "5 * * * * (UTC); 0 1 * * * (UTC)" in str(caught.value)


def test_names_of_tasks_differ() -> None:
    """Tables with different names have tasks with different names."""
    assert jobs.task_key(TableName("a", "b_c")) != jobs.task_key(TableName("a_b", "c"))


# Schedules


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("5 * * * *", "0 5 * * * ?"),
        ("*/15 8-18 * * *", "0 */15 8-18 * * ?"),
        ("30 2 1 */3 *", "0 30 2 1 */3 ?"),
        ("0 6 * * 1-5", "0 0 6 ? * MON-FRI"),
        ("0 6 * * 0,6", "0 0 6 ? * SUN,SAT"),
        ("0 6 * * 7", "0 0 6 ? * SUN"),
        ("0 6 * * mon", "0 0 6 ? * MON"),
        ("@daily", "0 0 0 * * ?"),
        ("@weekly", "0 0 0 ? * SUN"),
    ],
)
def test_cron_in_the_syntax_of_quartz(cron: str, expected: str) -> None:
    """A cron line means the same in Quartz, which counts seconds and numbers the days of the week from Sunday as 1."""
    assert jobs.quartz(cron) == expected


@pytest.mark.parametrize("cron", ["0 6 * *", "0 0 1 * 1", "0 6 * * */2", "0 6 * * 1#2", "@reboot"])
def test_cron_that_quartz_cannot_say(cron: str) -> None:
    """What has no equal in Quartz is refused, never guessed."""
    with pytest.raises(CatalogError) as caught:
        jobs.quartz(cron)
    assert cron in str(caught.value)


@pytest.mark.parametrize(
    ("target", "scheduler", "expected"),
    [
        ("dev", "dagster", "PAUSED"),
        ("dev", "bundle", "PAUSED"),
        ("prod", "dagster", "PAUSED"),
        ("prod", "bundle", "UNPAUSED"),
    ],
)
@pytest.mark.parametrize("compute", jobs.COMPUTES)
def test_one_scheduler(target: str, scheduler: str, expected: str, compute: str) -> None:
    """Schedules run in prod only, and only where Dagster is told off: two schedulers never run one table."""
    made = deploy(target, scheduler=scheduler, compute=compute).jobs()
    assert {job["schedule"]["pause_status"] for job in made.values() if "schedule" in job} == {expected}


def test_dagster_schedules_unless_told_otherwise() -> None:
    """Without a word every schedule of every target is paused."""
    for target in CONFIG["targets"]:
        assert jobs.pause_status(deploy(target).bundle) == "PAUSED"


def test_nothing_starts_by_itself_in_development() -> None:
    """Every target in development mode counts as one for `pause_status`, and pauses what it is not asked about."""
    developing = {name for name, target in CONFIG["targets"].items() if target["mode"] == "development"}
    assert developing == jobs.DEVELOPMENT
    for name in developing:
        assert PauseStatus(CONFIG["targets"][name]["presets"]["trigger_pause_status"]) is PauseStatus.PAUSED


@pytest.mark.parametrize(("variable", "choices"), [("scheduler", jobs.SCHEDULERS), ("compute", jobs.COMPUTES)])
def test_choices_are_checked(variable: str, choices: tuple[str, ...]) -> None:
    """A choice that does not exist is refused before anything is deployed, with the legal ones."""
    with pytest.raises(SettingsError) as caught:
        deploy(**{variable: "airflow"}).jobs()
    assert all(word in str(caught.value) for word in (variable, "airflow", *choices))


# Compute, environment, secrets


@pytest.mark.parametrize("variable", ["spark_version", "environment_version"])
def test_runtimes_that_are_not_supported(variable: str) -> None:
    """A runtime or environment that this project does not run on is refused before anything is deployed."""
    compute = "cluster" if variable == "spark_version" else "serverless"
    with pytest.raises(SettingsError, match="is not supported") as caught:
        deploy(compute=compute, **{variable: "1"}).jobs()
    assert "Python 3.11" in str(caught.value)


def test_an_environment_without_variables() -> None:
    """A serverless environment in which a task cannot be given environment variables is refused, with the first that can."""
    with pytest.raises(SettingsError, match="environment variables") as caught:
        deploy(compute="serverless", environment_version="2").jobs()
    assert "environment_version=5" in str(caught.value)


def test_runs_on_a_job_cluster() -> None:
    """On clusters every task runs on the job's one cluster, with the wheel and the environment."""
    for job in deploy().jobs().values():
        (cluster,) = job["job_clusters"]
        assert cluster["new_cluster"]["spark_version"] == "15.4.x-scala2.12"
        assert cluster["new_cluster"]["spark_env_vars"] == deploy().variables["environment"]
        assert {task["job_cluster_key"] for task in job["tasks"]} == {cluster["job_cluster_key"]}
        assert all(task["libraries"] == [{"whl": jobs.WHEEL}] for task in job["tasks"])
        assert not job.keys() & {"environments", "environment_variables"}


def test_runs_serverless() -> None:
    """Serverless tasks have the wheel and the environment too, and no cluster."""
    for job in deploy(compute="serverless").jobs().values():
        (environment,), (variables,) = job["environments"], job["environment_variables"]
        assert environment["spec"] == {"environment_version": "5", "dependencies": [jobs.WHEEL]}
        assert variables["spec"]["variables"] == deploy().variables["environment"]
        assert variables["spec"]["variables"]["LAKEHOUSE_SENSOR_DB"] == "/Volumes/main/landing/files/sensors.db"
        for task in job["tasks"]:
            assert task["environment_key"] == environment["environment_key"]
            assert task["environment_variables_key"] == variables["environment_variables_key"]
            assert not task.keys() & {"job_cluster_key", "new_cluster", "existing_cluster_id", "libraries"}


@pytest.mark.parametrize("compute", ["cluster", "serverless"])
def test_tables_are_registered_where_a_catalog_is_named(compute: str) -> None:
    """`unity_catalog` reaches every task as LAKEHOUSE_UNITY_CATALOG; without it no task has the variable."""
    for name, expected in (("prod_lake", "prod_lake"), ("", None)):
        for job in deploy(compute=compute, unity_catalog=name).jobs().values():
            if compute == "cluster":
                found = job["job_clusters"][0]["new_cluster"]["spark_env_vars"]
            else:
                found = job["environment_variables"][0]["spec"]["variables"]
            assert found.get("LAKEHOUSE_UNITY_CATALOG") == expected


def test_secrets_are_references() -> None:
    """A secret scope hands the store's options to the cluster as a reference, never as a value."""
    job = deploy(secret_scope="lake").jobs()["sensors"]
    environment = job["job_clusters"][0]["new_cluster"]["spark_env_vars"]
    assert environment["LAKEHOUSE_STORAGE_OPTIONS"] == "{{secrets/lake/storage-options}}"


def test_serverless_has_no_secrets() -> None:
    """Serverless tasks cannot be handed a secret: a scope is refused, with the ways out."""
    with pytest.raises(SettingsError, match="secret_scope=lake") as caught:
        deploy(compute="serverless", secret_scope="lake").jobs()
    assert "set compute to cluster" in str(caught.value)


def test_every_variable_of_the_catalog_is_set() -> None:
    """Each `${VARIABLE}` that the shipped catalog names is in the tasks' environment: defaults are for laptops."""
    named = {name for path in PACKAGED_CATALOG.glob("*.y*ml") for name in MADE.findall(path.read_text())} - {"secret"}
    given = CONFIG["variables"]["environment"]["default"]
    assert named <= given.keys(), f"add {named - given.keys()} to `environment` in infra/bundle/databricks.yml"
    assert not any("secret" in value for value in given.values())


def test_policy_only_where_there_is_one() -> None:
    """An empty policy is left out: an empty text is not the id of a policy."""
    assert "policy_id" not in deploy().jobs()["sensors"]["job_clusters"][0]["new_cluster"]
    cluster = deploy(policy_id="0123").jobs()["sensors"]["job_clusters"][0]["new_cluster"]
    assert cluster["policy_id"] == "0123"


def test_a_misspelt_setting_of_the_cluster() -> None:
    """A field that a cluster does not have is refused by its name."""
    cluster = {**deploy().variables["cluster"], "node_typ_id": "m6id.xlarge"}
    with pytest.raises(ValueError, match="node_typ_id"):
        deploy(cluster=cluster).jobs()


@pytest.mark.parametrize("variable", ["timeout_seconds", "task_timeout_seconds", "slow_seconds", "max_workers"])
def test_a_number_that_is_none(variable: str) -> None:
    """A variable that is a number is refused if it is a word."""
    with pytest.raises(ValueError, match="soon"):
        deploy(**{variable: "soon"}).jobs()


def test_runs_are_bounded() -> None:
    """One run at a time, further ones wait; runs and tasks end; a slow run is noticed before it is stopped."""
    for job in deploy().jobs().values():
        assert (job["max_concurrent_runs"], job["queue"]) == (1, {"enabled": True})
        (rule,) = job["health"]["rules"]
        assert rule["value"] < job["timeout_seconds"]
        assert all(0 < task["timeout_seconds"] <= job["timeout_seconds"] for task in job["tasks"])


def test_people_are_told() -> None:
    """The addresses in `notifications` are those of the jobs."""
    told = {"on_failure": ["lake@example.com"], "on_duration_warning_threshold_exceeded": ["lake@example.com"]}
    assert deploy(notifications=told).jobs()["sensors"]["email_notifications"] == told


def test_jobs_are_tagged() -> None:
    """A job says what it belongs to: project, pipeline and target."""
    tags = deploy().jobs()["sensors"]["tags"]
    assert tags == {"project": "lakehouse_assets", "pipeline": "sensors", "target": "prod"}
