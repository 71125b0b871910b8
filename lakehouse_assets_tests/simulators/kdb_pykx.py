"""What PyKX reads from a stand-in, as JSON: `python kdb_pykx.py PORT`, a process of its own, since PyKX may crash.

What belongs here: questions asked with PyKX alone. What does not: what is expected (`test_kdb_peers.py`).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from typing import Any

SLICE = "select time,sym,price,size from trade where date=2018.12.21"
FLAT = "select sym,side from trade where date=2018.12.21"


def main(port: int) -> dict[str, Any]:
    """Ask, and give what came."""
    os.environ["PYKX_UNLICENSED"] = "true"
    import pykx as kx  # type: ignore[import-not-found,import-untyped,unused-ignore]

    from lakehouse_assets.sources import kdb_queries as q

    with kx.SyncQConnection("127.0.0.1", port, username="me", password="word", no_ctx=True, timeout=20.0) as ask:
        rows, flat = ask(SLICE).pa(), ask(FLAT).pa()
        part = ask(q.SLICE, kx.SymbolAtom("trade"), kx.SymbolAtom("date"), kx.DateAtom(dt.date(2018, 12, 21)), 5, 3)
        found: dict[str, Any] = {
            "tables": ask("tables[]").py(),
            "meta": ask(q.META, kx.SymbolAtom("quote")).pa().select(["c", "t", "a"]).to_pydict(),
            "cols": ask("cols trade").py(),
            "count": ask("count trade").py(),
            "partitions": ask(q.PARTITIONS, kx.SymbolAtom("trade"), kx.SymbolAtom("date")).py()["rows"],
            "times": rows.column("time").cast("int64").to_pylist(),
            "sym": rows.column("sym").to_pylist(),
            "price": rows.column("price").fill_null(-1.0).to_pylist(),
            "size": rows.column("size").to_pylist(),
            "side": flat.column("side").to_pylist(),
            "slice": part.pa().column("size").to_pylist(),
        }
        for text in ("1+1", "select from nosuch"):
            try:
                ask(text)
            except kx.QError as error:
                found[text] = str(error)
    try:
        kx.SyncQConnection("127.0.0.1", port, username="me", password="wrong", no_ctx=True)
    except kx.PyKXException as error:
        found["refused"] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1])), default=lambda value: value.decode()))
