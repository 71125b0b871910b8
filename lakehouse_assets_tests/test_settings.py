"""Tests of the settings: typed, read when asked, overridden by arguments, refused with the variable's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.settings import PACKAGED_CATALOG, Settings, load_settings


def test_the_defaults_need_no_environment():
    """A lake beside the caller, the catalog that comes with the package, the embedded engine, automation off."""
    settings = load_settings()
    assert (settings.root, settings.catalog, settings.engine) == ("lake", PACKAGED_CATALOG, "embedded")
    assert (settings.storage_options, settings.threads, settings.temp_directory) == ({}, 0, None)
    assert settings.automation == "stopped"


def test_the_environment_is_read_when_asked(monkeypatch):
    """Not at import: a variable that is set later counts."""
    monkeypatch.setenv("LAKEHOUSE_ROOT", "s3://bucket/lake")
    monkeypatch.setenv("LAKEHOUSE_CATALOG", "/etc/catalog")
    monkeypatch.setenv("LAKEHOUSE_THREADS", "3")
    monkeypatch.setenv("LAKEHOUSE_STORAGE_OPTIONS", '{"AWS_REGION": "eu-west-1"}')
    settings = load_settings()
    assert (settings.root, settings.catalog, settings.threads) == ("s3://bucket/lake", Path("/etc/catalog"), 3)
    assert settings.storage_options["AWS_REGION"].get_secret_value() == "eu-west-1"


def test_arguments_win_over_the_environment(monkeypatch):
    """An argument of `None` counts as not given."""
    monkeypatch.setenv("LAKEHOUSE_ROOT", "from-the-environment")
    assert load_settings(root="given").root == "given"
    assert load_settings(root=None).root == "from-the-environment"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAKEHOUSE_ENGINE", "duckdb"),
        ("LAKEHOUSE_THREADS", "-1"),
        ("LAKEHOUSE_THREADS", "many"),
        ("LAKEHOUSE_AUTOMATION", "on"),
    ],
)
def test_a_value_that_is_not_legal_is_named_with_its_variable(monkeypatch, name, value):
    """The error says which variable holds what."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}: [\\s\\S]*{value}"):
        load_settings()


def test_options_that_are_no_json_are_refused(monkeypatch):
    """Text that does not parse is named, without its contents: it may hold a secret."""
    monkeypatch.setenv("LAKEHOUSE_STORAGE_OPTIONS", "AWS_SECRET_ACCESS_KEY=hidden")
    with pytest.raises(SettingsError, match="LAKEHOUSE_STORAGE_OPTIONS") as caught:
        load_settings()
    assert "hidden" not in str(caught.value)


def test_secrets_are_not_shown():
    """Neither the text of the settings nor an error about them shows an option's value."""
    settings = load_settings(storage_options={"AWS_SECRET_ACCESS_KEY": "hidden"}, alert_webhook="https://hidden")
    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings)
    with pytest.raises(SettingsError) as caught:
        load_settings(storage_options={"AWS_SECRET_ACCESS_KEY": ["hidden"]})
    assert "hidden" not in str(caught.value)


def test_settings_do_not_change():
    """They are values."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().root = "other"


def test_other_variables_are_left_alone(monkeypatch):
    """Variables of this project's that are no settings do not disturb."""
    monkeypatch.setenv("LAKEHOUSE_OF_SOMEBODY_ELSE", "1")
    assert load_settings() == Settings()


def test_importing_reads_no_environment():
    """A variable that is not legal does not stop an import."""
    code = "import os; os.environ['LAKEHOUSE_THREADS'] = 'x'; import lakehouse_assets.settings"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("limit", ["nonsense", "80%", "1.2.3GB", "", "-1GB"])
def test_a_memory_limit_that_is_none_is_refused(limit):
    """The variable and the value are named before an engine is opened."""
    with pytest.raises(SettingsError, match="LAKEHOUSE_MEMORY_LIMIT"):
        load_settings(memory_limit=limit)


def test_a_value_inside_a_setting_is_named():
    """A setting that holds several values says which of them is wrong."""
    with pytest.raises(SettingsError, match=r"LAKEHOUSE_SPARK_CONF\.spark\.x"):
        load_settings(spark_conf={"spark.x": 4})
