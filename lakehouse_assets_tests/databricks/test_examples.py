"""The examples in `infra/databricks`: each is legal as it is, and explains its keys."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from lakehouse_assets.databricks import doctor_compute
from lakehouse_assets.databricks.config import Compute, DatabricksConfig, Permissions, Serverless, read_config
from lakehouse_assets.databricks.runtimes import RUNTIMES, supported, supported_environment
from lakehouse_assets.secrets import is_reference, is_sensitive
from lakehouse_assets_tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "infra" / "databricks").glob("*.yaml"))
KEY = re.compile(r"^ *(?:# )?(?P<key>[a-z_]+):(?: |$)")


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    path: Path = request.param
    return path


def test_there_is_one_for_each_compute() -> None:
    """A job cluster, an existing cluster, serverless: the file is named after its compute."""
    assert {path.stem for path in EXAMPLES} == set(Compute.model_fields)


def test_it_is_legal_without_any_variable(example: Path) -> None:
    """What a user fills in has a default, so that the file loads as it is; its compute is the one of its name."""
    config = read_config(example, {})
    assert getattr(config.compute, example.stem) is not None


def test_what_a_user_fills_in_is_taken(example: Path) -> None:
    """Variables replace the defaults."""
    given = {"DATABRICKS_HOST": "https://example.cloud.databricks.com", "LAKE_ON_DATABRICKS": "abfss://c@a.dfs/lake"}
    config = read_config(example, given)
    assert (config.host, config.root) == tuple(given.values())


def test_no_secret_stands_in_it(example: Path) -> None:
    """What is secret by its name is a reference."""
    pairs = re.findall(r"^ *([a-z_]+): *(\S.*)$", example.read_text().replace("secrets: {}", ""), re.MULTILINE)
    assert [value for key, value in pairs if is_sensitive(key) and not is_reference(value)] == []
    assert [value for key, value in pairs if is_sensitive(key)]


def test_its_runtime_is_supported(example: Path) -> None:
    """The runtime is one of those that steps run on, with the Python of the oldest."""
    compute = read_config(example, {}).compute
    if compute.job_cluster is not None:
        assert supported(compute.job_cluster["spark_version"]) == RUNTIMES[0]
    if compute.serverless is not None:
        assert supported_environment(compute.serverless.environment_version) == RUNTIMES[0]


def test_doctor_has_nothing_against_its_compute(example: Path, sdk: None) -> None:
    """Its cluster's keys are known, and its access mode runs steps."""
    found = list(doctor_compute.examine(read_config(example, {}), None, "nobody is signed in"))
    here = sys.version_info[:2] == RUNTIMES[0].python
    assert {one.state for one in found if here or one.check != "python there"} <= {"ok", "not checked"}, found


def explained(path: Path) -> set[str]:
    """The keys of a file with a comment right above or beside them, or in a comment themselves."""
    lines = ["", *path.read_text().splitlines()]
    return {
        match["key"]
        for above, line in pairwise(lines)
        if (match := KEY.match(line)) and ("#" in line or above.lstrip().startswith("#"))
    }


def test_the_first_example_explains_every_key() -> None:
    """Each key of the configuration stands in the example of a job cluster, with a comment; or is named in one."""
    text = (ROOT / "infra" / "databricks" / "job_cluster.yaml").read_text()
    known = explained(ROOT / "infra" / "databricks" / "job_cluster.yaml")
    named = {name for comment in re.findall(r"#(.*)", text) for name in re.findall(r"`([a-z_]+):", comment)}
    assert set(DatabricksConfig.model_fields) - known - named == set()
    assert set(Permissions.model_fields) <= known


def test_serverless_explains_its_own_keys() -> None:
    """The keys of serverless compute stand in its example."""
    assert set(Serverless.model_fields) <= explained(ROOT / "infra" / "databricks" / "serverless.yaml")
