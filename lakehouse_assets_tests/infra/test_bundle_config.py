"""databricks.yml: variables, targets and references, and the jobs as the `databricks` command has them made."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from databricks.bundles.jobs import Job, JobRunAs

from lakehouse_assets_tests.infra.bundle_lab import CONFIG, GIVEN, HERE, TOP, build, deploy, jobs, strings


@pytest.mark.parametrize("target", CONFIG["targets"])
@pytest.mark.parametrize("compute", jobs.COMPUTES)
def test_every_reference_resolves(target: str, compute: str) -> None:
    """In every target and compute each reference leads to a value, in the jobs and in the target itself."""
    deployment = deploy(target, compute=compute)
    sent = [deployment.jobs(), deployment.resolved(CONFIG["targets"][target])]
    assert not [text for text in strings(sent) if "${" in text]


def test_variables_are_explained_and_used() -> None:
    """Every variable has a description, and something that reads it."""
    text = (HERE / "databricks.yml").read_text() + (HERE / "jobs.py").read_text()
    for name, variable in CONFIG["variables"].items():
        assert variable.keys() <= {"description", "default", "type"}
        assert variable["description"]
        assert f"${{var.{name}}}" in text or f'"{name}"' in text, f"nothing reads {name}"
        assert isinstance(variable.get("default"), dict | list) == (variable.get("type") == "complex")


def test_known_sections_only() -> None:
    """The sections are those that the `databricks` command knows; it would leave a misspelt one out with a warning."""
    assert CONFIG.keys() <= {"bundle", "python", "artifacts", "sync", "variables", "targets"}
    for target in CONFIG["targets"].values():
        assert target.keys() <= {
            "default", "mode", "presets", "variables", "git", "workspace", "run_as", "permissions",
        }  # fmt: skip
        assert target.get("variables", {}).keys() <= CONFIG["variables"].keys()


def test_dev_is_the_default_and_everybodys_own() -> None:
    """Without a word the target is dev, whose jobs bear the name of whoever deploys."""
    assert [name for name, target in CONFIG["targets"].items() if target.get("default")] == ["dev"]
    assert deploy("dev").resolved(CONFIG["targets"]["dev"]["presets"]["name_prefix"]) == "[dev tester] "


def test_prod_belongs_to_the_service_principal() -> None:
    """In prod one copy is deployed from main, by and as the service principal; operators may run it, not change it."""
    prod = deploy().resolved(CONFIG["targets"]["prod"])
    principal = GIVEN["service_principal"]

    assert (prod["mode"], prod["git"]) == ("production", {"branch": "main"})
    assert JobRunAs.from_dict(prod["run_as"]).service_principal_name == principal
    assert prod["workspace"]["root_path"] == f"/Workspace/Users/{principal}/.bundle/lakehouse_assets/prod"
    assert prod["permissions"] == [
        {"service_principal_name": principal, "level": "CAN_MANAGE"},
        {"group_name": "admins", "level": "CAN_RUN"},
    ]


def test_what_has_to_be_given() -> None:
    """The place of the lake has no default in any target, the service principal none in prod: both are decisions."""
    for name, target in CONFIG["targets"].items():
        given = {key for key, made in CONFIG["variables"].items() if "default" not in made}
        assert given - target.get("variables", {}).keys() == (
            {"root"} if name == "dev" else {"root", "service_principal"}
        )


def test_no_address_and_no_secret() -> None:
    """The bundle names no workspace and holds no secret."""
    text = (HERE / "databricks.yml").read_text()
    assert "host:" not in text
    assert not re.search(r"dapi|https?://", text)


def test_the_wheel_is_built_where_it_is_looked_for() -> None:
    """The artifact is built at the top of the checkout by a target of the Makefile that writes where the tasks look."""
    wheel = CONFIG["artifacts"]["wheel"]
    place = (HERE / wheel["path"]).resolve()
    assert place == TOP
    assert (HERE / jobs.WHEEL).resolve() == TOP / "dist" / "*.whl"
    dry = subprocess.run(["make", "-n", *wheel["build"].split()[1:]], cwd=place, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert "build --quiet --wheel" in dry.stdout
    assert "--out-dir dist" in dry.stdout


def test_the_interpreter_is_the_projects() -> None:
    """The jobs are made by the interpreter that `make setup` installs the project into."""
    assert (HERE / CONFIG["python"]["venv_path"]).resolve() == TOP / ".venv"


@pytest.mark.parametrize("resolved", [True, False])
def test_made_as_the_command_makes_them(tmp_path: Path, resolved: bool) -> None:
    """Called as the `databricks` command calls it, the bundle gives the same jobs, whoever resolves its variables."""
    done, diagnostics, output = build(tmp_path, deploy(scheduler="bundle"), resolved=resolved)
    assert (done.returncode, diagnostics) == (0, []), done.stderr
    made = {name: deploy().resolved(job) for name, job in output["resources"]["jobs"].items()}
    assert {name: Job.from_dict(job).as_dict() for name, job in made.items()} == deploy(scheduler="bundle").jobs()


def test_errors_reach_whoever_deploys(tmp_path: Path) -> None:
    """A wrong choice stops the command with a message that names the legal ones."""
    done, diagnostics, _ = build(tmp_path, deploy(scheduler="cron"))
    assert done.returncode != 0
    (said,) = [entry for entry in diagnostics if entry["severity"] == "error"]
    assert "dagster, bundle" in f"{said['summary']} {said.get('detail')}"
