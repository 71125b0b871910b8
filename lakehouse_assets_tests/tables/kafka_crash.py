"""A process that lands what a catalog declares and dies between quarantine and target: `python -m … ROOT CATALOG`.

It ends with SIGKILL after the quarantine was committed and before the target is.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lakehouse_assets_tests.tables.lab import Lab
from lakehouse_assets_tests.tables.rescue_crash import MortalEngine


def main(root: str, catalog: str) -> None:
    """Land what is new, and die."""
    it = Lab(root, Path(catalog).read_text())
    it.work = replace(it.work, engine=MortalEngine(it.storage))
    it.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
