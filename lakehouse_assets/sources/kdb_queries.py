"""The q texts that this project sends, all of them: constants, whose parameters travel beside them and never in them.

A parameter `t` is the name of a table (a symbol), `p` its column of dates (a symbol), `d` a date, `i` and `n` the first
row (from 0) and how many.

What the texts rest on (the reference at code.kx.com: `.Q`, functional qSQL, `exec`, `sublist`, partitioned tables):

- `.Q.qp` gives `1b` of a partitioned table, `0b` of a splayed one, the long `0` of any other: hence `1b~`.
- Functional select reads tables of each kind by their value. `exec` does not read partitioned ones, and `.Q.pf` and
  `.Q.pv` are not defined where nothing is partitioned: they stand in branches that are not taken there.
- Rows of a partition are counted by mapping one of its columns. `count t` and `.Q.cn` count once and keep the numbers
  (`.Q.pn`), which goes wrong when a date is written anew, and fails as `'noupdate` where a gateway evaluates read-only.
- The partition column is not stored: taken along, it would be made for each row of the whole date. It is left out, and
  so a select with the date as its only constraint maps columns, of which `sublist` touches no more than it gives.

What belongs here: texts. What does not: what is made of the answers.
"""

from __future__ import annotations

TABLES = "tables[]"
"""Names of all tables: a symbol vector."""

META = "{[t] 0!meta t}"
"""[t]: a table `c` (symbol), `t` (char), `f`, `a` (symbols): a row for each column, the partition column included.

Of a partitioned table it is that of the newest partition."""

COUNT = (
    "{[t] v:value t;$[1b~.Q.qp v;"
    "sum{[v;c;d]count ?[v;enlist(=;.Q.pf;d);0b;(enlist c)!enlist c]}[v;first cols[v]except .Q.pf]each .Q.pv;"
    "count v]}"
)
"""[t]: rows of all partitions, a long."""

PARTITION_FIELD = "{[t] $[1b~.Q.qp value t;.Q.pf;`]}"
"""[t]: the column by which `t` is partitioned: `date`, `month`, `year` or `int`; the null symbol if it is not."""

PARTITIONS = (
    "{[t;p] v:value t;$[1b~.Q.qp v;"
    "([]date:.Q.pv;rows:{[v;p;c;d]count ?[v;enlist(=;p;d);0b;(enlist c)!enlist c]}"
    "[v;p;first cols[v]except p]each .Q.pv);"
    "0!?[v;();(enlist`date)!enlist p;(enlist`rows)!enlist(count;`i)]]}"
)
"""[t;p]: a table `date`, `rows` (long), ascending: of a partitioned table every partition, those without rows too; else
every value of the column `p` that a row has."""

_PLAIN = "flip{`#$[(type x)within 20 76h;value x;x]}each flip"
"""Of a table: the same without attributes, enumerations as the symbols that they stand for."""

_DATE = "{[v;p;d]c:cols[v]except p;?[v;enlist(=;p;d);0b;c!c]}[value t;p;d]"
"""The rows of one date, in stored order, all columns but `p`."""

_DIGEST = (
    '{[r](count r;md5"c"$raze{[r;i]md5"c"$-8!'
    + _PLAIN
    + "(i;1000000)sublist r}[r]each 1000000*til 1|ceiling(count r)%1000000)}"
)
"""Of a table: a list of two: how many rows it has (long), and 16 bytes that change with them and with their order.

The bytes are the MD5 of the MD5s of each million of rows, as q serializes them (`-8!`): no step needs more memory than
a million rows. Whoever stores them has to count on others from a process of another version, or from another text."""

FINGERPRINT = "{[t;p;d] " + _DIGEST + "[" + _DATE + "]}"
"""[t;p;d]: rows and digest of one date."""

WHOLE_FINGERPRINT = "{[t] " + _DIGEST + "[0!value t]}"
"""[t]: rows and digest of a table that is not partitioned."""

SLICE = "{[t;p;d;i;n] " + _PLAIN + "(i;n)sublist " + _DATE + "}"
"""[t;p;d;i;n]: rows `i` to `i+n` (without it) of one date, in stored order, all columns but `p`; past the end, none."""

WHOLE_SLICE = "{[t;i;n] " + _PLAIN + "(i;n)sublist 0!value t}"
"""[t;i;n]: rows `i` to `i+n` (without it) of a table that is not partitioned, keyed ones flat."""
