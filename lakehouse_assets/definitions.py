"""What Dagster loads; the assembly is in `build.py`."""

from __future__ import annotations

import dagster as dg

from lakehouse_assets.build import build_defs


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of this process: its settings, its catalog, its environment."""
    return build_defs()
