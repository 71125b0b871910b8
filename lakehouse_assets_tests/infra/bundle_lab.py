"""What the tests of the bundle share: databricks.yml read and resolved as the `databricks` command does it.

What belongs here: the ways to a job. What does not: what a job should be.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from databricks.bundles.core import Bundle
from databricks.bundles.jobs import Job

TOP = Path(__file__).parents[2]
HERE = TOP / "infra" / "bundle"
CONFIG: Mapping[str, Any] = yaml.safe_load((HERE / "databricks.yml").read_text())
GIVEN = {"root": "s3://bucket/lake", "service_principal": "00000000-0000-0000-0000-000000000000"}
"""What whoever deploys has to give."""
WORKSPACE = {"current_user": {"short_name": "tester", "userName": "tester@example.com"}}
REFERENCE = re.compile(r"\$\{([a-z_]+(?:\.[a-z_]+)+)\}")


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_jobs", HERE / "jobs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


jobs = _module()


@dataclass(frozen=True)
class Deployment:
    """A target with the variables that were given, resolved as the `databricks` command does before it asks for jobs."""

    target: str = "prod"
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The variables by name, references in them as they are written."""
        values = {name: made.get("default") for name, made in CONFIG["variables"].items()}
        return values | CONFIG["targets"][self.target].get("variables", {}) | GIVEN | self.given

    @property
    def variables(self) -> dict[str, Any]:
        """The variables by name; a reference in one is resolved."""
        return {name: self._resolved(value, self.values) for name, value in self.values.items()}

    @property
    def bundle(self) -> Bundle:
        """What the function that makes the jobs is told."""
        return Bundle(target=self.target, variables=self.variables)

    def resolved(self, value: Any) -> Any:
        """`value` with every reference replaced; one that leads nowhere is a KeyError."""
        return self._resolved(value, self.variables)

    def _resolved(self, value: Any, variables: Mapping[str, Any]) -> Any:
        if isinstance(value, dict):
            return {key: self._resolved(item, variables) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, variables) for item in value]
        if not isinstance(value, str) or not REFERENCE.search(value):
            return value
        scopes = {"var": variables, "bundle": {**CONFIG["bundle"], "target": self.target}, "workspace": WORKSPACE}
        if alone := REFERENCE.fullmatch(value):
            return self._resolved(_at(scopes, alone[1]), variables)
        return self._resolved(REFERENCE.sub(lambda found: str(_at(scopes, found[1])), value), variables)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The jobs of the shipped catalog as they are sent to the workspace."""
        made = jobs.load_resources(self.bundle).jobs
        return {name: Job.from_dict(self.resolved(job.as_dict())).as_dict() for name, job in made.items()}


def _at(scopes: Mapping[str, Any], path: str) -> Any:
    value: Any = scopes
    for part in path.split("."):
        value = value[part]
    return value


def deploy(target: str = "prod", **given: Any) -> Deployment:
    """A deployment with these variables."""
    return Deployment(target, given)


def strings(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def build(
    directory: Path, deployment: Deployment, *, resolved: bool = True
) -> tuple[subprocess.CompletedProcess[str], list[Any], dict[str, Any]]:
    """How the process ended that makes the jobs, what it complains about, and what it gives."""
    values = deployment.variables if resolved else deployment.values
    variables = {name: {"value": value} for name, value in values.items()}
    config = {**CONFIG, "variables": variables, "bundle": {**CONFIG["bundle"], "target": deployment.target}}
    files = {name: directory / f"{name}.json" for name in ("input", "output", "diagnostics", "locations")}
    files["input"].write_text(json.dumps(config))
    command = [sys.executable, "-m", "databricks.bundles.build", "--phase", "load_resources"]
    for name, path in files.items():
        command += [f"--{name}", str(path)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    said = [json.loads(line) for line in files["diagnostics"].read_text().splitlines() if line]
    output = json.loads(files["output"].read_text()) if files["output"].exists() else {}
    return done, said, output
