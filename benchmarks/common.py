"""Measuring: cases run in turn in processes of their own, what each cost, and the JSON that the page is made of.

Wall seconds are taken around a whole process, from its start to its exit. CPU seconds (user and system) and the peak of
memory are what the operating system counted for the process when it was reaped (`wait4`); this module imports only the
standard library, because a child's peak cannot be less than that of the process which started it.
What does not belong here: data (`data.py`), what the peers do (`peers.py`), the page (`page.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PEER_PYTHON = HERE / ".venv" / "bin" / "python"
LAKEHOUSE = Path(sys.executable).parent / "lakehouse"
VERSIONS = ("lakehouse-assets", "deltalake", "duckdb", "pyarrow", "adbc-driver-sqlite", "sqlglot", "dagster")
PEER_VERSIONS = ("connectorx", "deltalake", "dlt", "duckdb", "pandas", "polars", "pyarrow")
MB = 1e6


@dataclass(frozen=True)
class Sample:
    """What one process cost.

    Attributes:
        seconds: from its start to its exit.
        cpu_seconds: user and system.
        peak_mb: the most memory that was resident at once, in 10^6 bytes.
        said: the JSON in the last line of its output; `None` if there was none.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    said: Any = None


class BenchmarkFailed(Exception):
    """A case ended with an error: its command, its exit code and the end of its output."""


def sample(command: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, check: bool = True) -> Sample:
    """Run a command to its end and say what it cost.

    Raises:
        BenchmarkFailed: it did not exit with 0, and `check` says that it has to.
    """
    words = [str(word) for word in command]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "AWS_", "DAGSTER_"))}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, cwd=ROOT, env=clean | dict(environ or {})
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode(errors="replace")
        errors.seek(0)
        faults = errors.read().decode(errors="replace")
    if check and child.returncode:
        raise BenchmarkFailed(f"{' '.join(words)}\nexit code {child.returncode}\n{said[-2000:]}\n{faults[-4000:]}")
    return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MB, _parsed(said))


def _parsed(said: str) -> Any:
    """What a process said: all of its output, or the last line of it, as JSON."""
    for text in (said, (said.strip().splitlines() or [""])[-1]):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None


def peer(name: str, *words: object) -> list[str]:
    """The command that runs a function of `peers.py` in the peers' environment."""
    return [str(PEER_PYTHON), str(HERE / "peers.py"), name, *map(str, words)]


def peer_seconds(said: Any) -> float:
    """How long a peer's function took, without the start of its process."""
    return float(said["inside"])


def ours(module: str, function: str, *words: object) -> list[str]:
    """The command that runs a function of one of these modules with the project, and prints what it gives as JSON."""
    call = (
        "import importlib, json, sys; "
        "print(json.dumps(getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])))"
    )
    return [sys.executable, "-c", call, f"benchmarks.{module}", function, *map(str, words)]


@dataclass(frozen=True)
class Case:
    """One way to do a job.

    Attributes:
        name: how the page calls it.
        command: makes what is run; it is called before every run, outside of the measurement.
        kind: `ours`, `peer`, or `limit`: less work than the job, as a yardstick.
        note: what the figure leaves out or does otherwise.
        rows: what a rate is taken over; 0: no rate.
        repeat: runs of this case at most, however many the others get.
        inside: a figure out of what the process said, in seconds; the whole process is measured anyway.
        check: looks at what a run left behind; what it raises ends the benchmark.
        environ: variables that the process gets beside the usual ones.
    """

    name: str
    command: Callable[[], Sequence[str | Path]]
    kind: str = "ours"
    note: str = ""
    rows: int = 0
    repeat: int = 1_000
    inside: Callable[[Any], float] | None = None
    check: Callable[[Sample], None] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


def measured(cases: Sequence[Case], repeat: int) -> list[dict[str, Any]]:
    """Run all cases in turn, `repeat` times: a machine that slows down slows all of them."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for turn in range(repeat):
        for case in cases:
            if turn >= case.repeat:
                continue
            found = sample(case.command(), environ=case.environ)
            if case.check is not None:
                case.check(found)
            samples[case.name].append(found)
            inside = f", inside {case.inside(found.said):.3f} s" if case.inside else ""
            say(f"  {case.name}: {found.seconds:.2f} s{inside}, cpu {found.cpu_seconds:.2f} s, {found.peak_mb:.0f} MB")
    return [row_of(case, samples[case.name]) for case in cases]


def row_of(case: Case, samples: Sequence[Sample]) -> dict[str, Any]:
    """The figures of a case: medians, with the extremes of the wall clock."""
    seconds = spread([s.seconds for s in samples])
    inside = spread([case.inside(s.said) for s in samples]) if case.inside else None
    row: dict[str, Any] = {
        "name": case.name,
        "kind": case.kind,
        "note": case.note,
        "n": len(samples),
        "seconds": seconds,
        "cpu_seconds": spread([s.cpu_seconds for s in samples]),
        "peak_mb": spread([s.peak_mb for s in samples], 0),
    }
    if inside is not None:
        row["inside_seconds"] = inside
    if case.rows:
        row["rows"] = case.rows
        row["rows_per_second"] = round(case.rows / seconds["median"])
        if inside is not None:
            row["inside_rows_per_second"] = round(case.rows / inside["median"])
    return row


def plain_row(name: str, seconds: Sequence[float], note: str = "", kind: str = "ours") -> dict[str, Any]:
    """A row of times that were taken inside one process."""
    return {"name": name, "kind": kind, "note": note, "n": len(seconds), "inside_seconds": spread(seconds)}


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


@dataclass
class Report:
    """What a benchmark found: one file of JSON, one section of the page.

    Attributes:
        name: the module's; also the file's.
        about: what was measured, in sentences.
        notes: what was tried where a target is missed, and what limits the figures.
    """

    name: str
    title: str
    about: str
    options: argparse.Namespace
    tables: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: dict[str, Any] = field(default_factory=lambda: {"at": _now(), "load": os.getloadavg()[0]})

    def table(self, title: str, rows: Sequence[Mapping[str, Any]], *, against: str = "") -> None:
        """Add a table; `against` names the row that ratios are taken to."""
        self.tables.append({"title": title, "against": against, "rows": list(rows)})

    def target(self, what: str, bound: str, limit: float, found: float, unit: str, *, least: bool = False) -> None:
        """Say whether a figure keeps its bound: at most `limit`, or at least."""
        met = found >= limit if least else found <= limit
        self.targets.append({"what": what, "bound": bound, "found": round(found, 3), "unit": unit, "met": met})
        say(f"  {what}: {found:,.3f} {unit}, {bound}: {'met' if met else 'MISSED'}")

    def write(self) -> Path:
        """Write the file, and say where it is."""
        path = Path(self.options.results) / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {
            "name": self.name,
            "title": self.title,
            "about": self.about,
            "repeat_with": f"python -m benchmarks.{self.name}",
            "measured": {
                **self.began,
                "load": round(self.began["load"], 1),
                "load_after": round(os.getloadavg()[0], 1),
            },
            "options": {"rows": self.options.rows, "repeat": self.options.repeat, "quick": self.options.quick},
            "machine": machine(),
            "versions": versions(),
            "tables": self.tables,
            "targets": self.targets,
            "notes": self.notes,
        }
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        say(f"wrote {path}")
        return path


def options(about: str, rows: int, quick_rows: int, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rows", type=int, help=f"size of the data (default: {rows:,}; with --quick {quick_rows:,})")
    parser.add_argument("--repeat", type=int, help="runs of each case (default: 3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not how fast it is")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave the peers out")
    parser.add_argument("--results", default=str(RESULTS), help="where the JSON goes (default: benchmarks/results)")
    given = parser.parse_args(argv)
    given.rows = given.rows or (quick_rows if given.quick else rows)
    given.repeat = given.repeat or (1 if given.quick else 3)
    if given.peers and not PEER_PYTHON.exists():
        parser.error("the peers are not installed: `make bench-setup`, or --no-peers")
    return given


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for a benchmark's data, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as place:
        yield Path(place)


def fresh(path: Path) -> Path:
    """`path`, with nothing there."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def copied(source: Path, target: Path) -> Path:
    """A copy of a lake; Parquet files are never changed in place, so they are shared by hard links."""

    def copy(one: str, other: str) -> None:
        os.link(one, other) if one.endswith(".parquet") else shutil.copy2(one, other)

    shutil.copytree(source, fresh(target), copy_function=copy)
    return target


def catalog_of(directory: Path, text: str) -> Path:
    """A directory with a catalog of one file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.yaml").write_text(text)
    return directory


def run_command(catalog: Path | None, root: Path, selection: str = "*") -> list[str]:
    """`lakehouse run`, with its report as JSON."""
    chosen = ["--catalog", str(catalog)] if catalog else []
    return [str(LAKEHOUSE), "run", *chosen, "--root", str(root), "--format", "json", selection]


def seconds_of(table: str) -> Callable[[Any], float]:
    """How long a run says that it took for a table."""
    return lambda said: next(row["seconds"] for row in said if row["table"] == table)


def ratio(rows: Sequence[Mapping[str, Any]], name: str, other: str, figure: str = "seconds") -> float:
    """How much more of a figure `name` has than `other`."""
    by_name = {row["name"]: row for row in rows}
    return float(by_name[name][figure]["median"] / by_name[other][figure]["median"])


def machine() -> dict[str, Any]:
    """What it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, dict[str, str]]:
    """Versions of what was measured, ours and the peers'."""
    found = {"ours": {name: metadata.version(name) for name in VERSIONS}, "peers": {}}
    site = next(HERE.glob(".venv/lib/python*/site-packages"), None)
    if site is not None:
        distributions = {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=[str(site)])}
        found["peers"] = {name: distributions[name] for name in PEER_VERSIONS if name in distributions}
    return found


def say(line: str) -> None:
    """Tell whoever watches."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
