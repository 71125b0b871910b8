"""Tests of the benchmarks: that each runs, that processes are measured, that the page is that of the results."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from benchmarks import launched_steps, page
from benchmarks.common import RESULTS, ROOT, BenchmarkFailed, Case, measured, sample
from lakehouse_assets_tests.conftest import need_kafka


def python(code: str) -> list[str]:
    """A process that runs some Python."""
    return [sys.executable, "-c", code]


def test_a_process_is_measured_as_a_whole():
    """Wall and CPU seconds, the peak of memory and the last line of JSON are those of the process."""
    found = sample(python("import json, time; x = bytearray(90_000_000); time.sleep(0.3); print('{\"a\": 1}')"))
    assert found.said == {"a": 1}
    assert 0.3 <= found.seconds < 20
    assert 0 < found.cpu_seconds < found.seconds
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # a fork begins with what its parent has
    assert 90 < found.peak_mb < 150 + inherited


def test_a_case_that_fails_says_what_it_said():
    """A benchmark with a broken case ends with its exit code and what it wrote, instead of a fast figure."""
    with pytest.raises(BenchmarkFailed, match=r"(?s)exit code 3.*no such thing"):
        sample(python("import sys; sys.stderr.write('no such thing'); sys.exit(3)"))


def test_cases_run_in_turn_and_medians_are_kept(tmp_path):
    """Cases take turns, so that a machine that slows down slows all of them; the figures are medians."""
    trace = tmp_path / "trace"
    say = "open({!r}, 'a').write({!r}); print({})"
    times = iter([5, 1, 3])
    cases = [
        Case("a", lambda: python(say.format(str(trace), "a", next(times))), inside=float, rows=6),
        Case("b", lambda: python(say.format(str(trace), "b", 0)), "peer", repeat=2),
    ]
    ours, peer = measured(cases, 3)
    assert trace.read_text() == "ababa"
    assert ours["inside_seconds"] == {"median": 3, "min": 1, "max": 5}
    assert (ours["n"], ours["inside_rows_per_second"], peer["n"]) == (3, 2, 2)


def test_the_page_is_that_of_the_results(tmp_path):
    """`docs/benchmarks.md` is generated: figures in it and in the JSON are the same."""
    page.write(RESULTS, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == page.PAGE.read_text()


def test_a_missed_bound_is_shown():
    """A figure out of its bound is marked on the page."""
    target = {"what": "speed", "bound": "at least 2", "found": 1, "unit": "×", "met": False}
    one = json.loads((RESULTS / "definitions.json").read_text())
    assert "| Definitions | speed | at least 2 | 1.00 × | **missed** |" in page.rendered([{**one, "targets": [target]}])


def test_a_table_shows_figures_of_its_own():
    """Figures that only one table has are columns before the number of runs, in their order; absent ones are empty."""
    one = json.loads((RESULTS / "definitions.json").read_text())
    rows = [
        {"name": "a", "kind": "peer", "note": "", "n": 3, "figures": {"requests": 12, "kB": 3.25}},
        {"name": "b", "kind": "ours", "note": "", "n": 3, "figures": {"kB": 0.5}},
    ]
    said = page.rendered([{**one, "tables": [{"title": "t", "against": "", "rows": rows}]}])
    assert "| | requests | kB | n |\n" in said
    assert "| a | 12.0 | 3.25 | 3 |\n| **b** |  | 0.500 | 3 |\n" in said


def test_the_parts_of_a_step_make_up_the_whole_of_it():
    """From the moment that a run begins with the step until its end; of several events of a kind the first counts."""
    events = [("RUN_START", 9.0), ("ENGINE_EVENT", 10.0), ("STEP_START", 12.0), ("ENGINE_EVENT", 12.5)]
    step = launched_steps.Step(
        launched_steps.parts_of([*events, ("STEP_SUCCESS", 15.0), ("RUN_SUCCESS", 15.5)], None), 0, 0, 0
    )
    assert step.parts == {"loaded": 2.0, "step": 3.0, "ended": 0.5}
    assert step.whole == 5.5


OTHERS = [name for name in page.ORDER if name not in ("launched_steps", "stocks_end_to_end", "asof_join")]
"""These take minutes even at their smallest. The parts of launched steps are tested above, and each launch in
`databricks`; for the way to gold see `test_kafka_benchmarks.py`, for the join `engines/test_asof_engines.py`."""
OF_A_BROKER = ("kafka_to_bronze", "json_to_silver")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_benchmark_runs(tmp_path, name):
    """Each benchmark runs at a small size and writes what the page needs; its own checks hold."""
    if name in OF_A_BROKER:
        need_kafka()
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--no-peers", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["tables"]
    assert found["targets"]
    assert found["title"] in page.rendered([found])
