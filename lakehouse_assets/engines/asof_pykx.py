"""The as-of join by q's own `aj`, where PyKX has a licence: a second opinion, and for those who want kdb+ to join.

q is given numbers only (a code for each key, the time, the number of the row), so no value passes through its types.
What belongs here: what `aj` can do. What does not: reading kdb+ (`lakehouse_assets/sources`).
"""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse_assets.engines.asof import Coder, Side, brought
from lakehouse_assets.engines.asof_columns import result_columns
from lakehouse_assets.engines.asof_spec import AsOf
from lakehouse_assets.engines.asof_ties import Settler
from lakehouse_assets.errors import CatalogError, NotRunnable

_AJ = "{[c;t;k;u;r] -1^exec r from aj[`c`t; ([] c; t); update `g#c from ([] c:k; t:u; r)]}"


def aj(left: pa.Table, right: pa.Table, how: AsOf) -> pa.Table:
    """What `asof.join` gives, in the order of the left table.

    Raises:
        CatalogError: the columns do not fit, or `aj` knows no such join.
        NotRunnable: PyKX is not here, or has no licence.
    """
    for name, given, plain in (
        ("direction", how.direction, "backward"),
        ("strict", how.strict, False),
        ("tolerance", how.tolerance, None),
    ):
        if given != plain:
            raise CatalogError(f"q's aj knows no {name}", value=given, choices=[plain], fix="use the engine's own join")
    result_columns(left.schema, right.schema, how)
    q = _licensed()
    with ThreadPoolExecutor(1) as pool:
        coder = Coder([left[name] for name in how.by], pool)
        codes = coder.codes([right[name] for name in how.by])
    lefts = Side.of(left, how.time, coder.left)
    rights = Side.of(right, how.right_time, codes, tuple(how.columns) if how.skip_nulls else ())
    order = np.lexsort((rights.times, rights.codes))
    codes, times = rights.codes[order], rights.times[order]
    rows = Settler(right, how.order).settled(rights.numbers(order, 0), codes, times)
    found = np.full(left.num_rows, -1, np.int64)
    found[lefts.rows] = q(_AJ, *(part.astype(np.int64) for part in (lefts.codes, lefts.times, codes, times, rows))).np()
    return brought(left, right, how, found)


def _licensed() -> Any:
    """The q of this process."""
    fix = "install pykx with a licence of kdb+, or use the engine's own join"
    try:
        pykx = importlib.import_module("pykx")
    except ImportError as error:
        raise NotRunnable("the package pykx is not installed", fix=fix) from error
    if not pykx.licensed:
        raise NotRunnable("PyKX runs without a licence here, so it has no q to join with", fix=fix)
    return pykx.q
