"""The script that starts the uploader's image.

No container engine is asked for: the script meets `STAND_IN`, a program called `docker` or `podman` that writes down
how it was called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lakehouse_assets.tables.upload_config import ENVIRONMENT, read_config

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
    """The example starts as it stands, once there is a directory for its database."""
    shutil.copy(HERE / "uploader-config.yaml.example", machine.config)
    edge = machine.directory / "edge"

    assert machine.volumes(environ={"SQLITE_HOST_DIR": str(edge)}) == [f"{edge}:/var/lib/sensors"]


@pytest.mark.parametrize("mark", ["#!", "# "])
def test_uploader_takes_the_example(mark: str) -> None:
    """U1: `lakehouse upload` takes the example as it stands, and with every optional key switched on."""
    text = (HERE / "uploader-config.yaml.example").read_text()
    keys = "table|timestamp_col|node_id|storage_options|  AWS_REGION|state_dir"
    switched_on = re.sub(rf"^{mark}({keys}):", r"\1:", text, flags=re.MULTILINE)
    config = read_config({}, {"S3_BUCKET_NAME": "bucket", "AWS_REGION": "eu-west-1"}, switched_on)

    assert (config.sqlite, config.interval) == ("/var/lib/sensors/sensor.db", 300)
    assert config.table_path == "s3://bucket/delta/bacalhau_results/sensor_readings"
    assert (config.node_id == "edge-0001") is (mark == "# ")
    assert config.storage_options == ({"AWS_REGION": "eu-west-1"} if mark == "# " else {})


def test_every_variable_of_the_uploader_is_handed_over(machine: Machine) -> None:
    """U1: each variable that the uploader reads reaches it in the container."""
    names = {name for group in ENVIRONMENT.values() for name in group}
    paths = {"SQLITE_PATH": f"{machine.directory}/edge/x.db", "TABLE_PATH": "s3://b/t", "STORAGE_URI": "s3://b/t"}
    call = machine.call(environ={name: paths.get(name, "1") for name in names})

    assert names <= {call[at + 1] for at, word in enumerate(call) if word == "--env"}


def test_env_example_has_the_known_names() -> None:
    """U11: .env.example holds the six known names and no value that could be one."""
    lines = [line for line in (HERE / ".env.example").read_text().splitlines() if not line.startswith("#")]

    assert [line.partition("=")[0] for line in lines] == [
        "S3_BUCKET_NAME", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_HOST",
        "DATABRICKS_TOKEN",
    ]  # fmt: skip
    assert all("YOUR_" in line for line in lines)
