"""Benchmarks: one module a table of `docs/benchmarks.md`, ours and the peers in the same run.

`make bench-setup` installs the peers into a virtual environment of their own, `make bench` measures everything and
writes `benchmarks/results/*.json` and the page. Each module also runs by itself: `python -m benchmarks.reading --help`.
What belongs here: making data, measuring, reporting. What does not: anything that the package needs to run.
"""
