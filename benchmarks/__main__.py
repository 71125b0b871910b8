"""Every benchmark, one after the other, and the page: `make bench`, or `python -m benchmarks --quick`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import page
from benchmarks.common import RESULTS, ROOT

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run every benchmark and write the page; see each module's --help.")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing committed: whether they run")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--results", default=str(RESULTS), help="where the JSON goes")
    parser.add_argument("--page", default=str(page.PAGE), help="where the page goes")
    given = parser.parse_args()
    flags = ["--results", given.results, *["--quick"] * given.quick, *["--no-peers"] * given.no_peers]
    for name in page.ORDER:
        sys.stderr.write(f"{name}\n")
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags], cwd=ROOT, check=True)
    page.write(given.results, given.page)
