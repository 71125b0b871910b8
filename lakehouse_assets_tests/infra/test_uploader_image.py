"""The uploader's image: its Dockerfile is parsed, and its installation is run in a virtual environment.

No container engine is asked for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lakehouse_assets.secrets import is_sensitive

TOP = Path(__file__).resolve().parents[2]
HERE = TOP / "infra" / "docker" / "uploader"


@dataclass
class Stage:
    """One stage of a Dockerfile: its name and its instructions, in order."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such instruction."""
        return [text for name, text in self.steps if name == instruction]


def parse(text: str) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage with their defaults, and the stages of a Dockerfile."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in lines.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base.strip(), name.strip()))
        elif stages:
            stages[-1].steps.append((instruction, " ".join(rest.split())))
        else:
            assert instruction == "ARG"
            name, _, default = rest.partition("=")
            arguments[name] = default
    return arguments, stages


@pytest.fixture(name="stages", scope="module")
def _stages() -> list[Stage]:
    return parse((HERE / "Dockerfile").read_text())[1]


def sources(stages: list[Stage]) -> list[str]:
    """What is copied from the checkout."""
    copies = [text.split() for stage in stages for text in stage.all("COPY") if "--from" not in text]
    return [source for copy in copies for source in copy[:-1]]


def test_two_stages(stages: list[Stage]) -> None:
    """U11: one stage installs, the last one only takes the result: it runs nothing and sees no build tool of ours."""
    assert [stage.name for stage in stages] == ["builder", "runtime"]
    assert stages[-1].all("RUN") == stages[-1].all("ADD") == []
    assert stages[-1].all("COPY") == ["--from=builder /opt/venv /opt/venv"]


def test_base_is_one_small_pinned_image(stages: list[Stage]) -> None:
    """U11: both stages stand on one slim image with a version, so that the environment fits where it is moved to."""
    arguments, _ = parse((HERE / "Dockerfile").read_text())

    assert {stage.base for stage in stages} == {"${BASE}"}
    assert re.fullmatch(r"python:3\.11-slim-\w+", arguments["BASE"])


def test_user_is_not_root(stages: list[Stage]) -> None:
    """U11: the image runs as a numbered user that is not root."""
    (user,) = stages[-1].all("USER")

    assert all(int(number) >= 1000 for number in user.split(":"))


def test_no_secret(stages: list[Stage]) -> None:
    """No variable of the image has the name of a secret, and nothing that may hold one is copied."""
    names = [
        assignment.partition("=")[0]
        for stage in stages
        for text in (*stage.all("ENV"), *stage.all("ARG"))
        for assignment in text.split()
    ]

    assert names
    assert not [name for name in names if is_sensitive(name)]
    assert set(sources(stages)) == {"pyproject.toml", "requirements.lock", "README.md", "lakehouse_assets"}


def test_every_installation_is_pinned(stages: list[Stage]) -> None:
    """Whatever is installed has its version from requirements.lock, or in the Dockerfile, or is the project's wheel."""
    commands = [part for stage in stages for text in stage.all("RUN") for part in text.split("&&") if "install" in part]
    assert len(commands) == 3
    for command in commands:
        assert "--constraint requirements.lock" in command or "--no-deps /src/dist/*.whl" in command


def test_lock_pins_what_is_installed_by_name() -> None:
    """The installer itself is in requirements.lock, and so is every dependency of the project."""
    locked = {line.split("==")[0] for line in (TOP / "requirements.lock").read_text().splitlines() if "==" in line}
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in project["dependencies"]}

    assert wanted | {"uv"} <= locked


def test_entrypoint_is_a_command_of_the_project(stages: list[Stage]) -> None:
    """The entrypoint is `lakehouse upload --config`, a script that pyproject.toml declares; a config is its default."""
    entrypoint = json.loads(stages[-1].all("ENTRYPOINT")[0])
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]

    assert entrypoint == ["lakehouse", "upload", "--config"]
    assert entrypoint[0] in scripts
    assert json.loads(stages[-1].all("CMD")[0]) == ["/etc/lakehouse/uploader-config.yaml"]


def test_sources_exist_and_are_let_through(stages: list[Stage]) -> None:
    """What is copied stands in the checkout, and the build may see exactly that."""
    ignore = [line for line in (HERE / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]

    assert [source for source in sources(stages) if not (TOP / source).exists()] == []
    assert ignore[0] == "*"
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(sources(stages))


@pytest.mark.slow
def test_installation_runs(stages: list[Stage], tmp_path: Path) -> None:
    """The steps of the builder run in a clean environment; every version is the locked one; the entrypoint answers."""
    builder, source, target = tmp_path / "python", tmp_path / "src", tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(builder)], check=True)
    source.mkdir()
    environ = {**os.environ, "PATH": f"{builder / 'bin'}:{os.environ['PATH']}"}
    for instruction, text in stages[0].steps:
        if instruction == "COPY":
            copy(text, source)
        elif instruction == "RUN":
            command = text.replace("/opt/venv", str(target)).replace("/src", str(source)).replace(" --no-cache ", " ")
            done = subprocess.run(["bash", "-ec", command], cwd=source, env=environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    code = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    listed = subprocess.run([target / "bin/python", "-c", code], cwd="/", env=bare, capture_output=True, check=True)
    lock = re.findall(r"^([\w.-]+)==([\w.]+)", (TOP / "requirements.lock").read_text(), re.MULTILINE)
    locked = {canonical(name): version for name, version in lock}
    found = {canonical(name): version for name, version in json.loads(listed.stdout)}
    assert found.pop("lakehouse-assets")
    assert {name: version for name, version in found.items() if locked.get(name) != version} == {}
    assert list(target.glob("lib/*/site-packages/lakehouse_assets/catalog/sensors.yaml"))
    entrypoint = [str(target / "bin" / "lakehouse"), "upload", "--help"]
    answer = subprocess.run(entrypoint, cwd="/", env=bare, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "--config" in answer.stdout


def copy(text: str, directory: Path) -> None:
    """What a COPY instruction does."""
    *names, _ = text.split()
    for name in names:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / name, directory / name)


def canonical(name: str) -> str:
    """A package's name as comparisons need it."""
    return re.sub(r"[-_.]+", "-", name).lower()
