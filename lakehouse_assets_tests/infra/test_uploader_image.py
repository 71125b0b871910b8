"""The uploader's image and the script that starts it.

No container engine is asked for: the Dockerfile is parsed, its installation is run in a virtual environment, and the
script meets `STAND_IN`, a program called `docker` or `podman` that writes down how it was called.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from lakehouse_assets.secrets import is_sensitive

TOP = Path(__file__).resolve().parents[2]
HERE = TOP / "infra" / "docker" / "uploader"
SCRIPT = HERE / "start-uploader.sh"
TOOLS = ("bash", "env", "sed", "head", "dirname", "basename", "readlink", "id", "sort", "mkdir", "cat")
STAND_IN = """#!/usr/bin/env bash
case "$1 $2" in "image inspect") exit "${IMAGE_IS_MISSING:-0}" ;; esac
printf '%s\\n' "$(basename "$0")" "$@" >"$CALLED"
env >"$CALLED.env"
"""
CONFIG = 'sqlite: "{directory}/edge/sensor.db"\ntable_path: "s3://bucket/delta/sensor_readings"\ninterval: 300\n'


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


@dataclass
class Machine:
    """A directory with a configuration, and a PATH that holds `TOOLS` and the chosen stand-ins."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration of the uploader."""
        return self.directory / "uploader-config.yaml"

    def engine(self, name: str) -> None:
        """Install the stand-in under a name."""
        path = self.directory / "bin" / name
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def start(
        self, *arguments: str, script: Path = SCRIPT, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the script in the directory."""
        env = {"PATH": str(self.directory / "bin"), "CALLED": str(self.directory / "called"), **(environ or {})}
        command = [str(script), *(arguments or (str(self.config),))]
        return subprocess.run(command, cwd=self.directory, env=env, capture_output=True, text=True)

    def call(self, *arguments: str, **options: object) -> list[str]:
        """How the engine was called by a start that went well."""
        done = self.start(*arguments, **options)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stderr
        return (self.directory / "called").read_text().splitlines()

    def volumes(self, *arguments: str, **options: object) -> list[str]:
        """What a start mounts, besides the configuration."""
        call = self.call(*arguments, **options)
        mounts = [call[at + 1] for at, word in enumerate(call) if word == "--volume"]
        assert mounts.pop(0) == f"{self.config}:/etc/lakehouse/uploader-config.yaml:ro"
        return mounts


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "edge").mkdir()
    machine = Machine(tmp_path)
    machine.config.write_text(CONFIG.format(directory=tmp_path))
    machine.engine("docker")
    return machine


def test_script_parses() -> None:
    """The script is legal bash, can be run, and stops at the first error."""
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0
    assert os.access(SCRIPT, os.X_OK)
    assert "set -euo pipefail" in SCRIPT.read_text()


def test_start_runs_the_image(machine: Machine) -> None:
    """U11: `start-uploader.sh CONFIG` runs the image with the configuration, in the foreground."""
    call = machine.call()

    assert call[:2] == ["docker", "run"]
    assert call[-2:] == ["uploader-image:latest", "/etc/lakehouse/uploader-config.yaml"]
    assert "--rm" in call


def test_start_from_the_top(machine: Machine) -> None:
    """U11: the script is also found at the top of the checkout, and takes a relative path."""
    call = machine.call("uploader-config.yaml", script=TOP / "start-uploader.sh")

    assert call[-1] == "/etc/lakehouse/uploader-config.yaml"
    assert f"{machine.config}:/etc/lakehouse/uploader-config.yaml:ro" in call


def test_arguments_go_on(machine: Machine) -> None:
    """What follows the configuration reaches `lakehouse upload` as it is."""
    assert machine.call(str(machine.config), "--once", "--interval", "5")[-3:] == ["--once", "--interval", "5"]


def test_container_is_confined(machine: Machine) -> None:
    """The container may write nothing but its mounts and /tmp, and gains no rights."""
    call = " ".join(machine.call())

    assert "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges" in call


def test_user_in_the_container(machine: Machine) -> None:
    """The container runs as whoever starts it; root becomes the image's own user, unless one is named."""
    call = machine.call(environ={"UPLOADER_USER": "1234:5678"})
    plain = machine.call()

    assert call[call.index("--user") + 1] == "1234:5678"
    if os.getuid() == 0:
        assert "--user" not in plain
    else:
        assert plain[plain.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"


@pytest.mark.parametrize(
    "line",
    [
        'sqlite: "{path}"',
        "sqlite: '{path}'  # the file",
        "sqlite:   {path}   # the file",
        "sqlite: ${{NOWHERE:-{path}}}",
        'sqlite: "${{WHERE}}/sensor.db"',
    ],
)
def test_directory_of_the_file_is_mounted(machine: Machine, line: str) -> None:
    """The directory of the SQLite file is mounted at its own path, however the configuration writes it."""
    machine.config.write_text(f"table_path: s3://b/t\n{line.format(path=machine.directory / 'edge/sensor.db')}\n")
    edge = machine.directory / "edge"

    assert machine.volumes(environ={"WHERE": str(edge)}) == [f"{edge}:{edge}"]


def test_environment_goes_before_the_file(machine: Machine) -> None:
    """U1: SQLITE_PATH goes before `sqlite`; a relative path is taken from where the script is started."""
    (machine.directory / "other").mkdir()
    other = machine.directory / "other"

    assert machine.volumes(environ={"SQLITE_PATH": "other/sensor.db"}) == [f"{other}:{other}"]
    assert f"SQLITE_PATH={other}/sensor.db" in (machine.directory / "called.env").read_text().splitlines()


def test_another_directory_on_this_machine(machine: Machine) -> None:
    """A configuration with a path inside the container works: SQLITE_HOST_DIR is mounted there."""
    machine.config.write_text('sqlite: "/root/sensor.db"\ntable_path: "s3://bucket/t"\n')
    edge = machine.directory / "edge"

    assert machine.volumes(environ={"SQLITE_HOST_DIR": str(edge)}) == [f"{edge}:/root"]


@pytest.mark.parametrize("key", ["table_path", "storage_uri"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_table_on_this_machine(machine: Machine, key: str, scheme: str) -> None:
    """U20: the directory around a table on this machine is made and mounted: the table's plans stand beside it."""
    edge, lake = machine.directory / "edge", machine.directory / "lake"
    machine.config.write_text(f"sqlite: {edge}/sensor.db\n{key}: {scheme}{lake}/sensor_readings\n")

    assert machine.volumes() == [f"{edge}:{edge}", f"{lake}:{lake}"]
    assert lake.is_dir()


def test_table_elsewhere(machine: Machine) -> None:
    """A table on an object store needs no mount; STORAGE_URI goes before the file."""
    machine.config.write_text(CONFIG.format(directory=machine.directory).replace("s3://bucket", "/lake"))

    assert len(machine.volumes(environ={"STORAGE_URI": "s3://bucket/t"})) == 1


def test_state_dir_is_not_mounted(machine: Machine) -> None:
    """U4: a given `state_dir` is accepted; nothing is kept there, so it is neither made nor mounted."""
    with machine.config.open("a") as file:
        file.write("state_dir: /nowhere/state\n")

    assert not [word for word in machine.call() if "/nowhere" in word]


def test_secrets_stay_out_of_the_command(machine: Machine) -> None:
    """U11: the names of .env are handed over, their values only through the environment."""
    shutil.copy(HERE / ".env.example", machine.directory / ".env")
    call = machine.call()

    names = {call[at + 1] for at, word in enumerate(call) if word == "--env"}
    assert names == {
        "SQLITE_PATH", "S3_BUCKET_NAME", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_HOST",
        "DATABRICKS_TOKEN",
    }  # fmt: skip
    assert "AWS_SECRET_ACCESS_KEY=YOUR_AWS_SECRET_ACCESS_KEY" in (machine.directory / "called.env").read_text()
    assert "YOUR_" not in " ".join(call)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("X=1", "1"), ("export X=1", "1"), ("  X=1 # why", "1"), ("X=1\r", "1"), ("X=a=b", "a=b"),
        ('X="a b"', "a b"), ("X='a#b'", "a#b"), ("X=$(touch run)", "$(touch run)"), ("X=`id`", "`id`"),
    ],
)  # fmt: skip
def test_env_file(machine: Machine, line: str, value: str) -> None:
    """A .env holds NAME=value, quoted or not; nothing in it is run."""
    (machine.directory / ".env").write_bytes(f"# a comment\n\n{line}\n".encode())
    call = machine.call()

    assert "X" in call
    assert f"X={value}" in (machine.directory / "called.env").read_text().splitlines()
    assert not (machine.directory / "run").exists()


def test_environment_goes_before_the_env_file(machine: Machine) -> None:
    """A value that is in the environment already is kept."""
    (machine.directory / ".env").write_text("AWS_REGION=file\n")
    machine.call(environ={"AWS_REGION": "given"})

    assert "AWS_REGION=given" in (machine.directory / "called.env").read_text().splitlines()


def test_podman_serves_as_well(machine: Machine) -> None:
    """Where docker is absent podman is used; a name in CONTAINER_ENGINE goes before both."""
    machine.engine("podman")
    assert machine.call(environ={"CONTAINER_ENGINE": "podman"})[0] == "podman"

    (machine.directory / "bin" / "docker").unlink()
    assert machine.call()[0] == "podman"


def refused(machine: Machine, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """The message of a start that is refused, before any container ran."""
    done = machine.start(*arguments, environ=environ)
    assert done.returncode == 1
    assert not (machine.directory / "called").exists()
    return done.stderr


def test_no_engine(machine: Machine) -> None:
    """Without docker and podman the message says what was looked for, and how it goes without a container."""
    (machine.directory / "bin" / "docker").unlink()
    message = refused(machine)

    assert "no container engine is here (looked for: docker, podman)" in message
    assert f"lakehouse upload --config {machine.config}" in message


def test_no_image(machine: Machine) -> None:
    """Without the image the message holds the command that builds it, which names files that exist."""
    message = refused(machine, environ={"IMAGE_IS_MISSING": "1", "UPLOADER_IMAGE": "mine:1"})

    assert "the image mine:1 is not here" in message
    assert f"docker build -f {HERE / 'Dockerfile'} -t mine:1 {TOP}" in message


@pytest.mark.parametrize("arguments", [("--once",), ("",)])
def test_wrong_use(machine: Machine, arguments: tuple[str, ...]) -> None:
    """Without a configuration the usage is shown, with exit code 2."""
    done = machine.start(*arguments)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: start-uploader.sh CONFIG")


def test_help(machine: Machine) -> None:
    """--help shows the usage and is no failure."""
    done = machine.start("--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: start-uploader.sh CONFIG")


def test_no_configuration(machine: Machine) -> None:
    """A configuration that is not there is named, with the file to copy."""
    message = refused(machine, "missing.yaml")

    assert "missing.yaml: no such file" in message
    assert "uploader-config.yaml.example" in message


@pytest.mark.parametrize(("key", "fix"), [("sqlite", "sqlite: /path"), ("table_path", "table_path: s3://")])
def test_missing_key(machine: Machine, key: str, fix: str) -> None:
    """U2: a configuration without database or table is refused, with the line to add."""
    text = machine.config.read_text()
    machine.config.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith(key)))

    assert fix in refused(machine)


def test_missing_directory(machine: Machine) -> None:
    """U2: a directory that is not on this machine is named, with the way to mount another one there."""
    (machine.directory / "edge").rmdir()
    message = refused(machine)

    assert f"not on this machine: {machine.directory / 'edge'}" in message
    assert "SQLITE_HOST_DIR=DIR" in message


def test_bad_env_file(machine: Machine) -> None:
    """A line of .env that is no NAME=value is named by its number, without showing it."""
    (machine.directory / ".env").write_text("AWS_REGION=eu-west-1\nSECRET hunter2\n")
    message = refused(machine)

    assert ".env, line 2: not of the form NAME=value" in message
    assert "hunter2" not in message


def test_example_configuration(machine: Machine) -> None:
    """The example is YAML with the seed's keys, and starts as it stands once its directory is there."""
    example = (HERE / "uploader-config.yaml.example").read_text()
    machine.config.write_text(example)
    edge = machine.directory / "edge"

    assert yaml.safe_load(example).keys() == {"sqlite", "table_path", "interval"}
    assert machine.volumes(environ={"SQLITE_HOST_DIR": str(edge)}) == [f"{edge}:/var/lib/sensors"]
    for key in ("table", "timestamp_col", "node_id", "storage_options", "state_dir"):
        assert re.search(rf"^# {key}:", example, re.MULTILINE)


def test_env_example_has_the_known_names() -> None:
    """U11: .env.example holds the six known names and no value that could be one."""
    lines = [line for line in (HERE / ".env.example").read_text().splitlines() if not line.startswith("#")]

    assert [line.partition("=")[0] for line in lines] == [
        "S3_BUCKET_NAME", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_HOST",
        "DATABRICKS_TOKEN",
    ]  # fmt: skip
    assert all("YOUR_" in line for line in lines)
