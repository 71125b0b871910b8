"""The configuration of `make dev-databricks`."""

from __future__ import annotations

from lakehouse_assets.databricks.config import read_config
from lakehouse_assets_tests.conftest import ROOT


def test_the_simulators_configuration_is_legal() -> None:
    """It loads, and names the volumes that the make target makes."""
    config = read_config(ROOT / "infra" / "local" / "databricks.yaml", {})
    made = (ROOT / "Makefile").read_text()
    for path in (config.volume, config.root, config.env["LAKEHOUSE_SENSOR_DB"]):
        assert f"--volume {'.'.join(str(path).split('/')[2:5])}" in made
