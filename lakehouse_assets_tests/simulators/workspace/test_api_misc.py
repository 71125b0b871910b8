"""Secrets, permissions, clusters, policies and libraries, by the unmodified SDK."""

from __future__ import annotations

import pytest

from lakehouse_assets_tests.simulators.workspace.lab import CLUSTER, TASK, Lab, until


def test_secrets_are_written_and_listed(lab: Lab) -> None:
    """Scopes and keys; a scope is made once."""
    lab.client.secrets.create_scope("scope")
    lab.client.secrets.put_secret("scope", "key", string_value="value")
    assert [one.name for one in lab.client.secrets.list_scopes()] == ["scope"]
    assert [one.key for one in lab.client.secrets.list_secrets("scope")] == ["key"]
    with pytest.raises(lab.errors.ResourceAlreadyExists):
        lab.client.secrets.create_scope("scope")
    with pytest.raises(lab.errors.ResourceDoesNotExist, match="Scope none"):
        list(lab.client.secrets.list_secrets("none"))


def test_a_secret_is_read_by_tasks_only(lab: Lab) -> None:
    """A personal access token gets 403, a task's token the value, and neither after the task's end."""
    lab.workspace.put_secret("scope", "key", "value")
    with pytest.raises(lab.errors.PermissionDenied):
        lab.client.secrets.get_secret("scope", "key")
    token = lab.workspace.issue_token("somebody")
    path = "/api/2.0/secrets/get?scope=scope&key="
    assert lab.ask("GET", path + "key", token=token)[2] == {"key": "key", "value": "dmFsdWU="}
    assert lab.ask("GET", path + "none", token=token)[0] == 404
    lab.workspace.revoke_token(token)
    assert lab.ask("GET", path + "key", token=token)[0] == 403


def test_permissions_of_a_cluster(lab: Lab) -> None:
    """Added with PATCH, replaced with PUT, read with GET."""
    cluster = lab.workspace.add_cluster(spark_version="4.2")
    path = f"/api/2.0/permissions/clusters/{cluster}"
    first = {"group_name": "users", "permission_level": "CAN_RESTART"}
    second = {"user_name": "somebody", "permission_level": "CAN_MANAGE"}
    for entry in (first, second):
        assert lab.ask("PATCH", path, {"access_control_list": [entry]})[0] == 200
    assert lab.workspace.permissions_of("clusters", cluster) == [first, second]
    assert len(lab.client.permissions.get("clusters", cluster).access_control_list) == 2
    lab.ask("PUT", path, {"access_control_list": [second]})
    assert lab.workspace.permissions_of("clusters", cluster) == [second]


@pytest.mark.parametrize(
    "entry",
    [
        {"permission_level": "CAN_MANAGE"},
        {"user_name": "somebody", "permission_level": "CAN_VIEW"},
        {"user_name": "somebody", "group_name": "users", "permission_level": "CAN_MANAGE"},
    ],
)
def test_a_wrong_permission_is_refused(lab: Lab, entry: dict) -> None:
    """An entry names one of whom, and a level that such an object has."""
    cluster = lab.workspace.add_cluster(spark_version="4.2")
    path = f"/api/2.0/permissions/clusters/{cluster}"
    assert lab.ask("PATCH", path, {"access_control_list": [entry]})[0] == 400


def test_permissions_need_their_object(lab: Lab) -> None:
    """A job or a cluster that is not there has no permissions."""
    entry = {"access_control_list": [{"group_name": "users", "permission_level": "CAN_VIEW"}]}
    assert lab.ask("PATCH", "/api/2.0/permissions/jobs/1", entry)[0] == 404
    assert lab.ask("PATCH", "/api/2.0/permissions/clusters/1", entry)[0] == 400


def test_a_cluster_is_described(lab: Lab) -> None:
    """As it was asked for, with its state; it is started by its first task."""
    cluster = lab.workspace.add_cluster(spark_version="4.2", data_security_mode="SINGLE_USER", cluster_name="mine")
    found = lab.client.clusters.get(cluster)
    assert (found.cluster_name, found.spark_version, found.state.value) == ("mine", "4.2", "TERMINATED")
    assert [one.cluster_id for one in lab.client.clusters.list()] == [cluster]
    with pytest.raises(lab.errors.DatabricksError, match="Cluster none does not exist"):
        lab.client.clusters.get("none")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"spark_version": "9.9.x-scala2.12"}, "Invalid spark version 9.9.x-scala2.12. The simulator has: 4.2"),
        ({"spark_version": None}, "spark_version"),
        ({"node_type_id": None}, "node_type_id or instance_pool_id"),
        ({"num_workers": None}, "num_workers or autoscale"),
        ({"data_security_mode": "SHARED"}, "SHARED"),
        ({"spark_conf": {"a": 1}}, "the value of a must be a string"),
        ({"policy_id": "none"}, "Cluster policy none does not exist"),
        ({"data_security_mode": "USER_ISOLATION"}, "needs Spark Connect"),
    ],
)
def test_an_impossible_cluster_is_refused(lab: Lab, change: dict, named: str) -> None:
    """400 with what is wrong, before anything starts."""
    status, _, body = lab.ask("POST", "/api/2.1/clusters/create", {**CLUSTER, **change})
    assert status == 400
    assert named in body["message"]


def test_a_cluster_of_a_policy(lab: Lab) -> None:
    """Policies are named, and a cluster may name one."""
    policy = lab.workspace.add_policy("small", '{"num_workers": {"type": "fixed", "value": 1}}')
    found = lab.client.cluster_policies.get(policy)
    assert (found.name, "fixed" in found.definition) == ("small", True)
    assert [one.policy_id for one in lab.client.cluster_policies.list()] == [policy]
    assert lab.workspace.add_cluster(spark_version="4.2", policy_id=policy)
    with pytest.raises(lab.errors.ResourceDoesNotExist):
        lab.client.cluster_policies.get("none")


def test_runtimes_are_listed(lab: Lab) -> None:
    """What a cluster can be."""
    assert [one.key for one in lab.client.clusters.spark_versions().versions] == ["4.2"]


def test_a_runtime_that_is_not_installed_is_refused_with_its_remedy(lab: Lab) -> None:
    """The message names the make target."""
    (lab.workspace.options.runtimes["4.2"].jars / "delta-spark_1.jar").unlink()
    with pytest.raises(lab.errors.BadRequest, match="Delta's jars are not in .* Run: make setup-jvm"):
        lab.client.clusters.create(spark_version="4.2", node_type_id="local", num_workers=0)


def test_a_run_has_permissions(lab: Lab) -> None:
    """The job id of a one-time run takes permissions, and the run shows them."""
    lab.workspace.befall("blocked")
    run = lab.start({**TASK, "new_cluster": CLUSTER})
    entry = {"group_name": "users", "permission_level": "CAN_VIEW"}
    assert lab.ask("PATCH", f"/api/2.0/permissions/jobs/{run.job_id}", {"access_control_list": [entry]})[0] == 200
    assert run.permissions == [entry]
    lab.client.jobs.cancel_run(run.run_id)
    until(lambda: run.ended)
