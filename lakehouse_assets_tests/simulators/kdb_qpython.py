"""What qpython3 reads from a stand-in, as JSON: `python kdb_qpython.py PORT TEXTS`, in an environment with numpy 1.

TEXTS is JSON: the texts of the project's own queries by name. Nothing of the project is imported.

What belongs here: questions asked with qpython3 alone. What does not: what is expected (`test_kdb_peers.py`).
"""

from __future__ import annotations

import json
import sys
from typing import Any

SLICE = "select time,sym,price,size from trade where date=2018.12.21"


def main(port: int, texts: dict[str, str]) -> dict[str, Any]:
    """Ask, and give what came."""
    import numpy as np
    from qpython import qconnection  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from qpython.qtype import QException  # type: ignore[import-not-found,import-untyped,unused-ignore]

    trade, day = np.bytes_("trade"), np.datetime64("2018-12-21", "D")
    asking = {"host": "127.0.0.1", "port": port, "numpy_temporals": True, "timeout": 20.0}
    with qconnection.QConnection(username="me", password="word", **asking) as q:
        q.sendAsync("this is ignored")
        rows = q.sendSync(SLICE)
        meta = q.sendSync("meta trade")
        part = q.sendSync(texts["SLICE"], trade, np.bytes_("date"), day, 5, 3)
        found: dict[str, Any] = {
            "tables": _texts(q.sendSync("tables[]")),
            "meta": {name.decode(): row[0].decode() for name, row in zip(meta.keys["c"], meta.values, strict=True)},
            "count": int(q.sendSync(texts["COUNT"], trade)),
            "partitions": q.sendSync(texts["PARTITIONS"], trade, np.bytes_("date"))["rows"].tolist(),
            "times": rows["time"].astype("datetime64[ns]").astype(np.int64).tolist(),
            "sym": _texts(rows["sym"]),
            "price": np.nan_to_num(rows["price"], nan=-1.0).tolist(),
            "size": rows["size"].tolist(),
            "slice": part["size"].tolist(),
        }
        for text in ("1+1", "select from nosuch"):
            try:
                q.sendSync(text)
            except QException as error:
                found[text] = error.args[0].decode()
    try:
        qconnection.QConnection(username="me", password="wrong", **asking).open()
    except qconnection.QAuthenticationException as error:
        found["refused"] = str(error)
    return found


def _texts(found: Any) -> list[str]:
    return [item.decode() for item in found]


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), json.loads(sys.argv[2]))))
