"""What the documents show is run: commands, catalogs and code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from lakehouse_assets.entities.catalog import parse_catalog

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
REGISTRIES = re.compile("|".join(rf"{a}\.{b}" for a, b in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")]))


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in that language."""
    return [(p.name, text) for p in PAGES for found, text in BLOCK.findall(p.read_text()) if found == language]


def commands(text: str) -> list[str]:
    """The commands of a block, without comments."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "text"), blocks("bash"))
def test_the_commands_run(tmp_path, page, text):
    """Every command of a page runs, in order, in one empty directory; of make, that the target exists."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands(text):
        dry = command.replace("make ", f"make -n -C {ROOT} ", 1) if command.startswith("make ") else command
        done = subprocess.run(
            ["bash", "-c", dry], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page}: {command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_the_catalogs_load(page, text):
    """Every catalog that a page shows is legal."""
    if "delta_live_store" in text:
        assert parse_catalog({page: text}, {}, {}).order()


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_the_code_runs(page, text):
    """Every Python block of a page runs."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, f"{page}\n{done.stderr}"


def test_every_command_is_in_the_readme_or_the_help():
    """A command that the README names exists."""
    from lakehouse_assets.cli.main import main

    named = set(re.findall(r"lakehouse ([a-z]+) ", " ".join(text for _, text in blocks("bash"))))
    assert named <= set(main.list_commands(click.Context(main)))


def test_no_file_names_a_package_registry():
    """Lock files and texts name no registry, so that every mirror works."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2_000_000:
            assert not REGISTRIES.search(path.read_text(errors="ignore")), name
